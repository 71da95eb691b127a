"""The checks are checked: every right answer passes, every wrong idea is named, and nobody can borrow the library's answer."""
import json
import sys

import pytest
import torch

from nvs_book import exercises
from nvs_book.exercises import Exercise, check, judge, load_exercises, progress

ALL = load_exercises()


def compose(a, b):
    return a @ b


DEMO = Exercise(
    "demo.9", "Compose two maps", compose,
    cases=lambda g: {"random": tuple(torch.randn(2, 3, 3, generator=g)), "one": (torch.eye(3), torch.randn(3, 3, generator=g))},
    wrong={"The order is the other way round.": lambda a, b: b @ a, "Composing is a product, not a sum.": lambda a, b: a + b},
    right=(torch.mm, lambda a, b: torch.einsum("ij,jk->ik", a, b)), hints=("first", "second"), forbidden=(compose,))


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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ALL)
def test_right_answers_pass(name, seed):
    task = ALL[name]
    for answer in (task.reference, *task.right):
        assert judge(Exercise(**{**vars(task), "forbidden": ()}), answer, seed) == (True, "Right."), answer


@pytest.mark.parametrize("name, message", [(name, message) for name, task in ALL.items() for message in task.wrong])
def test_wrong_ideas_are_named(name, message):
    for seed in range(3):
        assert judge(ALL[name], ALL[name].wrong[message], seed) == (False, message)


def test_every_chapter_checks_its_own_solutions():
    assert {name.split(".")[0] for name in ALL} >= {"synsin"}


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


@pytest.mark.parametrize("answer, message", [
    (compose, "library's own `compose`"),
    (lambda a, b: compose(a, b), "library's own `compose`"),
    (lambda a, b: None, "returns nothing yet"),
    (lambda a, b: a[0], r"expected shape \(3, 3\), got \(3,\)"),
    (lambda a, b: (a, b), "expected a tensor"),
    (lambda a, b: a @ b * torch.nan, "NaN"),
    (lambda a: a, "raised TypeError"),
])
def test_answers_that_are_no_answers(demo, answer, message):
    verdict = check("demo.9", answer)
    assert not verdict
    import re

    assert re.search(message, verdict.message)


def test_an_empty_stub_is_told_so(demo):
    def stub(a, b):
        raise NotImplementedError

    assert "still empty" in check("demo.9", stub).message


def test_an_answer_cannot_spoil_the_inputs(demo):
    def spoils(a, b):
        a.zero_()
        return a @ b

    assert not check("demo.9", spoils) and check("demo.9", torch.mm)


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


@pytest.mark.parametrize("text", ['{"demo.9": {"tries": 1, "do', "[1, 2]", '{"demo.9": 3}', '{"demo.9": {}}', "",
                                  b"\xff\xfe", "[" * 200000])
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
