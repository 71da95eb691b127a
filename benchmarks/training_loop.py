"""What `fit` adds to a step (clipping, averaging, seeding, measuring), against the bare PyTorch loop in the same run."""

import json
import time

import torch
from torch import nn

from nvs_book.training import Step, TrainConfig, fit, seeded

STEPS, BATCH = 200, 1024


def net(width: int) -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def batches(step: Step) -> torch.Tensor:
    return torch.randn(step.batch_size, 64, generator=step.generator)[step.mine]


def loss(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return (module(batch) - batch[:, :3]).square().mean()


def bare(module: nn.Module) -> None:
    adamw = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for number in range(STEPS):
        adamw.zero_grad()
        loss(module, batches(Step(number, BATCH, 0))).backward()
        adamw.step()


def seconds(run, module: nn.Module) -> float:
    start = time.perf_counter()
    run(module)
    return time.perf_counter() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = TrainConfig(steps=STEPS, batch_size=BATCH)
    for width in (64, 256):
        ours, peer = (
            min(seconds(run, net(width)) for _ in range(5))
            for run in (lambda module: fit(module, loss, batches, config), bare)
        )
        print(json.dumps({
            "benchmark": f"training_loop, {STEPS} steps, width {width}, batch {BATCH}", "ours_s": round(ours, 4),
            "peer": "bare PyTorch loop", "peer_s": round(peer, 4), "ratio": round(peer / ours, 3),
            "extra_ms_a_step": round(1e3 * (ours - peer) / STEPS, 3),
        }))  # fmt: skip
