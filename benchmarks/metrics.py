"""Chamfer distance of two clouds of 50,000 points, and SSIM of a batch of images, each against the usual way.

The peer of chamfer is `torch.cdist` in slices, both ways from one matrix, in its fast form by matrix multiplication; that of
SSIM is torchmetrics. The numbers are the same (the difference is printed too).
"""
from functools import partial

import torch
from common import report
from torchmetrics.functional.image import structural_similarity_index_measure

from nvs_book.metrics import chamfer, ssim
from nvs_book.viewers import best_time

POINTS, SLICE = 50_000, 2048


def chamfer_by_all_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    "Mean of squared nearest distances, both ways, summed."
    to_b, to_a = [], torch.full((len(b),), torch.inf)
    for part in a.split(SLICE):
        distances = torch.cdist(part, b)
        to_b.append(distances.amin(1))
        to_a = torch.minimum(to_a, distances.amin(0))
    return torch.cat(to_b).square().mean() + to_a.square().mean()


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, POINTS, 3, generator=generator)
    difference = (chamfer(a, b) - chamfer_by_all_distances(a, b)).abs().item()
    report(f"metrics: chamfer, {POINTS} points against {POINTS}", best_time(partial(chamfer, a, b), repeats=5),
           "torch.cdist in slices", best_time(partial(chamfer_by_all_distances, a, b), repeats=2), difference=difference)
    pred, true = torch.rand(2, 8, 3, 256, 256, generator=generator)
    theirs = partial(structural_similarity_index_measure, pred, true, data_range=1.0)
    report("metrics: SSIM, 8 images of 256x256", best_time(partial(ssim, pred, true), repeats=5), "torchmetrics",
           best_time(theirs, repeats=3), difference=(ssim(pred, true).mean() - theirs()).abs().item())


if __name__ == "__main__":
    main()
