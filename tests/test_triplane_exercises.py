"""The checks of triplane NeRF's exercises: the package's own functions are right, memory is judged by what an answer does."""

import dataclasses
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from nvs_book import triplane_exercises as checks
from nvs_book.exercises import check, judge, load_exercises
from nvs_book.triplane import composite, density_from_raw, expected_depth, intersect_box, sample_pdf, sample_triplane

EXERCISES = load_exercises("triplane")


def said(number, answer, seed=0):
    return judge(EXERCISES[f"triplane.{number}"], answer, seed)


def free(number, answer, seed):
    "Judged as if nothing were forbidden."
    return judge(dataclasses.replace(EXERCISES[f"triplane.{number}"], forbidden=()), answer, seed)


# The package's own functions: right, and refused.


def by_composite(t, density, directions, far):
    length = directions.norm(dim=1)
    return composite(t * length[:, None], density, torch.zeros(*t.shape, 3).to(t), far * length).weights


def by_interval(t, raw, colour, background):
    seen = composite(t, raw, colour, rule="interval", background=background, activation=density_from_raw)
    return seen.rgb, expected_depth(seen, least=0.0) / (seen.opacity > 0)


def by_moving(origins, directions, low, high):
    "A cube that is large enough, cut by two others: the box of the package is a cube about the origin."
    scale = (high - low) / 2
    d = directions / scale
    near, far = intersect_box((origins - (low + high) / 2) / scale, F.normalize(d, dim=1))
    return near / d.norm(dim=1), far / d.norm(dim=1)


PACKAGE = {
    1: by_composite,
    2: by_interval,
    3: by_moving,
    4: lambda e, w, u: sample_pdf(e, w, u),
    5: lambda *a: sample_triplane(*a),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("number", PACKAGE)
def test_the_packages_functions_are_right_and_not_to_be_borrowed(number, seed):
    assert free(number, PACKAGE[number], seed) == (True, "Right.")
    assert "This calls the library's own" in said(number, PACKAGE[number], seed)[1]


@pytest.mark.parametrize("number", range(1, 6))
def test_single_precision_is_enough(number):
    def single(*arguments):
        parts = answer(*(x.float() if isinstance(x, torch.Tensor) else x for x in arguments))
        return parts.double() if isinstance(parts, torch.Tensor) else tuple(x.double() for x in parts)

    answer = EXERCISES[f"triplane.{number}"].right[-1]
    loose = dataclasses.replace(EXERCISES[f"triplane.{number}"], tolerance=1e-4)
    assert judge(loose, single, 0) == (True, "Right.")


# What only some of the cases tell.


def test_a_slip_in_a_special_case_is_named_with_the_case():
    def parallel_missed(o, d, low, high):
        near, far = checks._box(o, d, low, high)
        still = (d == 0).any(1)
        return near.masked_fill(still, torch.nan), far.masked_fill(still, torch.nan)

    assert "A ray along a face was taken for missed" in said(3, parallel_missed)[1]

    def as_in_nerf(edges, weights, u):
        cdf = F.pad(weights.cumsum(1), (1, 0)) / weights.sum(1, keepdim=True).clamp(min=1e-12)
        i = torch.searchsorted(cdf, u, right=True)
        below, above = (i - 1).clamp(min=0), i.clamp(max=weights.shape[1])
        (low, high), (start, end) = ((x.gather(1, below), x.gather(1, above)) for x in (cdf, edges))
        share = high - low
        return start + (u - low) / torch.where(share < 1e-5, 1.0, share) * (end - start)

    assert "A ray without any weight got all samples at its last edge" in said(4, as_in_nerf)[1]


def test_the_endless_last_stretch_and_the_unshifted_product_are_named():
    def nerf(t, density, directions, far):  # as in the code that everybody copies
        delta = torch.cat([t.diff(dim=1), torch.full_like(t[:, :1], 1e10)], 1) * directions.norm(dim=1, keepdim=True)
        alpha = 1 - torch.exp(-density * delta)
        return alpha * torch.cat([torch.ones_like(t[:, :1]), 1 - alpha + 1e-10], 1).cumprod(1)[:, :-1]

    assert "made endless" in said(1, nerf)[1]
    passed, message = said(
        1, lambda t, s, d, far: nerf(t, s, d, far) * 0 + checks._weights_of(t, s, d, far, through=lambda a: (1 - a).cumprod(1))
    )
    assert not passed and "not shifted" in message


def test_a_picture_stands_beside_the_verdict():
    for number, wrong in ((1, lambda t, s, d, far: s), (4, lambda e, w, u: u)):
        assert check(f"triplane.{number}", wrong, seed=0).figure[:8] == b"\x89PNG\r\n\x1a\n"


# Memory: by what lives, and why.


def large():
    return checks._picture_cases(torch.Generator().manual_seed(0))["a picture too large to be held"]


@pytest.mark.parametrize("size", [32, 100, 150, 200])
def test_parts_of_up_to_a_fifth_of_the_rays_are_small_enough(size):
    assert said(6, partial(checks._deferred, step=lambda rays: size)) == (True, "Right.")
    assert said(6, partial(checks._by_checkpoint, size=lambda rays: size)) == (True, "Right.")


@pytest.mark.parametrize(
    "answer, kind",
    [
        (checks._held, checks.WholeAtOnce),
        (lambda r, p, rays, f: checks._deferred(r, p, rays, f, step=lambda rays: len(rays)), checks.WholeAtOnce),
        (lambda r, p, rays, f: checks._by_checkpoint(r, p, rays, f, size=lambda rays: len(rays)), checks.WholeAtOnce),
        (checks._kept, checks.PartsKept),
        (partial(checks._deferred, step=lambda rays: len(rays) // 2), checks.PartsTooLarge),
        (partial(checks._by_checkpoint, size=lambda rays: len(rays) // 2), checks.PartsTooLarge),
    ],
)
def test_what_is_wrong_about_memory_is_told_by_its_kind(answer, kind):
    with pytest.raises(kind, match="the check stopped it, since .* MB were alive at one time, of .* MB allowed"):
        checks._watched_parts(answer, *large())


def test_the_limit_is_half_of_what_the_features_take_and_the_plain_way_takes_four_times_that():
    planes, rays, loss_of, most = large()
    assert most == 0.5 * len(rays) * checks.RAY_PARTS * 12 * 4
    checks._watched_parts(checks._held, planes, rays, loss_of, 4.3 * most)
    with pytest.raises(MemoryError):
        checks._watched_parts(checks._held, planes, rays, loss_of, 4 * most)


@pytest.mark.parametrize("seed", range(2))
def test_the_reference_is_the_plain_way_for_losses_of_any_kind(seed):
    planes, rays, _, _ = large()
    target = torch.rand(len(rays), 3, generator=torch.Generator().manual_seed(seed))
    for loss_of in (lambda p: (p - target).square().mean(), lambda p: (p.std(0) - target.std(0)).abs().sum(), lambda p: p.amax()):
        loss, gradient = checks._deferred(checks.render_bare, planes, rays, loss_of)
        plain = checks._held(checks.render_bare, planes, rays, loss_of)
        torch.testing.assert_close(loss, plain[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient, plain[1], rtol=1e-3, atol=1e-6)


def test_the_bare_renderer_is_the_package_s_point_rule():
    planes, rays, _, _ = large()
    t = torch.linspace(1, 5, checks.RAY_PARTS)
    points = rays[:, None, :3] + t[:, None] * rays[:, None, 3:]
    raw = sample_triplane(planes, points.flatten(0, 1)).unflatten(1, (3, 4)).sum(1).view(len(rays), -1, 4)
    even = torch.arange(checks.RAY_PARTS) * (4 / checks.RAY_PARTS)
    seen = composite(even, raw[..., 0], raw[..., 1:].sigmoid(), 4.0, activation=F.softplus)
    torch.testing.assert_close(checks.render_bare(planes, rays), seen.rgb, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda *a: None, "The stub is still empty"),
        (lambda *a: print(end=""), "returns nothing"),
        (lambda *a: checks._deferred(*a)[1], "2 results are expected, as a tuple"),
        (lambda *a: (checks._deferred(*a)[0], None), "None"),
        (lambda render, planes, rays, loss_of: checks._black(render, planes, rays, loss_of), "the other parts are black"),
    ],
)
def test_what_is_no_loss_and_gradient_is_told_so(answer, message):
    passed, told = said(6, answer)
    assert not passed and message in told


def test_a_mixture_of_both_ways_is_right():
    def mixed(render, planes, rays, loss_of):
        planes = planes.detach().requires_grad_()
        one, two = rays.tensor_split(2)
        first = torch.cat([checkpoint(render, planes, part, use_reentrant=False) for part in one.split(90)])
        with torch.no_grad():
            rest = torch.cat([render(planes, part) for part in two.split(90)])
        rest.requires_grad_()
        loss = loss_of(torch.cat([first, rest]))
        loss.backward()
        for part, grad in zip(two.split(90), rest.grad.split(90)):
            render(planes, part).backward(grad)
        return loss.item(), planes.grad

    assert said(6, mixed) == (True, "Right.")
