"""What the point rasterizer and the splat take, against a peer measured in the same run. One JSON line a measurement.

    python benchmarks/rasterize.py            all of it, about a minute on two cores
    python benchmarks/rasterize.py --quick    without the 2**20 points

The peer is PyTorch3D where it is installed; else its algorithm (every pixel asks every point) in torch. On two x86-64 cores
PyTorch3D 0.7.9 takes 5.5 s for the first line (CPU; its binned path exists on CUDA only): `recorded_s`.
"""

import argparse
import math
import resource
import subprocess
import sys

import torch
import torch.nn.functional as F
from common import report

from nvs_book.scenes import View, motorcycle
from nvs_book.synsin import Fragments, has_numba, points_of_view, rasterize_points, render_points, splat
from nvs_book.viewers import best_time, cost_exponent

RECORDED = 5.5  # seconds, PyTorch3D 0.7.9 on two cores: 65,536 points, 256x256, K = 8, radius 1.5
PATHS = ["torch", "numba"] if has_numba() else ["torch"]


def uniform(side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """As many random points as pixels."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(side**2, 2, generator=g) * side, torch.rand(side**2, generator=g) * 3 + 1


def all_pairs(xy: torch.Tensor, z: torch.Tensor, row: int, width: int, radius: float = 1.5, k: int = 8) -> torch.Tensor:
    """Every pixel of one row asks every point."""
    columns = torch.arange(width) + 0.5
    dist2 = (columns[:, None] - xy[:, 0]).square() + (row + 0.5 - xy[:, 1]).square()
    depth, idx = torch.where(dist2 < radius**2, z, torch.inf).topk(k, largest=False)
    return torch.where(depth < torch.inf, idx, -1)


def rasterize_256(path: str) -> None:
    """65,536 points into 256x256, forward."""
    cloud = uniform(256)
    try:
        import pytorch3d

        peer = f"PyTorch3D {pytorch3d.__version__}"
        peer_s = best_time(lambda: rasterize_points(*cloud, 256, 256, backend="pytorch3d"), repeats=1)
    except ImportError:
        peer = "all pairs in torch (one of its 256 rows timed)"
        peer_s = 256 * best_time(lambda: all_pairs(*cloud, 128, 256), repeats=3)
    ours = best_time(lambda: rasterize_points(*cloud, 256, 256, backend=path), repeats=20)
    recorded = dict(recorded_s=RECORDED, recorded_ratio=RECORDED / ours)
    report(f"rasterize 65536 points, 256x256, {path}", ours, peer, peer_s, **recorded)


def backward_256(path: str) -> None:
    """Forward and backward with 64 channels, against forward."""
    xy, z = uniform(256)
    features = torch.randn(len(z), 64, requires_grad=True)
    positions, grad = xy.clone().requires_grad_(), torch.randn(64, 256, 256)
    fragments = rasterize_points(xy, z, 256, 256, backend=path)
    distances = fragments.dist2.clone().requires_grad_()
    fragments = Fragments(fragments.idx, fragments.z, distances)

    def composite():
        return splat(features, fragments, backend=path)

    def whole():
        return splat(features, rasterize_points(positions, z, 256, 256, backend=path), backend=path)

    runs = ("rasterize + splat", whole, (features, positions)), ("splat", composite, (features, distances))
    for name, forward, inputs in runs:
        both = best_time(lambda f=forward, i=inputs: torch.autograd.grad(f(), i, grad))
        report(f"{name}, 64 channels, forward + backward, {path}", both, "its forward", best_time(forward))


def growth(path: str) -> None:
    """Time from 2**14 to 2**20 points, the image grown alike."""
    sides, times = [128, 256, 512, 1024], []
    for side in sides:
        cloud = uniform(side)
        times.append(best_time(lambda c=cloud, s=side: rasterize_points(*c, s, s, backend=path), repeats=5))
    exponent = math.log(times[-1] / times[0]) / math.log(sides[-1] ** 2 / sides[0] ** 2)
    fitted = cost_exponent([s**2 for s in sides], times)
    report(f"2**20 points, 1024x1024, {path}", times[-1], "2**14 points, 128x128", times[0], exponent=exponent, fitted=fitted)


def peak(path: str) -> None:
    """Peak memory, in GB, of a fresh process that rasterizes 2**20 points."""
    cloud = uniform(1024)
    rasterize_points(*cloud, 1024, 1024, backend=path)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)


def widget(path: str) -> None:
    """One frame of the chapter's explorer: the half-size Motorcycle."""
    left, right = motorcycle()
    image = F.interpolate(left.image[None], (250, 370), mode="area")[0]
    depth = F.interpolate(left.depth[None, None], (250, 370), mode="nearest-exact")[0, 0]
    cloud, camera = points_of_view(View(image, left.camera.resized(250, 370), depth)), right.camera.resized(250, 370)
    seconds = best_time(lambda: render_points(*cloud, camera, 1.0, normalize=True, backend=path), repeats=10)
    report(f"Motorcycle 370x250, one frame, {path}", seconds, "ten frames a second", 0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the 2**20 points")
    parser.add_argument("--peak", choices=PATHS, help="only print the peak memory (GB) of 2**20 points")
    options = parser.parse_args()
    if options.peak:
        peak(options.peak)
        sys.exit()
    for path in PATHS:
        rasterize_256(path)
        backward_256(path)
        widget(path)
        if not options.quick:
            growth(path)
            command = [sys.executable, __file__, "--peak", path]
            used = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            report(f"2**20 points, peak memory, {path}", used, "the bar", 2.5, unit="GB")
