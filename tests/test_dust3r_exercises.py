"""The checks of DUSt3R's exercises that look at more than values: several draws, gradients, a scale found in any way."""

import dataclasses
import math

import pytest
import torch
from torch.optim import LBFGS

from nvs_book import dust3r_exercises as checks
from nvs_book.dust3r import confidence_loss, regression_loss
from nvs_book.exercises import check, judge, load_exercises

EXERCISES = load_exercises("dust3r")


def said(number, answer, seed=0):
    return judge(EXERCISES[f"dust3r.{number}"], answer, seed)


# Confidence: one for all draws.


def least(errors, alpha):
    "By trying: 4,000 confidences, then as many around the best one."
    tried = torch.logspace(0, 3, 4000, dtype=errors.dtype)
    for _ in range(3):
        grid = tried.expand(*errors.shape[1:], -1) if tried.ndim == 1 else tried
        loss = grid * errors.mean(0)[..., None] - alpha * grid.log()
        best = loss.argmin(-1, keepdim=True)
        low, high = (grid.gather(-1, (best + k).clamp(0, grid.shape[-1] - 1)) for k in (-1, 1))
        tried = low + (high - low) * torch.linspace(0, 1, 4000, dtype=errors.dtype)
    return {"confidence": grid.gather(-1, best)[..., 0], "loss": loss.gather(-1, best)[..., 0]}


@pytest.mark.parametrize("seed", range(3))
def test_the_best_confidence_may_be_found_by_trying_and_come_in_a_dictionary(seed):
    assert said(1, least, seed) == (True, "Right.")


@pytest.mark.parametrize("loss", [lambda c, e, a: c * e - a * c.log(), lambda c, e, a: torch.minimum(e, a + a * (e / a).log())])
def test_a_wrong_confidence_is_named_whatever_the_loss(loss):
    passed, message = said(1, lambda errors, alpha: (alpha / errors.mean(0), loss(alpha / errors.mean(0), errors.mean(0), alpha)))
    assert not passed and message.startswith("C is never below 1, so neither is the best one")


def test_the_best_confidence_is_where_the_loss_of_the_package_is_smallest():
    g = torch.Generator().manual_seed(0)
    true = torch.randn(1, 1, 1, 3, generator=g, dtype=torch.float64) + 3
    errors = torch.tensor([[0.02], [0.05], [0.11]], dtype=torch.float64)
    conf, loss = checks._best_confidence(errors, 0.2)
    known, nothing, size = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.bool), true.norm()
    turn = torch.linalg.cross(true, torch.tensor([0.0, 1, 0], dtype=torch.float64).expand_as(true))
    turn = turn / turn.norm()

    def mean_loss(c):
        def pred(e):  # as long as the truth, so that sizes are equal, and e sizes beside it
            angle = 2 * math.asin(float(e) / 2)
            return true * math.cos(angle) + turn * size * math.sin(angle)

        maps = [(pred(e), true, c.expand(1, 1, 1), true, true, true * 0 + 1) for e in errors]
        return sum(confidence_loss(p, t, k, k, t, t, known, nothing) for p, t, k, *_ in maps) / len(maps)

    around = [mean_loss(conf * factor) for factor in (0.95, 1.0, 1.05)]
    assert around[1] < min(around[0], around[2]) and abs(around[1] - loss[0]) < 1e-9


# A size with a gradient.


@pytest.mark.parametrize("seed", range(3))
def test_the_packages_loss_is_right_and_not_to_be_borrowed(seed):
    free = dataclasses.replace(EXERCISES["dust3r.2"], forbidden=())
    assert judge(free, lambda *a: regression_loss(*a), seed) == (True, "Right.")
    assert "library's own `regression_loss`" in said(2, lambda *a: regression_loss(*a), seed)[1]


@pytest.mark.parametrize("number, unpack", [(2, checks._pair_loss), (3, checks._aligned)])
def test_right_values_without_a_gradient_are_wrong(number, unpack):
    passed, message = said(number, lambda *a: torch.no_grad()(unpack)(*a))
    assert not passed and "nothing can be learnt" in message


def by_boolean_index(pred_1, pred_2, true_1, true_2, valid_1, valid_2, detached=False, late=False):
    pred, true, valid = (pred_1, pred_2), (true_1, true_2), (valid_1, valid_2)
    sizes = [[sum(x[k][v[k]].norm(dim=1).sum() for x, v in zip(side, valid)) / sum(v[k].sum() for v in valid)
              for k in range(len(pred_1))] for side in (pred, true)]
    z, z_true = (torch.stack(size)[:, None, None, None] for size in sizes)
    errors = [p / (z.detach() if detached else z) - t / z_true for p, t in zip(pred, true)]
    if late:
        return sum(e.norm(dim=-1).nan_to_num(0.0).sum() / max(int(v.sum()), 1) for e, v in zip(errors, valid))
    return sum(e[v].norm(dim=-1).mean() for e, v in zip(errors, valid) if v.any())


def test_slips_that_leave_the_loss_as_it_is_are_named_by_their_gradient():
    assert said(2, by_boolean_index) == (True, "Right.")
    assert "taken for a constant" in said(2, lambda *a: by_boolean_index(*a, detached=True))[1]
    assert "0 times NaN is NaN" in said(2, lambda *a: by_boolean_index(*a, late=True))[1]


def test_a_wrong_loss_is_named_whatever_its_gradient():
    median = next(message for message in EXERCISES["dust3r.2"].wrong if message.startswith("The median distance"))
    idea = EXERCISES["dust3r.2"].wrong[median]
    assert said(2, idea)[1] == median
    detached = lambda *a: idea(*a).detach() + 0 * a[0].sum()  # noqa: E731
    assert said(2, detached)[1] == median


@pytest.mark.parametrize("answer, message", [
    (lambda *a: None, "The stub is still empty"), (lambda *a: checks._pair_loss(*a).item(), "nothing can be learnt"),
    (lambda *a: (checks._pair_loss(*a), 1.0), "one number is expected, and a tuple"),
    (lambda *a: print(end=""), "returns nothing"),
])  # fmt: skip
def test_what_is_no_loss_is_told_so(answer, message):
    passed, told = said(2, answer)
    assert not passed and message in told


# The best scale.


def by_lbfgs(pred_1, pred_2, true_1, true_2):
    "As a learner of one number would."
    pred, true = ([x.detach() for x in side] for side in ((pred_1, pred_2), (true_1, true_2)))
    start = torch.cat(true).norm(dim=1).median() / torch.cat(pred).norm(dim=1).median()
    log_s = start.log().requires_grad_()
    unit = torch.cat(true).norm(dim=1).median()
    optimizer = LBFGS([log_s], lr=1, max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def loss(p):
        return sum((log_s.exp() * x - t).norm(dim=1).mean() for x, t in zip(p, true)) / unit

    def closure():
        optimizer.zero_grad()
        value = loss(pred)
        value.backward()
        return value

    optimizer.step(closure)
    s = log_s.detach().exp()
    return [sum((s * x - t).norm(dim=1).mean() for x, t in zip((pred_1, pred_2), true)) / unit, s]


@pytest.mark.parametrize("seed", range(3))
def test_the_scale_may_be_found_by_any_optimiser_and_its_gradient_does_not_matter(seed):
    assert said(3, by_lbfgs, seed) == (True, "Right.")
    for kept in (True, False):
        def answer(a, b, c, d, kept=kept):
            w = checks._weights(a, b)
            s = checks._reweighted(torch.cat([a, b]), torch.cat([c, d]), w)
            s = s if kept else s.detach()
            return checks._summed(s * torch.cat([a, b]) - torch.cat([c, d]), w) / torch.cat([c, d]).norm(dim=1).median(), s

        assert said(3, answer, seed) == (True, "Right.")


def test_a_wrong_scale_is_named_with_its_gradient_or_without():
    def least_squares(a, b, c, d, kept):
        w, p, t = checks._weights(a, b), torch.cat([a, b]), torch.cat([c, d])
        s = (w * (p * t).sum(1)).sum() / (w * p.square().sum(1)).sum()
        return checks._summed((s if kept else s.detach()) * p - t, w) / t.norm(dim=1).median(), s

    for kept in (True, False):
        assert "This is the scale of least squares" in said(3, lambda *a, kept=kept: least_squares(*a, kept))[1]


def test_no_scale_gives_a_smaller_loss():
    for arguments in checks._aligned_cases(torch.Generator().manual_seed(5)).values():
        loss, s = checks._aligned(*arguments)
        for factor in (0.999, 1.001):
            assert checks._aligned(*arguments, scale=lambda *_, other=factor * s: other)[0] > loss


def test_a_picture_of_the_confidences_stands_beside_the_verdict():
    assert check("dust3r.1", lambda e, a: (e.mean(0), e.mean(0)), seed=0).figure[:8] == b"\x89PNG\r\n\x1a\n"
