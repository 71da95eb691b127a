"""Epipolar attention: the lean form against the definition, what it keeps in memory, who stays unchanged, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nvs_book.epipolar as epipolar
from nvs_book.cameras import Camera, intrinsics_from_fov, look_at, orbit
from nvs_book.epipolar import EpipolarAttention, PlainEpipolarAttention, Scatter, depth_code, disparity_from_depth, view_segments
from nvs_book.exercises import Alive


def ring(views, size, dtype=torch.float64, scenes=2, fov=60.0):
    "Views on an orbit, each scene's a little further round."
    poses = torch.stack([orbit(24, 3.0 + 0.2 * s)[s : s + 3 * views : 3] for s in range(scenes)])
    return Camera(intrinsics_from_fov(fov, *size), poses, *size).to(dtype)


def pair_of_layers(seed=0, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    plain, lean = (
        kind(**{"dim": 8, "heads": 2, "num_samples": 5, "octaves": 3, **options}).to(dtype)
        for kind in (PlainEpipolarAttention, EpipolarAttention)
    )
    lean.load_state_dict(plain.state_dict())
    return plain, lean


def both(features, segments, layers):
    "Results of both, and the gradients of everything."
    upstream = torch.randn(features.shape, generator=torch.Generator().manual_seed(5), dtype=features.dtype)
    outs = [layer(features, segments) for layer in layers]
    return outs, [torch.autograd.grad(out, (features, *layer.parameters()), upstream) for out, layer in zip(outs, layers)]


# --- the lean form is the definition


@settings(max_examples=15, deadline=None)
@given(
    views=st.integers(2, 4),
    heads=st.sampled_from([1, 2, 4]),
    samples=st.integers(1, 7),
    octaves=st.integers(0, 4),
    chunk=st.sampled_from([1, 300, 2**20]),
    seed=st.integers(0, 100),
)
def test_lean_is_plain_whatever_the_sizes(views, heads, samples, octaves, chunk, seed):
    segments = view_segments(ring(views, (5, 7)), torch.tensor([0.5, 0.9], dtype=torch.float64), 9.0)
    features = torch.randn(2, views, 8, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epipolar, "CHUNK", chunk)
        outs, grads = both(features, segments, pair_of_layers(seed, heads=heads, num_samples=samples, octaves=octaves))
    torch.testing.assert_close(outs[1], outs[0])
    torch.testing.assert_close(grads[1], grads[0])


def test_lean_is_plain_in_float32():
    segments = view_segments(ring(2, (16, 16), torch.float32), 0.5, 9.0)
    features = torch.randn(2, 2, 32, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    outs, grads = both(features, segments, pair_of_layers(dtype=torch.float32, dim=32, heads=4, num_samples=12, octaves=10))
    torch.testing.assert_close(outs[1], outs[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(grads[1], grads[0], atol=1e-4, rtol=1e-4)


def test_gradcheck():
    segments = view_segments(ring(2, (3, 4), scenes=1), 0.5, 9.0)
    _, lean = pair_of_layers(dim=4, num_samples=3, octaves=2)
    features = torch.randn(1, 2, 4, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: lean(f, segments), features)


def test_scatter_adds_each_row_where_it_came_from():
    g = torch.Generator().manual_seed(0)
    idx, weights, rows = (
        torch.randint(3, 17, (6, 8), generator=g, dtype=torch.int32),
        torch.randn(6, 8, generator=g),
        torch.randn(6, 3, generator=g),
    )
    total, expected = torch.ones(20, 3), torch.ones(20, 3)
    Scatter(idx).add(total, rows, weights)
    for m in range(6):
        for k in range(8):
            expected[idx[m, k]] += weights[m, k] * rows[m]
    torch.testing.assert_close(total, expected)
    Scatter(idx[:0]).add(total, rows[:0], weights[:0])
    torch.testing.assert_close(total, expected)


# --- memory


def memory(layer, features, segments):
    "Bytes kept between the two passes, most at one time, and in the largest tensor."
    with Alive() as alive:
        out = layer(features, segments)
        kept = alive.now
        out.sum().backward()
    return kept, alive.most, alive.largest


def test_lean_keeps_a_fraction_of_what_the_definition_keeps(monkeypatch):
    monkeypatch.setattr(epipolar, "CHUNK", 2**14)
    segments = view_segments(ring(2, (16, 16), torch.float32, scenes=1), 0.5, 9.0)
    layers = pair_of_layers(dtype=torch.float32, dim=64, heads=2, num_samples=32, octaves=4)
    features = torch.randn(1, 2, 64, 16, 16, requires_grad=True)
    plain, lean = (memory(layer, features, segments) for layer in layers)
    samples, maps = 4 * 2 * 256 * 32 * 64, 4 * features.numel()  # bytes
    assert plain[0] > 3 * samples and plain[1] > 6 * samples and plain[2] >= samples  # samples, keys, values; and their gradients
    assert lean[0] < samples * 2 / 64 + 10 * maps  # a weight for each sample and head, and a few maps
    assert lean[1] < plain[1] / 10 and lean[2] < 0.15 * samples


# --- what it does


def looking_outwards(size=(6, 6)):
    "Cameras on a ring that look away from each other."
    ways = [torch.tensor([math.cos(a), math.sin(a), 0.0]) for a in (0.0, 2.1, 4.2)]
    poses = torch.stack([look_at(3 * way, 6 * way) for way in ways])
    return Camera(intrinsics_from_fov(60.0, *size), poses[None], *size).to(torch.float64)


@pytest.mark.parametrize("kind", [PlainEpipolarAttention, EpipolarAttention])
def test_who_is_seen_by_nobody_stays_as_it_is(kind):
    segments = view_segments(looking_outwards(), 0.5, 9.0)
    assert not segments.valid.any()
    layer = kind(8, 2, 5, 3).double()
    features = torch.randn(1, 3, 8, 6, 6, dtype=torch.float64, requires_grad=True)
    out = layer(features, segments)
    assert torch.equal(out, features)
    (grad,) = torch.autograd.grad(out.sum(), features)
    assert torch.equal(grad, torch.ones_like(grad))


@pytest.mark.parametrize("kind", [PlainEpipolarAttention, EpipolarAttention])
def test_where_some_pixels_are_seen_the_others_stay_as_they_are(kind):
    eyes = [((0.0, -3.0, 0.0), (0.0, 0.0, 0.0)), ((2.0, 0.0, 0.4), (-2.0, 0.0, 0.0))]
    c2w = torch.stack([look_at(*(torch.tensor(x, dtype=torch.float64) for x in pair)) for pair in eyes])[None]
    cameras = Camera(ring(2, (8, 8), scenes=1).K, c2w, 8, 8)
    segments = view_segments(cameras, 0.5, 9.0)
    alone = (~segments.valid.any(-2)).view(1, 2, 1, 8, 8).expand(1, 2, 8, 8, 8)
    assert alone.any() and not alone.all()
    features = torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)
    out = kind(8, 2, 5, 3).double()(features, segments)
    assert torch.equal(out[alone], features[alone]) and (out != features)[~alone].all()


@pytest.mark.parametrize("features, message", [
    (torch.randn(1, 1, 8, 6, 6, dtype=torch.float64), "v >= 2 views"),
    (torch.randn(1, 2, 8, 6, 6), "expected one dtype"),
])  # fmt: skip
def test_features_that_are_not_the_layers_are_refused(features, message):
    layer = pair_of_layers()[1]
    with pytest.raises(ValueError, match=message):
        layer(features, view_segments(ring(2, (6, 6), scenes=1), 0.5, 9.0))
    with pytest.raises(TypeError, match="segments: expected EpipolarSegments, got NoneType"):
        layer(torch.randn(1, 2, 8, 6, 6, dtype=torch.float64), None)


def test_a_pixel_that_one_of_two_others_sees_uses_that_one():
    cameras = ring(3, (6, 6), scenes=1)
    away = looking_outwards().c2w[0, 1]
    mixed = Camera(cameras.K, torch.stack([cameras.c2w[0, 0], cameras.c2w[0, 1], away])[None], 6, 6)
    two = view_segments(Camera(cameras.K[:, :2], cameras.c2w[:, :2], 6, 6), 0.5, 9.0)
    three = view_segments(mixed, 0.5, 9.0)
    assert not three.valid[0, 0, 1].any() and three.valid[0, 0, 0].any()
    layer = pair_of_layers()[1]
    features = torch.randn(1, 3, 8, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(features, three)[:, 0], layer(features[:, :2], two)[:, 0])


def test_the_order_of_the_views_means_nothing():
    cameras, order = ring(3, (5, 6)), torch.tensor([2, 0, 1])
    features = torch.randn(2, 3, 8, 5, 6, dtype=torch.float64)
    layer = pair_of_layers()[1]
    again = layer(features[:, order], view_segments(cameras[:, order], 0.5, 9.0))
    torch.testing.assert_close(again, layer(features, view_segments(cameras, 0.5, 9.0))[:, order])


def test_the_depth_is_what_tells_a_match_here_from_the_same_match_farther_away():
    "The same maps, a baseline three times as long: without the code nothing changes, with it everything does."
    cameras = ring(2, (6, 6), scenes=1)
    c2w = cameras.c2w.clone()
    c2w[..., :3, 3] *= 3
    one, three = view_segments(cameras, 0.5, 9.0), view_segments(Camera(cameras.K, c2w, 6, 6), 1.5, 27.0)
    features = torch.randn(1, 2, 8, 6, 6, dtype=torch.float64)
    for octaves in (0, 4):
        layer = pair_of_layers(octaves=octaves)[1]
        torch.testing.assert_close(layer(features, one), layer(features, three))  # near and far scale along: r is the same
    inside, fixed = (view_segments(Camera(cameras.K, c, 6, 6), 0.5, math.inf) for c in (cameras.c2w, c2w))  # r tells the unit
    change = {}
    for octaves in (0, 4):
        layer = pair_of_layers(octaves=octaves)[1]
        change[octaves] = (layer(features, fixed) - layer(features, inside)).abs().max()
    assert change[0] < 1e-9 and change[4] > 1e-2


def test_depth_code_is_the_octaves_of_relative_disparity():
    t, near, far = torch.tensor([[1.0, 2.0, 4.0, math.nan]]), torch.tensor([1.0]), torch.tensor([8.0])
    code = depth_code(t, near, far, 3)
    r = disparity_from_depth(t[:, :3], 1.0, 8.0)
    torch.testing.assert_close(code[..., :3, 0], (2 * math.pi * r).sin(), atol=1e-6, rtol=0)
    torch.testing.assert_close(code[..., :3, 3], (4 * math.pi * r).cos(), atol=1e-6, rtol=0)
    assert code.isfinite().all() and depth_code(t, near, far, 0).shape == (1, 4, 0)
    infinite = depth_code(torch.tensor([[1.0, 5.0]]), torch.tensor([1.0]), torch.tensor([math.inf]), 2)
    assert infinite.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_within_autocast_the_geometry_keeps_its_digits(dtype):
    segments = view_segments(ring(2, (8, 8), torch.float32), 0.5, 9.0)
    _, layer = pair_of_layers(dtype=torch.float32)
    features = torch.randn(2, 2, 8, 8, 8, requires_grad=True)
    exact = layer(features, segments)
    with torch.autocast("cpu", dtype):
        rough = layer(features, segments)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)
    rough.sum().backward()
    assert features.grad.isfinite().all()


# --- bad input


@pytest.fixture(scope="module")
def segments():
    return view_segments(ring(2, (6, 8), torch.float32), 0.5, 9.0)


@pytest.mark.parametrize(
    "features,message",
    [
        (torch.full((2, 2, 8, 6, 8), math.nan), "features: expected finite numbers"),
        (torch.zeros(2, 2, 7, 6, 8), r"features: expected shape \(..., v, c=8, h, w\)"),
        (torch.zeros(2, 3, 8, 6, 8), "features: expected leading dimensions"),
        (torch.zeros(2, 2, 8, 6, 6), "features: expected the proportions"),
        (torch.zeros(2, 2, 8, 12, 16), "segments: expected those of 2 views of 12 x 16 pixels"),
        (torch.zeros(8, 6, 8), "features: expected shape"),
    ],
)
def test_features_that_do_not_fit(features, message, segments):
    for layer in pair_of_layers(dtype=torch.float32):
        with pytest.raises(ValueError, match=message):
            layer(features, segments)


@pytest.mark.parametrize(
    "options,message", [(dict(heads=3), "dim"), (dict(num_samples=0), "num_samples"), (dict(octaves=-1), "octaves")]
)
def test_layers_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        EpipolarAttention(**{"dim": 8, "heads": 2, **options})
