"""Depth distributions of nvs_book.epipolar: the original's numbers, definitions, draws, opacities, their gradient, bad input."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.autograd import gradcheck, gradgradcheck

from nvs_book.checks import golden
from nvs_book.epipolar import (
    DepthDistribution,
    DepthHead,
    depth_from_disparity,
    disparity_from_depth,
    hit_probability,
    inverse_cdf,
    opacity_exponent,
    opacity_from_probability,
)

BAR = 1e-4
BATCHES = pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
quick = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**20)
ranges = st.tuples(st.floats(0.01, 100), st.floats(1.01, 1000)).map(lambda pair: (pair[0], pair[0] * pair[1]))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_distribution(seed, *batch, k=8, sharpness=2.0, near=1.5, far=6.0, dtype=torch.float32):
    logits, offsets = torch.randn(2, *batch, k, generator=seeded(seed), dtype=dtype)
    return DepthDistribution.from_logits(sharpness * logits, offsets, near, far)


# --- the original's numbers --------------------------------------------------------------------------------------------


def test_conversions_equal_pixelsplat():
    "Golden pixelsplat_depth: relative disparity to depth and back, near and far per view."
    g = golden("pixelsplat_depth")
    near, far = g["near"].view(-1, 1), g["far"].view(-1, 1)
    depth = depth_from_disparity(g["conv_rel"], near, far)
    assert (depth - g["conv_depth"]).abs().max() <= BAR
    assert (disparity_from_depth(g["conv_depth"], near, far) - g["conv_roundtrip"]).abs().max() <= BAR


@pytest.mark.parametrize("kind", ["pdf", "transmittance"])
def test_head_equals_pixelsplat(kind):
    "Golden pixelsplat_depth: DepthPredictorMonocular with its weights; the most probable 1 and 3, and 3 draws at given numbers."
    g = golden("pixelsplat_depth")
    head = DepthHead(g["dpm_features"].shape[-1], int(g["dpm_num_samples"]))
    head.load_state_dict({f"projection.1.{name}": g[f"dpm_{name}"] for name in ("weight", "bias")}, strict=True)
    d = head(g["dpm_features"], g["near"][..., None], g["far"][..., None])
    assert (d.probabilities - g["dpm_pdf"][..., 0, :]).abs().max() <= BAR
    assert (d.offsets - g["dpm_offset"][..., 0, :]).abs().max() <= BAR
    drawn = inverse_cdf(d.probabilities, g["dpm_rand3_uniforms"][..., 0, :])
    for name, index in {"det1": d.top(), "det3": d.top(3), "rand3": drawn}.items():
        assert (d.depth_of(index) - g[f"dpm_{name}_{kind}_depth"][..., 0, :]).abs().max() <= BAR
        assert (d.opacity_of(index, kind == "transmittance") - g[f"dpm_{name}_{kind}_opacity"][..., 0, :]).abs().max() <= BAR
    assert torch.equal(d.mode(), d.depth_of(d.top())[..., 0])


def test_draws_equal_pixelsplat():
    "Golden pixelsplat_depth: the discrete distribution's sample and topk, which also return the probability of what they chose."
    g = golden("pixelsplat_depth")
    index = inverse_cdf(g["pdf"], g["sample_uniforms"])
    d = DepthDistribution(g["pdf"], torch.zeros_like(g["pdf"]), 1.0, 2.0)
    assert torch.equal(index, g["sample_index"]) and torch.equal(d.top(3), g["topk_index"])
    assert (d.opacity_of(index) - g["sample_density"]).abs().max() <= BAR
    assert (d.opacity_of(d.top(3)) - g["topk_density"]).abs().max() <= BAR


@pytest.mark.parametrize("x", [-1, 0, 0.5, 2])
def test_opacities_equal_pixelsplat(x):
    "Golden pixelsplat_depth: the mapping from probability to opacity at four exponents 2^x."
    g = golden("pixelsplat_depth")
    assert (opacity_from_probability(g["opacity_pdf_in"], x) - g[f"opacity_exponent_log2_{x}"]).abs().max() <= BAR


# --- disparity and depth -----------------------------------------------------------------------------------------------


@quick
@given(bounds=ranges, seed=seeds)
def test_depth_and_disparity_undo_each_other(bounds, seed):
    near, far = bounds
    relative = torch.rand(20, generator=seeded(seed), dtype=torch.float64).sort().values
    depth = depth_from_disparity(relative, near, far)
    assert (depth.diff() >= 0).all() and depth[0] >= near * (1 - 1e-12) and depth[-1] <= far * (1 + 1e-12)
    assert (disparity_from_depth(depth, near, far) - relative).abs().max() < 1e-9
    paper = 1 / ((1 - relative) * (1 / near - 1 / far) + 1 / far)
    assert torch.allclose(depth, paper, rtol=1e-10)


@quick
@given(bounds=ranges, scale=st.floats(0.01, 100), seed=seeds)
def test_scaling_the_range_scales_depths(bounds, scale, seed):
    near, far = bounds
    d = random_distribution(seed, 3, near=near, far=far, dtype=torch.float64)
    scaled = DepthDistribution(d.probabilities, d.offsets, scale * near, scale * far)
    assert torch.allclose(scaled.depths, scale * d.depths, rtol=1e-10)
    for one in (DepthDistribution.mode, DepthDistribution.mean, DepthDistribution.quantile):
        assert torch.allclose(one(scaled), scale * one(d), rtol=1e-10)
    true = d.depths[:, 3]
    assert torch.allclose(scaled.log_likelihood(scale * true * (1 + 1e-9)), d.log_likelihood(true * (1 + 1e-9)))


def test_ends_of_the_range_and_beyond():
    exact = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(depth_from_disparity(exact, 2.0, 10.0), torch.tensor([2.0, 10.0], dtype=torch.float64))
    beyond = torch.tensor([1.0, 20.0, torch.inf, torch.nan])
    assert torch.allclose(disparity_from_depth(beyond, 2.0, 10.0), torch.tensor([-1.25, 1.125, 1.25, torch.nan]), equal_nan=True)
    assert depth_from_disparity(torch.tensor([torch.nan, 0.5]), 2.0, 10.0).isnan().tolist() == [True, False]
    assert depth_from_disparity(torch.tensor(0.5), 2, 10).dtype == torch.float32


# --- the distribution --------------------------------------------------------------------------------------------------


@BATCHES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_sums_and_order(batch, dtype, device):
    logits, offset_logits = (torch.randn(*batch, 5, 16, generator=seeded(i), dtype=dtype).to(device) for i in range(2))
    near, far = (torch.full((*batch, 1), value, dtype=dtype, device=device) for value in (0.7, 9.0))
    d = DepthDistribution.from_logits(logits, offset_logits, near, far)
    assert d.probabilities.dtype == d.depths.dtype == d.mean().dtype == dtype and d.depths.device == logits.device
    assert torch.allclose(d.probabilities.sum(-1), torch.ones((), dtype=dtype, device=device))
    assert d.depths.shape == (*batch, 5, 16) and (d.depths.diff(dim=-1) >= 0).all()
    assert d.depths.min() >= 0.7 * (1 - 1e-6) and d.depths.max() <= 9 * (1 + 1e-6)
    index = d.sample(3, torch.Generator(device).manual_seed(0))
    assert index.shape == d.depth_of(index).shape == d.opacity_of(index, transmittance=True).shape == (*batch, 5, 3)
    for one in (d.mode(), d.mean(), d.quantile(0.3), d.bucket_of(d.mean()), d.log_likelihood(d.mean())):
        assert one.shape == (*batch, 5)
    flat = DepthDistribution(d.probabilities.reshape(-1, 16), d.offsets.reshape(-1, 16), 0.7, 9.0)
    assert torch.allclose(flat.mean().view(*batch, 5), d.mean()) and torch.equal(flat.top(4).view(*batch, 5, 4), d.top(4))


@quick
@given(seed=seeds, k=st.integers(1, 40), sharpness=st.floats(0, 30))
def test_one_depth_is_what_it_says(seed, k, sharpness):
    d = random_distribution(seed, 6, k=k, sharpness=sharpness, dtype=torch.float64)
    for row in range(6):
        p, depths = d.probabilities[row], d.depths[row]
        assert p[depths == d.mode()[row]].max() == p.max()
        assert torch.isclose(d.mean()[row], sum(a * b for a, b in zip(p, depths)))
        for q in (0.25, 0.5, 0.9):
            at = d.quantile(q)[row]
            assert p[depths < at].sum() <= q + 1e-9 and p[depths <= at].sum() >= q - 1e-9
    assert (d.mean() >= d.depths[:, 0] - 1e-12).all() and (d.mean() <= d.depths[:, -1] + 1e-12).all()


def test_disparity_is_index_plus_offset():
    offsets = torch.tensor([0.0, 0.25, 0.5, 1.0])
    d = DepthDistribution(torch.full((4,), 0.25), offsets, 1.0, 3.0)
    assert torch.allclose(d.disparities, torch.tensor([0.0, 0.3125, 0.625, 1.0]))
    other = DepthDistribution(torch.full((4,), 0.25), offsets.flip(0), 1.0, 3.0)
    assert torch.allclose(other.disparities, torch.tensor([0.25, 0.375, 0.5625, 0.75]))


def test_a_range_for_each_view_and_an_empty_batch():
    d = random_distribution(0, 2, 3, 7, near=torch.rand(2, 3, 1, generator=seeded(1)) + 0.5, far=torch.full((3, 1), 8.0))
    one = DepthDistribution(d.probabilities[1, 2], d.offsets[1, 2], float(d.near[1, 2]), 8.0)
    assert torch.allclose(one.depths, d.depths[1, 2]) and torch.allclose(one.mean(), d.mean()[1, 2])
    none = random_distribution(0, 0)
    assert none.sample(2, seeded(0)).shape == none.depth_of(none.top(2)).shape == (0, 2) and none.mean().shape == (0,)
    assert none.log_likelihood(torch.zeros(0)).shape == (0,)


def test_to_another_dtype():
    d = random_distribution(0, 2, 3, near=torch.full((2, 1), 0.5))
    wide = d.to(torch.float64)
    assert {x.dtype for x in (wide.probabilities, wide.offsets, wide.near, wide.far)} == {torch.float64}
    assert torch.allclose(wide.depths.float(), d.depths)


# --- draws -------------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, k=st.integers(1, 30), sharpness=st.floats(0, 20))
def test_inverse_cdf_is_a_count(seed, k, sharpness):
    p = (sharpness * torch.randn(4, k, generator=seeded(seed), dtype=torch.float64)).softmax(-1)
    u = torch.rand(4, 9, generator=seeded(seed + 1), dtype=torch.float64)
    for row, (numbers, weights) in enumerate(zip(u.tolist(), p.tolist())):
        for column, number in enumerate(numbers):
            count, total = 0, 0.0
            for weight in weights:
                total += weight
                count += total <= number
            assert inverse_cdf(p, u)[row, column] == min(count, k - 1)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_frequencies_are_probabilities(sharpness):
    d = random_distribution(3, k=12, sharpness=sharpness)
    counts = d.sample(40_000, seeded(7)).bincount(minlength=12).double()
    expected = d.probabilities.double() / d.probabilities.double().sum() * 40_000
    often = expected >= 5  # rarer buckets are counted together
    counts, expected = (torch.cat([x[often], x[~often].sum(0, keepdim=True)]) for x in (counts, expected))
    kept = expected > 0
    assert chisquare(counts[kept], expected[kept]).pvalue > 1e-3
    assert counts.sum() == 40_000 and (sharpness == 0 or chisquare(counts[kept], expected[kept].roll(1)).pvalue < 1e-6)


def test_draws_come_from_the_generator_alone():
    d = random_distribution(0, 50)
    torch.manual_seed(1)
    first = d.sample(4, seeded(5))
    torch.manual_seed(2)
    assert torch.equal(first, d.sample(4, seeded(5))) and not torch.equal(first, d.sample(4, seeded(6)))
    assert not torch.equal(first[:, 0], first[:, 1])


def test_a_bucket_without_probability_is_not_drawn():
    below_one = 1 - 2.0**-24
    u = torch.tensor([0.0, 0.5, below_one])
    assert inverse_cdf(torch.tensor([0.0, 1.0, 0.0]), u).tolist() == [1, 1, 1]
    assert inverse_cdf(torch.tensor([0.5, 0.4999, 0.0]), u).tolist() == [0, 0, 1]  # though the sum falls short of 1


def test_draws_carry_no_gradient_but_their_opacities_do():
    logits = torch.zeros(6, requires_grad=True)
    offset_logits = torch.zeros(6, requires_grad=True)
    d = DepthDistribution.from_logits(logits, offset_logits, 1.0, 4.0)
    index = d.sample(1, seeded(0))
    assert not index.requires_grad
    d.depth_of(index).sum().backward(retain_graph=True)
    assert logits.grad is None or not logits.grad.any()
    assert offset_logits.grad.nonzero().flatten().tolist() == index.tolist()
    d.opacity_of(index).sum().backward()
    assert logits.grad[index] > 0 and (logits.grad < 0).sum() == 5


# --- opacity -----------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, k=st.integers(1, 64), sharpness=st.floats(0, 40))
def test_hit_probabilities_composite_to_the_distribution(seed, k, sharpness):
    p = (sharpness * torch.randn(3, k, generator=seeded(seed), dtype=torch.float64)).softmax(-1)
    alpha = hit_probability(p)
    passed = torch.cat([torch.ones(3, 1, dtype=torch.float64), (1 - alpha).cumprod(-1)[:, :-1]], -1)
    assert torch.allclose(alpha * passed, p, atol=1e-12) and torch.allclose(alpha[:, -1], torch.ones((), dtype=torch.float64))
    narrow, left = hit_probability(p.float()), p.flip(-1).cumsum(-1).flip(-1)
    assert (narrow >= 0).all() and (narrow <= 1 + 1e-6).all()
    assert (narrow - alpha).abs()[left > 1e-30].max() < 1e-5  # float32 ends at 1e-38


def test_hit_probability_where_the_difference_fails():
    p = torch.tensor([0.7, 0.3 - 3e-8, 3e-8, 1e-12])
    difference = p / (1 - torch.cat([torch.zeros(1), p.cumsum(0)[:-1]]) + 1e-10)
    assert (difference - hit_probability(p.double()).float()).abs().max() > 0.5 > (hit_probability(p) - 1)[3].abs()
    assert hit_probability(torch.tensor([1.0, 0.0, 0.0])).tolist() == [1.0, 0.0, 0.0]  # nothing is left: no 0 / 0


@quick
@given(x=st.floats(-6, 6), seed=seeds)
def test_opacity_mapping(x, seed):
    p = torch.rand(50, generator=seeded(seed), dtype=torch.float64).sort().values
    opacity = opacity_from_probability(p, x)
    e = 2.0**x
    assert torch.allclose(opacity, 0.5 * (1 - (1 - p) ** e + p ** (1 / e)), atol=1e-12)
    assert (opacity.diff() >= 0).all() and (opacity >= 0).all() and (opacity <= 1).all()
    assert (opacity >= p - 1e-12).all() if x >= 0 else (opacity <= p + 1e-12).all()


@pytest.mark.parametrize("x", [-3.0, -1.0, 0.0, 1.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opacity_mapping_has_finite_gradients_at_the_ends(x, dtype):
    p = torch.tensor([0.0, 1e-45, 1e-30, 0.5, 1.0], dtype=dtype, requires_grad=True)
    opacity = opacity_from_probability(p, x)
    opacity.sum().backward()
    assert opacity[0] == 0 and opacity[-1] == 1 and p.grad.isfinite().all() and opacity.dtype == dtype
    logits = torch.tensor([0.0, 400.0, -400.0], dtype=dtype, requires_grad=True)  # a softmax that underflows
    for opacity in (opacity_from_probability(logits.softmax(-1), x), hit_probability(logits.softmax(-1))):
        opacity.sum().backward()
        assert logits.grad.isfinite().all()


def test_schedule():
    assert [opacity_exponent(step, 10, 2.0, -1.0) for step in (0, 5, 10, 1000)] == [2.0, 0.5, -1.0, -1.0]
    assert opacity_exponent(3, 10) == 0.0 and torch.equal(opacity_from_probability(torch.tensor([0.3])), torch.tensor([0.3]))


# --- what the gradient is ----------------------------------------------------------------------------------------------


def loss_at(match, energy, opacity):
    return opacity**2 * energy - 2 * opacity * match


def case(seed, k=7):
    match, energy, logits = torch.randn(3, k, generator=seeded(seed), dtype=torch.float64)
    return match, energy.exp(), logits.requires_grad_()


def distribution(logits):
    return DepthDistribution.from_logits(logits, torch.zeros_like(logits), 1.0, 2.0)


@quick
@given(seed=seeds)
def test_mean_update_is_the_gradient_of_the_potential(seed):
    match, energy, logits = case(seed)
    mean = torch.zeros_like(match)
    for k in range(len(match)):  # every draw there is, weighted with its probability
        d = distribution(logits)
        opacity = d.opacity_of(torch.tensor([k]))[0]
        (gradient,) = torch.autograd.grad(loss_at(match[k], energy[k], opacity), logits)
        mean += d.probabilities.detach()[k] * gradient
    p = distribution(logits).probabilities
    potential = (-match * p**2 + 2 / 3 * energy * p**3).sum()
    expected = (p * loss_at(match, energy, p)).sum()
    torch.testing.assert_close(expected, 2 * potential - (energy * p**3).sum() / 3)
    (of_potential,) = torch.autograd.grad(potential, logits, retain_graph=True)
    (of_expected,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(mean, of_potential)
    assert not torch.allclose(mean, of_expected, atol=1e-6)


@pytest.mark.parametrize("transmittance", [False, True])
@pytest.mark.parametrize("x", [0.0, 2.0])
def test_descent_raises_a_good_bucket_and_lowers_a_bad_one(transmittance, x):
    logits = torch.randn(8, generator=seeded(0), dtype=torch.float64).requires_grad_()
    for match, raised in ((2.0, True), (-1.0, False)):
        d = distribution(logits)
        opacity = opacity_from_probability(d.opacity_of(torch.tensor([3]), transmittance), x)
        (gradient,) = torch.autograd.grad(loss_at(match, 1.0, opacity).sum(), logits)
        after = distribution(logits.detach() - 0.1 * gradient)
        assert (after.probabilities[3] > d.probabilities[3]) == raised


@quick
@given(seed=seeds, k=st.integers(2, 12))
def test_the_best_bucket_keeps_a_lead(seed, k):
    match, logits = torch.randn(2, k, generator=seeded(seed), dtype=torch.float64)
    match = match / match.abs().max()
    match[1], logits[1] = 1.0, logits.max()  # the best match is the energy, and no bucket is more probable
    p = distribution(logits.requires_grad_()).probabilities
    (gradient,) = torch.autograd.grad((-match * p**2 + 2 / 3 * p**3).sum(), logits)
    assert (-gradient[1] >= -gradient - 1e-12).all() and gradient[1] <= 1e-12


def test_certainty_is_stable_exactly_where_more_than_opaque_would_be_better():
    for match, stable in ((1.2, True), (0.8, False)):
        logits = torch.zeros(5, dtype=torch.float64)
        logits[2] = 9.0
        p = distribution(logits.requires_grad_()).probabilities
        matches = torch.tensor([0.1, 0.0, match, 1.5, 0.2], dtype=torch.float64)
        (gradient,) = torch.autograd.grad((-matches * p**2 + 2 / 3 * p**3).sum(), logits)
        assert (gradient[2] < 0) == stable


@pytest.mark.parametrize("transmittance", [False, True])
def test_calculus(transmittance):
    logits, offset_logits = (torch.randn(2, 3, 5, generator=seeded(i), dtype=torch.float64, requires_grad=True) for i in range(2))
    near, far = (torch.tensor([[a], [b]], dtype=torch.float64, requires_grad=True) for a, b in ((1.0, 2.0), (9.0, 12.0)))
    index = torch.randint(0, 5, (2, 3, 2), generator=seeded(2))
    true = 1 + 12 * torch.rand(2, 3, generator=seeded(3), dtype=torch.float64)

    def answers(*inputs):
        d = DepthDistribution.from_logits(*inputs)
        opacity = d.opacity_of(index, transmittance)
        depths = d.mean(), d.mode(), d.quantile(), d.depth_of(index)
        return *depths, opacity, opacity_from_probability(opacity, 1.5), d.log_likelihood(true)

    assert gradcheck(answers, (logits, offset_logits, near, far))
    assert gradgradcheck(answers, (logits, offset_logits, near, far))


# --- a true depth ------------------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, k=st.integers(1, 20))
def test_likelihood_is_a_cross_entropy(seed, k):
    logits = torch.randn(30, k, generator=seeded(seed), dtype=torch.float64)
    d = DepthDistribution.from_logits(logits, torch.zeros_like(logits), 1.5, 6.0)
    relative = torch.rand(30, generator=seeded(seed + 1), dtype=torch.float64)
    true, bucket = depth_from_disparity(relative, 1.5, 6.0), (relative * k).long()
    assert torch.equal(d.bucket_of(true), bucket)
    assert torch.allclose(d.log_likelihood(true), -F.cross_entropy(logits, bucket, reduction="none"))


def test_unknown_and_outlying_depths():
    logits = torch.randn(5, 4, generator=seeded(0)).requires_grad_()
    d = DepthDistribution.from_logits(logits, torch.zeros(5, 4), 2.0, 10.0)
    true = torch.tensor([torch.nan, 1.0, 11.0, torch.inf, 10.0])
    assert d.bucket_of(true).tolist() == [-1, 0, 3, 3, 3]
    likelihood = d.log_likelihood(true)
    assert likelihood.isnan().tolist() == [True, False, False, False, False]
    likelihood.nanmean().backward()
    assert logits.grad.isfinite().all() and not logits.grad[0].any() and logits.grad[1:].any(-1).all()
    sure = DepthDistribution(torch.tensor([1.0, 0.0]), torch.zeros(2), 2.0, 10.0)
    assert -100 < sure.log_likelihood(torch.tensor(9.0)) < -80  # finite, where the probability is 0


# --- the head ----------------------------------------------------------------------------------------------------------


@BATCHES
def test_head(batch):
    torch.manual_seed(0)
    head, features = DepthHead(6, 4), torch.randn(*batch, 5, 6)
    d = head(features, 1.0, 3.0)
    raw = features.relu() @ head.projection[1].weight.T + head.projection[1].bias
    assert torch.allclose(d.probabilities, raw[..., 0::2].softmax(-1), atol=1e-6)
    assert torch.allclose(d.offsets, raw[..., 1::2].sigmoid(), atol=1e-6)
    assert d.probabilities.shape == (*batch, 5, 4)
    assert torch.allclose(torch.stack(head.logits(features), -1).flatten(-2), raw, atol=1e-6)


def test_one_bucket_is_regression():
    torch.manual_seed(0)
    d = DepthHead(6, 1)(torch.randn(5, 6), 1.0, 3.0)
    assert d.probabilities.eq(1).all() and torch.equal(d.mode(), d.mean())
    for transmittance in (False, True):
        assert torch.equal(d.opacity_of(d.top(), transmittance), torch.ones(5, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype):
    torch.manual_seed(0)
    head, features = DepthHead(6, 64), torch.randn(5, 6)
    near = torch.full((5,), 1.0, dtype=dtype)
    d = head.to(dtype)(features.to(dtype), near, 3.0)
    assert d.probabilities.dtype == d.depths.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        d = DepthHead(6, 64)(features, 1.0, torch.full((5,), 3.0))
    assert d.offsets.dtype == d.mean().dtype == torch.float32


# --- bad input ---------------------------------------------------------------------------------------------------------

P, HALF = torch.full((2, 3, 4), 0.25), torch.full((2, 3, 4), 0.5)
GOOD = DepthDistribution(P, HALF, 2.0, 10.0)
REL = torch.tensor([0.0, 0.5])
REFUSED = {
    "near: expected depths > 0, got 0": lambda: depth_from_disparity(REL, 0.0, 2.0),
    "near: expected depths > 0, got -1": lambda: depth_from_disparity(REL, torch.tensor([-1.0, 1.0]), 2.0),
    "far: expected depths > 0": lambda: depth_from_disparity(REL, 1.0, -2.0),
    "near, far: expected near < far, got near 2, far 2": lambda: depth_from_disparity(REL, 2.0, 2.0),
    "got near 3, far 1": lambda: depth_from_disparity(REL, torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0])),
    "near: expected .*(NaN|nan)": lambda: depth_from_disparity(REL, torch.tensor(torch.nan), 2.0),
    "near, far, relative: expected one dtype": lambda: depth_from_disparity(REL, torch.tensor(1.0).double(), 2.0),
    "near, far, relative: expected leading dimensions": lambda: depth_from_disparity(REL, torch.ones(3), 2.0),
    "relative: expected relative disparity in .0, 1., got 0 to 1.5": lambda: depth_from_disparity(3 * REL, 1.0, 2.0),
    "relative: expected relative disparity in .0, 1., got -0.5": lambda: depth_from_disparity(-REL, 1.0, 2.0),
    "depth: expected depths > 0, or NaN where it is unknown, got 0": lambda: disparity_from_depth(REL, 1.0, 2.0),
    "probabilities: expected numbers >= 0 that sum to 1 .* sum of 2": lambda: DepthDistribution(2 * P, HALF, 2.0, 10.0),
    "-0.5 as the smallest": lambda: DepthDistribution(torch.tensor([1.5, -0.5]), torch.zeros(2), 2.0, 10.0),
    "probabilities: expected finite": lambda: DepthDistribution(P * torch.nan, HALF, 2.0, 10.0),
    "probabilities, offsets: expected one shape": lambda: DepthDistribution(P, HALF[0], 2.0, 10.0),
    "at least one bucket": lambda: DepthDistribution(P[..., :0], HALF[..., :0], 2.0, 10.0),
    "offsets: expected shape .*k=4": lambda: DepthDistribution(P, HALF[..., :3], 2.0, 10.0),
    "offsets: expected numbers in .0, 1., got 1.5": lambda: DepthDistribution(P, HALF + 1, 2.0, 10.0),
    "probabilities, offsets: expected one dtype": lambda: DepthDistribution(P, HALF.double(), 2.0, 10.0),
    "near, far, probabilities: expected leading": lambda: DepthDistribution(P, HALF, torch.ones(2), 10.0),
    "near, far: expected at most the leading": lambda: DepthDistribution(P, HALF, torch.ones(1, 2, 3), 10.0),
    "logits: expected finite": lambda: DepthDistribution.from_logits(P / 0, HALF, 2.0, 10.0),
    "offset_logits: expected finite": lambda: DepthDistribution.from_logits(P, HALF / 0, 2.0, 10.0),
    "n: expected a whole number >= 1 and <= 4": lambda: GOOD.top(5),
    "n: expected a whole number >= 1, got 0": lambda: GOOD.sample(0, seeded(0)),
    "q: expected a finite number > 0 and < 1": lambda: GOOD.quantile(1.0),
    "index: expected buckets 0 to 3, got 4": lambda: GOOD.depth_of(torch.full((2, 3, 1), 4)),
    "index: expected buckets 0 to 3, got -1": lambda: GOOD.opacity_of(torch.full((2, 3, 1), -1)),
    "index: expected shape": lambda: GOOD.opacity_of(torch.zeros(3, 1, dtype=torch.int64)),
    "uniforms: expected shape": lambda: inverse_cdf(P, torch.zeros(3, 1)),
    "uniforms: expected numbers in .0, 1.*, got 0 to 1": lambda: inverse_cdf(P[0, 0], torch.tensor([0.0, 1.0])),
    "probabilities, uniforms: expected one dtype": lambda: inverse_cdf(P[0, 0], torch.zeros(1).double()),
    "depth: expected the shape of the pixels": lambda: GOOD.log_likelihood(torch.ones(3)),
    "depth: expected depths > 0": lambda: GOOD.log_likelihood(torch.zeros(2, 3)),
    "probability: expected numbers in .0, 1., got 0.2 to 1.2": lambda: opacity_from_probability(torch.tensor([0.2, 1.2])),
    "log2_exponent: expected a finite number >= -6 and <= 6": lambda: opacity_from_probability(P, 7.0),
    "step: expected a whole number >= 0": lambda: opacity_exponent(-1, 10),
    "warm_up: expected a whole number >= 1": lambda: opacity_exponent(1, 0),
    "features: expected shape .*dim=6": lambda: DepthHead(6)(torch.zeros(2, 5), 1.0, 2.0),
    "num_buckets: expected a whole number >= 1": lambda: DepthHead(6, 0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_wrong_types_are_refused_by_name():
    for message, call in {
        "relative: expected a torch tensor": lambda: depth_from_disparity(0.5, 1.0, 2.0),
        "near: expected a floating-point": lambda: depth_from_disparity(REL, torch.tensor(1), 2.0),
        "near: expected a (finite )?number": lambda: depth_from_disparity(REL, "1", 2.0),
        "logits: expected a torch tensor": lambda: DepthDistribution.from_logits([0.0], HALF, 2.0, 10.0),
        "generator: expected a torch.Generator, got int": lambda: GOOD.sample(1, 0),
        "index: expected a tensor of int64": lambda: GOOD.depth_of(torch.zeros(2, 3, 1)),
    }.items():
        with pytest.raises(TypeError, match=message):
            call()
