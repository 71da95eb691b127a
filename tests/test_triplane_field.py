"""Fields on three planes and pictures of them: published numbers, the definition by plain loops, gradients, memory, bad input."""

import math
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nvs_book import triplane
from nvs_book.cameras import Camera, intrinsics_from_fov, look_at
from nvs_book.checks import golden
from nvs_book.exercises import Alive
from nvs_book.triplane import (
    RULES,
    THIRD_PLANES,
    TriplaneDecoder,
    TriplaneField,
    colour_from_raw,
    composite,
    density_from_raw,
    intersect_box,
    render_rays,
    sample_along_rays,
    sample_pdf,
    sample_triplane,
    spread_weights,
    strata,
)

SEEDS, FEW = st.integers(0, 10_000), settings(max_examples=20, deadline=None)
WHITE = (1.0, 1.0, 1.0)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def decoder_of(channels, seed=3, hidden=8, layers=3, dtype=torch.float64):
    "A network with weights of its own, that makes some places dense and leaves others empty."
    decoder = TriplaneDecoder(channels, hidden, layers)
    g = generator(seed)
    for p in decoder.parameters():
        p.data = torch.randn(p.shape, generator=g) * (1 if p.ndim == 1 else 2 / p.shape[1] ** 0.5)
    decoder.layers[-1].bias.data[0] = 2.0
    return decoder.to(dtype)


def planes_of(*batch, channels=3, size=(6, 5), seed=0, dtype=torch.float64):
    return 2 * torch.randn(*batch, 3, channels, *size, generator=generator(seed), dtype=dtype)


def some_rays(seed, *batch, dtype=torch.float64):
    "Rays from outside that mostly hit, and a few from inside."
    g = generator(seed)
    origins = 2.5 * F.normalize(torch.randn(*batch, 3, generator=g, dtype=dtype), dim=-1)
    origins = torch.where(torch.rand(*batch, 1, generator=g) < 0.2, 0.3 * origins, origins)
    aims = torch.randn(*batch, 3, generator=g, dtype=dtype)
    return origins, F.normalize(0.8 * aims - origins, dim=-1)


def rays_of(size, eye=(0.0, -2.2, 0.9)):
    "All rays of a camera that sees the box."
    eye, up = torch.tensor(eye), torch.tensor([0.0, 0.0, 1.0])
    origins, directions = Camera(intrinsics_from_fov(60.0, size, size), look_at(eye, torch.zeros(3), up), size, size).rays()
    return origins.expand(directions.shape), directions


def read_pixel(plane, column, row):
    "The features of one pixel, 0 outside."
    h, w = plane.shape[-2:]
    return plane[:, row, column] if 0 <= row < h and 0 <= column < w else torch.zeros_like(plane[:, 0, 0])


def by_loop(planes, point, box_size, third):
    "One point, pixel by pixel."
    x, found = dict(zip("xyz", (2 / box_size * point).tolist())), []
    for plane, (a, b) in zip(planes, ("xy", "xz", third)):
        h, w = plane.shape[-2:]
        column, row = ((x[a] + 1) * w - 1) / 2, ((x[b] + 1) * h - 1) / 2
        left, top = math.floor(column), math.floor(row)
        value = 0
        for i in (left, left + 1):
            for j in (top, top + 1):
                value = value + (1 - abs(column - i)) * (1 - abs(row - j)) * read_pixel(plane, i, j)
        found.append(value)
    return torch.cat(found)


def picture_by_definition(
    planes, decoder, o, d, num_samples, num_importance, rule, background, third="zy", box_size=2.0, draw=None
):
    "Ray by ray, from the public pieces."
    near, far = intersect_box(o, d, box_size)
    columns, found = num_samples + num_importance - (rule == "interval"), []
    for i in range(len(o)):
        if near[i].isnan():
            rgb = torch.tensor(background or (0.0, 0.0, 0.0), dtype=o.dtype)
            found.append((rgb, o.new_zeros(()), o.new_zeros(()), o.new_zeros(columns)))
            continue

        def raw(t, i=i):
            features = sample_triplane(planes, o[i] + t[:, None] * d[i], box_size, third)
            return decoder.layers[-1](F.relu(decoder.layers[1](F.relu(decoder.layers[0](features)))))

        def rendered(t, i=i):
            r, end = raw(t), float(far[i])
            return composite(t, r[:, 0], colour_from_raw(r[:, 1:]), end, rule, background, activation=density_from_raw)

        t = sample_along_rays(o[i], d[i], near[i], far[i], num_samples, draw).t
        if rule == "interval":
            t = torch.cat([near[i : i + 1], t[1:-1], far[i : i + 1]])
        if num_importance:
            weights = spread_weights(rendered(t).weights)
            edges = t if rule == "interval" else torch.cat([t, far[i : i + 1]])
            t = torch.cat([t, sample_pdf(edges, weights, strata((num_importance,), t, draw))]).sort().values
        seen = rendered(t)
        found.append((seen.rgb, seen.depth, seen.opacity, seen.weights))
    return [torch.stack(part) for part in zip(*found)]


# --- the planes


@pytest.mark.parametrize("third", THIRD_PLANES)
def test_features_are_the_published_ones_in_all_three_readings(third):
    "tests/golden/triplane_field.npz: features, with the third plane zy, yz, zx, 1e-5."
    g = golden("triplane_field")
    c = g["planes"].shape[1]
    found = sample_triplane(g["planes"], g["points"], float(g["box_size"]), third).double()
    torch.testing.assert_close(found[:, : 2 * c], g["features_xy_xz_zy"][:, : 2 * c], atol=1e-5, rtol=1e-5)
    own = g["features_xy_xz_zy"][:, 2 * c :] if third == "zy" else g[f"features_third_plane_{third}"]
    torch.testing.assert_close(found[:, 2 * c :], own, atol=1e-5, rtol=1e-5)


def test_density_and_colour_are_the_published_ones():
    "tests/golden/triplane_field.npz: the network alone and the field, 1e-5."
    g = golden("triplane_field")
    decoder = TriplaneDecoder(g["planes"].shape[1], hidden=len(g["mlp_bias_0"]))
    decoder.load_state_dict({f"layers.{i}.{kind}": g[f"mlp_{kind}_{i}"] for i in range(3) for kind in ("weight", "bias")})
    plain = decoder(g["features_xy_xz_zy"].float())
    fast = TriplaneField(g["planes"], decoder, float(g["box_size"]))(g["points"])
    for found in (plain, fast):
        torch.testing.assert_close(found[0].double(), g["density"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1].double(), g["colour"], atol=1e-5, rtol=1e-5)


@FEW
@given(SEEDS, st.sampled_from(THIRD_PLANES), st.integers(1, 5), st.integers(1, 6), st.floats(0.5, 3))
def test_reading_planes_is_its_definition(seed, third, h, w, box_size):
    planes = planes_of(channels=2, size=(h, w), seed=seed)
    points = 0.6 * box_size * (2 * torch.rand(12, 3, generator=generator(seed), dtype=torch.float64) - 1)  # some outside
    found = sample_triplane(planes, points, box_size, third)
    torch.testing.assert_close(found, torch.stack([by_loop(planes, p, box_size, third) for p in points]), atol=1e-12, rtol=1e-9)


def test_the_readings_differ_as_they_should():
    planes, points = planes_of(size=(5, 5)), torch.rand(20, 3, generator=generator(1), dtype=torch.float64) - 0.5
    turned = torch.cat([planes[:2], planes[2:].mT])
    torch.testing.assert_close(sample_triplane(turned, points, third_plane="yz"), sample_triplane(planes, points))
    for moved, third, feels in ((1, "zx", False), (1, "zy", True), (0, "zx", True), (0, "yz", False)):
        shifted = points.clone()
        shifted[:, moved] += 0.2
        one, two = (sample_triplane(planes, p, third_plane=third)[:, 6:] for p in (points, shifted))
        assert (not torch.equal(one, two)) == feels


def test_far_outside_all_is_zero_and_at_the_faces_features_fade():
    planes = torch.ones(3, 1, 4, 4)
    assert not sample_triplane(planes, torch.tensor([[1.3, 1.3, 1.3], [1e6, -1e6, 1e6]])).any()
    at = sample_triplane(planes, torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [0.75, 0.75, 0.75], [1.25, 0, 0]]))
    assert at.tolist() == [[1, 1, 1], [0.5, 0.5, 1], [0.25, 0.25, 0.25], [1, 1, 1], [0, 0, 1]]
    field = TriplaneField(planes, decoder := decoder_of(1, dtype=torch.float32))
    outside, nothing = field(torch.tensor([[9.0, -9, 9]])), decoder(torch.zeros(1, 3))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(outside, nothing))


@pytest.mark.parametrize("planes_batch, points_batch", [((), (2,)), ((2,), ()), ((2, 1), (3,)), ((1,), (2, 2))])
def test_planes_and_points_broadcast(planes_batch, points_batch):
    planes, points = planes_of(*planes_batch), torch.rand(*points_batch, 4, 3, generator=generator(0), dtype=torch.float64) - 0.5
    batch = torch.broadcast_shapes(planes_batch, points_batch)
    found = sample_triplane(planes, points)
    assert found.shape == (*batch, 4, 9)
    flat = [x.expand(*batch, *x.shape[-k:]).reshape(-1, *x.shape[-k:]) for x, k in ((planes, 4), (points, 2))]
    for i, pair in enumerate(zip(*flat)):
        torch.testing.assert_close(found.reshape(-1, 4, 9)[i], sample_triplane(*pair))


def test_no_points_are_no_features():
    assert sample_triplane(planes_of(), torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 9)
    assert TriplaneField(planes_of(), decoder_of(3))(torch.zeros(0, 3, dtype=torch.float64))[1].shape == (0, 3)


def test_gradients_of_reading_are_those_of_calculus():
    planes = planes_of(channels=2, size=(3, 4)).requires_grad_()
    points = (0.9 * torch.rand(5, 3, generator=generator(3), dtype=torch.float64) - 0.4).requires_grad_()
    assert torch.autograd.gradcheck(sample_triplane, (planes, points))


# --- the field: the fast way is the plain one


@FEW
@given(SEEDS, st.sampled_from(THIRD_PLANES), st.sampled_from([(), (2,), (2, 1)]), st.integers(2, 4), st.floats(0.5, 3))
def test_the_field_is_planes_and_network(seed, third, batch, layers, box_size):
    planes, decoder = planes_of(*batch, seed=seed).requires_grad_(), decoder_of(3, seed, layers=layers)
    points = 0.6 * box_size * (2 * torch.rand(*batch, 9, 3, generator=generator(seed), dtype=torch.float64) - 1)
    plain = decoder(sample_triplane(planes, points, box_size, third))
    fast = TriplaneField(planes, decoder, box_size, third)(points)
    g = generator(seed)
    cotangent = [torch.randn(x.shape, generator=g, dtype=x.dtype) for x in plain]
    grads = [torch.autograd.grad(found, (planes, *decoder.parameters()), cotangent) for found in (plain, fast)]
    for a, b in zip([*plain, *grads[0]], [*fast, *grads[1]]):
        torch.testing.assert_close(b, a, atol=1e-10, rtol=1e-9)


def test_gradients_of_the_field_are_those_of_calculus():
    decoder, points = decoder_of(1, hidden=4, layers=2), torch.rand(2, 6, 3, generator=generator(0), dtype=torch.float64) - 0.5
    planes = planes_of(2, channels=1, size=(3, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: TriplaneField(p, decoder)(points), planes)


def test_points_may_come_in_any_number_of_parts(monkeypatch):
    planes, decoder = planes_of(2).requires_grad_(), decoder_of(3)
    points = 2.4 * torch.rand(2, 50, 3, generator=generator(0), dtype=torch.float64) - 1.2
    whole = TriplaneField(planes, decoder)(points)
    grads = torch.autograd.grad(sum(x.sum() for x in whole), planes)
    monkeypatch.setattr(triplane, "CHUNK", 7)
    field = TriplaneField(planes, decoder)
    parts = field(points)
    for a, b in zip((*whole, *grads), (*parts, *torch.autograd.grad(sum(x.sum() for x in parts), planes))):
        torch.testing.assert_close(a, b)
    item = torch.arange(2).repeat_interleave(50)
    raw, lean = (TriplaneField(planes, decoder).raw(points.view(-1, 3), item, lean) for lean in (False, True))
    torch.testing.assert_close(raw, lean)
    grads = [torch.autograd.grad(x.square().sum(), (planes, *decoder.parameters())) for x in (raw, lean)]
    assert all(torch.allclose(a, b) for a, b in zip(*grads))


def test_a_network_of_any_depth_ends_in_density_and_colour():
    for layers in (2, 3, 5):
        density, colour = decoder_of(2, layers=layers)(torch.randn(7, 6, generator=generator(0), dtype=torch.float64))
        assert density.shape == (7,) and colour.shape == (7, 3) and (density >= 0).all()
        assert (colour >= -0.001).all() and (colour <= 1.001).all()


# --- pictures


@pytest.mark.parametrize("third", THIRD_PLANES)
@pytest.mark.parametrize("num_importance", [0, 5])
@pytest.mark.parametrize("rule", RULES)
def test_a_picture_is_its_definition(rule, num_importance, third):
    planes, decoder = planes_of(size=(8, 7)), decoder_of(3)
    o, d = some_rays(0, 30)
    missed = intersect_box(o, d, 1.6)[0].isnan()
    assert 0 < missed.sum() < 20 and (intersect_box(o, d, 1.6)[0] == 0).any()  # rays that miss, rays from inside
    for background in (None, (0.9, 0.2, 0.4)):
        field = TriplaneField(planes, decoder, 1.6, third)
        seen = render_rays(field, o, d, 6, num_importance, rule, background)
        truth = picture_by_definition(planes, decoder, o, d, 6, num_importance, rule, background, third, 1.6)
        for found, part in zip((seen.rgb, seen.depth, seen.opacity, seen.weights), truth):
            torch.testing.assert_close(found, part, atol=1e-10, rtol=1e-8)
    assert seen.opacity.std() > 0.05  # the scene is neither empty nor solid


def test_a_picture_that_is_drawn_is_its_definition_with_the_same_draws():
    planes, decoder = planes_of(), decoder_of(3)
    o, d = some_rays(2, 1)
    seen = render_rays(TriplaneField(planes, decoder), o, d, 6, 5, generator=generator(4))
    truth = picture_by_definition(planes, decoder, o, d, 6, 5, "interval", None, draw=generator(4))
    torch.testing.assert_close(seen.rgb, truth[0])
    other = render_rays(TriplaneField(planes, decoder), o, d, 6, 5, generator=generator(5))
    assert not torch.equal(seen.rgb, other.rgb)


def test_drawn_pictures_have_the_mean_of_the_exact_one():
    "Rule by rule: many drawn pictures of few samples each against one of very many."
    field = TriplaneField(planes_of(), decoder_of(3))
    o, d = (x.expand(400, 3) for x in some_rays(3, 1))
    for rule, bar in (("interval", 0.02), ("point", 0.05)):
        drawn = render_rays(field, o, d, 24, 24, rule, generator=generator(0)).rgb.mean(0)
        exact = render_rays(field, o[:1], d[:1], 4000, 0, rule).rgb[0]
        assert (drawn - exact).abs().max() < bar


@pytest.mark.parametrize("rule", RULES)
def test_rays_do_not_know_of_each_other(rule, monkeypatch):
    planes, decoder = planes_of(2), decoder_of(3)
    o, d = some_rays(1, 2, 4, 5)
    field = TriplaneField(planes, decoder)
    seen = render_rays(field, o, d, 5, 4, rule, WHITE)
    n = 9 - (rule == "interval")
    assert [tuple(x.shape) for x in vars(seen).values()] == [(2, 4, 5, 3), (2, 4, 5), (2, 4, 5), (2, 4, 5, n)]
    for i in range(2):  # each scene by itself, each ray by itself, and rays in another order
        one = TriplaneField(planes[i], decoder)
        torch.testing.assert_close(render_rays(one, o[i], d[i], 5, 4, rule, WHITE).rgb, seen.rgb[i])
        torch.testing.assert_close(render_rays(one, o[i, 2, 3:4], d[i, 2, 3:4], 5, 4, rule, WHITE).rgb[0], seen.rgb[i, 2, 3])
        torch.testing.assert_close(render_rays(one, o[i].flip(0), d[i].flip(0), 5, 4, rule, WHITE).depth.flip(0), seen.depth[i])
    monkeypatch.setattr(triplane, "RAY_SAMPLES", 20)  # two rays at a time
    parts = render_rays(field, o, d, 5, 4, rule, WHITE)
    for a, b in zip(vars(parts).values(), vars(seen).values()):
        torch.testing.assert_close(a, b)


def test_one_direction_serves_many_origins_and_one_origin_many_directions():
    field, (o, d) = TriplaneField(planes_of(), decoder_of(3)), some_rays(0, 6)
    for origins, directions in ((o, d[:1]), (o, d[0]), (o[:1], d), (o[0], d), (o[:, None], d)):
        seen = render_rays(field, origins, directions, 5, 4, background=WHITE)
        whole = render_rays(
            field, *(x.contiguous() for x in torch.broadcast_tensors(origins, directions)), 5, 4, background=WHITE
        )
        torch.testing.assert_close(seen.rgb, whole.rgb), torch.testing.assert_close(seen.depth, whole.depth)


def test_what_is_nearer_than_near_is_not_seen():
    field, (o, d) = TriplaneField(planes_of(), decoder_of(3)), some_rays(0, 40)
    seen, moved = render_rays(field, o, d, 6, 5, near=2.0), render_rays(field, o + 2.0 * d, d, 6, 5)
    torch.testing.assert_close(seen.rgb, moved.rgb)
    torch.testing.assert_close(seen.depth, moved.depth + 2.0 * moved.opacity)
    assert (seen.opacity - render_rays(field, o, d, 6, 5).opacity).abs().max() > 0.1


def test_rays_that_miss_see_the_background_and_cost_nothing(monkeypatch):
    field = TriplaneField(planes_of(), decoder_of(3))
    o, d = some_rays(0, 5)
    looked = []
    monkeypatch.setattr(TriplaneField, "raw", lambda self, points, *rest: looked.append(points))
    own = torch.rand(5, 3, generator=generator(0), dtype=torch.float64)
    for background, expected in ((None, torch.zeros(5, 3)), (WHITE, torch.ones(5, 3)), (own, own)):
        seen = render_rays(field, o + 9, d, 5, 4, background=background)
        assert torch.equal(seen.rgb, expected.double()) and not seen.opacity.any() and not seen.depth.any()
    assert render_rays(field, o[:0], d[:0], 5, 4).weights.shape == (0, 8) and not looked


def test_a_background_of_its_own_for_every_ray():
    field = TriplaneField(planes_of(), decoder_of(3))
    o, d = some_rays(0, 6)
    own = torch.rand(6, 3, generator=generator(0), dtype=torch.float64)
    black, found = render_rays(field, o, d, 5, 4), render_rays(field, o, d, 5, 4, background=own)
    torch.testing.assert_close(found.rgb, black.rgb + (1 - black.opacity)[:, None] * own)


def test_without_density_nothing_is_met_and_an_opaque_box_is_met_at_its_face():
    decoder = decoder_of(1, layers=2)
    for p in decoder.parameters():
        p.data.zero_()
    o, d = some_rays(0, 40)
    near, far = intersect_box(o, d)
    hit, field = ~near.isnan(), TriplaneField(torch.zeros(3, 1, 2, 2, dtype=torch.float64), decoder)
    decoder.layers[-1].bias.data[0] = -100.0
    assert render_rays(field, o, d, background=WHITE).rgb.min() > 1 - 1e-9
    decoder.layers[-1].bias.data[0] = 3.0  # softplus(2) everywhere in the box
    sigma = math.log1p(math.exp(2))
    for rule in RULES:
        seen = render_rays(field, o, d, 24, 24, rule)
        exact = 1 - torch.exp(-sigma * (far - near))[hit]
        short = (far - near)[hit] / 24 * sigma if rule == "point" else 1e-9  # the point rule begins at its first sample
        assert ((seen.opacity[hit] - exact).abs() <= short).all()
    decoder.layers[-1].bias.data[0] = 1e5
    seen = render_rays(field, o, d, 24, 24)
    assert ((seen.depth - near)[hit].abs() < (far - near)[hit] / 20).all() and (seen.opacity[hit] > 1 - 1e-9).all()


def test_gradients_of_a_picture_are_those_of_the_definition_also_when_little_is_kept(monkeypatch):
    planes, decoder = planes_of(channels=2).requires_grad_(), decoder_of(2)
    leaves, (o, d) = (planes, *decoder.parameters()), some_rays(0, 12)
    g = generator(0)
    truth = picture_by_definition(planes, decoder, o, d, 5, 0, "interval", WHITE)[:3]
    cotangent = [torch.randn(x.shape, generator=g, dtype=x.dtype) for x in truth]
    expected = torch.autograd.grad(truth, leaves, cotangent, retain_graph=True)

    def gradients():
        seen = render_rays(TriplaneField(planes, decoder), o, d, 5, 0, background=WHITE)
        return torch.autograd.grad((seen.rgb, seen.depth, seen.opacity), leaves, cotangent)

    kept, calls = [gradients()], []
    again = triplane.checkpoint
    monkeypatch.setattr(triplane, "checkpoint", lambda *a, **k: calls.append(1) or again(*a, **k))
    monkeypatch.setattr(triplane, "RAY_SAMPLES", 5)  # a ray at a time, and each made anew on the way back
    kept.append(gradients())
    assert len(calls) >= 6
    for found in kept:
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_gradients_of_a_picture_are_those_of_calculus():
    decoder, (o, d) = decoder_of(1, hidden=3, layers=2), some_rays(0, 6)
    planes = planes_of(channels=1, size=(2, 3)).requires_grad_()
    for rule in RULES:  # no second pass: where its samples go has no gradient by design
        assert torch.autograd.gradcheck(
            lambda p, r=rule: render_rays(TriplaneField(p, decoder), o, d, 4, 0, r, WHITE).rgb, planes
        )


@pytest.mark.parametrize("size, samples", [(128, 8), (512, 8), (256, 32)])
def test_a_large_picture_needs_what_its_result_takes(size, samples):
    "A few times the result, while its parts are joined; the network's features of all samples would take 8 times as much."
    field = TriplaneField(planes_of(channels=4, dtype=torch.float32), decoder_of(4, hidden=64, dtype=torch.float32))
    rays = rays_of(size)
    with torch.no_grad(), Alive() as alive:
        seen = render_rays(field, *rays, samples, samples, background=WHITE)
        result = sum(x.untyped_storage().nbytes() for x in vars(seen).values())
    assert seen.rgb.shape == (size, size, 3) and seen.rgb.isfinite().all() and seen.opacity.max() > 0.5
    assert alive.most < 5 * result + 25e6, (alive.most, result)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other platforms count memory in other units")
def test_a_view_of_512_pixels_with_all_defaults_stays_under_a_gigabyte_and_a_half():
    "The process, torch and all: 262,144 rays of 96 samples, whose 32 features a plane alone would take 9.7 GB."
    script = """
import resource, torch
from nvs_book.cameras import Camera, intrinsics_from_fov, look_at
from nvs_book.triplane import TriplaneDecoder, TriplaneField, render_rays
torch.set_num_threads(1), torch.manual_seed(0)
pose = look_at(torch.tensor([0.0, -2.2, 0.9]), torch.zeros(3), torch.tensor([0.0, 0, 1]))
origins, directions = Camera(intrinsics_from_fov(60.0, 512, 512), pose, 512, 512).rays()
with torch.no_grad():
    seen = render_rays(TriplaneField(torch.randn(3, 32, 64, 64), TriplaneDecoder(32)), origins.expand(512, 512, 3), directions)
assert seen.rgb.shape == (512, 512, 3) and (seen.opacity > 0).float().mean() > 0.4
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.5e9


def test_a_training_step_keeps_less_when_it_is_large(monkeypatch):
    "The field's network is run again on the way back: beyond four parts, memory grows by less than half."
    field_of = partial(TriplaneField, planes_of(channels=4, dtype=torch.float32).requires_grad_())
    o, d = some_rays(0, 4000, dtype=torch.float32)
    decoder, kept = decoder_of(4, hidden=64, dtype=torch.float32), []
    for samples in (2**18, 2**13):
        monkeypatch.setattr(triplane, "RAY_SAMPLES", samples)
        with Alive() as alive:
            seen = render_rays(field_of(decoder), o, d, 8, 8)
            kept.append(alive.now)
        assert seen.rgb.requires_grad
    assert kept[1] < 0.5 * kept[0], kept


# --- bad input: the message names the argument


PLANES, POINTS, DECODER = planes_of(dtype=torch.float32), torch.zeros(4, 3), decoder_of(3, dtype=torch.float32)
UNEQUAL = [torch.zeros(2, 4, 4), torch.zeros(2, 5, 4), torch.zeros(2, 4, 4)]
FIELD = TriplaneField(PLANES, DECODER)
AWAY, AHEAD = torch.tensor([[-3.0, 0, 0], [-3, 0.1, 0.1]]), torch.tensor([[1.0, 0, 0]]).expand(2, 3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: sample_triplane(UNEQUAL, POINTS),
            TypeError,
            r"planes: expected one tensor .*, got 3 of them of sizes .*\(2, 5, 4\)",
        ),
        (
            lambda: sample_triplane(PLANES[:2], POINTS),
            ValueError,
            r"planes: expected shape \(..., 3, c, h, w\), got \(2, 3, 6, 5\)",
        ),
        (lambda: sample_triplane(PLANES * math.nan, POINTS), ValueError, "planes: expected finite numbers"),
        (lambda: sample_triplane(PLANES, POINTS * math.nan), ValueError, "points: expected finite numbers, got 12 NaN"),
        (lambda: sample_triplane(PLANES, POINTS + math.inf), ValueError, "points: expected finite numbers"),
        (lambda: sample_triplane(PLANES, POINTS[:, :2]), ValueError, r"points: expected shape \(..., n, 3\), got \(4, 2\)"),
        (lambda: sample_triplane(PLANES, POINTS[0]), ValueError, r"points: expected shape \(..., n, 3\), got \(3,\)"),
        (lambda: sample_triplane(PLANES, POINTS.double()), ValueError, "planes, points: expected one dtype"),
        (lambda: sample_triplane(PLANES.int(), POINTS), TypeError, "planes: expected a floating-point tensor"),
        (
            lambda: sample_triplane(planes_of(2), torch.zeros(3, 4, 3).double()),
            ValueError,
            "planes, points: expected leading dim",
        ),
        (lambda: sample_triplane(PLANES, POINTS, 0), ValueError, "box_size: expected a finite number > 0, got 0"),
        (lambda: sample_triplane(PLANES, POINTS, third_plane="xy"), ValueError, "third_plane: expected one of 'zy', 'yz', 'zx'"),
        (lambda: TriplaneDecoder(0), ValueError, "channels: expected a whole number >= 1, got 0"),
        (lambda: TriplaneDecoder(3, layers=1), ValueError, "layers: expected a whole number >= 2, got 1"),
        (lambda: TriplaneDecoder(3, hidden=2.5), ValueError, "hidden: expected a whole number"),
        (lambda: DECODER(torch.zeros(5, 8)), ValueError, r"features: expected shape \(..., f=9\), got \(5, 8\)"),
        (lambda: TriplaneField(UNEQUAL, DECODER), TypeError, "planes: expected one tensor"),
        (lambda: TriplaneField(PLANES * math.nan, DECODER), ValueError, "planes: expected finite numbers"),
        (lambda: TriplaneField(PLANES, DECODER, -1.0), ValueError, "box_size"),
        (lambda: TriplaneField(PLANES, DECODER, third_plane="zz"), ValueError, "third_plane"),
        (lambda: FIELD(POINTS * math.nan), ValueError, "points: expected finite numbers"),
        (lambda: FIELD(POINTS[0]), ValueError, r"points: expected shape \(..., n, 3\)"),
        (lambda: render_rays(FIELD, AWAY, 0 * AHEAD), ValueError, "directions: expected unit vectors, got a zero direction"),
        (lambda: render_rays(FIELD, AWAY, 2 * AHEAD), ValueError, "directions: expected unit vectors, got one of length 2"),
        (lambda: render_rays(FIELD, AWAY * math.nan, AHEAD), ValueError, "origins: expected finite numbers"),
        (lambda: render_rays(FIELD, AWAY, AHEAD, rule="trapezoid"), ValueError, "rule: expected one of 'point', 'interval'"),
        (lambda: render_rays(FIELD, AWAY, AHEAD, 1), ValueError, "num_samples: expected a whole number >= 2, got 1"),
        (lambda: render_rays(FIELD, AWAY, AHEAD, 8, -1), ValueError, "num_importance: expected a whole number >= 0, got -1"),
        (lambda: render_rays(FIELD, AWAY, AHEAD, background=(1.0,)), ValueError, "background: expected a colour"),
        (lambda: render_rays(FIELD, AWAY[0], AHEAD[0]), ValueError, r"origins: expected rays of each of the field's scenes"),
        (
            lambda: render_rays(TriplaneField(planes_of(4, dtype=torch.float32), DECODER), AWAY, AHEAD),
            ValueError,
            r"origins: expected rays of each of the field's scenes, \(4, 'r', 3\), got \(2, 3\)",
        ),
    ],
)
def test_bad_planes_points_and_rays_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def corner(call, error=None, message="", why=""):
    return pytest.param(call, error, message, id=why)


@pytest.mark.parametrize(
    "call, error, message",
    [
        corner(
            lambda: TriplaneField(planes_of(channels=5, dtype=torch.float32), DECODER),
            ValueError,
            "planes",
            "channels of the decoder",
        ),
        corner(lambda: TriplaneField(PLANES.double(), DECODER), ValueError, "planes", "dtype of the decoder"),
        corner(lambda: FIELD(POINTS.double()), ValueError, "points", "dtype of points"),
        corner(lambda: FIELD(POINTS.expand(2, 4, 3)), ValueError, "points", "more batch dimensions than the field's"),
        corner(
            lambda: TriplaneField(PLANES.expand(2, 3, 3, 6, 5), DECODER)(POINTS.expand(3, 4, 3)),
            ValueError,
            "points",
            "other batch",
        ),
        corner(lambda: render_rays(FIELD, AWAY.double(), AHEAD.double()), ValueError, "origins", "dtype of rays"),
        corner(
            lambda: render_rays(FIELD, AWAY, AHEAD, background=torch.ones(5, 3)), ValueError, "background", "other number of rays"
        ),
        corner(
            lambda: render_rays(FIELD, AWAY.clone().requires_grad_(), AHEAD),
            ValueError,
            "origins",
            "rays get a part of their gradient",
        ),
        corner(lambda: sample_triplane(planes_of(0), torch.zeros(0, 4, 3).double()), why="no scenes at all"),
        corner(
            lambda: render_rays(TriplaneField(PLANES.clone().requires_grad_(), DECODER), AWAY + 9, AHEAD).rgb.sum().backward(),
            why="a loss on rays that all miss has no backward pass",
        ),
    ],
)
def test_corner_cases(call, error, message):
    if error is None:
        call()
        return
    with pytest.raises(error, match=message):
        call()
