"""Views of procedural worlds: pairs of 64 x 64 with image, depth and mask, worlds drawn anew each time, against the plain loop.

The peer is sphere tracing as it is usually written: the distance function of the whole world for all rays at every step, here
batched over the same cameras, and for the geometry alone (no colours).
"""
import json

import torch

from nvs_book.cameras import Camera, stack_cameras
from nvs_book.scenes import PairDataset, ProceduralWorld, sphere_trace
from nvs_book.viewers import best_time

PAIRS, SIZE, STEPS = 32, 64, 96


def ours(dataset: PairDataset, start: int) -> Camera:
    "One batch of pairs; returns its cameras as (worlds, 2)."
    pairs = dataset.batch(range(start, start + PAIRS))
    return stack_cameras([v.camera for v in pairs])


def peer(worlds: ProceduralWorld, cameras: Camera) -> torch.Tensor:
    "The same views' geometry by the plain loop."
    return sphere_trace(worlds.sdf, *cameras.rays(), far=20.0, steps=STEPS)


def main() -> None:
    dataset = PairDataset(size=SIZE)
    cameras = ours(dataset, 0)  # (2, pairs)
    few = 2  # the peer is slow: a few worlds say as much
    cameras = Camera(cameras.K[:, :few].transpose(0, 1), cameras.c2w[:, :few].transpose(0, 1), SIZE, SIZE)
    worlds = ProceduralWorld(dataset._seeds(range(few))[0])
    ours_s = best_time(lambda: ours(dataset, 0), repeats=5) / (2 * PAIRS)
    peer_s = best_time(lambda: peer(worlds, cameras), repeats=2) / (2 * few)
    print(json.dumps({
        "benchmark": "scenes: one 64x64 view of a procedural world", "ours_s": round(ours_s, 6),
        "peer": "plain sphere tracing in torch, geometry alone", "peer_s": round(peer_s, 6),
        "ratio": round(peer_s / ours_s, 1), "views_per_s": round(1 / ours_s, 1),
        "threads": torch.get_num_threads(), "steps": STEPS}))


if __name__ == "__main__":
    main()
