"""Volume rendering along rays: the published formulas' numbers, closed forms, properties, gradients, bad input."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nvs_book.checks import golden
from nvs_book.triplane import (
    RULES,
    Rendered,
    composite,
    density_from_raw,
    expected_depth,
    intersect_box,
    median_depth,
    sample_along_rays,
    sample_pdf,
    spread_weights,
    strata,
    weights_from_alpha,
    weights_from_optical_depth,
)

SEEDS, FEW = st.integers(0, 10_000), settings(max_examples=60, deadline=None)
WHITE = (1.0, 1.0, 1.0)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def rand(*shape, generator):
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def randn(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def some_ray(seed, *batch, samples=7, empty=0.3):
    "Distances, densities (some zero) and colours of samples, and a far end."
    g = generator(seed)
    t = 0.5 + (0.05 + rand(*batch, samples, generator=g)).cumsum(-1)
    density = torch.where(rand(*batch, samples, generator=g) < empty, 0.0, 3 * rand(*batch, samples, generator=g))
    return t, density, rand(*batch, samples, 3, generator=g), t[..., -1] + rand(*batch, generator=g)


def some_rays(seed, n, spread=1.5):
    g = generator(seed)
    return spread * (2 * rand(n, 3, generator=g) - 1), F.normalize(randn(n, 3, generator=g), dim=-1)


def by_definition(t, density, colour, far, rule, background=(0.0, 0.0, 0.0), activation=None):
    "One ray, light by light: what is left of it goes from stretch to stretch."
    t, density, colour = t.tolist(), density, colour.tolist()
    act = activation or (lambda x: x)
    if rule == "point":
        ends = t[1:] + [float("inf") if far is None else float(far)]
        stretches = [(a, b - a, float(act(s)), c) for a, b, s, c in zip(t, ends, density, colour)]
    else:
        pairs = zip(zip(t, t[1:]), zip(density, density[1:]), zip(colour, colour[1:]))
        stretches = [
            ((a + b) / 2, b - a, float(act((s + r) / 2)), [(x + y) / 2 for x, y in zip(c, d)]) for (a, b), (s, r), (c, d) in pairs
        ]
    left, rgb, depth, weights = 1.0, [0.0] * 3, 0.0, []
    for where, length, sigma, c in stretches:
        stopped = left * (1 - math.exp(-sigma * length) if sigma > 0 else 0.0)
        rgb, depth, left = [x + stopped * y for x, y in zip(rgb, c)], depth + stopped * where, left - stopped
        weights.append(stopped)
    rgb = [x + left * y for x, y in zip(rgb, background)]
    return tuple(torch.tensor(x, dtype=torch.float64) for x in (rgb, depth, 1 - left, weights))


# --- numbers of the originals


@pytest.mark.parametrize("background", [None, WHITE])
@pytest.mark.parametrize("rule", RULES)
def test_rendering_is_the_published_formulas(rule, background):
    "tests/golden/volume_rendering.npz: weights, colour, opacity, depth of both rules and backgrounds, 1e-5."
    g = golden("volume_rendering")
    seen = composite(g["t"], g["density_raw"], g["colour"], float(g["far"]), rule, background, activation=density_from_raw)
    names = "weights", "opacity", "depth_unnormalised", "rgb_white" if background else "rgb"
    for name, found in zip(names, (seen.weights, seen.opacity, seen.depth, seen.rgb)):
        torch.testing.assert_close(found.double(), g[f"{rule}_{name}"], atol=1e-5, rtol=1e-5)
    inputs = (g[name].double() for name in ("t", "density_raw", "colour"))
    exact = composite(*inputs, float(g["far"]), rule, background, density_from_raw)
    torch.testing.assert_close(exact.weights, g[f"{rule}_weights"], atol=1e-12, rtol=1e-9)


def test_density_is_the_published_one_and_may_be_given_itself():
    "tests/golden/volume_rendering.npz: density, and what the point rule makes of it, 1e-5."
    g = golden("volume_rendering")
    torch.testing.assert_close(density_from_raw(g["density_raw"].double()), g["density"], atol=1e-12, rtol=1e-9)
    seen = composite(g["t"].double(), g["density"], g["colour"].double(), g["far"].expand(len(g["t"])))
    torch.testing.assert_close(seen.rgb, g["point_rgb"], atol=1e-10, rtol=0)


def test_weights_of_opacities_are_pytorch3ds():
    "tests/golden/p3d_emission_absorption.npz: features and opacity, 1e-6."
    g = golden("p3d_emission_absorption")
    weights = weights_from_alpha(g["alphas"][..., 0])
    torch.testing.assert_close(torch.einsum("bs,bsc->bc", weights, g["features"]), g["out_features"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights.sum(-1), g["out_opacity"][..., 0], atol=1e-6, rtol=1e-5)


def test_samples_by_weight_and_the_box_are_the_published_ones():
    "tests/golden/volume_rendering.npz: pdf_samples, box_t_near, box_t_far, box_hit, 1e-5."
    g = golden("volume_rendering")
    drawn = sample_pdf(g["pdf_edges"], g["pdf_weights"], g["pdf_u"])
    torch.testing.assert_close(drawn.double(), g["pdf_samples"], atol=1e-5, rtol=1e-5)
    found = intersect_box(g["ray_origin"], g["ray_direction"], 2 * float(g["box_half"]))
    assert torch.equal(~found[0].isnan(), g["box_hit"]) and torch.equal(~found[1].isnan(), g["box_hit"])
    for t, name in zip(found, ("box_t_near", "box_t_far")):
        torch.testing.assert_close(t.double(), g[name], atol=1e-5, rtol=1e-5, equal_nan=True)


# --- the sum: its definition, what it keeps


@FEW
@given(SEEDS, st.sampled_from(RULES), st.booleans(), st.sampled_from([None, F.softplus]), st.integers(2, 9))
def test_rendering_is_its_definition(seed, rule, ends, activation, samples):
    t, density, colour, far = some_ray(seed, samples=samples)
    arguments = t, density, colour, far if ends else None, rule, tuple(rand(3, generator=generator(seed)).tolist()), activation
    seen = composite(*arguments)
    for found, truth in zip((seen.rgb, seen.depth, seen.opacity, seen.weights), by_definition(*arguments)):
        torch.testing.assert_close(found, truth, atol=1e-12, rtol=1e-9)


def test_the_interval_rule_averages_before_the_activation():
    t, raw, colour = torch.tensor([0.0, 1.0]), torch.tensor([-1e9, 5.0]), torch.ones(2, 3)
    seen = composite(t, raw, colour, rule="interval", activation=density_from_raw)
    assert seen.opacity == 0  # one end is empty: so is the stretch
    density = density_from_raw(raw)
    expected = 1 - torch.exp(-density.mean())
    torch.testing.assert_close(composite(t, density, colour, rule="interval").opacity, expected)


@FEW
@given(SEEDS, st.sampled_from(RULES))
def test_weights_are_a_part_of_one_and_the_background_sees_the_rest(seed, rule):
    t, density, colour, far = some_ray(seed, 5)
    seen = composite(t, 20 * density, colour, far, rule)
    assert (seen.weights >= 0).all() and (seen.weights.sum(-1) <= 1 + 1e-12).all()
    torch.testing.assert_close(seen.opacity, seen.weights.sum(-1))
    white, own = (composite(t, 20 * density, colour, far, rule, b) for b in (WHITE, colour[:, 0]))
    torch.testing.assert_close(white.rgb - seen.rgb, (1 - seen.opacity)[:, None].expand(5, 3))
    torch.testing.assert_close(own.rgb - seen.rgb, (1 - seen.opacity)[:, None] * colour[:, 0])
    assert torch.equal(white.opacity, seen.opacity) and torch.equal(white.depth, seen.depth)


@FEW
@given(SEEDS, st.sampled_from(RULES), st.integers(0, 6))
def test_more_density_is_more_opaque_and_hides_what_is_behind(seed, rule, i):
    t, density, colour, far = some_ray(seed)
    more = density.clone()
    more[i] += 0.7
    before, after = (composite(t, x, colour, far, rule) for x in (density, more))
    assert after.opacity > before.opacity
    behind = slice(i + 1, None)
    assert (after.weights[behind] <= before.weights[behind] + 1e-15).all()
    assert torch.equal(after.weights[: max(i - 1, 0)], before.weights[: max(i - 1, 0)])  # what is in front does not notice


@FEW
@given(SEEDS, st.sampled_from(RULES), st.integers(1, 5))
def test_a_stretch_of_constant_density_may_be_split(seed, rule, pieces):
    "Opacity and colour stay; the point rule's depth does not, since it stands at the near end of each stretch."
    t, density, colour, far = some_ray(seed)
    if rule == "interval":
        density, colour = density[:1].expand(7).clone(), colour[:1].expand(7, 3).clone()
    i = seed % 6
    inner = torch.lerp(t[i], t[i + 1], torch.arange(1, pieces + 1, dtype=t.dtype) / (pieces + 1))
    more = ((t, inner), (density, density[i].expand(pieces)), (colour, colour[i].expand(pieces, 3)))
    split = [torch.cat([x[: i + 1], new, x[i + 1 :]]) for x, new in more]
    whole, parts = composite(t, density, colour, far, rule), composite(*split, far, rule)
    torch.testing.assert_close(parts.rgb, whole.rgb, atol=1e-12, rtol=0)
    torch.testing.assert_close(parts.opacity, whole.opacity, atol=1e-12, rtol=0)
    torch.testing.assert_close(parts.weights[i : i + pieces + 1].sum(), whole.weights[i], atol=1e-12, rtol=0)


@FEW
@given(SEEDS)
def test_weights_from_densities_and_from_opacities_agree(seed):
    optical = 2 * rand(4, 6, generator=generator(seed))
    found = weights_from_optical_depth(optical)
    torch.testing.assert_close(found, weights_from_alpha(1 - torch.exp(-optical)), atol=1e-14, rtol=1e-10)


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3), (0,), (2, 0, 3)])
@pytest.mark.parametrize("rule", RULES)
def test_any_leading_dimensions(rule, batch):
    t, density, colour, far = some_ray(1, *batch)
    seen = composite(t, density, colour, far, rule, WHITE)
    n = 7 - (rule == "interval")
    assert [tuple(x.shape) for x in vars(seen).values()] == [(*batch, 3), batch, batch, (*batch, n)]
    for i, row in enumerate(zip(*(x.reshape(-1, *x.shape[len(batch) :]) for x in (t, density, colour, far)))):
        torch.testing.assert_close(seen.weights.reshape(-1, n)[i], composite(*row, rule).weights)


def test_one_row_of_distances_serves_many_rays():
    t, _, _, _ = some_ray(0)
    _, density, colour, _ = some_ray(1, 4)
    for rule in RULES:
        seen = composite(t, density, colour, 9.0, rule)
        torch.testing.assert_close(seen.rgb, composite(t.expand(4, 7), density, colour, torch.full((4,), 9.0), rule).rgb)


def test_thin_and_thick_keep_their_digits():
    thin = composite(torch.tensor([0.0, 1.0]), torch.full((2,), 1e-9), torch.ones(2, 3), far=2.0)
    torch.testing.assert_close(thin.opacity, torch.tensor(2e-9), rtol=1e-5, atol=0)  # 1 - exp(-1e-9) is 0 in float32
    behind = composite(torch.tensor([0.0, 1.0]), torch.tensor([90.0, 1.0]), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    assert behind.rgb[0] == 1 and behind.rgb[1] < 1e-30  # the last stretch never ends, and is hidden all the same
    assert composite(torch.tensor([0.0]), torch.tensor([0.0]), torch.ones(1, 3)).opacity == 0  # nor is it there without density


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_those_of_calculus(rule):
    t, density, colour, far = some_ray(3, 2, empty=0.0)
    inputs = [x.requires_grad_() for x in (t, density, colour, far)]
    background = rand(3, generator=generator(0)).requires_grad_()

    def seen(t, density, colour, far, background):
        return tuple(vars(composite(t, density, colour, far, rule, background)).values())

    assert torch.autograd.gradcheck(seen, (*inputs, background))
    raw = randn(2, 7, generator=generator(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: composite(t, r, colour, far, rule, activation=density_from_raw).rgb, raw)


def test_gradients_stay_finite_where_a_stretch_is_opaque():
    density = torch.tensor([0.0, 1e4, 1e30, 0.5], requires_grad=True)
    seen = composite(torch.arange(4.0), density, torch.rand(4, 3, generator=generator(0)))
    seen.rgb.sum().backward()
    assert density.grad.isfinite().all() and density.grad[0] != 0


def test_what_was_rendered_goes_to_another_dtype():
    seen = composite(*some_ray(0)).to(torch.float32)
    assert isinstance(seen, Rendered) and {x.dtype for x in vars(seen).values()} == {torch.float32}


# --- clouds with a known answer


def ball(sigma, offset, entry):
    "Even fog: length inside, opacity, sum of w t."
    length = 2 * (1 - offset**2).sqrt()
    out = torch.exp(-sigma * length)
    return length, 1 - out, entry * (1 - out) + 1 / sigma - (length + 1 / sigma) * out


def slab(k, entry, length):
    "Density k (t - entry): opacity, sum of w t."
    out = math.exp(-k * length**2 / 2)
    return 1 - out, entry * (1 - out) - length * out + math.sqrt(math.pi / (2 * k)) * math.erf(length * math.sqrt(k / 2))


def order(errors):
    "By which power of the number of samples errors fall, where that doubles."
    return [math.log2(a / b) for a, b in zip(errors, errors[1:])]


@FEW
@given(st.floats(0.1, 5), st.floats(0, 0.9), st.floats(0.2, 4), st.sampled_from(RULES))
def test_even_fog_is_known_exactly_and_its_depth_to_the_rules_order(sigma, offset, entry, rule):
    length, opacity, depth = ball(sigma, torch.tensor(offset, dtype=torch.float64), entry)
    errors = []
    for n in (65, 129, 257):
        t = torch.linspace(entry, entry + float(length), n, dtype=torch.float64)
        seen = composite(t, torch.full_like(t, sigma), torch.zeros(n, 3, dtype=t.dtype), float(t[-1]), rule)
        torch.testing.assert_close(seen.opacity, opacity, atol=1e-10, rtol=0)
        errors.append(float((seen.depth - depth).abs()))
    assert all(abs(p - (2 if rule == "interval" else 1)) < 0.15 for p in order(errors)), errors


@FEW
@given(st.floats(0.5, 6), st.floats(0.0, 3), st.floats(0.5, 1.5))
def test_fog_that_thickens_is_known_to_the_rules_order(k, entry, length):
    opacity, depth = slab(k, entry, length)
    errors = {(rule, what): [] for rule in RULES for what in ("opacity", "depth")}
    for n in (65, 129, 257):
        t = torch.linspace(entry, entry + length, n, dtype=torch.float64)
        for rule in RULES:
            seen = composite(t, k * (t - t[0]), torch.zeros(n, 3, dtype=t.dtype), float(t[-1]), rule)
            errors[rule, "opacity"].append(abs(float(seen.opacity) - opacity))
            errors[rule, "depth"].append(abs(float(seen.depth) - depth))
    assert max(errors.pop(("interval", "opacity"))) < 1e-10  # the trapezoid of a line is exact
    assert all(abs(p - 1) < 0.2 for p in order(errors["point", "opacity"])), errors
    assert all(abs(p - 2) < 0.2 for p in order(errors["interval", "depth"])), errors
    assert errors["point", "depth"][2] < 0.02 * k * length**2 * (1 + entry)
    assert errors["interval", "depth"][2] < 1e-4 * k * length**2


# --- where the samples go


@FEW
@given(SEEDS, st.floats(0.3, 4))
def test_the_box_is_where_a_fine_walk_finds_it(seed, size):
    origins, directions = some_rays(seed, 40)
    near, far = intersect_box(origins, directions, size)
    step = 12 / 6000
    t = (torch.arange(6000, dtype=torch.float64) + 0.5) * step
    inside = ((origins[:, None] + t[:, None] * directions[:, None]).abs() <= size / 2).all(-1)
    walked = inside.any(-1)
    assert not (walked & near.isnan()).any()
    assert ((far - near)[~walked].nan_to_num(0) < step).all()  # what the walk steps over is shorter than a step
    first = t[inside.int().argmax(-1)]
    last = t[6000 - 1 - inside.flip(-1).int().argmax(-1)]
    assert ((near - first)[walked].abs() <= step).all() and ((far - last)[walked].abs() <= step).all()


def test_rays_from_inside_begin_at_their_origin_and_rays_beside_the_box_miss():
    inside, d = some_rays(0, 200, spread=0.99)
    near, far = intersect_box(inside, d, 2.0)
    assert (near == 0).all() and (far > 0).all()
    torch.testing.assert_close((inside + far[:, None] * d).abs().amax(-1), torch.ones(200, dtype=torch.float64))
    for origin in ((3.0, 0.0, 0.0), (-3.0, 1.01, 0.0), (1.0, 0.0, 0.0), (-3.0, 0.0, -5.0)):  # behind, beside, going out, beside
        assert all(t.isnan() for t in intersect_box(torch.tensor(origin), torch.tensor([1.0, 0, 0]))), origin
    for origin, expected in (
        ((-3.0, 1, 1), [2, 4]),
        ((-1.0, 0, 0), [0, 2]),
        ((0.0, 1, 0), [0, 1]),
        ((-2.5, -1, 0.3), [1.5, 3.5]),
    ):
        assert [float(t) for t in intersect_box(torch.tensor(origin), torch.tensor([1.0, 0, 0]))] == expected
    minus_zero = torch.tensor([-0.0, -1, 0])
    assert [float(t) for t in intersect_box(torch.tensor([0.0, 3, 0]), minus_zero)] == [2, 4]


def test_the_box_broadcasts_and_takes_no_rays():
    origins, directions = some_rays(1, 6, spread=0.5)
    near, far = intersect_box(origins[:1], directions, 1.5)
    torch.testing.assert_close(far, intersect_box(origins[:1].expand(6, 3), directions, 1.5)[1])
    assert near.shape == (6,) and intersect_box(origins[:, None], directions)[0].shape == (6, 6)
    assert intersect_box(origins[:0], directions[:0])[0].shape == (0,)


def test_entry_and_exit_have_the_gradients_of_calculus():
    origins = torch.tensor([[-3.0, 0.2, 0.1], [0.1, 0.3, -0.2]], dtype=torch.float64, requires_grad=True)
    directions = torch.tensor([[1.0, 0.1, -0.05], [0.3, 1, 0.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda o, d: intersect_box(o, F.normalize(d, dim=-1)), (origins, directions))


@FEW
@given(SEEDS, st.integers(1, 12), st.booleans())
def test_samples_are_one_in_each_stratum(seed, n, drawn):
    origins, directions = some_rays(seed, 5)
    near = rand(5, generator=generator(seed))
    far = near + 0.1 + rand(5, generator=generator(seed + 1))
    t, points = sample_along_rays(origins, directions, near, far, n, generator(seed) if drawn else None)
    share = (t - near[:, None]) / (far - near)[:, None] * n - torch.arange(n)
    assert (share > -1e-9).all() and (share < 1 + 1e-9).all() and (t.diff(dim=-1) > 0).all()
    if not drawn:
        torch.testing.assert_close(share, torch.full_like(share, 0.5))
    torch.testing.assert_close((points - origins[:, None]).norm(dim=-1), t)
    torch.testing.assert_close(F.normalize(points - origins[:, None], dim=-1), directions[:, None].expand(5, n, 3))


def test_drawn_samples_are_even_and_the_generators():
    first, again = (strata((4000, 3), torch.zeros(()), generator(7)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, strata((4000, 3), torch.zeros(()), generator(8)))
    within = first * 3 - torch.arange(3)
    assert abs(within.mean() - 0.5) < 0.02 and abs(within.std() - 12**-0.5) < 0.02


def test_a_ray_that_misses_has_no_samples_and_spoils_no_other():
    origins, directions = torch.tensor([[-3.0, 0, 0], [-3, 5, 0]]), torch.tensor([1.0, 0, 0])
    t, points = sample_along_rays(origins, directions, *intersect_box(origins, directions), 4)
    assert t[0].tolist() == [2.25, 2.75, 3.25, 3.75] and t[1].isnan().all() and points[1].isnan().all()


@FEW
@given(SEEDS, st.integers(1, 9), st.integers(1, 12))
def test_samples_by_weight_are_monotone_and_inside(seed, n, s):
    g = generator(seed)
    edges = 1 + rand(4, n + 1, generator=g).cumsum(-1)
    weights = torch.where(rand(4, n, generator=g) < 0.4, 0.0, rand(4, n, generator=g))
    u = F.pad(F.pad(rand(4, s, generator=g).sort(-1).values, (1, 0), value=0.0), (0, 1), value=1.0)
    t = sample_pdf(edges, weights, u)
    assert (t.diff(dim=-1) >= 0).all() and (t >= edges[:, :1]).all() and (t <= edges[:, -1:]).all()
    torch.testing.assert_close(t, sample_pdf(edges, 7.3 * weights, u))  # they need not add up to 1
    for row in range(4):  # nothing where there is no weight: the share of weight below each sample is u
        if weights[row].sum() == 0:
            torch.testing.assert_close(t[row], torch.lerp(edges[row, 0], edges[row, -1], u[row]))
            continue
        below = ((t[row, :, None] - edges[row, :-1]) / edges[row].diff()).clamp(0, 1) @ weights[row]
        torch.testing.assert_close(below / weights[row].sum(), u[row], atol=1e-9, rtol=0)


def test_at_the_share_of_an_edge_the_next_stretch_with_weight_begins():
    edges, weights = torch.arange(5.0), torch.tensor([0.0, 3, 0, 1])
    assert sample_pdf(edges, weights, torch.tensor([0.0, 0.75, 1])).tolist() == [1, 3, 4]


def test_samples_by_weight_broadcast_and_carry_no_gradient():
    edges, weights = torch.linspace(0, 1, 5), torch.rand(3, 4, generator=generator(0)).requires_grad_()
    u = strata((1, 6), edges)
    found = sample_pdf(edges, weights, u)
    assert found.shape == (3, 6) and not found.requires_grad
    torch.testing.assert_close(found[1], sample_pdf(edges, weights[1], u[0]))


def test_many_samples_have_the_weights_shares():
    edges, weights = torch.tensor([0.0, 1, 1.5, 4, 5]), torch.tensor([0.1, 0.0, 0.6, 0.3])
    t = sample_pdf(edges, weights, strata((20_000,), edges, generator(0)))
    found = torch.stack([((t >= a) & (t < b)).float().mean() for a, b in zip(edges, edges[1:])])
    torch.testing.assert_close(found, weights, atol=1e-3, rtol=0)


def test_spread_weights_are_mip_nerfs():
    weights = rand(3, 6, generator=generator(0))
    padded = torch.cat([weights[:, :1], weights, weights[:, -1:]], -1)
    both = torch.stack([torch.maximum(padded[:, i : i + 6], padded[:, i + 1 : i + 7]) for i in (0, 1)])
    torch.testing.assert_close(spread_weights(weights, 0.02), both.mean(0) + 0.02)
    torch.testing.assert_close(spread_weights(weights[:, :1]), weights[:, :1] + 0.01)


# --- how far it is


@FEW
@given(SEEDS)
def test_expected_and_median_depth_are_their_definitions(seed):
    t, density, colour, far = some_ray(seed, 6)
    seen = composite(t, density, colour, far)
    expected, median = expected_depth(seen), median_depth(t, seen.weights)
    for i in range(6):
        if seen.opacity[i] < 0.5:
            assert expected[i].isnan() and median[i].isnan()
            continue
        torch.testing.assert_close(expected[i], (seen.weights[i] * t[i]).sum() / seen.weights[i].sum())
        reached, k = 0.0, -1
        while reached < seen.weights[i].sum() / 2 - 1e-15:
            k += 1
            reached += seen.weights[i, k]
        assert median[i] == t[i, k] and seen.weights[i, k] > 0
    assert not expected_depth(seen, least=0.0)[seen.opacity > 0].isnan().any()


def test_between_two_surfaces_the_mean_is_in_neither_and_the_median_in_one():
    t, weights = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.0, 0.5, 0.0, 0.4])
    seen = Rendered(torch.zeros(3), (weights * t).sum(), weights.sum(), weights)
    torch.testing.assert_close(expected_depth(seen), torch.tensor(2.6 / 0.9))
    assert median_depth(t, weights) == 2 and median_depth(t, torch.tensor([0.0, 0.4, 0.0, 0.5])) == 4
    assert median_depth(t, torch.tensor([0.25, 0.25, 0.5, 0.0])) == 2  # half of it is reached there
    assert median_depth(t, 0.1 * weights).isnan() and median_depth(t, 0.1 * weights, least=0.05) == 2


# --- bad input: the message names the argument


T, D, C = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3), torch.ones(3, 3)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"t": T.flip(0)}, ValueError, "t: expected distances that increase"),
        ({"t": T[:2]}, ValueError, r"density: expected shape \(..., s=2\), got \(3,\)"),
        ({"t": T * math.nan}, ValueError, "t: expected finite numbers"),
        ({"t": [1.0, 2.0, 3.0]}, TypeError, "t: expected a torch tensor"),
        ({"t": torch.tensor(1.0)}, ValueError, "t: expected shape"),
        (
            {"t": T[:1], "density": D[:1], "colour": C[:1], "rule": "interval"},
            ValueError,
            "t: expected two samples a ray or more, got 1",
        ),
        ({"t": T[:0], "density": D[:0], "colour": C[:0]}, ValueError, "t: expected a sample a ray or more, got 0"),
        ({"density": D * math.nan}, ValueError, "density: expected finite numbers"),
        ({"density": D * math.inf}, ValueError, "density: expected finite numbers"),
        ({"density": -D}, ValueError, "density: expected >= 0, got -1; raw outputs need an `activation`"),
        ({"density": D.double()}, ValueError, "t, density, colour: expected one dtype"),
        ({"density": D.int()}, TypeError, "density: expected a floating-point tensor"),
        ({"density": D.expand(2, 3), "colour": C.expand(5, 3, 3)}, ValueError, "colour, far: expected leading dimensions"),
        ({"colour": C[:, :2]}, ValueError, r"colour: expected shape \(..., s=3, 3\), got \(3, 2\)"),
        ({"colour": C * math.nan}, ValueError, "colour: expected finite numbers"),
        ({"far": 2.5}, ValueError, "far: expected a distance behind the last sample, got 2.5, the last sample is at 3"),
        ({"far": math.nan}, ValueError, "far: expected a distance behind the last sample, got nan"),
        ({"rule": "simpson"}, ValueError, "rule: expected one of 'point', 'interval', got 'simpson'"),
        ({"background": (1.0, 1.0)}, ValueError, "background: expected a colour"),
        ({"background": (1.0, math.nan, 1.0)}, ValueError, "background: expected finite numbers"),
    ],
)
def test_composite_refuses(change, error, message):
    with pytest.raises(error, match=message):
        composite(**{"t": T, "density": D, "colour": C, "far": 4.0} | change)


HERE, X = torch.zeros(3), torch.tensor([1.0, 0, 0])
ALONG = partial(sample_along_rays, HERE, X)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: intersect_box(HERE, torch.zeros(3)), ValueError, "directions: expected unit vectors, got a zero direction"),
        (lambda: intersect_box(HERE, 2 * X), ValueError, "directions: expected unit vectors, got one of length 2"),
        (lambda: intersect_box(HERE, 0.99 * X), ValueError, "directions: expected unit vectors, got one of length 0.99"),
        (lambda: intersect_box(HERE, X * math.nan), ValueError, "directions: expected finite numbers"),
        (lambda: intersect_box(HERE * math.inf, X), ValueError, "origins: expected finite numbers"),
        (lambda: intersect_box(HERE[:2], X), ValueError, r"origins: expected shape \(..., 3\), got \(2,\)"),
        (lambda: intersect_box(HERE.double(), X), ValueError, "origins, directions: expected one dtype"),
        (
            lambda: intersect_box(torch.zeros(4, 3), X.expand(5, 3)),
            ValueError,
            "origins, directions: expected leading dimensions",
        ),
        (lambda: intersect_box(HERE, X, 0.0), ValueError, "box_size: expected a finite number > 0, got 0.0"),
        (lambda: intersect_box(HERE, X, math.nan), ValueError, "box_size"),
        (lambda: ALONG(1.0, 1.0, 4), ValueError, "near: expected 0 <= near < far, got near 1 to 1, far 1 to 1"),
        (lambda: ALONG(2.0, 1.0, 4), ValueError, "near: expected 0 <= near < far"),
        (lambda: ALONG(-0.5, 1.0, 4), ValueError, "near: expected 0 <= near < far, got near -0.5"),
        (lambda: ALONG(torch.tensor([0.0, 2.0]), 1.0, 4), ValueError, "near: expected 0 <= near < far, got near 0 to 2"),
        (lambda: ALONG(0.0, 1.0, 0), ValueError, "num_samples: expected a whole number >= 1, got 0"),
        (lambda: ALONG(0.0, 1.0, 2.0), ValueError, "num_samples"),
        (
            lambda: sample_along_rays(torch.zeros(4, 3), X, torch.zeros(3), 1.0, 2),
            ValueError,
            "rays, near, far: expected leading dimensions",
        ),
        (lambda: sample_along_rays(HERE, 2 * X, 0.0, 1.0, 4), ValueError, "directions: expected unit vectors"),
        (lambda: sample_pdf(T, torch.tensor([-1.0, 2.0]), D), ValueError, "weights"),
        (lambda: sample_pdf(T.flip(0), D[:2], D), ValueError, "edges"),
        (lambda: sample_pdf(T, D, D), ValueError, r"edges: expected shape \(..., n1=4\), got \(3,\)"),
        (lambda: sample_pdf(T, D[:2] * math.nan, D), ValueError, "weights: expected finite numbers"),
        (lambda: sample_pdf(T, D[:2], D * math.nan), ValueError, "u: expected finite numbers"),
        (lambda: sample_pdf(T, D[:2].double(), D), ValueError, "edges, weights, u: expected one dtype"),
        (lambda: sample_pdf(T, D[:2].expand(4, 2), D.expand(5, 3)), ValueError, "edges, weights, u: expected leading dimensions"),
        (lambda: median_depth(T, D[:2]), ValueError, r"weights: expected shape \(..., s=3\), got \(2,\)"),
        (lambda: median_depth(T * math.nan, D), ValueError, "t: expected finite numbers"),
        (lambda: weights_from_alpha(D * math.nan), ValueError, "alpha: expected finite numbers"),
        (lambda: weights_from_alpha(D.int()), TypeError, "alpha: expected a floating-point tensor"),
    ],
)
def test_bad_rays_and_weights_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def corner(call, error=None, message="", why=""):
    return pytest.param(call, error, message, id=why)


ROWS, EDGES = T.expand(4, 3), torch.tensor([0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    "call, error, message",
    [
        corner(lambda: composite(ROWS, D, C), why="distances of each ray, one row of densities, no far end"),
        corner(lambda: composite(T, D, C, torch.full((4,), 5.0)), why="a far end of each ray, one row of densities"),
        corner(lambda: composite(ROWS, ROWS, C, torch.full((5,), 5.0)), ValueError, "far", "far ends of other rays"),
        corner(lambda: composite(T, 0 * D, C, math.inf), ValueError, "far", "an infinite far end makes NaN of empty space"),
        corner(
            lambda: composite(ROWS, ROWS, C, 5.0, background=torch.ones(3, 3)),
            ValueError,
            "background",
            "backgrounds of other rays",
        ),
        corner(
            lambda: composite(T, -D, C, 5.0, activation=lambda x: x),
            ValueError,
            "activation",
            "an activation that gives densities < 0",
        ),
        corner(lambda: composite(T, D, C.expand(4, 3, 3), 5.0).opacity.view(4), why="only the colours have a batch"),
        corner(lambda: ALONG(0.0, math.inf, 4), ValueError, "far", "an infinite far end makes NaN of points"),
        corner(lambda: sample_pdf(EDGES, D[:2], 2 * D), ValueError, "u", "shares above 1"),
        corner(
            lambda: torch.testing.assert_close(sample_pdf(torch.arange(4.0), torch.tensor([2.0, 0, 0]), D), D),
            why="at u = 1 the sample stands behind the last stretch with weight",
        ),
        corner(lambda: sample_pdf(T[:1], D[:0], D), ValueError, "weights", "no stretch at all"),
        corner(lambda: sample_pdf(0 * EDGES, 0 * D[:2], D), ValueError, "edges", "no length and no weight makes NaN"),
        corner(lambda: weights_from_alpha(2 * D), ValueError, "alpha", "opacities above 1"),
        corner(lambda: median_depth(ROWS, D / 3), why="distances of each ray, one row of weights"),
        corner(lambda: median_depth(T[:0], D[:0]), ValueError, "t", "no samples have no median"),
    ],
)
def test_corner_cases(call, error, message):
    if error is None:
        call()
        return
    with pytest.raises(error, match=message):
        call()
