"""Epipolar segments and samples: pixelSplat's numbers, the definition by brute force, degenerate pairs, bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nvs_book.cameras import Camera, denormalize_intrinsics, intrinsics_from_fov, look_at, pixel_grid, rays_through
from nvs_book.checks import golden
from nvs_book.epipolar import (
    EpipolarSegments,
    bilinear,
    disparity_from_depth,
    epipolar_segments,
    fourier_code,
    match_depth,
    other_views,
    parts,
    patch_features,
    sample_epipolar,
    segment_points,
    some_segments,
    view_segments,
)
from nvs_book.metrics import depth_errors
from nvs_book.scenes import fundamental_matrix, motorcycle, resize_view

SIDE = torch.tensor([8.0, 8.0])  # of pixelSplat's fixed inputs, pixels


def golden_cameras(reference, height=8, width=8):
    return Camera(
        denormalize_intrinsics(reference["intrinsics_normalized"], height, width), reference["extrinsics_c2w"], height, width
    )


def camera(eye, target=(0.0, 0.0, 0.0), size=(24, 32), fov=60.0, up=(0.0, 0.0, 1.0), dtype=torch.float64):
    pose = look_at(torch.tensor(eye, dtype=dtype), torch.tensor(target, dtype=dtype), torch.tensor(up, dtype=dtype))
    return Camera(intrinsics_from_fov(fov, *size, dtype=dtype), pose, *size)


def random_pair(seed, size=(24, 32)):
    "Two cameras somewhere around the origin, each with a lens of its own, looking past it."
    g = torch.Generator().manual_seed(seed)
    eyes = [
        tuple((torch.nn.functional.normalize(torch.randn(3, generator=g), dim=0) * (2 + 2 * torch.rand(1, generator=g))).tolist())
        for _ in range(2)
    ]
    aims = [tuple((0.8 * torch.randn(3, generator=g)).tolist()) for _ in range(2)]
    ups = [tuple(torch.randn(3, generator=g).tolist()) for _ in range(2)]
    fovs = (40 + 60 * torch.rand(2, generator=g)).tolist()
    return [camera(*args) for args in zip(eyes, aims, [size] * 2, fovs, ups)]


def inside(xy, z, dst):
    return (z > 0) & (xy >= 0).all(-1) & (xy <= torch.tensor([dst.width, dst.height])).all(-1)


# --- the original's numbers


@pytest.mark.parametrize("name,bounds", [("nearfar", (1.0, 10.0)), ("unbounded", (1e-6, math.inf))])
def test_segments_are_pixelsplats(name, bounds):
    "tests/golden/pixelsplat_project_rays.npz: t and pixels relative to their size, 1e-4, where the original has an answer."
    reference = golden("pixelsplat_project_rays")
    two = golden_cameras(reference)
    found = epipolar_segments(two[0], two[1], reference["ray_xy_cam0"] * SIDE, *bounds)
    seen = reference[f"{name}_overlaps_image"]
    assert torch.equal(found.valid, seen)
    for what, value in dict(t_min=found.t_min, t_max=found.t_max, xy_min=found.xy_min / SIDE, xy_max=found.xy_max / SIDE).items():
        torch.testing.assert_close(value[seen], reference[f"{name}_{what}"][seen], atol=1e-4, rtol=1e-4)
        assert value[~seen].isnan().all()
    if name == "nearfar":
        exact = epipolar_segments(
            two[0].to(torch.float64), two[1].to(torch.float64), reference["ray_xy_cam0"].double() * 8, *bounds
        )
        torch.testing.assert_close(exact.t_min[seen], reference["float64_nearfar_t_min"][seen], atol=0, rtol=1e-5)
        torch.testing.assert_close(exact.xy_max[seen] / 8, reference["float64_nearfar_xy_max"][seen], atol=1e-5, rtol=0)
        middle = segment_points(found, 1)[1][seen, 0]
        torch.testing.assert_close(middle, reference["get_depth"][seen], atol=0, rtol=1e-4)


def test_samples_are_pixelsplats():
    "tests/golden/pixelsplat_epipolar_sampler.npz: pixels, features, depths and disparities, 1e-4."
    reference = golden("pixelsplat_epipolar_sampler")
    others, seen = other_views(2), reference["valid"]
    assert torch.equal(others, reference["index_other_view"])
    lines = view_segments(golden_cameras(reference), reference["near"][:, 0], reference["far"][:, 0])
    found = sample_epipolar(reference["features_in"][:, others], lines, int(reference["num_samples"]))
    assert torch.equal(found.valid, seen)
    torch.testing.assert_close((found.xy / SIDE)[seen], reference["xy_sample"][seen], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.features, reference["sampled_features"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.t[seen], reference["sample_depth_unclipped"][seen], atol=0, rtol=1e-4)
    disparity = disparity_from_depth(found.t[seen].clamp(1.2, 20.0), 1.2, 20.0)
    torch.testing.assert_close(disparity, reference["sample_relative_disparity"][seen], atol=1e-4, rtol=0)


def test_octaves_are_pixelsplats():
    reference = golden("pixelsplat_projection")
    torch.testing.assert_close(
        fourier_code(reference["posenc_in"], 4).flatten(-2), reference["posenc_4_octaves"], atol=1e-5, rtol=0
    )


# --- what they are, by brute force


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), near=st.floats(0.2, 2.0), span=st.floats(1.1, 50.0))
def test_a_point_of_the_ray_is_seen_exactly_between_the_ends(seed, near, span):
    src, dst = random_pair(seed)
    far = near * span
    xy = pixel_grid(24, 32, torch.float64).flatten(0, 1)[::19]
    found = epipolar_segments(src, dst, xy, near, far)
    origins, directions = rays_through(src, xy)
    t = torch.linspace(near, far, 401, dtype=torch.float64)
    seen = inside(*dst.project(origins[:, None] + t[:, None] * directions[:, None]), dst)  # (rays, 401)
    low, high = found.t_min[:, None].nan_to_num(math.inf), found.t_max[:, None].nan_to_num(-math.inf)
    between, slack = (t > low) & (t < high), 1e-6 * (1 + t)
    near_an_end = ((t - low).abs() < slack) | ((t - high).abs() < slack)
    assert (seen == between)[~near_an_end].all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 40), far=st.sampled_from([6.0, 100.0, math.inf]))
def test_samples_are_evenly_spaced_and_lie_where_they_say(seed, num, far):
    src, dst = random_pair(seed)
    xy = pixel_grid(24, 32, torch.float64).flatten(0, 1)[::31]
    found = epipolar_segments(src, dst, xy, 0.5, far)
    points, t = segment_points(found, num)
    valid = found.valid
    assert points.shape == (*xy.shape[:1], num, 2) and points[~valid].isnan().all() and t[~valid].isnan().all()
    steps = (found.xy_max - found.xy_min)[valid] / num
    torch.testing.assert_close(points[valid][:, 0], found.xy_min[valid] + steps / 2)
    if num > 1:
        torch.testing.assert_close(points[valid].diff(dim=1), steps[:, None].expand(-1, num - 1, -1), atol=1e-9, rtol=1e-6)
    origins, directions = rays_through(src, xy[valid])
    again, z = dst.project(origins[:, None] + t[valid][..., None] * directions[:, None])
    assert (z > 0).all() and t[valid].isfinite().all()
    torch.testing.assert_close(again, points[valid], atol=1e-5, rtol=1e-6)
    assert (t[valid].diff(dim=1) > 0).all()  # the nearest first


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_segments_lie_on_the_lines_of_the_fundamental_matrix(seed):
    src, dst = random_pair(seed)
    xy = pixel_grid(24, 32, torch.float64).flatten(0, 1)[::23]
    found = epipolar_segments(src, dst, xy, 0.5, 20.0)
    lines = torch.cat([xy, torch.ones(len(xy), 1)], -1) @ fundamental_matrix(src, dst).mT
    lines = lines / lines[:, :2].norm(dim=-1, keepdim=True)
    for end in (found.xy_min, found.xy_max):
        off = (end * lines[:, :2]).sum(-1) + lines[:, 2]
        assert off[found.valid].abs().max() < 1e-5 if found.valid.any() else True


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), unit=st.floats(0.01, 100.0))
def test_another_unit_changes_lengths_and_nothing_else(seed, unit):
    src, dst = random_pair(seed)
    xy = pixel_grid(24, 32, torch.float64).flatten(0, 1)[::37]

    def in_unit(c):
        c2w = torch.cat([torch.cat([c.c2w[:3, :3], unit * c.c2w[:3, 3:]], 1), c.c2w[3:]])
        return Camera(c.K, c2w, c.height, c.width)

    one, other = (
        epipolar_segments(src, dst, xy, 0.5, 20.0),
        epipolar_segments(in_unit(src), in_unit(dst), xy, 0.5 * unit, 20.0 * unit),
    )
    assert torch.equal(one.valid, other.valid)
    torch.testing.assert_close(other.xy_max, one.xy_max, atol=1e-6, rtol=1e-6, equal_nan=True)
    torch.testing.assert_close(other.t_min, one.t_min * unit, rtol=1e-6, atol=0, equal_nan=True)
    torch.testing.assert_close(segment_points(other, 9)[1], segment_points(one, 9)[1] * unit, rtol=1e-5, atol=0, equal_nan=True)


# --- bilinear sums


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 7), width=st.integers(1, 7))
def test_bilinear_is_torchs_grid_sample(seed, height, width):
    g = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float64)
    xy = (torch.rand(50, 2, generator=g, dtype=torch.float64) * 2 - 0.5) * size
    picture = torch.randn(3, height, width, generator=g, dtype=torch.float64)
    idx, weights = bilinear(xy, height, width)
    assert idx.min() >= 0 and idx.max() < height * width and (weights >= 0).all()
    mine = (picture.flatten(1)[:, idx.long()] * weights).sum(-1)
    theirs = F.grid_sample(picture[None], (2 * xy / size - 1)[None, None], align_corners=False)[0, :, 0]
    torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=0)


def test_nowhere_weighs_nothing():
    assert not bilinear(torch.full((3, 2), math.nan), 4, 5)[1].any()


@pytest.mark.parametrize("lead", [(), (2,), (1, 2)])
def test_leading_dimensions(lead, dtype):
    src, dst = (c.to(dtype) for c in random_pair(3))
    xy = pixel_grid(24, 32, dtype).flatten(0, 1)[::50]
    features = torch.randn(4, 24, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)
    one = sample_epipolar(features, epipolar_segments(src, dst, xy, 0.5, 9.0), 7)

    def many(c):
        return Camera(c.K.expand(*lead, 3, 3), c.c2w.expand(*lead, 4, 4), c.height, c.width)

    segments = epipolar_segments(many(src), many(dst), xy, torch.full(lead, 0.5, dtype=dtype), 9.0)
    found = sample_epipolar(features.expand(*lead, -1, -1, -1), segments, 7)
    assert found.features.shape == (*lead, len(xy), 7, 4) and found.features.dtype == found.t.dtype == dtype
    torch.testing.assert_close(found.features, one.features.expand(found.features.shape))
    torch.testing.assert_close(found.t, one.t.expand(found.t.shape), equal_nan=True)
    shared = sample_epipolar(features, segments, 7)  # one map for all
    torch.testing.assert_close(shared.features, found.features)


def test_several_views_are_the_pairs_one_by_one():
    poses = (
        torch.stack([random_pair(seed)[i].c2w for seed in (1, 2) for i in (0, 1)] + [random_pair(5)[0].c2w] * 2)
        .view(2, 3, 4, 4)
        .clone()
    )
    poses[1, 2, 0, 3] += 0.3
    views = Camera(intrinsics_from_fov(70.0, 6, 8, dtype=torch.float64), poses, 6, 8)
    near = torch.tensor([0.5, 0.7], dtype=torch.float64)
    together = view_segments(views, near, 12.0)
    assert together.valid.shape == (2, 3, 2, 48)
    for b in range(2):
        for i in range(3):
            for k, j in enumerate(n for n in range(3) if n != i):
                alone = epipolar_segments(
                    views[b, i], views[b, j], pixel_grid(6, 8, torch.float64).flatten(0, 1), float(near[b]), 12.0
                )
                torch.testing.assert_close(together.xy_min[b, i, k], alone.xy_min, equal_nan=True)
                torch.testing.assert_close(together.ends[b, i, k], alone.ends, equal_nan=True)


def test_a_smaller_feature_map_is_scaled_to_the_picture():
    src, dst = camera((0.0, -3.0, 0.0)), camera((0.6, -3.0, 0.4))
    found = epipolar_segments(src, dst, torch.tensor([[16.0, 12.0]], dtype=torch.float64), 0.5, 9.0)
    across = (torch.arange(8, dtype=torch.float64) + 0.5) * 4  # a ramp: the value is the pixel's own x, in pixels of the picture
    ramp = across.expand(1, 6, 8)
    samples = sample_epipolar(ramp, found, 16)
    middle = (samples.xy[..., 0] > 2) & (samples.xy[..., 0] < 30) & (samples.xy[..., 1] > 2) & (samples.xy[..., 1] < 22)
    assert middle.any()
    torch.testing.assert_close(samples.features[..., 0][middle], samples.xy[..., 0][middle])


def test_gradients():
    src, dst = (c.resized(5, 6) for c in random_pair(4))
    xy = pixel_grid(5, 6, torch.float64).flatten(0, 1)[::4]
    maps = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: sample_epipolar(m, epipolar_segments(src, dst, xy, 0.5, 9.0), 3).features, maps)

    def with_focal(scale):
        K = torch.cat([dst.K[:2] * torch.stack([scale, scale, scale.new_ones(())]), dst.K[2:]])
        samples = sample_epipolar(maps.detach(), epipolar_segments(src, Camera(K, dst.c2w, 5, 6), xy[:2], 0.5, 9.0), 3)
        return samples.features, samples.t[samples.valid]

    assert torch.autograd.gradcheck(with_focal, torch.ones((), dtype=torch.float64, requires_grad=True))


# --- degenerate pairs


def test_moving_forward_has_its_epipole_inside():
    src, dst = camera((0.0, -3.0, 0.0)), camera((0.0, -2.0, 0.0))
    found = epipolar_segments(src, dst, pixel_grid(24, 32, torch.float64).flatten(0, 1), 0.5, 50.0)
    middle, valid = torch.tensor([16.0, 12.0], dtype=torch.float64), found.valid
    assert valid.float().mean() > 0.5
    near, far = ((end - middle)[valid].norm(dim=-1) for end in (found.xy_min, found.xy_max))
    assert (far < near).all()  # they run towards the epipole, where the camera comes from and goes to


def test_cameras_back_to_back_see_nothing_of_each_other():
    src, dst = camera((0.0, -3.0, 0.0)), camera((0.3, -3.0, 0.0), (0.3, -9.0, 0.0))
    found = epipolar_segments(src, dst, pixel_grid(24, 32, torch.float64).flatten(0, 1), 0.5, 50.0)
    assert not found.valid.any() and found.xy_min.isnan().all() and found.t_max.isnan().all()
    samples = sample_epipolar(torch.randn(3, 24, 32, dtype=torch.float64), found, 5)
    assert not samples.features.any() and samples.t.isnan().all()


def test_parallel_cameras_see_the_vanishing_point_at_infinity():
    src, dst = camera((0.0, -3.0, 0.0), (0.0, 0.0, 0.0)), camera((0.5, -3.0, 0.0), (0.5, 0.0, 0.0))
    xy = torch.tensor([[16.0, 12.0], [20.0, 7.0]], dtype=torch.float64)
    found = epipolar_segments(src, dst, xy, 0.5, math.inf)
    torch.testing.assert_close(found.xy_max, xy)  # the same pixel, as for a star
    assert found.t_max.isinf().all() and segment_points(found, 9)[1].isfinite().all()


def test_no_rays_is_a_defined_case():
    src, dst = random_pair(1)
    found = epipolar_segments(src, dst, torch.empty(0, 2, dtype=torch.float64), 0.5, 9.0)
    assert found.valid.shape == (0,) and sample_epipolar(
        torch.randn(2, 24, 32, dtype=torch.float64), found, 4
    ).features.shape == (0, 4, 2)


# --- bad input


def bad(**changes):
    src, dst = random_pair(2)
    return {"src": src, "dst": dst, "xy": pixel_grid(24, 32, torch.float64).flatten(0, 1), "near": 0.5, "far": 9.0, **changes}


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(near=0.0), "near: expected depths > 0"),
        (dict(near=-1.0), "near: expected depths > 0"),
        (dict(near=math.nan), "near: expected depths > 0"),
        (dict(near=9.0), "near, far: expected near < far, got near 9, far 9"),
        (dict(near=10.0), "near < far"),
        (dict(far=torch.ones(3, dtype=torch.float64) * 9), "near, far: expected one each"),
        (dict(far=torch.tensor(9.0)), "dtype"),
        (dict(xy=torch.full((4, 2), math.nan, dtype=torch.float64)), "xy: expected finite numbers"),
        (dict(xy=torch.zeros(4, 3, dtype=torch.float64)), r"xy: expected shape \(..., r, 2\), got \(4, 3\)"),
        (dict(xy=torch.zeros(4, 2)), "expected one dtype"),
        (dict(dst=random_pair(2)[0]), "src, dst: expected cameras in different places, got a baseline of zero for 1 of 1"),
    ],
)
def test_segments_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        epipolar_segments(**bad(**changes))


@pytest.mark.parametrize(
    "changes,message", [(dict(src=None), "src: expected a Camera"), (dict(near="1"), "near"), (dict(far=True), "far")]
)
def test_segments_refuse_other_types(changes, message):
    with pytest.raises(TypeError, match=message):
        epipolar_segments(**bad(**changes))


def segments_of(**changes) -> EpipolarSegments:
    return epipolar_segments(**bad(**changes))


@pytest.mark.parametrize(
    "features,message",
    [
        (torch.full((2, 24, 32), math.nan, dtype=torch.float64), "features: expected finite numbers"),
        (torch.zeros(2, 24, 31, dtype=torch.float64), "features: expected the proportions of the segments' 24 x 32 image"),
        (torch.zeros(24, 32, dtype=torch.float64), "features: expected shape"),
        (torch.zeros(5, 2, 24, 32, dtype=torch.float64), "features: expected leading dimensions"),
    ],
)
def test_samples_refuse(features, message):
    with pytest.raises(ValueError, match=message):
        sample_epipolar(features, segments_of(), 8)


@pytest.mark.parametrize("num", [0, -1, 2.5])
def test_samples_refuse_their_number(num):
    with pytest.raises(ValueError, match="num_samples: expected a whole number >= 1"):
        sample_epipolar(torch.zeros(2, 24, 32, dtype=torch.float64), segments_of(), num)


def test_one_view_has_nobody_to_look_into():
    src, _ = random_pair(2)
    for alone in (src, Camera(src.K[None], src.c2w[None], 24, 32)):
        with pytest.raises(ValueError, match="v >= 2 views"):
            view_segments(alone, 0.5, 9.0)
    with pytest.raises(ValueError, match="num"):
        other_views(1)


def test_cameras_of_different_size_are_a_pair_like_any_other():
    src, dst = random_pair(2)
    found = epipolar_segments(src, dst.resized(12, 16), bad()["xy"], 0.5, 9.0)
    torch.testing.assert_close(found.xy_max * 2, segments_of().xy_max, equal_nan=True)
    assert (found.height, found.width) == (12, 16)


# --- parts


def test_parts_cover_all_pixels_once():
    for total, each in ((10, 2**19), (7, 2**30), (5, 0), (0, 3), (2**21, 1)):
        covered = [i for part in parts(total, each) for i in (part.start, part.stop)]
        assert covered[::2] == [0, *covered[1::2]][: len(covered) // 2] and (not total or covered[-1] == total)


def test_some_segments_are_those_of_some_pixels():
    whole = segments_of()
    some = some_segments(whole, slice(100, 130))
    torch.testing.assert_close(segment_points(some, 5)[1], segment_points(whole, 5)[1][100:130], equal_nan=True)


# --- real input


@pytest.fixture(scope="module")
def motorcycle_pair():
    return motorcycle()


def test_the_motorcycles_true_matches_lie_on_the_segments(motorcycle_pair):
    left, right = motorcycle_pair
    known = left.depth.isfinite()
    xy, points = pixel_grid(500, 741)[known][::7], left.camera.unproject(left.depth)[known][::7]
    (match, z), t = right.camera.project(points), points.norm(dim=-1)
    seen = inside(match, z, right.camera)
    found = epipolar_segments(left.camera, right.camera, xy, 1.8, 8.0)
    assert found.valid[seen].all()
    share = ((match - found.xy_min) * (found.xy_max - found.xy_min)).sum(-1) / (found.xy_max - found.xy_min).square().sum(-1)
    on_it = torch.lerp(found.xy_min, found.xy_max, share.clamp(0, 1)[:, None])
    assert (on_it - match)[seen].norm(dim=-1).mean() < 1e-3  # the bar is 0.3 px
    samples, at = segment_points(found, 64)
    nearest = (samples - match[:, None]).norm(dim=-1).nan_to_num(math.inf).argmin(-1, keepdim=True)
    ends = torch.cat([found.t_min[:, None], at, found.t_max[:, None]], -1)
    spacing = ends.diff(dim=-1).gather(-1, torch.cat([nearest, nearest + 1], -1)).amax(-1)
    assert ((at.gather(-1, nearest)[:, 0] - t).abs() <= spacing * (1 + 1e-4))[seen].all()


def test_matching_by_attention_beats_any_constant(motorcycle_pair):
    left, right = (resize_view(view, 83, 123) for view in motorcycle_pair)
    read = match_depth(left, right, 1.8, 8.0, num_samples=48)
    assert read.depth.shape == (83, 123) and read.weights.shape == (83, 123, 48)
    seen = left.depth.isfinite() & read.depth.isfinite()
    constant = torch.full_like(left.depth, float(left.depth[seen].median()))
    found, best = (depth_errors(depth, left.depth, seen).abs_rel for depth in (read.depth, constant))
    assert found < 0.6 * best
    torch.testing.assert_close(read.weights.sum(-1)[seen], torch.ones(int(seen.sum())))


def test_patch_features_are_normalised_cross_correlation():
    g = torch.Generator().manual_seed(0)
    image = torch.rand(3, 12, 14, generator=g)
    found = patch_features(image, 5)
    brighter = patch_features(0.5 * image + 0.2, 5)
    assert found.shape == (75, 12, 14)
    torch.testing.assert_close((found * brighter).sum(0), torch.ones(12, 14), atol=1e-4, rtol=0)
    assert patch_features(torch.full((3, 9, 9), 0.3), 3).abs().max() < 1e-5  # no pattern, no direction
    with pytest.raises(ValueError, match="side: expected an odd number"):
        patch_features(image, 4)
