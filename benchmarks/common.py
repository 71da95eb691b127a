"""What every benchmark does: measure functions in turn, and print a line of JSON with the ratio."""

import json

import torch

from nvs_book.viewers import best_time


def report(benchmark: str, ours: float, peer: str, peer_s: float, **more) -> None:
    """One line of JSON."""
    line = {"benchmark": benchmark, "ours_s": ours, "peer": peer, "peer_s": peer_s, "ratio": peer_s / ours, **more}
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
    print(json.dumps({**rounded, "threads": torch.get_num_threads()}), flush=True)


def side_by_side(*calls, repeats: int) -> list[float]:
    """Best time of each of several functions, called in turn."""
    return [min(times) for times in zip(*([best_time(call, 1) for call in calls] for _ in range(repeats)))]
