"""The checks are checked: every right answer passes, every wrong idea is named, and nobody can borrow the library's answer."""

import base64
import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from nvs_book import exercises
from nvs_book.exercises import (
    Exercise,
    check,
    draw_curves,
    draw_images,
    draw_matrices,
    draw_points,
    draw_poses,
    expected,
    judge,
    load_exercises,
    misconceptions_table,
    progress,
    proof,
)

ALL = load_exercises()


def compose(a, b):
    return a @ b


DEMO = Exercise(
    "demo.9",
    "Compose two maps",
    compose,
    cases=lambda g: {"random": tuple(torch.randn(2, 3, 3, generator=g)), "one": (torch.eye(3), torch.randn(3, 3, generator=g))},
    wrong={"The order is the other way round.": lambda a, b: b @ a, "Composing is a product, not a sum.": lambda a, b: a + b},
    right=(torch.mm, lambda a, b: torch.einsum("ij,jk->ik", a, b)),
    hints=("first", "second"),
    forbidden=(compose,),
)


@pytest.fixture
def demo(monkeypatch, tmp_path):
    "The demo exercise in a student's folder."
    monkeypatch.setitem(exercises.EXERCISES, "demo.9", DEMO)
    monkeypatch.setattr(exercises, "_session", {})
    (tmp_path / ".nvs-book").mkdir(), (tmp_path / "methods").mkdir()
    monkeypatch.chdir(tmp_path / "methods")
    return tmp_path / ".nvs-book" / "progress.json"


@pytest.mark.parametrize("name", ALL)
def test_there_are_enough_answers_to_prove_the_check(name):
    assert len(ALL[name].right) >= 2 and len(ALL[name].wrong) >= 3 and len(ALL[name].hints) >= 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ALL)
def test_right_answers_pass_and_every_wrong_idea_is_named(name, seed):
    rights, wrongs = proof(ALL[name], seed)
    assert len(rights) == 1 + len(ALL[name].right) and rights == dict.fromkeys(rights, "Right.")
    assert wrongs == {message: message for message in ALL[name].wrong}


def test_every_exercise_is_asked_in_its_chapter_and_every_question_has_a_check(root):
    asked = set()
    for part in exercises.COPIED:
        for path in (root / "nbs" / part).glob("[0-9]*_*.ipynb"):
            cells = (cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code")
            text = "\n".join("".join(cell["source"]) for cell in cells)
            names = set(re.findall(r'\bcheck\("([a-z_0-9]+\.\d+)"', text))
            asked |= {name for name in names if f"{path.stem[3:]}_".startswith(name.split(".")[0] + "_")}
    assert asked == set(ALL)


def test_progress_links_to_every_chapter_that_has_exercises(root, monkeypatch):
    monkeypatch.chdir(root / "nbs")
    links = exercises.progress().links
    assert links["rotary"] == "methods/11_rotary_attention.ipynb"
    assert all((root / "nbs" / path).is_file() for path in links.values())
    assert set(links) == {name.split(".")[0] for name in ALL}


def test_the_table_of_misconceptions_is_made_by_running_them(demo):
    rows = str(misconceptions_table("demo")).splitlines()
    assert rows[2:] == [
        "| demo.9 | The order is the other way round. | ✓ |",
        "| demo.9 | Composing is a product, not a sum. | ✓ |",
    ]
    with pytest.raises(ValueError, match="chapter: expected one of"):
        misconceptions_table("nope")


def test_hints_come_one_by_one_and_progress_is_kept(demo):
    assert check("demo.9", lambda a, b: a - b).hints == ()
    assert check("demo.9", lambda a, b: a - b).hints == ("first",)
    assert check("demo.9", lambda a, b: a - b).hints == ("first", "second")
    assert not check("demo.9", lambda a, b: b @ a)
    assert ("demo.9", "Compose two maps", False, 4) in progress("demo").rows
    assert check("demo.9", torch.mm)
    assert json.loads(demo.read_text())["demo.9"] == {"tries": 5, "done": True}
    assert not check("demo.9", lambda a, b: b)  # a later slip doesn't undo it
    assert "1 of 1 done" in repr(progress("demo")) and "| demo.9 |" in progress("demo")._repr_markdown_()
    assert list(demo.parent.iterdir()) == [demo]  # no half-written file stays behind


@pytest.mark.parametrize(
    "answer, message",
    [
        (compose, "library's own `compose`"),
        (lambda a, b: compose(a, b), "library's own `compose`"),
        (lambda a, b: print(end=""), "returns nothing"),
        (lambda a, b: (a @ b)[0], r"Expected shape \(3, 3\), got \(3,\). Only the first entry of the first dimension"),
        (lambda a, b: (a, b), "One result is expected, yours are 2"),
        (lambda a, b: a @ b * torch.nan, "NaN"),
        (lambda a: a, "called with 2, a, b"),
        (lambda a, b: [a @ b], "One result is expected, yours are 1: return it alone, not in a list"),
        (lambda a, b: (a @ b).numpy(), "torch tensor is expected, yours is of the type ndarray"),
        (lambda a, b: "x", "of the type str"),
        (lambda a, b: a[:, :2] @ b, "Two shapes don't fit"),
        (lambda a, b: nothing_of_this_name, "Is a name mistyped"),  # noqa: F821
    ],
)
def test_answers_that_are_no_answers(demo, answer, message):
    verdict = check("demo.9", answer)
    assert not verdict
    assert re.search(message, verdict.message), verdict.message


def raising(a, b):
    "Documented."
    raise NotImplementedError("write this")


def passing(a, b):
    "Documented."
    pass


def dots(a, b):
    ...


def returning(a, b):
    return None


def returning_dots(a, b):
    return ...


def not_implemented(a, b):
    return NotImplemented


@pytest.mark.parametrize("stub", [raising, passing, dots, returning, returning_dots, not_implemented, lambda a, b: None])
def test_an_empty_stub_is_told_so(demo, stub):
    for _ in range(3):
        verdict = check("demo.9", stub)
        assert verdict.message == "The stub is still empty." and verdict.hints == () and not demo.exists()  # no try, no hint


def test_an_answer_cannot_spoil_the_inputs_and_is_told_when_it_tries(demo):
    def spoils(a, b):
        result = a @ b
        a.zero_()
        return result

    assert re.search("right, but the function writes into its argument `a`", check("demo.9", spoils).message)
    assert check("demo.9", torch.mm)


def copied():
    "The forbidden function, as it stands in an earlier cell of a chapter: another object with the same code."
    code = compile("def compose(a, b):\n    return a @ b\n", "cell", "exec")
    exec(code, space := {})
    return space["compose"]


def in_a_thread(a, b):
    result = []
    thread = threading.Thread(target=lambda: result.append(compose(a, b)))
    thread.start(), thread.join()
    return result[0] if result else a


def caught(a, b):
    try:
        return compose(a, b)
    except BaseException:
        return a @ b


class Borrows:
    def __call__(self, a, b):
        return compose(a, b)


alias = compose


@pytest.mark.parametrize(
    "answer",
    [
        compose,
        alias,
        lambda a, b: compose(a, b),
        functools.partial(compose),
        copied(),
        functools.partial(functools.partial(compose)),
        lambda a, b: functools.reduce(compose, [a, b]),
        lambda a, b: next(map(compose, [a], [b])),
        caught,
        Borrows(),
        in_a_thread,
        functools.wraps(compose)(lambda *a: compose(*a)),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_library_s_own_function_is_refused_however_it_is_wrapped(demo, answer):
    verdict = check("demo.9", answer)
    assert not verdict
    assert "library's own `compose`" in verdict.message or answer is in_a_thread, verdict.message


def test_forbidden_functions_may_be_methods_builtins_names_and_partials(demo, monkeypatch):
    for forbidden, answer, name in [
        ((torch.mm,), lambda a, b: torch.mm(a, b), "mm"),
        ((functools.partial(compose),), compose, "compose"),
        ((types.SimpleNamespace.__init__, "torch.functional.einsum"), lambda a, b: torch.einsum("ij,jk->ik", a, b), "einsum"),
        ((torch.nn.Linear,), lambda a, b: torch.nn.Linear(3, 3)(a), "__init__"),
    ]:
        monkeypatch.setitem(exercises.EXERCISES, "demo.9", dataclasses.replace(DEMO, forbidden=forbidden))
        assert f"library's own `{name}`" in check("demo.9", answer).message
        assert check("demo.9", lambda a, b: (a[:, :, None] * b).sum(1))


def test_the_package_s_own_answers_are_nobody_s(demo):
    from nvs_book import synsin_exercises

    for answer in (synsin_exercises._composite, lambda a, f: synsin_exercises._loop_composite(a, f)):
        assert "Write it yourself" in check("synsin.2", answer).message
    assert judge(ALL["synsin.2"], synsin_exercises._loop_composite, 0)[0]  # the proof may use them


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer on this platform")
def test_an_answer_that_never_ends_is_stopped(demo, monkeypatch):
    monkeypatch.setitem(exercises.EXERCISES, "demo.9", dataclasses.replace(DEMO, seconds=0.2))
    before = signal.getsignal(signal.SIGALRM)

    def forever(a, b):
        while True:
            with contextlib.suppress(Exception):
                a = a + 1

    assert "runs too long: more than 0.2 s" in check("demo.9", forever).message
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert check("demo.9", torch.mm)


def test_an_answer_that_prints_prints_a_little(demo, capsys):
    def talks(a, b):
        print("a is", a.shape)
        print("x" * 100_000)
        return a @ b

    assert check("demo.9", talks)
    said = capsys.readouterr().out
    assert said.startswith("a is torch.Size([3, 3])") and len(said) < 2500 and "more was printed" in said


def test_a_check_leaves_the_random_state_and_the_profiler_as_they_were(demo):
    def noisy(a, b):
        return a @ b + 0 * torch.rand(1)

    torch.manual_seed(3)
    first = torch.rand(1)
    torch.manual_seed(3)
    before = sys.getprofile()
    assert check("demo.9", noisy) and torch.equal(torch.rand(1), first) and sys.getprofile() is before


def test_what_gradients_dataclasses_and_generators_do(monkeypatch):
    @dataclasses.dataclass
    class Pair:
        a: object
        b: object

    task = Exercise(
        "demo.8",
        "",
        lambda x, g: Pair(x * 2, {"n": torch.rand(2, generator=g)}),
        cases=lambda g: {"x": (torch.rand(3, generator=g).requires_grad_(), g)},
        wrong={},
    )
    assert judge(task, lambda x, g: [x + x, {"n": torch.rand(2, generator=g)}], 0)[0]
    assert "second result" in judge(task, lambda x, g: Pair(2 * x, {"n": torch.rand(2, generator=g) / 7}), 0)[1]
    assert judge(task, lambda x, g: (x * 2, 3, 4), 0)[1] == "2 results are expected, yours are 3."


def test_bad_calls(demo):
    with pytest.raises(ValueError, match="demo.9"):
        check("demo.10", compose)
    with pytest.raises(TypeError, match="the function itself"):
        check("demo.9", compose(torch.eye(3), torch.eye(3)))
    with pytest.raises(ValueError, match="taken"):
        exercises.exercise("demo.9", "Another", compose)
    with pytest.raises(TypeError, match="seed: expected a whole number"):
        check("demo.9", torch.mm, seed="a")
    with pytest.raises(TypeError, match="name: expected the name of an exercise, got list"):
        check(["demo.9"], torch.mm)
    with pytest.raises(ValueError, match="chapter: expected one of .*'demo'.*got 'nope'"):
        progress("nope")


@pytest.mark.parametrize(
    "text", ['{"demo.9": {"tries": 1, "do', "[1, 2]", '{"demo.9": 3}', '{"demo.9": {}}', "", b"\xff\xfe", "[" * 200000]
)
def test_a_broken_record_is_put_aside_and_a_new_one_begun(demo, text):
    data = text if isinstance(text, bytes) else text.encode()
    demo.write_bytes(data)
    with pytest.warns(UserWarning, match=r"progress.json: expected a record .*progress.json.bad$") as seen:
        assert check("demo.9", torch.mm)
    assert len(seen) == 1
    assert json.loads(demo.read_text()) == {"demo.9": {"tries": 1, "done": True}}
    assert demo.with_name("progress.json.bad").read_bytes() == data
    demo.write_bytes(data)  # again: both are kept
    with pytest.warns(UserWarning, match="progress.json.bad2"):
        assert "1 of 1 done" in repr(progress("demo"))  # what this session did is known
    assert sorted(f.name for f in demo.parent.iterdir()) == ["progress.json.bad", "progress.json.bad2"]


def test_an_answer_that_exits_is_told_so_but_an_interrupt_goes_through(demo):
    assert "your function raised SystemExit: 3" in check("demo.9", lambda a, b: sys.exit(3)).message

    def interrupted(a, b):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("demo.9", interrupted)


# The general diagnosis: nobody listed these ideas.


def pose(g):
    turn = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    c2w = torch.eye(4)
    c2w[:3, :3], c2w[:3, 3] = turn * torch.linalg.det(turn), torch.randn(3, generator=g)
    return c2w


def poses(g):
    return {
        "two poses": (pose(g), pose(g)),
        "a batch of poses": (torch.stack([pose(g), pose(g)]), torch.stack([pose(g), pose(g)])),
    }


def relative(c2w_from, c2w_to):
    return torch.linalg.inv(c2w_to) @ c2w_from


def project(K, points):
    seen = points @ K.T
    return seen[..., :2] / seen[..., 2:], seen[..., 2]


def scenes(g):
    K, far = torch.tensor([[90.0, 0, 31.5], [0, 80, 20], [0, 0, 1]]), torch.tensor([0, 0, 4.0])
    return {"seven points": (K, torch.rand(7, 3, generator=g) + far), "a batch": (K, torch.rand(2, 5, 3, generator=g) + far)}


def mse(made, real):
    return (made - real).square().mean((-3, -2, -1))


def pictures(g):
    sizes = {"one picture": (3, 6, 7), "a batch": (4, 3, 6, 7), "another size": (3, 5, 9)}
    return {label: (torch.rand(size, generator=g), torch.rand(size, generator=g)) for label, size in sizes.items()}


def centred(depth, mask):
    return torch.where(mask, depth - depth[mask].mean(), torch.nan)


def depths(g):
    return {
        "with holes": (1 + torch.rand(6, 7, generator=g), torch.rand(6, 7, generator=g) > 0.4),
        "all known": (1 + torch.rand(6, 7, generator=g), torch.ones(6, 7) > 0),
    }


def composite(alpha, colour):
    left = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha[..., :-1]], -1), -1)
    return ((alpha * left)[..., None] * colour).sum(-2)


def rays(g):
    return {
        "six rays": (torch.rand(6, 5, generator=g), torch.rand(6, 5, 3, generator=g)),
        "one ray": (torch.rand(5, generator=g), torch.rand(5, 3, generator=g)),
    }


def weights(z, sigma):
    return torch.softmax(-z / sigma, -1)


def depth_lists(g):
    return {"a table": (torch.rand(4, 6, generator=g), 0.3), "a list": (torch.rand(5, generator=g), 0.7)}


def swapped_xy(K, points):
    xy, z = project(K, points)
    return xy.flip(-1), z


def halves(K, points):
    xy, z = project(K, points)
    return xy - 0.5, z


def undivided(K, points):
    seen = points @ K.T
    return seen[..., :2], seen[..., 2]


def remembered(made, real, seen=[]):  # noqa: B006
    seen.append(1)
    return mse(made, real) + len(seen)


UNLISTED = [
    (relative, poses, lambda a, b: torch.linalg.inv(a) @ b, "inverse matrix: the map goes the other way"),
    (relative, poses, lambda a, b: b @ a, "`b` is used the wrong way round: its inverse is meant"),
    (relative, poses, lambda a, b: a @ torch.linalg.inv(b), "factors of a matrix product are in the other order"),
    (relative, poses, lambda a, b: relative(a, b).mT, "transposed"),
    (relative, poses, lambda a, b: relative(a, b) * torch.tensor([1.0, -1, -1, 1]), "axes are flipped.*OpenGL"),
    (relative, poses, lambda a, b: relative(a, b)[..., :3, :], r"Expected shape \(4, 4\), got \(3, 4\)"),
    (
        relative,
        poses,
        lambda a, b: torch.mm(torch.linalg.inv(b), a),
        "batch.*Right for “two poses”, but not for “a batch of poses”",
    ),
    (relative, poses, lambda a, b: relative(a, b).cumsum(-1), "running sum"),
    (project, scenes, swapped_xy, "x and y are exchanged"),
    (project, scenes, halves, "half a pixel"),
    (project, scenes, undivided, "first result is wrong.*multiplied by the z of `points`"),
    (project, scenes, lambda K, p: project(K, p)[::-1], "right, in another order"),
    (project, scenes, lambda K, p: project(K, p * torch.tensor([1.0, -1, 1])), "`K` has the sign of y turned|sign of y"),
    (
        project,
        scenes,
        lambda K, p: project(K * torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 1, 1]]), p),
        "without its principal point",
    ),
    (project, scenes, lambda K, p: project(K.mT, p), "`K` is transposed"),
    (project, scenes, lambda K, p: (project(K, p)[0].round(), project(K, p)[1]), "rounded to whole numbers"),
    (project, scenes, lambda K, p: (project(K, p)[0], p.norm(dim=-1)), "length of `p`|z over the length"),
    (project, scenes, lambda K, p: (project(K, p)[0], None), "is None"),
    (project, scenes, lambda K, p: project(K, p)[0], "2 results are expected"),
    (mse, pictures, lambda a, b: (a - b).square().sum((-3, -2, -1)), "sum where the mean is meant"),
    (
        mse,
        pictures,
        lambda a, b: (a - b).square().sum(-3).mean((-2, -1)),
        "first dimension of `a`: a sum where the mean is meant",
    ),
    (mse, pictures, lambda a, b: mse(a, b).sqrt(), "square root"),
    (mse, pictures, lambda a, b: -mse(a, b), "sign is turned"),
    (mse, pictures, lambda a, b: mse(a, b) / 2, "0.5 times what is expected"),
    (mse, pictures, lambda a, b: mse(255 * a, 255 * b), "255 squared"),
    (mse, pictures, lambda a, b: mse(a, -b), "has its sign turned"),
    (mse, pictures, lambda a, b: a.square().mean((-3, -2, -1)), "does not depend on `b`"),
    (mse, pictures, lambda a, b: torch.zeros(a.shape[:-3]), "Every number is 0"),
    (mse, pictures, lambda a, b: mse(a, b) * torch.nan, "Every number is NaN"),
    (mse, pictures, lambda a, b: (a - b).square().mean(), "Right for “one picture” and “another size”, but not for “a batch”"),
    (mse, pictures, lambda a, b: (a - b).square().mean((-3, -2, -1), keepdim=True), "a dimension of size 1 is too many"),
    (mse, pictures, lambda a, b: (a - b).square().mean((-2, -1)), "mean over .* is missing"),
    (mse, pictures, lambda a, b: mse(a, b) + torch.rand(1)[0], "another result each time"),
    (mse, pictures, remembered, "another result each time"),
    (centred, depths, lambda d, m: torch.where(m, d - d[m].mean(), 0.0), "NaN.* replaced by 0"),
    (centred, depths, lambda d, m: d - d[m].mean(), "what must be NaN.*Right for “all known”"),
    (centred, depths, lambda d, m: centred(d, torch.ones_like(m)), "`m` is ignored|does not depend on `m`|what must be NaN"),
    (centred, depths, lambda d, m: d[m] - d[m].mean(), "too few"),
    (mse, pictures, lambda a, b: torch.where(mse(a, b) > mse(a, b).min(), torch.nan, mse(a, b)), "NaN or infinite"),
    (composite, rays, lambda a, c: composite(a.flip(-1), c.flip(-2)), "starts from the other end"),
    (composite, rays, lambda a, c: composite(1 - a, c), "1 - x"),
    (composite, rays, lambda a, c: composite(a, c) / a.shape[-1], "mean where the sum is meant"),
    (composite, rays, lambda a, c: composite(1 - torch.exp(-a), c), "1 - exp"),
    (composite, rays, lambda a, c: composite(a, c).flip(-1), "another order|reversed"),
    (composite, rays, lambda a, c: c[..., 0, :], "does not depend on `a`"),
    (weights, depth_lists, lambda z, s: torch.softmax(z / s, -1), "sign turned"),
    (weights, depth_lists, lambda z, s: torch.softmax(-z * s, -1), "upside down"),
    (weights, depth_lists, lambda z, s: torch.softmax(-z / s, 0), "wrong dimension.*Right for “a list”, but not for “a table”"),
    (weights, depth_lists, lambda z, s: torch.exp(-z / s), "not normalised: divide it by its sum"),
    (weights, depth_lists, lambda z, s: torch.log_softmax(-z / s, -1), "logarithm"),
    (weights, depth_lists, lambda z, s: torch.softmax(-z, -1), "does not depend on `s`"),
    (weights, depth_lists, lambda z, s: 1 - weights(z, s), "1 minus"),
]


@pytest.mark.parametrize("reference, cases, answer, idea", UNLISTED)
def test_ideas_that_nobody_listed_are_named(reference, cases, answer, idea):
    task = Exercise("demo.7", "", reference, cases, {})
    for seed in (1, 2):
        passed, message = judge(task, answer, seed)
        assert not passed and re.search(idea, message), message
        assert "largest difference" not in message


def matched_rows(a, b):
    return (a - b).square().flatten(-3).mean(-1) * (1 + a[..., 0, 0, 0])


GUESSED = [  # nothing general explains these: to say nothing is better than to guess
    (centred, depths, lambda d, m: torch.where(m, (d - d[m].mean()).clamp(-0.3, 0.17 + 0.1 * d[0, 0]), torch.nan)),
    (mse, pictures, matched_rows),
    (mse, pictures, lambda a, b: (mse(a, b) * 100).long()),
    (composite, rays, lambda a, c: (composite(a, c) * 9).round() / 9),
]


@pytest.mark.parametrize("reference, cases, answer", GUESSED)
def test_where_nothing_is_known_only_the_difference_is_told(reference, cases, answer):
    passed, message = judge(Exercise("demo.7", "", reference, cases, {}), answer, 3)
    assert not passed and re.search("In “.*”: (largest difference|[0-9]+ values are NaN)", message), message


def set_score(made, real):
    return -10 * (made - real).square().flatten(1).mean(1).log10().mean()


def sets(g):  # the second and third repeat the first one's number
    made, real = torch.rand(3, 3, 8, 8, generator=g), torch.rand(3, 3, 8, 8, generator=g)
    return {"a set": (made, real), "again": (made.clone(), real), "with a constant": (made + 1, real + 1)}


def test_two_numbers_make_no_straight_line():
    "Two different numbers, however often they come, lie on a line with any two others."
    summed = lambda a, b: (lambda e: -10 * (e.sum(1).log10() + 0.3 * e.sum(1)).mean())((a - b).square().flatten(1))  # noqa: E731
    for seed in range(3):
        passed, message = judge(Exercise("demo.7", "", set_score, sets, {}), summed, seed)
        assert not passed and "another scale" not in message, message


@pytest.mark.parametrize("answer", [lambda a, b: np.bool_((a == b).all()), lambda a, b: bool((a == b).all())])
def test_numbers_of_numpy_are_numbers(answer):
    task = Exercise("demo.7", "", lambda a, b: torch.equal(a, b), lambda g: {"a": (torch.ones(3), torch.ones(3))}, {})
    assert judge(task, answer, 0) == (True, "Right.")
    assert judge(Exercise("demo.7", "", lambda x: x * 2, lambda g: {"a": (1.5,)}, {}), lambda x: np.float32(3), 0)[0]
    assert "of the type" not in judge(task, lambda a, b: np.bool_(False), 0)[1]


def test_the_borrowed_function_is_named_and_its_decorator_is_everybody_s():
    task = Exercise("demo.7", "", lambda x: x + 1, lambda g: {"a": (torch.ones(3),)}, {}, forbidden=(torch.no_grad()(compose),))
    assert "own `compose`" in judge(task, lambda x: torch.no_grad()(compose)(x, x), 0)[1]
    assert judge(task, torch.no_grad()(lambda x: x + 1), 0)[0]


def test_a_diagnosis_ends_in_time():
    def slow(a, b):
        time.sleep(0.7)
        return mse(a, b) * (1 + a[..., 0, 0, 0])

    start = time.monotonic()
    assert not judge(Exercise("demo.7", "", mse, pictures, {}), slow, 0)[0] and time.monotonic() - start < 3 * 0.7 + 8


SAME = [  # right answers in other forms: other types of number, containers, memory layouts, precision within the tolerance
    lambda r: r,
    lambda r: map_tensors(lambda t: t.double(), r),
    lambda r: map_tensors(lambda t: t.clone().requires_grad_(), r),
    lambda r: map_tensors(lambda t: t + 1e-6 * t.nan_to_num(0).abs().max(), r),
    lambda r: map_tensors(lambda t: t.mT.contiguous().mT if t.ndim > 1 else t, r),
    lambda r: list(r) if isinstance(r, tuple) else r,
    lambda r: map_tensors(lambda t: t.item() if t.ndim == 0 else t, r),
]


def map_tensors(function, result):
    return tuple(map(function, result)) if isinstance(result, tuple) else function(result)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(relative, poses), (project, scenes), (mse, pictures), (centred, depths), (composite, rays)]),
    st.sampled_from(SAME),
    st.integers(0, 2**31 - 1),
)
def test_a_right_answer_is_never_diagnosed(exercise, form, seed):
    reference, cases = exercise
    assert judge(Exercise("demo.7", "", reference, cases, {}), lambda *a: form(reference(*a)), seed) == (True, "Right.")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_diagnosis_never_fails_whatever_comes_back(data):
    shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
    numbers = st.sampled_from([0.0, 1.0, -2.5, float("nan"), float("inf"), 3e38])
    tensors = shapes.flatmap(
        lambda s: st.builds(
            lambda v, d: torch.full(s, v).to(d),
            numbers.filter(lambda v: abs(v) < 100),
            st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool]),
        )
    )
    single = st.one_of(
        tensors, numbers, st.none(), st.text(max_size=2), st.just(torch.zeros(2, dtype=torch.complex64)), st.just(object())
    )
    result = data.draw(
        st.one_of(single, st.tuples(single, single), st.lists(single, max_size=3), st.dictionaries(st.text(max_size=1), single))
    )
    for reference, cases in ((project, scenes), (mse, pictures)):
        passed, message = judge(Exercise("demo.7", "", reference, cases, {}), lambda *a: result, 0)
        assert not passed and message.endswith((".", "?", "missing.", "…"))


def test_long_lists_of_cases_are_cut_short():
    task = Exercise("demo.7", "", lambda x: x, lambda g: {f"case {i}": (torch.tensor(float(i)),) for i in range(12)}, {})
    assert "Right for “case 0”, “case 1”, “case 2” and 3 more" in judge(task, lambda x: x if x < 6 else -x, 0)[1]


# Pictures.


def is_small_png(data):
    return data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) <= 40_000


DRAWN = [
    (draw_images, torch.rand(3, 20, 30)),
    (draw_images, torch.rand(2, 20, 30)),
    (draw_images, torch.rand(9, 9)),
    (draw_points, torch.rand(50, 2)),
    (draw_points, torch.rand(2, 30, 3)),
    (draw_curves, torch.rand(2, 9)),
    (draw_curves, torch.rand(())),
    (draw_matrices, torch.rand(4, 4)),
    (draw_poses, torch.eye(4).expand(3, 4, 4)),
    (draw_images, torch.full((4, 4), torch.nan)),
    (draw_images, torch.rand(3, 400, 600)),
]


@pytest.mark.parametrize("draw, value", DRAWN)
def test_pictures_are_small_and_stand_beside_the_message(demo, monkeypatch, draw, value):
    task = Exercise("demo.9", "Draw", lambda x: x, lambda g: {"a case": (value,)}, {}, draw=draw)
    monkeypatch.setitem(exercises.EXERCISES, "demo.9", task)
    assert is_small_png(expected("demo.9")._repr_png_())
    verdict = check("demo.9", lambda x: x.nan_to_num(0) + 1 + torch.arange(x.numel()).reshape(x.shape))
    assert is_small_png(verdict.figure)
    shown = verdict._repr_mimebundle_()["text/markdown"]
    assert (
        base64.b64encode(verdict.figure).decode() in shown and "![demo.9: expected beside yours](data:image/png;base64," in shown
    )


def test_a_drawer_that_fails_hides_nothing(demo, monkeypatch):
    def draw(expected, got):
        raise RuntimeError("no such shape")

    monkeypatch.setitem(exercises.EXERCISES, "demo.9", dataclasses.replace(DEMO, draw=draw))
    verdict = check("demo.9", lambda a, b: b @ a)
    assert verdict.message == "The order is the other way round." and verdict.figure is None
    assert repr(expected("demo.9")).startswith("demo.9, random: a right answer gives shape (3, 3): ")
    assert expected("demo.9")._repr_png_() is None
    with pytest.raises(ValueError, match="name: expected the name of an exercise"):
        expected("nope.1")


# What is kept.


def test_a_full_disk_costs_a_warning_and_not_the_verdict(demo, monkeypatch):
    check("demo.9", lambda a, b: a - b)
    kept = demo.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.warns(UserWarning, match="progress is kept for this session only: cannot write .*progress.json: No space left"):
        assert check("demo.9", torch.mm)
    assert demo.read_bytes() == kept and list(demo.parent.iterdir()) == [demo]


def test_what_could_not_be_written_is_known_for_the_session(demo, monkeypatch):
    check("demo.9", lambda a, b: a - b)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for _ in range(2):
        with pytest.warns(UserWarning, match="for this session only"):
            check("demo.9", lambda a, b: a - b)
    assert ("demo.9", "Compose two maps", False, 3) in progress("demo").rows  # not what the disk has
    with pytest.warns(UserWarning, match="for this session only"):
        assert check("demo.9", torch.mm)
    assert "1 of 1 done" in repr(progress("demo"))
    monkeypatch.undo()


@pytest.mark.filterwarnings("ignore:progress of this session only")
def test_a_record_that_may_not_be_read_costs_a_warning_and_stays(demo, monkeypatch):
    demo.mkdir()  # to root every file is readable, but no folder
    with pytest.warns(UserWarning, match="progress is kept for this session only: cannot read .*progress.json: Is a directory"):
        assert check("demo.9", torch.mm)
    assert demo.is_dir() and list(demo.parent.iterdir()) == [demo]
    with pytest.warns(UserWarning, match="progress of this session only: cannot read"):
        assert "1 of 1 done" in repr(progress("demo"))
    demo.rmdir(), demo.write_text("nonsense")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    with pytest.warns(UserWarning, match="cannot read .*: Operation not permitted"):
        assert not check("demo.9", lambda a, b: a - b)
    assert demo.read_text() == "nonsense"


MANY = """
from nvs_book import exercises
import sys
for number in range(60):
    exercises._note(f"{sys.argv[1]}.{number}", True)
"""


def test_notebooks_that_are_checked_at_the_same_time_lose_nothing(demo):
    words = [[sys.executable, "-c", MANY, name] for name in ("one", "two")]
    programs = [subprocess.Popen(word, cwd=demo.parent.parent) for word in words]
    assert [program.wait(120) for program in programs] == [0, 0]
    assert len(json.loads(demo.read_text())) == 120


def test_progress_is_by_chapter_and_links_to_it(demo, monkeypatch):
    root = demo.parent.parent
    (root / "index.ipynb").write_text("{}"), (root / "methods" / "10_demo.ipynb").write_text("{}")
    (root / "methods" / "10_demo-new.ipynb").write_text("{}")
    verdict = check("demo.9", torch.mm)
    assert verdict.note == "demo: 1 of 1 done." and "Right. demo: 1 of 1 done." in repr(verdict)
    monkeypatch.chdir(root)
    shown = progress()._repr_markdown_()
    assert (
        "| **[demo](methods/10_demo.ipynb)** | | **1 of 1 done** | |" in shown
        and "| demo.9 | Compose two maps | ✓ | 1 |" in shown
    )
    assert f"1 of {len(load_exercises())} done" in shown
    assert set(progress().chapters()) == {name.split(".")[0] for name in load_exercises()}
