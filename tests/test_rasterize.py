"""Points into pixels: every path against the definition, the original's numbers, calculus, and bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

import nvs_book.synsin as synsin
from nvs_book.cameras import Camera, intrinsics, look_at
from nvs_book.checks import golden
from nvs_book.scenes import View
from nvs_book.synsin import (
    ACCUMULATIONS,
    Fragments,
    hit_weights,
    points_of_view,
    project_to_fragments,
    rasterize_points,
    rasterize_points_spec,
    render_points,
    splat,
    splat_spec,
)

FAST = pytest.param("numba", marks=pytest.mark.skipif(not synsin.has_numba(), reason="numba (extra [fast]) is not installed"))
PATHS = pytest.mark.parametrize("backend", ["torch", FAST])
BACKENDS = ["torch", "numba"] if synsin.has_numba() else ["torch"]


def cloud(n=60, height=9, width=11, seed=0, dtype=torch.float32, batch=()):
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(*batch, n, 2, generator=g, dtype=dtype) * torch.tensor([width + 4.0, height + 4.0], dtype=dtype) - 2
    z = torch.rand(*batch, n, generator=g, dtype=dtype) * 3 + 0.5
    z[..., ::7] *= -1
    return xy, z, torch.randn(*batch, n, 3, generator=g, dtype=dtype)


# ------------------------------------------------------------------------------------------------ the definition
# Coordinates in quarters of a pixel and depths in halves: points exactly on the circle, equal depths and duplicates are common,
# and the arithmetic of the definition is exact.
quarters = st.integers(-16, 64).map(lambda i: i / 4)
some_points = st.lists(st.tuples(quarters, quarters, st.integers(-1, 4).map(lambda i: i / 2)), max_size=40)


@settings(max_examples=40, deadline=None)
@given(some_points, st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.5]),
       st.integers(1, 5), st.sampled_from([torch.float32, torch.float64]))
def test_every_path_equals_the_definition(points, height, width, radius, k, dtype):
    radius = min(radius, max(height, width))
    table = torch.tensor(points, dtype=dtype).reshape(-1, 3)
    spec = rasterize_points_spec(table[:, :2], table[:, 2], height, width, radius, k)
    for backend in BACKENDS:
        found = rasterize_points(table[:, :2], table[:, 2], height, width, radius, k, backend=backend)
        assert torch.equal(found.idx, spec.idx), backend
        assert torch.equal(found.z, spec.z), backend
        torch.testing.assert_close(found.dist2, spec.dist2, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("limit", [1, 30, 1000])
def test_small_memory_gives_the_same(monkeypatch, limit):
    xy, z, _ = cloud(80, 13, 9, batch=(3,))
    wanted = rasterize_points(xy, z, 13, 9, 2.5, 4, backend="torch").idx
    monkeypatch.setattr(synsin, "MAX_CANDIDATES", limit)
    assert torch.equal(rasterize_points(xy, z, 13, 9, 2.5, 4, backend="torch").idx, wanted)


@PATHS
@pytest.mark.parametrize("radius", [0.3, 1.5, 1.4999999, 4.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_cloud_equals_the_definition(backend, radius, dtype):
    xy, z, _ = cloud(150, 19, 40, seed=3, dtype=dtype)
    found = rasterize_points(xy, z, 19, 40, radius, 8, backend=backend)
    assert torch.equal(found.idx, rasterize_points_spec(xy, z, 19, 40, radius, 8).idx)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="numba (extra [fast]) is not installed")
def test_fast_and_plain_path_agree_to_the_last_bit():
    g = torch.Generator().manual_seed(0)
    xy, z = torch.rand(2, 6000, 2, generator=g) * 90 - 5, torch.rand(2, 6000, generator=g).round(decimals=2) - 0.1
    fast, plain = (rasterize_points(xy, z, 70, 81, 1.5, 8, backend=b) for b in ("numba", "torch"))
    for name in ("idx", "z", "dist2"):
        assert torch.equal(getattr(fast, name), getattr(plain, name))


@PATHS
def test_rules_one_by_one(backend):
    def idx(xy, z, radius=1.0):
        return rasterize_points(torch.tensor(xy), torch.tensor(z), 1, 3, radius, 2, backend).idx[0].tolist()

    assert idx([[1.5, 0.5]], [1.0], radius=1.0) == [[-1, -1], [0, -1], [-1, -1]]  # one pixel away: on the circle, outside
    assert idx([[1.5, 0.5]], [1.0], radius=1.01) == [[0, -1]] * 3
    assert idx([[1.5, 0.5]] * 3, [2.0, 1.0, 1.0])[1] == [1, 2]  # nearest first, ties by number, K kept
    assert idx([[1.5, 0.5]] * 3, [-1.0, 0.0, 3.0])[1] == [2, -1]  # z <= 0 never appears
    assert idx([[1e30, 0.5], [-1e30, 1e30], [2.5, 0.5]], [1.0, 1.0, 1.0])[2] == [2, -1]  # far off screen


@PATHS
def test_many_images_equal_one_by_one(backend):
    for batch in ((), (2,), (1, 2), (2, 0)):
        xy, z, features = cloud(batch=batch)
        found = rasterize_points(xy, z, 9, 11, backend=backend)
        image = splat(features, found, backend=backend)
        assert found.idx.shape == (*batch, 9, 11, 8) and image.shape == (*batch, 3, 9, 11)
        for at in np.ndindex(*batch):
            one = rasterize_points(xy[at], z[at], 9, 11, backend=backend)
            assert torch.equal(one.idx, found.idx[at])
            torch.testing.assert_close(splat(features[at], one, backend=backend), image[at])


@PATHS
def test_non_contiguous_input(backend):
    xy, z, features = cloud()
    strided = torch.cat([xy.T, z[None], features.T]).T
    a = rasterize_points(strided[:, :2], strided[:, 2], 9, 11, backend=backend)
    b = rasterize_points(xy, z, 9, 11, backend=backend)
    assert torch.equal(a.idx, b.idx)
    torch.testing.assert_close(splat(strided[:, 3:], a, backend=backend), splat(features, b, backend=backend))


# ------------------------------------------------------------------------------------------------ compositing
@PATHS
@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("tau", [1.0, 0.5, 3.0])
def test_splat_equals_its_definition(backend, accumulation, tau):
    xy, z, features = cloud(120, seed=5)
    fragments = rasterize_points(xy, z, 9, 11, 2.0, 5)
    image = splat(features, fragments, 2.0, accumulation, tau, backend)
    torch.testing.assert_close(image, splat_spec(features, fragments, 2.0, accumulation, tau), atol=3e-6, rtol=1e-5)


@PATHS
def test_opacity_is_the_picture_of_ones_and_at_most_one(backend):
    xy, z, _ = cloud(400)
    fragments = rasterize_points(xy, z, 9, 11)
    opacity = splat(torch.ones(400, 1), fragments, backend=backend)[0]
    torch.testing.assert_close(opacity, hit_weights(fragments).sum(-1))
    assert (opacity <= 1).all() and torch.equal(opacity > 0, fragments.covered)
    normal = hit_weights(fragments, accumulation="wsumnorm").sum(-1)
    torch.testing.assert_close(normal[fragments.covered], torch.ones(int(fragments.covered.sum())))


@PATHS
def test_a_disc_is_never_more_opaque_than_0_968(backend):
    xy, z = torch.tensor([[0.5, 0.5]]), torch.tensor([1.0])
    image = splat(torch.ones(1, 1), rasterize_points(xy, z, 1, 1, 0.9, 1, backend=backend), 0.9, backend=backend)
    assert image.item() == pytest.approx(1 - math.sqrt(1e-3), abs=1e-6)


@PATHS
def test_int32_indices_and_user_made_fragments(backend):
    xy, z, features = cloud()
    found = rasterize_points(xy, z, 9, 11)
    made = Fragments(found.idx.int(), found.z, found.dist2)
    torch.testing.assert_close(splat(features, made, backend=backend), splat(features, found, backend=backend))
    with pytest.raises(ValueError, match="features: expected the fragments' points"):
        splat(features[:20], found, backend=backend)


# ------------------------------------------------------------------------------------------------ the original's numbers
@PATHS
@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_golden_synsin_splat(backend, batch):
    """golden/synsin_splat: indices identical, pictures to 1e-5, gradients to 1e-4."""
    ref = golden("synsin_splat")
    xy, z, features, upstream = (ref[k].expand(*batch, *ref[k].shape) for k in ("xy_px", "z", "features", "upstream_grad"))
    xy, features = (v.clone().requires_grad_() for v in (xy, features))
    size = int(ref["height"]), int(ref["width"])
    fragments = rasterize_points(xy, z, *size, float(ref["radius_px"]), int(ref["points_per_pixel"]), backend)
    assert torch.equal(fragments.idx, ref["idx"].long().expand_as(fragments.idx))
    torch.testing.assert_close(fragments.z, ref["zbuf"].expand_as(fragments.z), atol=0, rtol=0)
    torch.testing.assert_close(fragments.dist2, ref["dist2_px"].expand_as(fragments.dist2), atol=1e-6, rtol=0)
    for rule in ACCUMULATIONS:
        image = splat(features, fragments, float(ref["radius_px"]), rule, backend=backend)
        grads = torch.autograd.grad((image * upstream).sum(), (xy, features), retain_graph=True)
        torch.testing.assert_close(image, ref[rule].expand_as(image), atol=1e-5, rtol=0)
        for name, grad in zip(("xy", "features"), grads):
            torch.testing.assert_close(grad, ref[f"grad_{name}_{rule}"].expand_as(grad), atol=1e-4, rtol=0)


def test_pytorch3d_agrees():
    pytest.importorskip("pytorch3d", reason="PyTorch3D is not installed (its numbers: tests/golden/synsin_splat.npz)")
    xy, z, features = cloud(2000, 48, 64, batch=(2,))
    ours, theirs = (rasterize_points(xy, z, 48, 64, backend=b) for b in ("torch", "pytorch3d"))
    assert (ours.idx == theirs.idx).float().mean() > 0.9999  # a point on a circle may round to the other side
    torch.testing.assert_close(splat(features, ours), splat(features, theirs), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------ calculus
@PATHS
@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("batch, tau", [((), 1.0), ((2,), 0.7), ((1, 2), 2.0)])
def test_gradcheck(backend, accumulation, batch, tau):
    inputs = [v.requires_grad_() for v in cloud(12, 4, 5, seed=2, dtype=torch.float64, batch=batch)]

    def picture(xy, z, features):
        fragments = rasterize_points(xy, z, 4, 5, 1.7, 4, backend=backend)
        return splat(features, fragments, 1.7, accumulation, tau, backend), fragments.z, fragments.dist2

    assert gradcheck(picture, inputs)


@PATHS
def test_points_nobody_sees_get_zero_gradient(backend):
    xy, z, features = (v.requires_grad_() for v in cloud())
    splat(features, rasterize_points(xy, z, 9, 11, backend=backend), backend=backend).sum().backward()
    assert (xy.grad[::7] == 0).all() and (features.grad[::7] == 0).all() and (xy.grad != 0).any()


@PATHS
def test_gradients_stay_finite_on_the_rim_and_in_the_centre(backend):
    rim = math.nextafter(1.5, 0)
    xy = torch.tensor([[0.5, 0.5], [0.5 + rim, 0.5], [0.5, 1.5]], dtype=torch.float64, requires_grad=True)
    for tau in (0.3, 1.0, 4.0):
        for rule in ACCUMULATIONS:
            fragments = rasterize_points(xy, xy.new_ones(3), 2, 2, backend=backend)
            image = splat(xy.new_ones(3, 1), fragments, 1.5, rule, tau, backend)
            assert torch.isfinite(torch.autograd.grad(image.sum(), xy)[0]).all()


# ------------------------------------------------------------------------------------------------ nothing to draw
@PATHS
@pytest.mark.parametrize("z", [torch.zeros(0), torch.full((5,), -1.0), torch.zeros(5)])
def test_empty_cloud_and_all_behind_give_an_empty_picture(backend, z):
    xy = torch.full((len(z), 2), 1.0, requires_grad=True)
    features = torch.ones(len(z), 2, requires_grad=True)
    fragments = rasterize_points(xy, z, 3, 4, backend=backend)
    image = splat(features, fragments, backend=backend)
    assert all((v == -1).all() for v in (fragments.idx, fragments.z, fragments.dist2)) and not fragments.covered.any()
    assert image.shape == (2, 3, 4) and (image == 0).all()
    image.sum().backward()
    assert (features.grad == 0).all()


# ------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize("change, message", [
    (dict(xy=torch.full((60, 2), math.nan)), "xy: expected finite"),
    (dict(xy=torch.full((60, 2), math.inf)), "xy: expected finite"),
    (dict(z=torch.full((60,), math.nan)), "z: expected finite"),
    (dict(z=torch.full((60,), math.inf)), "z: expected finite"),
    (dict(xy=torch.zeros(60, 3)), "xy: expected shape"),
    (dict(z=torch.zeros(59)), "z: expected shape"),
    (dict(z=torch.zeros(2, 60)), "z: expected shape"),
    (dict(z=torch.ones(60, dtype=torch.float64)), "one dtype"),
    (dict(xy=torch.zeros(60, 2, device="meta")), "one device"),
    (dict(z=torch.ones(60, device="meta")), "one device"),
    (dict(xy=torch.zeros(60, 2).half(), z=torch.ones(60).half()), "xy: expected float32 or float64"),
    (dict(radius=0), "radius: expected"),
    (dict(radius=-1.0), "radius: expected"),
    (dict(radius=math.nan), "radius: expected"),
    (dict(radius=11.5), "radius: expected a finite number <= 11"),
    (dict(points_per_pixel=0), "points_per_pixel: expected"),
    (dict(points_per_pixel=1.5), "points_per_pixel: expected"),
    (dict(height=0), "height: expected"),
    (dict(width=-3), "width: expected"),
    (dict(backend="cuda"), "backend: expected one of"),
])
def test_rasterize_refuses(change, message):
    xy, z, _ = cloud()
    with pytest.raises(ValueError, match=message):
        rasterize_points(**{"xy": xy, "z": z, "height": 9, "width": 11, **change})


@pytest.mark.parametrize("change, message", [
    (dict(features=torch.full((60, 3), math.nan)), "features: expected finite"),
    (dict(features=torch.full((60, 3), math.inf)), "features: expected finite"),
    (dict(features=torch.zeros(60, 3, dtype=torch.float64)), "one dtype"),
    (dict(features=torch.zeros(2, 60, 3)), "features: expected batch dimensions"),
    (dict(features=torch.zeros(60)), "features: expected shape"),
    (dict(radius=0), "radius: expected"),
    (dict(tau=0), "tau: expected"),
    (dict(tau=-1.0), "tau: expected"),
    (dict(accumulation="sum"), "accumulation: expected one of 'alphacomposite'"),
])
def test_splat_refuses(change, message):
    xy, z, features = cloud()
    fragments = rasterize_points(xy, z, 9, 11)
    with pytest.raises(ValueError, match=message):
        splat(**{"features": features, "fragments": fragments, **change})


def broken(**change):
    "The fragments of a cloud of 60 points, with other parts."
    found = rasterize_points(*cloud()[:2], 9, 11)
    parts = {name: getattr(found, name) for name in ("idx", "z", "dist2")}
    return Fragments(**{name: change[name](v) if name in change else v for name, v in parts.items()})


def spoiled(value):
    "Write a value into the first hit."
    def change(v):
        hit = rasterize_points(*cloud()[:2], 9, 11).idx >= 0
        return v.index_put(tuple(hit.nonzero()[:1].T), torch.tensor(value, dtype=v.dtype))
    return change


@PATHS
@pytest.mark.parametrize("parts, error, message", [
    (dict(dist2=lambda v: v[:5]), ValueError, r"fragments: expected one shape, got idx \(9, 11, 8\), .*dist2 \(5, 11, 8\)"),
    (dict(idx=lambda v: v[..., :4]), ValueError, "fragments: expected one shape"),
    (dict(z=lambda v: v[None]), ValueError, "fragments: expected one shape"),
    (dict(idx=lambda v: v[None].expand(3, -1, -1, -1)), ValueError, "fragments: expected one shape"),
    (dict(idx=lambda v: v.float()), TypeError, "fragments.idx: expected a tensor of int32 or int64, got torch.float32"),
    (dict(idx=lambda v: v.tolist()), TypeError, "fragments.idx: expected a tensor of int32 or int64, got list"),
    (dict(dist2=lambda v: v.long()), TypeError, "fragments.dist2: expected a floating-point tensor"),
    (dict(z=lambda v: None), TypeError, "fragments.z: expected a torch tensor"),
    (dict(idx=spoiled(-2)), ValueError, "fragments.idx: expected a point's number, or -1 where there is none, got -2"),
    (dict(dist2=spoiled(math.nan)), ValueError, "fragments.dist2: expected finite numbers where idx >= 0, got 1 NaN"),
    (dict(dist2=spoiled(math.inf)), ValueError, "fragments.dist2: expected finite"),
    (dict(dist2=lambda v: v.to("meta")), ValueError, "fragments: expected one device, got idx cpu, z cpu, dist2 meta"),
    (dict.fromkeys(("idx", "z", "dist2"), lambda v: v[..., :0]), ValueError, "fragments: expected height, width and K"),
])
def test_fragments_that_do_not_fit_are_refused(backend, parts, error, message):
    fragments = broken(**parts)
    with pytest.raises(error, match=message):
        splat(cloud()[2], fragments, backend=backend)
    with pytest.raises(error, match=message):
        hit_weights(fragments)


@PATHS
def test_splat_refuses_points_that_are_not_there_and_other_things(backend):
    features = cloud()[2]
    with pytest.raises(ValueError, match="features: expected the fragments' points, at least 1001, got 60"):
        splat(features, broken(idx=spoiled(1000)), backend=backend)
    for thing in (None, (1, 2, 3), features):
        with pytest.raises(TypeError, match=f"fragments: expected Fragments.*{type(thing).__name__}"):
            splat(features, thing, backend=backend)
        with pytest.raises(TypeError, match="fragments: expected Fragments"):
            hit_weights(thing)


@PATHS
def test_what_stands_in_empty_slots_does_not_matter(backend):
    found = rasterize_points(*cloud()[:2], 9, 11)
    odd = broken(dist2=lambda v: v.masked_fill(found.idx < 0, math.nan))
    features = cloud()[2]
    assert torch.equal(splat(features, odd, backend=backend), splat(features, found, backend=backend))
    assert torch.equal(hit_weights(odd), hit_weights(found))


@pytest.mark.parametrize("backend", ["pytorch3d", "cuda", None])
def test_splat_knows_its_backends(backend):
    with pytest.raises(ValueError, match="backend: expected one of 'auto', 'torch', 'numba', got"):
        splat(cloud()[2], broken(), backend=backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_the_plain_path(dtype):
    features, fragments = cloud()[2].to(dtype), broken().to(dtype)
    assert torch.equal(splat(features, fragments), splat(features, fragments, backend="torch"))
    with pytest.raises(ValueError, match="backend: 'numba' runs on the CPU, in float32 or float64, got torch"):
        splat(features, fragments, backend="numba")


def test_fragments_compare_by_identity():
    a, b = broken(), broken()
    assert a == a and a != b and len({a, b}) == 2


@PATHS
def test_second_derivatives_are_refused_not_dropped(backend):
    xy, z, features = (v.requires_grad_() for v in cloud())
    fragments = rasterize_points(xy, z, 9, 11, backend=backend)
    for of, leaf in ((fragments.dist2, xy), (splat(features, fragments, backend=backend), features)):
        grad, = torch.autograd.grad(of.square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.square().sum().backward()


def test_not_a_tensor():
    with pytest.raises(TypeError, match="xy: expected a torch tensor"):
        rasterize_points([[1.0, 2.0]], torch.ones(1), 4, 4)


def test_missing_peers_say_what_to_do(monkeypatch):
    xy, z, _ = cloud()
    monkeypatch.setattr(synsin, "has_numba", lambda: False)
    with pytest.raises(ImportError, match=r"nvs_book\[fast\]"):
        rasterize_points(xy, z, 9, 11, backend="numba")
    wanted = rasterize_points(xy, z, 9, 11, backend="torch").idx
    assert torch.equal(rasterize_points(xy, z, 9, 11).idx, wanted)  # "auto" goes on without it
    monkeypatch.setitem(__import__("sys").modules, "pytorch3d", None)
    with pytest.raises(ImportError, match="PyTorch3D, which is not installed"):
        rasterize_points(xy, z, 9, 11, backend="pytorch3d")


# ------------------------------------------------------------------------------------------------ from the world
def test_a_view_seen_from_its_own_camera_is_itself():
    camera = Camera(intrinsics(20.0, 20.0, 6.0, 5.0), look_at(torch.tensor([3.0, 0.0, 1.0]), torch.zeros(3)), 10, 12)
    g = torch.Generator().manual_seed(0)
    view = View(torch.rand(3, 10, 12, generator=g), camera, torch.rand(10, 12, generator=g) + 1)
    view.depth[2, 3] = math.nan  # unknown: no point
    points, colours = points_of_view(view)
    assert points.shape == (119, 3)
    known = torch.isfinite(view.depth)
    image = render_points(points, colours, camera, radius=0.9)
    torch.testing.assert_close(image[:, known], view.image[:, known] * (1 - math.sqrt(1e-3)), atol=1e-3, rtol=0)
    normal = render_points(points, colours, camera, radius=0.9, normalize=True)
    torch.testing.assert_close(normal[:, known], view.image[:, known], atol=1e-4, rtol=0)
    assert (image[:, ~known] == 0).all() and (normal[:, ~known] == 0).all()
    with pytest.raises(ValueError, match="expected a view with depth"):
        points_of_view(View(view.image, camera))


def test_clouds_and_cameras_broadcast():
    eyes = torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    cameras = Camera(intrinsics(20.0, 20.0, 6.0, 5.0), look_at(eyes, torch.zeros(3)), 10, 12)
    g = torch.Generator().manual_seed(0)
    points, features = torch.randn(50, 3, generator=g) * 0.3, torch.rand(50, 2, generator=g)
    both = render_points(points, features, cameras)
    assert both.shape == (2, 2, 10, 12)
    for i in range(2):
        torch.testing.assert_close(both[i], render_points(points, features, cameras[i]))
        torch.testing.assert_close(render_points(points.expand(2, -1, -1), features, cameras[i])[i], both[i])
    fragments = project_to_fragments(points, cameras)
    assert fragments.to(torch.float64).dist2.dtype == torch.float64 and fragments.covered.shape == (2, 10, 12)


@pytest.mark.parametrize("change, error, message", [
    (dict(points_world=torch.zeros(3, 50, 3)), ValueError, r"points_world \(3,\).*camera \(2,\)"),
    (dict(features=torch.zeros(3, 50, 2)), ValueError, r"points_world \(\), features \(3,\), camera \(2,\)"),
    (dict(features=torch.zeros(49, 2)), ValueError, "features: expected shape"),
    (dict(points_world=torch.zeros(50, 2)), ValueError, "points_world: expected shape"),
    (dict(points_world=torch.full((50, 3), math.nan)), ValueError, "points_world: expected finite"),
    (dict(features=torch.full((50, 2), math.inf)), ValueError, "features: expected finite"),
    (dict(points_world=torch.zeros(50, 3, device="meta")), ValueError, "one device"),
    (dict(features=torch.zeros(50, 2, device="meta")), ValueError, "one device"),
    (dict(points_world=torch.zeros(50, 3, dtype=torch.float64)), ValueError, "one dtype"),
    (dict(points_world=[[0.0, 0.0, 0.0]]), TypeError, "points_world: expected a torch tensor"),
    (dict(features=None), TypeError, "features: expected a torch tensor"),
    (dict(camera=None), TypeError, "camera: expected a Camera, got NoneType"),
])
def test_render_refuses(change, error, message):
    eyes = torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    cameras = Camera(intrinsics(20.0, 20.0, 6.0, 5.0), look_at(eyes, torch.zeros(3)), 10, 12)
    given = {"points_world": torch.zeros(50, 3), "features": torch.zeros(50, 2), "camera": cameras, **change}
    with pytest.raises(error, match=message):
        render_points(**given)
    if "features" not in change:
        with pytest.raises(error, match=message):
            project_to_fragments(given["points_world"], given["camera"])


def test_views_of_a_batch_are_not_merged():
    camera = Camera(intrinsics(20.0, 20.0, 6.0, 5.0), torch.eye(4).expand(2, 4, 4), 10, 12)
    views = View(torch.rand(2, 3, 10, 12), camera, torch.ones(2, 10, 12))
    with pytest.raises(ValueError, match=r"view: expected one view, got batch dimensions \(2,\)"):
        points_of_view(views)
    assert points_of_view(views[1])[0].shape == (120, 3)


def test_position_gradient_reaches_depth():
    """The derivative SynSin learns depth from: through unprojection, projection and the splat."""
    camera = Camera(intrinsics(20.0, 20.0, 6.0, 5.0), torch.eye(4), 10, 12)
    other = Camera(camera.K, torch.eye(4).index_put((torch.tensor(0), torch.tensor(3)), torch.tensor(0.1)), 10, 12)
    depth = torch.full((10, 12), 1.3, requires_grad=True)
    colours = torch.rand(120, 3, generator=torch.Generator().manual_seed(0))
    image = render_points(camera.unproject(depth).flatten(0, 1), colours, other)
    image.square().sum().backward()
    assert torch.isfinite(depth.grad).all() and (depth.grad != 0).float().mean() > 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu():
    xy, z, features = cloud(3000, 64, 80, batch=(2,))
    here = rasterize_points(xy, z, 64, 80, backend="torch")
    there = rasterize_points(xy.cuda(), z.cuda(), 64, 80)
    assert there.idx.is_cuda and torch.equal(there.idx.cpu(), here.idx)
    grads = []
    for device in ("cpu", "cuda"):
        inputs = [v.to(device).requires_grad_() for v in (xy, features)]
        image = splat(inputs[1], rasterize_points(inputs[0], z.to(device), 64, 80))
        grads.append([image.cpu(), *(g.cpu() for g in torch.autograd.grad(image.square().sum(), inputs))])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
