"""The checks of epipolar attention's exercises that look at what an answer does: the sign of a line, gradients, words, memory."""
import dataclasses
import math

import nbformat
import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from nvs_book import epipolar_exercises as checks
from nvs_book.epipolar import rotate_harmonics, sh_basis
from nvs_book.exercises import Alive, check, judge, load_exercises
from nvs_book.scenes import fundamental_matrix

EXERCISES = load_exercises("epipolar")


@pytest.fixture
def sources(request):
    "The chapter's code cells."
    chapter = request.config.rootpath / "nbs" / "methods" / "12_epipolar_attention.ipynb"
    return [cell.source for cell in nbformat.read(chapter, 4).cells if cell.cell_type == "code"]


def cell_of(sources, name):
    return next(source for source in sources if f"def {name}(" in source and "#| export" not in source)


def said(number, answer, seed=0):
    return judge(EXERCISES[f"epipolar.{number}"], answer, seed)


# The line: its sign is free, its length is not.


@pytest.mark.parametrize("seed", range(3))
def test_every_line_may_have_either_sign(seed):
    def signed(*arguments):
        lines = checks._line(*arguments)
        return lines * torch.randn(len(lines), 1).sign()

    assert said(1, signed, seed) == (True, "Right.")
    assert said(1, lambda *arguments: checks._line(*(x.double() for x in arguments)), seed) == (True, "Right.")


@pytest.mark.parametrize("of", [lambda v: v.norm(dim=1), lambda v: v[:, 2], lambda v: v[:, :2].norm(dim=1) ** 2, torch.numel])
def test_right_lines_of_any_other_length_are_told_so(of):
    def lines(*arguments):
        made = -3.7 * checks._line(*arguments, end=lambda v: v)
        return made / torch.as_tensor(of(made)).expand(len(made))[:, None]

    passed, message = said(1, lines)
    assert not passed and "The lines are right, but a² + b² is not 1" in message


def test_a_wrong_line_is_named_whatever_its_length():
    wrong = lambda *a: -5.0 * checks._line(*a[:-1], a[-1].flip(-1), end=lambda v: v)  # noqa: E731
    assert said(1, wrong)[1] == "x and y of the pixels are exchanged: the first number is x, the column."
    assert "library's own `fundamental_matrix`" in said(1, lambda K, a, L, b, xy: fundamental_matrix(K, a))[1]


def test_a_picture_of_the_lines_stands_beside_the_verdict():
    verdict = check("epipolar.1", lambda K, a, L, b, xy: F.normalize(torch.ones(len(xy), 3), dim=-1), seed=0)
    assert verdict.figure[:8] == b"\x89PNG\r\n\x1a\n"


# The samples.


def test_the_motorcycle_at_half_size_needs_as_many_samples_as_its_segments_are_long():
    f, B, near, far = 497.0, 0.193, 1.8, 8.0
    n, error = checks._sampled_line(f, B, near, far, 370, 0.5, 3.0)
    assert n == math.ceil(f * B * (1 / near - 1 / far)) and abs(error - 9 / (f * B) * 0.5) < 0.03 * error
    assert said(2, lambda *a: tuple(torch.tensor(float(x)) for x in checks._sampled_line(*a)))[0]
    assert said(2, lambda *a: dict(zip(("n", "error"), checks._sampled_line(*a))))[0]


# A gradient: values alone don't tell.


def straight_through(x, o, u, near, far):
    depth, opacity = checks._surface(x, o, u, near, far)
    return depth, opacity.detach() + x.gather(-1, checks._bucket(x.softmax(-1), u)) - x.gather(
        -1, checks._bucket(x.softmax(-1), u)).detach()


def test_right_values_with_other_gradients_are_wrong():
    passed, message = said(3, straight_through)
    assert not passed and "Only the fifth result is wrong" in message
    with_no_grad = torch.no_grad()(checks._surface)
    assert "nothing can be learnt" in said(3, with_no_grad)[1]


@pytest.mark.parametrize("answer, message", [
    (lambda *a: checks._surface(*a)[0], "One of the results is None"),
    (lambda *a: tuple(part.detach().numpy() for part in checks._surface(*a)), "of the type ndarray"),
    (lambda *a: None, "The stub is still empty"), (lambda *a: print(end=""), "returns nothing"),
])  # fmt: skip
def test_what_is_no_pair_is_told_so(answer, message):
    assert message in said(3, answer)[1]


# The slip.


def test_the_chapters_slip_is_known_and_its_property_finds_it(sources):
    import kornia.geometry.conversions

    scope = {"math": math, "torch": torch, "sh_basis": sh_basis, "rotate_harmonics": rotate_harmonics,
             "Q": torch.tensor([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64),
             "axis_angle_to_rotation_matrix": kornia.geometry.conversions.axis_angle_to_rotation_matrix}
    for name in ("counterexample", "turn_colour_published"):
        exec(cell_of(sources, name), scope)
    published, counterexample = scope["turn_colour_published"], scope["counterexample"]
    assert "The slip is still there" in said(4, published)[1]
    assert counterexample(published, most=2) and counterexample(rotate_harmonics) is None
    d = F.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    gram = scope["physicists_basis"](d)  # the same nine functions, turned
    assert torch.linalg.matrix_rank(torch.cat([gram, sh_basis(d, 2)], 1), rtol=1e-9) == 9
    free = dataclasses.replace(EXERCISES["epipolar.4"], forbidden=())
    assert judge(free, lambda k, R: rotate_harmonics(k.view(1, -1, k.shape[-1]), R)[0].view(k.shape), 0) == (True, "Right.")
    assert "library's own `rotate_harmonics`" in said(4, lambda k, R: rotate_harmonics(k, R))[1]


# Which reading: one word for a pair of cameras.


def by_residuals(K_src, c2w_src, K_dst, c2w_dst, xy_src, xy_dst):
    "The best reading, and no other that is nearly as good."
    residuals = {}
    for name, read in checks._READINGS.items():
        a, b = read(c2w_src).double(), read(c2w_dst).double()
        M = torch.linalg.inv(b) @ a
        (x, A), (y, B) = ((x.double(), torch.linalg.inv(K.double())) for x, K in ((xy_src, K_src), (xy_dst, K_dst)))
        here, there = checks._homogeneous(x) @ A.T, checks._homogeneous(y) @ B.T
        F_matrix = B.T @ checks._cross_matrix(M[:3, 3]) @ M[:3, :3] @ A
        off = torch.maximum(checks._distance(x, y, F_matrix), checks._distance(y, x, F_matrix.T))
        residuals[name] = float(torch.where(checks._in_front(M, here, there), off, 1e9).median())
    best, second = sorted(residuals, key=residuals.get)[:2]
    return best if residuals[second] > 3 * residuals[best] else "undecided"


@pytest.mark.parametrize("seed", range(3))
def test_the_judge_may_be_written_in_another_way(seed):
    assert said(5, by_residuals, seed) == (True, "Right.")


def test_where_the_judge_is_wrong_is_said_pair_by_pair():
    def fails_on_orbits(*pair):
        if (pair[1][:3, 3] - pair[3][:3, 3]).norm() < 1e-3:
            raise ValueError("no baseline")
        return checks._which(*pair)

    passed, message = said(5, fails_on_orbits)
    one = "1 of 13 pairs is wrong: “on such an orbit, inverted” is inverted, not ValueError: no baseline"
    assert not passed and one in message
    assert "13 of 13 pairs are wrong" in said(5, lambda *pair: 3)[1]
    assert "The stub is still empty" in said(5, lambda *pair: None)[1]


@pytest.mark.parametrize("seed", range(3))
def test_every_pair_is_beyond_doubt(seed):
    for label, (right, *pair) in checks._drawn_pairs(seed)["thirteen pairs"][0].items():
        shares = checks._shares(*pair)
        explained = [name for name, share in shares.items() if share > 0.5]
        assert explained == [right] or right == "undecided" and len(explained) == 3, label
        assert all(share > 0.7 for name, share in shares.items() if name in explained), label


# Memory.


def attend(q, keys, values, xy):
    where = (xy / xy.new_tensor([keys.shape[-1], keys.shape[-2]]) * 2 - 1)[None]
    k, v = (F.grid_sample(x[None], where, align_corners=False)[0] for x in (keys, values))
    weights = (torch.einsum("nc,cns->ns", q, k) / q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("ns,cns->nc", weights, v)


def kept(function, *arguments, **options):
    return function(*arguments)


def in_parts(step, again=checkpoint, **options):
    def answer(q, keys, values, xy):
        parts = zip(q.split(step), xy.split(step))
        return torch.cat([again(attend, a, keys, values, b, **{"use_reentrant": False, **options}) for a, b in parts])

    return answer


@pytest.mark.parametrize("answer", [in_parts(100), in_parts(100, use_reentrant=True), in_parts(256)])
def test_attention_in_parts_stays_within_the_limit(answer):
    assert said(6, answer) == (True, "Right.")


@pytest.mark.parametrize("answer, message", [
    (attend, "all samples are held at one time: that is the plain way"), (in_parts(100, kept), "autograd keeps every part"),
    (in_parts(5000), "nothing is kept for the backward pass; but all samples are held at one time"),
    (in_parts(600), "the backward pass does not"), (lambda *a: [attend(*a)], "one tensor is expected, and a list"),
    (lambda *a: attend(*a)[1:], "Dimension 0 should have 5 entries and has 4"), (lambda *a: None, "still empty"),
    (lambda *a: in_parts(100)(*a).detach(), "nothing can be learnt"),
])  # fmt: skip
def test_what_is_too_much_is_told_by_its_kind(answer, message):
    passed, told = said(6, answer)
    assert not passed and message in told


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_limit_holds_on_a_gpu():
    assert said(6, in_parts(1024)) == (True, "Right.")
    assert "that is the plain way" in said(6, attend)[1] and "autograd keeps every part" in said(6, in_parts(1024, kept))[1]


def test_alive_counts_what_autograd_keeps_and_no_view():
    x = torch.ones(1000, requires_grad=True)
    with Alive() as alive:
        view, y = x[:10], x.sigmoid()
        assert (alive.now, alive.most, alive.largest) == (4000, 4000, 4000) and len(view) == 10
        z = y.sum()
        del y
        assert alive.now == 4004  # the sigmoid keeps its result
        alive.begin_again()
        z.backward()
        assert alive.most >= 8004 and alive.largest == 4000
        del z
        assert alive.now == 4000  # the gradient
    assert alive.now == 0 and alive.most >= 8004


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_alive_asks_the_allocator_on_a_gpu():
    with Alive("cuda") as alive:
        x = torch.ones(2**20, device="cuda")
        assert alive.now == alive.most == alive.largest == 2**22
        del x
        assert alive.now == 0 and alive.most == 2**22
