"""What the shared checks accept and refuse."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nvs_book.checks import check_choice, check_mask, check_number, check_path, check_same, check_tensor, golden


@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 5))
def test_any_leading_dimensions_fit(batch, n):
    assert check_tensor("xy", torch.zeros(*batch, n, 2), "... n 2") == {"n": n}
    check_tensor("z", torch.zeros(*batch, n), "... n", n=n)


@pytest.mark.parametrize("value, shape, sizes, error, message", [
    (torch.zeros(4, 3), "... n 2", {}, ValueError, r"x: expected shape \(\.\.\., n, 2\), got \(4, 3\)"),
    (torch.zeros(4), "... n 2", {}, ValueError, r"got \(4,\)"),
    (torch.zeros(4, 2), "... n 2", {"n": 5}, ValueError, r"n=5"),
    (torch.zeros(4, 2), "n 2 2", {}, ValueError, r"expected shape \(n, 2, 2\)"),
    (torch.zeros(3, 4), "n n", {}, ValueError, r"got \(3, 4\)"),
    (torch.tensor([1.0, torch.inf]), "n", {}, ValueError, r"1 NaN or infinite of 2"),
    ([1.0], "n", {}, TypeError, r"x: expected a torch tensor, got list"),
    (torch.zeros(3, dtype=torch.int64), "n", {}, TypeError, r"x: .*torch.int64"),
])
def test_check_tensor_refuses(value, shape, sizes, error, message):
    with pytest.raises(error, match=message):
        check_tensor("x", value, shape, **sizes)


def test_nan_is_let_through_on_request():
    check_tensor("depth", torch.tensor([[torch.nan]]), "... h w", finite=False)


@pytest.mark.parametrize("value, bounds, error", [
    (0, dict(minimum=0, exclusive=True), ValueError), (-1e-9, dict(minimum=0), ValueError), (11, dict(maximum=10), ValueError),
    (2.5, dict(integer=True), ValueError), (2.0, dict(integer=True), ValueError),
    (float("nan"), {}, ValueError), (float("inf"), dict(minimum=0), ValueError),
    ("3", {}, TypeError), (True, {}, TypeError), (None, {}, TypeError),
])
def test_check_number_refuses(value, bounds, error):
    with pytest.raises(error, match=r"radius: expected .*, got"):
        check_number("radius", value, **bounds)


def test_the_other_checks():
    check_number("k", 8, minimum=1, integer=True), check_number("r", 0.0, minimum=0, maximum=1)
    with pytest.raises(TypeError, match="mask: expected a boolean tensor, got torch.float32"):
        check_mask("mask", torch.ones(2, 2), "... h w")
    with pytest.raises(ValueError, match="mask: expected shape"):
        check_mask("mask", torch.ones(2, dtype=torch.bool), "... h w")
    with pytest.raises(ValueError, match="xy, z: expected one dtype"):
        check_same(xy=torch.zeros(1), z=torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="mode: expected one of 'a', 'b', got 'c'"):
        check_choice("mode", "c", ("a", "b"))


def test_check_path(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert check_path("path", str(tmp_path / "a.txt")) == tmp_path / "a.txt"
    with pytest.raises(FileNotFoundError, match="nothing at .*b.txt"):
        check_path("path", tmp_path / "b.txt")
    with pytest.raises(ValueError, match="expected a file, got a folder"):
        check_path("path", tmp_path)


def test_golden_is_found_upwards_and_named_when_missing(tmp_path, monkeypatch):
    (tmp_path / "tests" / "golden").mkdir(parents=True), (tmp_path / "deep" / "down").mkdir(parents=True)
    import numpy as np

    np.savez(tmp_path / "tests" / "golden" / "mine.npz", a=np.arange(3.0), names=np.array(["x"]))
    monkeypatch.chdir(tmp_path / "deep" / "down")
    assert list(golden("mine")) == ["a"]
    with pytest.raises(FileNotFoundError, match="no tests/golden/other.npz"):
        golden("other")
