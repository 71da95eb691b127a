"""The checks of the pointmaps chapter's exercises that look at more than values: two slips of published code, and memory."""

import dataclasses

import nbformat
import numpy as np
import pytest
import torch

from nvs_book import pointmaps_exercises as checks
from nvs_book.exercises import check, judge, load_exercises
from nvs_book.pointmaps import estimate_focal, match_reciprocal, spanning_tree

EXERCISES = load_exercises("pointmaps")


@pytest.fixture
def sources(request):
    "The chapter's code cells."
    chapter = request.config.rootpath / "nbs" / "foundations" / "08_pointmaps.ipynb"
    return [cell.source for cell in nbformat.read(chapter, 4).cells if cell.cell_type == "code"]


def made_in(sources, name):
    "What a cell of the chapter defines, without what it prints."
    scope = {"torch": torch, "estimate_focal": estimate_focal, "spanning_tree": spanning_tree, "print": lambda *_: None}
    source = next(source for source in sources if f"def {name}(" in source and "#| export" not in source)
    exec(source.split("\n\n\n")[0], scope)
    return scope[name]


def said(number, answer, seed=0):
    return judge(EXERCISES[f"pointmaps.{number}"], answer, seed)


# The published slips.


def test_the_chapters_slips_are_known(sources):
    assert said(1, made_in(sources, "published_points"))[1].startswith("This is the published way: pixels counted from 0")
    assert said(2, made_in(sources, "published_start"))[1].startswith("This is the published slip: the key is that of the step")


@pytest.mark.parametrize("seed", range(3))
def test_half_a_pixel_may_be_put_anywhere_that_is_right(seed):
    def with_numpy(depth, focal, size, corner, step):
        y, x = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float32)
        x, y = corner[1] + step * x - (size[1] - step) / 2, corner[0] + step * y - (size[0] - step) / 2
        return torch.from_numpy(np.stack([x / focal, y / focal, np.ones_like(x)], -1)) * depth[..., None]

    assert said(1, with_numpy, seed) == (True, "Right.")
    assert said(1, lambda *a: with_numpy(*(a[0].double(), *a[1:])), seed) == (True, "Right.")


@pytest.mark.parametrize("seed", range(3))
def test_a_views_focal_length_is_its_own(seed):
    def by_dictionary(views, score, points_i, points_j):
        best = {}
        for e, (i, _) in enumerate(views.tolist()):
            if i not in best or score[e] > score[best[i]]:
                best[i] = e
        own = {i: estimate_focal(points_i[e]) for i, e in best.items()}
        middle = torch.stack(list(own.values())).median()
        return torch.stack([own.get(v, middle) for v in range(int(views.max()) + 1)])

    assert said(2, by_dictionary, seed) == (True, "Right.")
    views, score, points_i, points_j = checks._own_cases(torch.Generator().manual_seed(seed))["five views, all pairs"]
    for start, alone in ((by_dictionary, True), (checks._published_focals, False)):
        plain, kept = start(views, score, points_i, points_j), []
        for view in range(5):
            wider = torch.where((views[:, 0] == view)[:, None], 1.0, torch.tensor([1.2, 1.2, 1.0]))[:, None, None]
            kept.append(bool(start(views, score, points_i * wider, points_j)[view] == plain[view]))
        assert all(kept) == alone


@pytest.mark.parametrize("seed", range(5))
def test_every_graph_tells_the_published_start_from_its_own_focals(seed):
    for label, arguments in checks._own_cases(torch.Generator().manual_seed(seed)).items():
        apart = (checks._published_focals(*arguments) / checks._own_focals(*arguments) - 1).abs().max()
        assert apart > 0.02 or label == "one pair", label


# Memory.


def in_parts(rows, distance=lambda a, b: (a[:, None] - b).square().sum(-1)):
    def answer(a, b):
        i, j = (torch.cat([distance(part, y).argmin(1) for part in x.split(rows)]) for x, y in ((b, a), (a, b)))
        idx_2 = (j[i] == torch.arange(len(b), device=b.device)).nonzero()[:, 0]
        return i[idx_2], idx_2

    return answer


def exact(a, b):
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def mean_free(a, b):
    middle = torch.cat([a, b]).mean(0)
    return torch.cdist(a - middle, b - middle)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("answer", [in_parts(24), in_parts(100, exact), in_parts(100, mean_free), lambda *a: [*in_parts(9)(*a)]])
def test_matching_in_parts_stays_within_the_limit(answer, seed):
    assert said(3, answer, seed) == (True, "Right.")


def test_the_packages_matching_is_right_and_not_to_be_borrowed():
    free = dataclasses.replace(EXERCISES["pointmaps.3"], forbidden=())
    assert judge(free, lambda a, b: match_reciprocal(a, b), 0) == (True, "Right.")
    assert "library's own `match_reciprocal`" in said(3, match_reciprocal)[1]


def plainly(a, b):
    return in_parts(10**9, exact)(a, b)


def with_numpy(a, b):
    x, y = a.numpy(), b.numpy()
    d = np.linalg.norm(x[:, None] - y[None], axis=-1)
    idx_2 = np.flatnonzero(d.argmin(1)[d.argmin(0)] == np.arange(len(y)))
    return torch.from_numpy(d.argmin(0)[idx_2]), torch.from_numpy(idx_2)


@pytest.mark.parametrize("answer, message", [
    (plainly, "all distances are held at one time"), (in_parts(400), "all distances are held at one time"),
    (in_parts(150), "the parts are too large, or are all kept"),
    (in_parts(500, exact), "the parts are too large, or are all kept"), (with_numpy, "numpy holds all distances"),
    (in_parts(50, torch.cdist), "Far from the origin all digits are lost"), (lambda a, b: None, "The stub is still empty"),
    (lambda a, b: print(end=""), "returns nothing"), (lambda a, b: in_parts(20)(a, b)[0], "results"),
])  # fmt: skip
def test_what_is_too_much_is_told_by_its_kind(answer, message):
    passed, told = said(3, answer)
    assert not passed and message in told, told


@pytest.mark.parametrize("seed", range(4))
def test_no_match_is_in_doubt(seed):
    for a, b, *_ in checks._match_cases(torch.Generator().manual_seed(seed)).values():
        for x, y in ((a, b), (b, a)):
            nearest = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").sort(1).values
            assert len(y) == 1 or (nearest[:, 1] > 1.0009 * nearest[:, 0]).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_limit_holds_on_a_gpu():
    assert said(3, in_parts(512)) == (True, "Right.")
    assert "all distances are held at one time" in said(3, plainly)[1]


def test_a_picture_of_the_points_stands_beside_the_verdict():
    assert check("pointmaps.1", lambda depth, *_: depth[..., None].repeat(1, 1, 3), seed=0).figure[:8] == b"\x89PNG\r\n\x1a\n"
