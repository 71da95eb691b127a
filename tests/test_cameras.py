"""Cameras: the originals' numbers, round trips over random cameras, gradients, and what wrong numbers are answered with."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvs_book.cameras import (
    Camera,
    backproject,
    crop_intrinsics,
    denormalize_intrinsics,
    epipolar_line,
    from_colmap,
    from_pytorch3d,
    intrinsics,
    intrinsics_from_fov,
    invert_pose,
    look_at,
    normalize_intrinsics,
    opencv_from_opengl,
    opengl_from_opencv,
    orbit,
    perspective,
    pixel_grid,
    plucker,
    rays_through,
    relative_pose,
    resize_intrinsics,
    spherical_pose,
    stack_cameras,
    to_colmap,
    to_pytorch3d,
    transform_points,
)
from nvs_book.checks import golden

BATCHES = [(), (2,), (1, 2)]


def random_pose(*batch, generator):
    "Random rigid motions, float64."
    q, r = torch.linalg.qr(torch.randn(*batch, 3, 3, generator=generator, dtype=torch.float64))
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[..., None, :]
    q = q * torch.linalg.det(q)[..., None, None]
    pose = torch.eye(4, dtype=torch.float64).repeat(*batch, 1, 1)
    pose[..., :3, :3], pose[..., :3, 3] = q, torch.randn(*batch, 3, generator=generator, dtype=torch.float64)
    return pose


def random_camera(*batch, seed=0, height=12, width=16):
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(*batch, 4, generator=g, dtype=torch.float64)
    K = torch.eye(3, dtype=torch.float64).repeat(*batch, 1, 1)
    K[..., 0, 0], K[..., 1, 1] = width * (0.6 + u[..., 0]), width * (0.6 + u[..., 1])
    K[..., 0, 2], K[..., 1, 2] = width * (0.3 + 0.4 * u[..., 2]), height * (0.3 + 0.4 * u[..., 3])
    return Camera(K, random_pose(*batch, generator=g), height, width)


# --- the originals' numbers ------------------------------------------------------------


def test_pytorch3d_cameras():
    "golden p3d_cameras: 1e-3 px, 1e-5 else."
    g = golden("p3d_cameras")
    w2c = torch.eye(4).repeat(len(g["R_w2c"]), 1, 1)
    w2c[:, :3, :3], w2c[:, :3, 3] = g["R_w2c"], g["t_w2c"]
    camera = Camera(g["K_px"], invert_pose(w2c), int(g["height"]), int(g["width"]))
    xy, z = camera.project(g["points_world"])
    assert (xy - g["points_screen_px"][..., :2]).abs().max() < 1e-3
    there = to_pytorch3d(camera)
    names = {"R": "p3d_R", "T": "p3d_T", "focal_length": "p3d_focal_ndc", "principal_point": "p3d_principal_ndc"}
    for ours, theirs in names.items():
        torch.testing.assert_close(there[ours], g[theirs], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(camera.center, g["centre_world"], atol=1e-5, rtol=1e-5)
    cam = transform_points(camera.w2c, g["points_world"]) * torch.tensor([-1.0, -1, 1])
    ndc = there["focal_length"][:, None] * cam[..., :2] / cam[..., 2:] + there["principal_point"][:, None]
    torch.testing.assert_close(ndc, g["points_ndc"][..., :2], atol=1e-4, rtol=1e-4)


def test_pytorch3d_look_at():
    "golden p3d_look_at (its world has y up): 1e-5."
    g = golden("p3d_look_at")
    c2w = look_at(g["centre_world"], torch.zeros(3), up=(0.0, 1, 0))
    there = to_pytorch3d(Camera(intrinsics_from_fov(60, 48, 64), c2w, 48, 64))
    torch.testing.assert_close(there["R"], g["p3d_R"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(there["T"], g["p3d_T"], atol=1e-5, rtol=1e-5)


def test_pixelsplat_projection():
    "golden pixelsplat_projection: projection, unprojection, rays, pixel grid, field of view: 1e-4."
    g = golden("pixelsplat_projection")
    height, width = g["grid_shape_hw"].tolist()
    size = torch.tensor([width, height])
    camera = Camera(denormalize_intrinsics(g["intrinsics_normalized"], height, width), g["extrinsics_c2w"], height, width)
    xy, z = camera[0].project(g["points_world"])
    assert torch.equal(z >= 0, g["project_cam0_in_front"])
    torch.testing.assert_close((xy / size)[z > 0.05], g["project_cam0_xy"][z > 0.05], atol=1e-4, rtol=1e-4)
    seen = backproject(camera.K[0], g["coordinates_uv"] * size) * g["z"][:, None]
    torch.testing.assert_close(seen, g["unproject_cam0"], atol=1e-4, rtol=1e-4)
    for i, uv in ((0, "coordinates_uv"), (1, "rays_cam1_uv")):
        origins, directions = rays_through(camera[i], g[uv] * size)
        torch.testing.assert_close(origins, g[f"rays_cam{i}_origins"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(directions, g[f"rays_cam{i}_directions"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pixel_grid(height, width) / size, g["sample_image_grid_xy"], atol=1e-6, rtol=0)


def test_pytorch3d_itself():
    "Our points through PyTorch3D's own camera, where it is installed."
    pytorch3d = pytest.importorskip("pytorch3d.renderer", reason="PyTorch3D is not installed")
    camera = random_camera(3, seed=3).to(torch.float32)
    points = transform_points(camera.c2w, torch.rand(3, 50, 3) + torch.tensor([-0.5, -0.5, 1.5]))
    theirs = pytorch3d.PerspectiveCameras(**to_pytorch3d(camera)).transform_points_screen(points)
    torch.testing.assert_close(theirs[..., :2], camera.project(points)[0], atol=1e-3, rtol=1e-4)


# --- properties ------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
def test_round_trip(batch):
    camera = random_camera(*batch, seed=1)
    depth = 0.5 + torch.rand(*batch, 12, 16, dtype=torch.float64)
    points = camera.unproject(depth)
    assert points.shape == (*batch, 12, 16, 3)
    xy, z = camera.project(points)
    torch.testing.assert_close(xy, pixel_grid(12, 16, torch.float64).expand(*batch, -1, -1, -1))
    torch.testing.assert_close(z, depth)
    origins, directions = camera.rays()
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones_like(depth))
    t = (points - origins).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(origins + t * directions, points)
    assert plucker(camera).shape == (*batch, 12, 16, 6)


SIZES, CORNERS = st.tuples(st.integers(3, 40), st.integers(3, 40)), st.tuples(st.integers(-5, 8), st.integers(-5, 8))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), SIZES, CORNERS)
def test_resize_and_crop_keep_the_picture(seed, new, corner):
    camera = random_camera(seed=seed)
    points = transform_points(camera.c2w, torch.tensor([[0.1, -0.2, 2.0], [0.4, 0.3, 1.0]], dtype=torch.float64))
    xy = camera.project(points)[0]
    scale = torch.tensor([new[1] / 16, new[0] / 12], dtype=torch.float64)
    torch.testing.assert_close(camera.resized(*new).project(points)[0], xy * scale)
    top, left = corner
    cropped = camera.cropped(top, left, 20, 20).project(points)[0]
    torch.testing.assert_close(cropped, xy - torch.tensor([left, top], dtype=torch.float64))
    torch.testing.assert_close(camera.resized(*new).resized(12, 16).K, camera.K)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.sampled_from(BATCHES))
def test_borders_return_what_crossed_them(seed, batch):
    camera = random_camera(*batch, seed=seed)
    torch.testing.assert_close(opencv_from_opengl(opengl_from_opencv(camera.c2w)), camera.c2w)
    torch.testing.assert_close(from_colmap(*to_colmap(camera.c2w)), camera.c2w)
    torch.testing.assert_close(denormalize_intrinsics(normalize_intrinsics(camera.K, 12, 16), 12, 16), camera.K)
    back = from_pytorch3d(**to_pytorch3d(camera))
    torch.testing.assert_close(back.c2w, camera.c2w.reshape(-1, 4, 4))
    torch.testing.assert_close(back.K, camera.K.reshape(-1, 3, 3))
    assert torch.allclose(camera.w2c @ camera.c2w, torch.eye(4, dtype=torch.float64), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_point_lies_on_its_epipolar_line(seed):
    g = torch.Generator().manual_seed(seed)
    eyes = 4 * torch.nn.functional.normalize(torch.randn(2, 3, generator=g, dtype=torch.float64), dim=-1)
    src, dst = (Camera(intrinsics_from_fov(60, 48, 64, torch.float64), look_at(eye, torch.zeros(3)), 48, 64) for eye in eyes)
    points = torch.randn(100, 3, generator=g, dtype=torch.float64)
    (xy_0, z_0), (xy_1, z_1) = src.project(points), dst.project(points)
    seen = (z_0 > 0.1) & (z_1 > 0.1) & ((xy_1 > 0) & (xy_1 < torch.tensor([64, 48]))).all(-1)
    ends = epipolar_line(src, dst, xy_0[seen])
    assert not ends.isnan().any()
    a, b = ends.unbind(-2)
    assert ((ends > -1e-6) & (ends < torch.tensor([64, 48], dtype=torch.float64) + 1e-6)).all()
    length = (b - a).norm(dim=-1)
    across = ((xy_1[seen] - a) * (b - a).flip(-1) * torch.tensor([1.0, -1])).sum(-1).abs() / length.clamp(min=1e-9)
    assert (across[length > 1e-3] < 1e-6).all()


def test_epipolar_line_of_a_ray_that_is_never_seen():
    src = Camera(intrinsics_from_fov(40, 48, 64), torch.eye(4), 48, 64)
    behind = Camera(src.K, look_at(torch.tensor([0.0, 0, -3]), torch.tensor([0.0, 0, -9]), up=(0.0, -1, 0)), 48, 64)
    assert epipolar_line(src, behind, torch.tensor([[32.0, 24]])).isnan().all()


def test_relative_pose_maps_between_the_frames():
    a, b = random_camera(seed=5).c2w, random_camera(seed=6).c2w
    point = torch.randn(7, 3, dtype=torch.float64)
    in_a, in_b = (transform_points(invert_pose(pose), point) for pose in (a, b))
    torch.testing.assert_close(transform_points(relative_pose(a, b), in_a), in_b)


def test_spherical_pose_is_look_at_where_that_exists():
    polar, azimuth = torch.tensor([20.0, 90, 150]), torch.tensor([0.0, 130, -70])
    pose = spherical_pose(2.5, polar, azimuth)
    torch.testing.assert_close(pose, look_at(pose[:, :3, 3], torch.zeros(3)), atol=1e-5, rtol=1e-5)
    above = spherical_pose(2.5, 0.0, 30.0)
    torch.testing.assert_close(above[:3, 3], torch.tensor([0.0, 0, 2.5]))
    torch.testing.assert_close(torch.linalg.det(above[:3, :3]), torch.tensor(1.0))
    ring = orbit(6, 2.0, 30.0, target=(1.0, 0, 0.5))
    torch.testing.assert_close((ring[:, :3, 3] - torch.tensor([1.0, 0, 0.5])).norm(dim=-1), torch.full((6,), 2.0))


def test_a_turned_world_changes_nothing():
    "SE(3) invariance: moving the world and the camera together moves no pixel."
    camera, move = random_camera(seed=7), random_camera(seed=8).c2w
    points = transform_points(camera.c2w, torch.rand(20, 3, dtype=torch.float64) + 0.5)
    moved = Camera(camera.K, move @ camera.c2w, 12, 16)
    torch.testing.assert_close(moved.project(transform_points(move, points)), camera.project(points))


def test_batches_index_stack_and_move():
    camera = random_camera(3, seed=2)
    again = stack_cameras([camera[i] for i in range(3)])
    torch.testing.assert_close(again.c2w, camera.c2w)
    assert camera[1:].batch_shape == (2,) and camera[0].batch_shape == () and camera.to(torch.float32).dtype == torch.float32
    shared = Camera(camera.K[0], camera.c2w, 12, 16)  # one K, three poses
    assert shared.K.shape == (3, 3, 3)
    with pytest.raises(IndexError, match="single camera"):
        camera[0][0]


def test_points_at_and_behind_the_camera_are_finite():
    camera = Camera(intrinsics_from_fov(60, 48, 64), torch.eye(4), 48, 64)
    points = torch.tensor([[0.0, 0, 0], [1, 1, 0], [0.5, 0.3, -2]], requires_grad=True)
    xy, z = camera.project(points)
    xy.sum().backward()
    assert torch.isfinite(xy).all() and torch.isfinite(points.grad).all() and (z <= 0).all()


# --- gradients ------------------------------------------------------------


def test_gradients():
    camera = random_camera(seed=4, height=3, width=4)
    seen = torch.rand(5, 3, dtype=torch.float64) + torch.tensor([-0.5, -0.5, 1.0])
    points = transform_points(camera.c2w, seen).requires_grad_()
    depth = (1 + torch.rand(3, 4, dtype=torch.float64)).requires_grad_()
    K, t = camera.K.clone().requires_grad_(), torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def moved(t):
        return torch.cat([torch.cat([camera.c2w[:3, :3], (camera.c2w[:3, 3] + t)[:, None]], 1), camera.c2w[3:]])

    def project(points, K, t):
        K = torch.cat([K[:2] * torch.tensor([[1.0, 0, 1], [0, 1, 1]]), camera.K[2:]])
        return Camera(K, moved(t), 3, 4).project(points)

    check = torch.autograd.gradcheck
    assert check(project, (points, K, t))
    assert check(camera.unproject, (depth,))
    assert check(lambda eye: look_at(eye, torch.zeros(3)), (torch.randn(2, 3, dtype=torch.float64, requires_grad=True),))
    assert check(lambda p: perspective(camera.K, p), (torch.rand(4, 3, dtype=torch.float64).add(0.5).requires_grad_(),))


def test_nan_depth_gives_nan_points_and_no_other():
    camera, depth = random_camera(seed=9), torch.ones(12, 16, dtype=torch.float64)
    depth[2, 3] = torch.nan
    assert torch.equal(camera.unproject(depth).isnan().any(-1), depth.isnan())


# --- bad input ------------------------------------------------------------

GOOD_K, GOOD_POSE = intrinsics(60.0, 60.0, 32.0, 24.0), torch.eye(4)


def pose_with(i, j, value):
    pose = torch.eye(4)
    pose[i, j] = value
    return pose


@pytest.mark.parametrize("K, c2w, message", [
    (GOOD_K, 2 * torch.eye(4) - torch.diag(torch.tensor([0.0, 0, 0, 1])), r"c2w: .*scale baked in"),
    (GOOD_K, torch.diag(torch.tensor([1.0, 1, -1, 1])), r"c2w: .*reflection"),
    (GOOD_K, pose_with(3, 0, 2.0), r"c2w: .*transposed"),
    (GOOD_K, pose_with(0, 3, torch.nan), r"c2w: .*NaN"),
    (GOOD_K, torch.eye(3), r"c2w: expected shape \(\.\.\., 4, 4\), got \(3, 3\)"),
    (intrinsics(1.1, 1.4, 0.5, 0.5), GOOD_POSE, r"K: .*divided by the image size"),
    (intrinsics(-60.0, 60.0, 32.0, 24.0), GOOD_POSE, r"K: .*focal lengths > 0"),
    (GOOD_K.T.contiguous(), GOOD_POSE, r"K: .*transposed"),
    (torch.tensor([[60.0, 0, math.inf], [0, 60, 24], [0, 0, 1]]), GOOD_POSE, r"K: .*infinite"),
    (intrinsics(1.2, 1.2, -0.1, 0.5), GOOD_POSE, r"K: .*divided by the image size"),
    (GOOD_K.to("meta"), GOOD_POSE, r"K, c2w: expected one device, got K meta, c2w cpu"),
    (GOOD_K.expand(2, 3, 3), GOOD_POSE.expand(3, 4, 4), r"K, c2w: .*K \(2,\), c2w \(3,\)"),
    (GOOD_K.double(), GOOD_POSE, r"K, c2w: expected one dtype"),
])
def test_a_wrong_camera_is_refused(K, c2w, message):
    with pytest.raises(ValueError, match=message):
        Camera(K, c2w, 48, 64)


@pytest.mark.parametrize("call, error, message", [
    (lambda c: Camera(GOOD_K, GOOD_POSE, 0, 64), ValueError, "height"),
    (lambda c: Camera(GOOD_K, GOOD_POSE, 48, 6.5), ValueError, "width"),
    (lambda c: Camera(GOOD_K.tolist(), GOOD_POSE, 48, 64), TypeError, "K"),
    (lambda c: c.project(torch.zeros(5, 2)), ValueError, "points_world"),
    (lambda c: c.project(torch.full((5, 3), torch.nan)), ValueError, "points_world"),
    (lambda c: c.project(torch.zeros(5, 3, dtype=torch.float64)), ValueError, "dtype"),
    (lambda c: Camera(GOOD_K.expand(2, 3, 3), GOOD_POSE, 48, 64).project(torch.zeros(5, 3)), ValueError, "broadcast"),
    (lambda c: c.unproject(torch.zeros(48, 64)), ValueError, "NaN where it is unknown"),
    (lambda c: c.unproject(torch.ones(64, 48)), ValueError, "depth"),
    (lambda c: look_at(torch.tensor([0.0, 0, 3]), torch.zeros(3)), ValueError, "up"),
    (lambda c: look_at(torch.zeros(3), torch.zeros(3)), ValueError, "target"),
    (lambda c: spherical_pose(-1.0, 40.0, 0.0), ValueError, "radius"),
    (lambda c: orbit(0, 1.0), ValueError, "num"),
    (lambda c: intrinsics_from_fov(180, 48, 64), ValueError, "fov_deg"),
    (lambda c: from_colmap(torch.tensor([2.0, 0, 0, 0]), torch.zeros(3)), ValueError, "qvec"),
    (lambda c: stack_cameras([c, c.resized(10, 10)]), ValueError, "cameras"),
    (lambda c: stack_cameras([]), ValueError, "cameras"),
    (lambda c: relative_pose(torch.eye(4), torch.eye(4).double()), ValueError, "dtype"),
    (lambda c: resize_intrinsics(GOOD_K, (48, 64), (0, 64)), ValueError, "new"),
    (lambda c: resize_intrinsics(GOOD_K.tolist(), (48, 64), (4, 64)), TypeError, "K"),
    (lambda c: crop_intrinsics(GOOD_K, math.nan, 0), ValueError, "top"),
    (lambda c: Camera(GOOD_K, GOOD_POSE, 48.0, 64), ValueError, "height: expected a whole number"),
    (lambda c: c.unproject(torch.full((48, 64), math.inf)), ValueError, "depth"),
    (lambda c: c.project(torch.zeros(5, 3, device="meta")), ValueError, "device"),
    (lambda c: intrinsics(math.nan, 1.0, 1.0, 1.0), ValueError, "fx"),
    (lambda c: intrinsics_from_fov(45, 0, 0), ValueError, "height"),
    (lambda c: look_at(torch.rand(2, 3), torch.rand(3, 3) + 2), ValueError, r"eye \(2,\), target \(3,\)"),
    (lambda c: spherical_pose(torch.ones(2), torch.ones(3), 0.0), ValueError, "radius"),
    (lambda c: orbit(3, 1.0, target=(0.0, 0.0)), ValueError, "target"),
    (lambda c: orbit(3, 1.0, target=(math.nan, 0.0, 0.0)), ValueError, "target"),
    (lambda c: rays_through(c, torch.zeros(5, 2).double()), ValueError, "xy, camera: expected one dtype"),
    (lambda c: rays_through(stack_cameras([c, c]), torch.zeros(3, 5, 2)), ValueError, r"xy \(3,\)"),
    (lambda c: rays_through(None, torch.zeros(5, 2)), TypeError, "camera: expected a Camera, got NoneType"),
    (lambda c: plucker(None), TypeError, "camera"),
    (lambda c: to_pytorch3d(None), TypeError, "camera"),
    (lambda c: epipolar_line(c, None, torch.zeros(5, 2)), TypeError, "dst"),
    (lambda c: stack_cameras([c, None]), TypeError, r"cameras\[1\]"),
    (lambda c: stack_cameras([c, c.to(torch.float64)]), ValueError, "dtype"),
    (lambda c: stack_cameras([c, stack_cameras([c])]), ValueError, "batch shape"),
    (lambda c: invert_pose(torch.eye(3)), ValueError, "pose"),
    (lambda c: transform_points(torch.eye(4), [1.0, 2.0, 3.0]), TypeError, "points"),
    (lambda c: opencv_from_opengl(torch.full((4, 4), math.nan)), ValueError, "c2w"),
    (lambda c: opengl_from_opencv(torch.eye(3)), ValueError, "c2w"),
    (lambda c: normalize_intrinsics(GOOD_K, 0, 64), ValueError, "height"),
    (lambda c: denormalize_intrinsics(GOOD_K, 48, 64), ValueError, "looks like pixels"),
    (lambda c: from_pytorch3d(**{**to_pytorch3d(c), "image_size": torch.ones(3)}), ValueError, "image_size"),
])
def test_bad_input_names_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call(Camera(GOOD_K, GOOD_POSE, 48, 64))


def test_rays_far_from_the_origin_stay_unit():
    "A pose in map coordinates, 1e6 m from the origin: the rays are those of the same camera at the origin."
    far = GOOD_POSE.clone()
    far[0, 3] = 1e6
    xy = pixel_grid(48, 64).reshape(-1, 2)
    here, there = (rays_through(Camera(GOOD_K, pose, 48, 64), xy)[1] for pose in (GOOD_POSE, far))
    torch.testing.assert_close(there, here, atol=1e-6, rtol=0)


def test_a_quaternion_serves_many_translations():
    c2w = from_colmap(torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4), torch.zeros(3))
    torch.testing.assert_close(c2w, torch.eye(4).expand(2, 4, 4))


def test_an_empty_batch_is_a_batch():
    none = Camera(GOOD_K.expand(0, 3, 3), GOOD_POSE, 48, 64)
    assert none.unproject(torch.ones(0, 48, 64)).shape == (0, 48, 64, 3)


def test_crop_moves_the_principal_point_only():
    torch.testing.assert_close(crop_intrinsics(GOOD_K, 4, 7), intrinsics(60.0, 60.0, 25.0, 20.0))


def test_autocast_does_not_touch_geometry():
    turned = Camera(intrinsics(90.0, 100.0, 31.0, 25.0), look_at(torch.tensor([2.1, -1.3, 0.7]), torch.zeros(3)), 48, 64)
    depth, other = torch.full((48, 64), 3.3), look_at(torch.tensor([1.7, 2.2, 1.1]), torch.zeros(3))

    def all_of_it():
        camera = Camera(turned.K, turned.c2w, 48, 64)  # checked again
        points = camera.unproject(depth)
        return points, *camera.project(points + 0.1), *camera.rays(), camera.w2c, relative_pose(camera.c2w, other)

    exact = all_of_it()
    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.eye(4) @ turned.c2w).dtype == torch.bfloat16  # what it does to a product elsewhere
        for a, b in zip(exact, all_of_it(), strict=True):
            assert torch.equal(a, b)
