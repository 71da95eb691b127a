"""What pointmaps take: DUSt3R's loss, matching, and global alignment, each against a named peer in one run.

The loss's peer is the same formula the way the published code computes it, with boolean indexing. The peer of matching is two
KD-trees of scipy, each asked for every point. The peer of global alignment is the published algorithm in torch: 300 steps of Adam
on its own parameters, from the same start (`adam_align`); both objectives are printed, and memory is the process's peak so far.
"""

import math
import resource
import sys

import numpy as np
import torch
from common import report
from scipy.spatial import cKDTree

from nvs_book.cameras import Camera, intrinsics, look_at, stack_cameras
from nvs_book.dust3r import confidence_loss
from nvs_book.pointmaps import adam_align, global_align, match_reciprocal, pointmap, simulate_pair, view_pairs
from nvs_book.scenes import ProceduralWorld
from nvs_book.viewers import best_time


def views_around(num: int, height: int, width: int, seed: int = 3) -> list:
    """Views of one procedural world, on an arc (few) or all around (many)."""
    g = torch.Generator().manual_seed(seed)
    azimuth = torch.linspace(0, 1.6 if num < 8 else 5.5, num) + 0.05 * torch.randn(num, generator=g)
    eyes = torch.stack([4 * azimuth.cos(), 4 * azimuth.sin(), 1.5 + 0.4 * (3 * azimuth).sin()], -1)
    focals = (0.9 + 0.1 * torch.rand(num, generator=g)) * width
    cameras = [Camera(intrinsics(f, f, width / 2, height / 2), look_at(eye, 0.2 * torch.randn(3, generator=g)), height, width)
               for f, eye in zip(focals.tolist(), eyes)]
    batch = ProceduralWorld(seed).render(stack_cameras(cameras))
    return [batch[k] for k in range(num)]


def indexed_loss(pred, conf, true, valid, alpha=0.2):
    """The confidence loss as published: sizes by sums over masks, errors of the known pixels picked out by boolean indexing."""
    def sizes(pair):
        norms = [torch.where(v, p.norm(dim=-1), 0).sum((1, 2)) for p, v in zip(pair, valid)]
        return (sum(norms) / (sum(v.sum((1, 2)) for v in valid) + 1e-8)).clamp(min=1e-8)[:, None, None, None]

    pred, true = ([p / sizes(pair) for p in pair] for pair in (pred, true))
    terms = [(p[v] - t[v]).norm(dim=-1) * c[v] - alpha * c[v].log() for p, t, c, v in zip(pred, true, conf, valid)]
    return sum(term.mean() for term in terms)


def loss() -> None:
    """Four pairs of 224 x 224, 80 % known, forward and backward."""
    g = torch.Generator().manual_seed(0)
    shape = 4, 224, 224
    pred, true = ([torch.randn(*shape, 3, generator=g) + torch.tensor([0, 0, 4.0]) for _ in range(2)] for _ in range(2))
    conf = [1 + torch.rand(*shape, generator=g) for _ in range(2)]
    valid = [torch.rand(*shape, generator=g) < 0.8 for _ in range(2)]
    leaves = [x.requires_grad_() for x in pred + conf]

    def ours():
        return confidence_loss(*leaves, *true, *valid)

    def theirs():
        return indexed_loss(leaves[:2], leaves[2:], true, valid)

    assert torch.isclose(ours(), theirs(), rtol=1e-4)
    def gradients(function):
        return lambda: torch.autograd.grad(function(), leaves)

    for name, calls in (("forward", (ours, theirs)), ("forward + backward", (gradients(ours), gradients(theirs)))):
        times = [min(each) for each in zip(*([best_time(call, 1) for call in calls] for _ in range(10)))]
        report(f"dust3r: confidence loss, 4 pairs of 224 x 224, {name}", times[0], "boolean indexing, as published", times[1])


def two_trees(points_1, points_2):
    """Both trees answer for every point."""
    a, b, threads = points_1.numpy(), points_2.numpy(), torch.get_num_threads()
    nn_1, nn_2 = cKDTree(b).query(a, workers=threads)[1], cKDTree(a).query(b, workers=threads)[1]
    idx_2 = np.flatnonzero(nn_1[nn_2] == np.arange(len(b)))
    return torch.from_numpy(nn_2[idx_2]), torch.from_numpy(idx_2)


def matching() -> None:
    """50,176 x 50,176 points: a random cloud, and the pointmaps of two views of a scene."""
    g = torch.Generator().manual_seed(0)
    points = torch.randn(50176, 3, generator=g)
    shuffled = (points + 0.01 * torch.randn(50176, 3, generator=g))[torch.randperm(50176, generator=g)]
    world = Camera(torch.eye(3), torch.eye(4), 2, 2)
    maps = [pointmap(view, world).flatten(0, 1) for view in views_around(2, 224, 224)]
    maps[1] = maps[1] + 0.005 * torch.randn(maps[1].shape, generator=g)
    for name, clouds in (("random cloud", (points, shuffled)), ("two pointmaps of 224 x 224", maps)):
        ours, theirs = match_reciprocal(*clouds), two_trees(*clouds)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
        calls = (lambda c=clouds: match_reciprocal(*c)), (lambda c=clouds: two_trees(*c))
        times = [min(each) for each in zip(*([best_time(call, 1) for call in calls] for _ in range(5)))]
        peer, count = "two KD-trees of scipy, every point", len(ours[0])
        report(f"dust3r: reciprocal matches, {name}", times[0], peer, times[1], matches=count)


def aligning(num: int, height: int, width: int, steps: int = 300) -> None:
    """All ordered pairs of some views, with 0.5 % of noise."""
    views = views_around(num, height, width)
    g = torch.Generator().manual_seed(0)
    pairs = [simulate_pair(views, i, j, 0.005, generator=g) for i, j in view_pairs(num)]
    ours = global_align(pairs)
    ours_s = best_time(lambda: global_align(pairs), 1)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    found = []
    peer_s = best_time(lambda: found.append(adam_align(pairs, steps=steps)), 1) if num < 10 else math.nan
    name = f"dust3r: global alignment, {num} views of {height} x {width}, {len(pairs)} pairs"
    more = {"objective": ours.objective, "peak_gb": memory}
    if found:
        more["peer_objective"] = found[-1].objective
    else:  # the published way holds all pairs' gradients at once: one step is timed, and 300 are reckoned
        peer_s = steps * best_time(lambda: adam_align(pairs, steps=1), 1)
    report(name, ours_s, f"{steps} steps of Adam, as published" + ("" if found else " (from one step)"), peer_s, **more)


if __name__ == "__main__":
    loss()
    matching()
    aligning(4, 24, 32)
    if "--quick" not in sys.argv:
        aligning(4, 224, 224)
        aligning(30, 48, 64)
