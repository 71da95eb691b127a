"""Epipolar sampling and attention at pixelSplat's size: 1 scene of 2 views, 64 x 64 pixels, 128 channels, 32 samples a line.

Sampling's peer is the original's way told in our words: `grid_sample` for the features, and a least-squares problem for the depth
of each of the 262,144 samples. Attention's peer is the same layer as it is defined, with all samples, keys and values in memory.
Calls alternate; results must agree.
"""


import torch
import torch.nn.functional as F
from common import report, side_by_side

from nvs_book.cameras import Camera, intrinsics_from_fov, orbit, rays_through
from nvs_book.epipolar import (
    EpipolarAttention,
    PlainEpipolarAttention,
    other_views,
    sample_epipolar,
    segment_points,
    view_segments,
)
from nvs_book.exercises import Alive

SIDE, CHANNELS, SAMPLES, HEADS, REPEATS = 64, 128, 32, 4, 7


def least_squares_samples(features, segments, camera):
    """Features by grid_sample, depths by least squares."""
    xy, _ = segment_points(segments, SAMPLES)
    grid = (2 * xy / SIDE - 1).nan_to_num(-9.0).flatten(0, 1)
    found = F.grid_sample(features[other_views(2)].flatten(0, 1), grid, align_corners=False).movedim(1, -1)
    origin, direction = (x.flatten(1, 2)[:, None, :, None] for x in camera.rays())
    there = camera[other_views(2)]
    other_direction = rays_through(there, xy.nan_to_num(0.0))[1]
    other_origin = there.center[:, :, None, None].expand_as(other_direction)
    A = torch.stack([direction.expand_as(other_direction), -other_direction], -1)
    return found, torch.linalg.lstsq(A, (other_origin - origin)[..., None]).solution[..., 0, 0]


def most_memory(run) -> int:
    """Bytes."""
    with Alive() as meter:
        run()
    return meter.most


def sampling(camera: Camera, features: torch.Tensor) -> None:
    """Segments, samples and depths, forward."""
    segments = view_segments(camera, 1.0, 100.0)

    def ours():
        return sample_epipolar(features[other_views(2)], view_segments(camera, 1.0, 100.0), SAMPLES)

    def peer():
        return least_squares_samples(features, segments, camera)

    samples, (found, t) = ours(), peer()
    error = (samples.features - found.unflatten(0, (2, 1)))[samples.valid].abs().max()
    assert error < 1e-3
    off = ((samples.t - t) / samples.t)[samples.valid].abs().quantile(0.999)
    seconds = side_by_side(ours, peer, repeats=REPEATS)
    report(
        "epipolar: segments, samples, depths",
        seconds[0],
        "grid_sample and least squares",
        seconds[1],
        error=float(error.detach()),
        depths=float(off),
    )


def attention(camera: Camera, features: torch.Tensor) -> None:
    """One layer, forward and backward: time and memory."""
    segments, layers = view_segments(camera, 1.0, 100.0), []
    for kind in (EpipolarAttention, PlainEpipolarAttention):
        torch.manual_seed(0)
        layers.append(kind(CHANNELS, HEADS, SAMPLES))
    leaf = features.clone().requires_grad_()
    error = (layers[0](leaf, segments) - layers[1](leaf, segments)).abs().max()
    assert error < 1e-5
    forward = side_by_side(*(lambda f=f: f(leaf.detach(), segments) for f in layers), repeats=REPEATS)
    report("epipolar: attention, forward", forward[0], "as it is defined", forward[1], error=float(error.detach()))

    def both_ways(layer):
        return torch.autograd.grad(layer(leaf, segments).square().mean(), (leaf, *layer.parameters()))

    seconds = side_by_side(*(lambda f=f: both_ways(f) for f in layers), repeats=REPEATS)
    memory = [most_memory(lambda f=f: both_ways(f)) for f in layers]
    report(
        "epipolar: attention, forward + backward",
        seconds[0],
        "as it is defined",
        seconds[1],
        ours_mb=memory[0] / 1e6,
        peer_mb=memory[1] / 1e6,
        memory_share=memory[0] / memory[1],
    )


if __name__ == "__main__":
    views = Camera(intrinsics_from_fov(60.0, SIDE, SIDE), orbit(24, 4.0)[:2], SIDE, SIDE)
    maps = torch.randn(2, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    sampling(views, maps)
    attention(views, maps)
