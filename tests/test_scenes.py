"Views, the motorcycle, procedural worlds and the data sets made of them."
import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvs_book.cameras import Camera, intrinsics_from_fov, look_at, spherical_pose, stack_cameras
from nvs_book.scenes import (
    BASELINE,
    CX,
    CX_SHIFT,
    CY,
    FOCAL,
    KINDS,
    MultiViewDataset,
    PairDataset,
    ProceduralWorld,
    View,
    carry_disparity,
    collect,
    draw_shapes,
    motorcycle,
    reproject,
    rounded_distance,
    rounded_normal,
    sphere_trace,
    stack_views,
    uniforms,
)


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


def camera_at(azimuth=160.0, size=64, radius=3.4, polar=62.0, fov=45.0, dtype=torch.float32):
    return Camera(intrinsics_from_fov(fov, size, size), spherical_pose(radius, polar, azimuth), size, size).to(dtype)


@pytest.fixture(scope="module")
def pair():
    return motorcycle()


# --- View ---

CAMERA = Camera(intrinsics_from_fov(60, 4, 6), torch.eye(4).repeat(5, 1, 1), 4, 6)
IMAGE = torch.linspace(0, 1, 5 * 3 * 4 * 6).view(5, 3, 4, 6)


@pytest.mark.parametrize(("error", "argument", "change"), [
    (ValueError, "image", dict(image=255 * IMAGE)),
    (ValueError, "image", dict(image=-IMAGE)),
    (ValueError, "image", dict(image=IMAGE.where(IMAGE > 0, torch.nan))),
    (ValueError, "image", dict(image=IMAGE.permute(0, 2, 3, 1))),
    (TypeError, "image", dict(image=(255 * IMAGE).byte())),
    (TypeError, "image", dict(image=IMAGE.numpy())),
    (TypeError, "camera", dict(camera=CAMERA.K)),
    (ValueError, "image", dict(camera=CAMERA.resized(8, 12))),
    (ValueError, "camera", dict(camera=CAMERA[:3])),
    (ValueError, "camera", dict(camera=CAMERA.to(torch.float64))),
    (ValueError, "depth", dict(depth=torch.zeros(5, 4, 6))),
    (ValueError, "depth", dict(depth=torch.full((5, 4, 6), math.inf))),
    (ValueError, "depth", dict(depth=torch.ones(5, 6, 4))),
    (ValueError, "depth", dict(depth=torch.ones(4, 6))),
    (ValueError, "depth", dict(depth=torch.ones(5, 4, 6, dtype=torch.float64))),
    (TypeError, "mask", dict(mask=torch.ones(5, 4, 6))),
    (ValueError, "mask", dict(mask=torch.ones(5, 4, 7, dtype=torch.bool))),
])
def test_view_names_what_is_wrong(error, argument, change):
    with pytest.raises(error, match=argument):
        View(**{**dict(image=IMAGE, camera=CAMERA), **change})


def test_view_takes_unknown_depth_and_one_camera_for_all():
    depth = torch.ones(5, 4, 6)
    depth[0, 0, 0] = torch.nan
    view = View(IMAGE, CAMERA[0], depth, depth > 0)
    assert view.batch_shape == (5,) and view[1].camera.batch_shape == ()
    double = view.to(torch.float64)
    assert double.image.dtype == double.depth.dtype == double.camera.dtype == torch.float64 and double.mask.dtype == torch.bool


def test_view_index_and_stack_are_inverse():
    view = View(IMAGE, CAMERA, 1 + IMAGE[:, 0], IMAGE[:, 0] > 0.5)
    again = stack_views([view[i] for i in range(5)])
    for name in ("image", "depth", "mask"):
        assert torch.equal(getattr(again, name), getattr(view, name))
    assert torch.equal(again.camera.c2w, view.camera.c2w)
    with pytest.raises(IndexError, match="single view"):
        view[0][0]
    with pytest.raises(ValueError, match="views"):
        stack_views([view, replace(view, depth=None)])
    with pytest.raises(ValueError, match="views"):
        stack_views([])


# --- the motorcycle ---

def test_motorcycle_is_what_its_file_says(pair):
    from skimage.data import stereo_motorcycle

    left, right = pair
    assert left.image.shape == (3, 500, 741)
    assert (FOCAL, CX, CY, CX_SHIFT, BASELINE) == (994.978, 311.193, 254.877, 31.086, 0.193001)
    assert torch.allclose(left.camera.K, torch.tensor([[994.978, 0, 311.193], [0, 994.978, 254.877], [0, 0, 1]]))
    assert torch.allclose(right.camera.K[0, 2], torch.tensor(311.193 + 31.086))
    assert torch.allclose(right.camera.center - left.camera.center, torch.tensor([0.193001, 0, 0]))
    disparity = torch.from_numpy(stereo_motorcycle()[2])
    known = disparity.isfinite()
    assert torch.equal(left.depth.isnan(), ~known)
    assert torch.allclose(left.depth[known], 994.978 * 0.193001 / (disparity[known] + 31.086))
    assert torch.equal(left.image[:, 250, 300], torch.tensor(stereo_motorcycle()[0][250, 300] / 255).float())


def test_motorcycle_in_double(pair):
    left, right = motorcycle(torch.float64)
    assert left.dtype == right.depth.dtype == right.camera.dtype == torch.float64
    assert torch.allclose(left.depth.float(), pair[0].depth, equal_nan=True)


def test_points_of_the_left_land_on_the_disparity(pair):
    "The calibration as geometry: what the left camera lifts, the right one sees d pixels further left in the same row."
    from skimage.data import stereo_motorcycle

    left, right = motorcycle(torch.float64)
    known = left.depth.isfinite()
    xy, _ = right.camera.project(left.camera.unproject(left.depth)[known])
    y, x = known.nonzero().T
    disparity = torch.from_numpy(stereo_motorcycle()[2])[known].double()
    assert torch.allclose(xy, torch.stack([x + 0.5 - disparity, y + 0.5], -1), atol=1e-4)


def test_calibration_is_proved_by_reprojecting(pair):
    left, right = pair
    made, seen = reproject(left, right)
    best = psnr(made[:, seen], left.image[:, seen])
    assert best > 27.3 and seen.float().mean() > 0.83

    def moved(dx, dy):
        K = right.camera.K + torch.tensor([[0, 0, dx], [0, 0, dy], [0, 0, 0]])
        return psnr(reproject(left, replace(right, camera=replace(right.camera, K=K)))[0][:, seen], left.image[:, seen])

    assert all(moved(dx, dy) < best - 1.3 for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5), (0.5, 0.5), (-0.5, -0.5)))


def test_right_depth_agrees_with_the_left(pair):
    "Carried over, the right depth brings the left colours into the right picture."
    left, right = pair
    made, seen = reproject(right, left)
    assert 0.8 < right.depth.isfinite().float().mean() < 0.9
    assert seen.float().mean() > 0.8 and psnr(made[:, seen], right.image[:, seen]) > 24


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.just(math.inf) | st.floats(-3, 9, width=32), min_size=7, max_size=7), min_size=1, max_size=3))
def test_carry_disparity_is_a_z_buffer(rows):
    disparity = torch.tensor(rows, dtype=torch.float32)
    expected = torch.full_like(disparity, torch.nan)
    for y, x in itertools.product(range(len(rows)), range(7)):
        d = disparity[y, x]
        if d.isfinite() and 0 <= (landing := int((x - d).round())) < 7:
            if not expected[y, landing] >= d:
                expected[y, landing] = d
    assert torch.equal(carry_disparity(disparity).nan_to_num(-99), expected.nan_to_num(-99))


def test_reproject_needs_depth_and_takes_batches(pair):
    with pytest.raises(ValueError, match="src"):
        reproject(replace(pair[0], depth=None), pair[1])
    poses = spherical_pose(3.4, 60.0, torch.tensor([[0.0, 15.0]] * 2))
    views = ProceduralWorld([1, 2]).render(Camera(intrinsics_from_fov(45, 24, 24), poses, 24, 24))
    made, seen = reproject(views[:, 0], views[:, 1])
    alone = reproject(views[1, 0], views[1, 1])
    assert torch.allclose(made[1], alone[0], atol=1e-6) and torch.equal(seen[1], alone[1])


# --- distance functions ---

def solids(seed=0, n=64):
    "Random primitives in their own frames: rows (6, n, 1)."
    shapes = draw_shapes(uniforms([seed], 10 * n).unflatten(1, (n, 10)))
    return shapes, shapes.rows().double()[:, :, None]


def test_distance_is_exact():
    "Going back by the distance along the gradient, from anywhere outside, lands on the surface; and the gradient has length one."
    shapes, rows = solids()
    points = (4 * torch.rand(64, 500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 2).requires_grad_()
    distance = rounded_distance(*points.unbind(-1), rows)
    gradient, = torch.autograd.grad(distance.sum(), points)
    outside = distance.detach() > 1e-6
    assert ((gradient.norm(dim=-1) - 1)[outside]).abs().max() < 1e-9
    landed = points - distance[..., None] * gradient
    assert rounded_distance(*landed.unbind(-1), rows)[outside].abs().max() < 1e-9
    assert (torch.stack(rounded_normal(*points.unbind(-1), rows), -1) - gradient)[outside].abs().max() < 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_distance_never_grows_faster_than_the_way(seed):
    _, rows = solids(seed, 24)
    a, b = 4 * torch.rand(2, 24, 40, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 2
    change = (rounded_distance(*a.unbind(-1), rows) - rounded_distance(*b.unbind(-1), rows)).abs()
    assert (change <= (a - b).norm(dim=-1) + 1e-9).all()


def test_inside_is_negative_and_every_kind_occurs():
    shapes, rows = solids(n=200)
    core = torch.where(shapes.is_round[0], shapes.ring[0], 0.0)
    assert (rounded_distance(core[:, None].double(), torch.zeros(200, 1), torch.zeros(200, 1), rows) < 0).all()
    assert len(KINDS) == 6 and 0.3 < shapes.is_round.float().mean() < 0.7


def test_objects_stand_on_the_ground():
    shapes, rows = solids(n=100)
    angle, r = torch.meshgrid(torch.linspace(0, 2 * math.pi, 181), torch.linspace(0, 0.9, 121), indexing="ij")
    plane = torch.stack([r * angle.cos(), r * angle.sin(), torch.zeros_like(r)], -1).reshape(-1, 3)
    offset = torch.cat([torch.zeros(100, 2), shapes.center[0, :, 2:]], -1)
    local = torch.einsum("npi,nij->npj", plane - offset[:, None], shapes.rotation[0]).double()
    lowest = rounded_distance(*local.unbind(-1), rows).amin(1)
    assert lowest.min() > -1e-4 and lowest.max() < 5e-3  # touched, not entered


def test_bounding_spheres_bound():
    shapes, rows = solids(n=100)
    directions = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    on_sphere = shapes.bound[0, :, None, None].double() * directions / directions.norm(dim=-1, keepdim=True)
    assert rounded_distance(*on_sphere.unbind(-1), rows).min() > -1e-6


def test_sphere_trace_against_the_closed_form():
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(500, 3, generator=g, dtype=torch.float64) * 0.3 + torch.tensor([0, 0, 1.0])
    directions = directions / directions.norm(dim=-1, keepdim=True)
    center = torch.tensor([0, 0, 3.0], dtype=torch.float64)
    t = sphere_trace(lambda p: (p - center).norm(dim=-1) - 1, torch.zeros_like(directions), directions, far=10.0, tolerance=1e-7)
    b = 3 * directions[:, 2]
    root = 1 - 9 + b * b
    clear = root.abs() > 1e-2
    assert torch.equal(t.isnan()[clear], (root < 0)[clear]) and 50 < t.isnan().sum() < 450
    hit = clear & (root > 0)
    assert torch.allclose(t[hit], (b - root.clamp(min=0).sqrt())[hit], atol=1e-5)


# --- worlds ---

@pytest.mark.parametrize("seed", range(4))
def test_the_fast_way_gives_the_plain_loops_answer(seed):
    world, camera = ProceduralWorld(seed), camera_at(70.0 * seed, 48)
    surface = world.trace(camera)
    t = sphere_trace(world.sdf, *camera.to(torch.float64).rays(), far=20.0, steps=400)
    off = ((surface.points_world - camera.center).norm(dim=-1) - t).abs()
    assert off.nanmedian() < 3e-5 and (off > 1e-3).float().mean() < 2e-3


def test_a_camera_close_to_objects():
    "Inside the bounding sphere of a torus, looking away from its middle: what is in front is seen, what is behind is not."
    world = ProceduralWorld(0)
    shapes, tried = world.shapes, 0
    for i in range(7):
        away = shapes.rotation[0, i, :, 2]  # along the axis, just outside
        eye = shapes.center[0, i] + 0.7 * shapes.bound[0, i] * away * (1 if away[2] >= 0 else -1)
        if world.sdf(eye) < 0.02:
            continue
        tried += 1
        for target in (eye + torch.tensor([1.0, 0.2, 0.05]), eye + torch.tensor([-0.3, -1.0, -0.1])):
            camera = Camera(intrinsics_from_fov(100, 24, 24), look_at(eye, target), 24, 24)
            t = sphere_trace(world.sdf, *camera.to(torch.float64).rays(), far=20.0, steps=600)
            off = ((world.trace(camera).points_world - camera.center).norm(dim=-1) - t).abs()
            assert (off > 1e-3).float().mean() < 0.01
    assert tried >= 1


def test_depth_points_normals_and_distance_agree():
    world, camera = ProceduralWorld(11), camera_at(20.0)
    surface, view = world.trace(camera), world.render(camera)
    assert torch.equal(surface.depth, view.depth) and torch.equal(surface.mask, view.mask)
    assert (camera.unproject(surface.depth) - surface.points_world).abs().max() < 1e-5
    xy, z = camera.project(surface.points_world)
    centres = torch.stack(torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="xy"), -1)
    assert torch.allclose(xy, centres, atol=1e-3) and torch.allclose(z, surface.depth, atol=1e-5)
    points = surface.points_world.double().requires_grad_()
    distance = world.sdf(points)
    gradient, = torch.autograd.grad(distance.sum(), points)
    assert distance.abs().max() < 1.1e-3 and distance.abs().median() < 2e-5
    assert ((gradient * surface.normals).sum(-1) < 0.9995).float().mean() < 3e-3
    assert torch.allclose(surface.normals.norm(dim=-1), torch.ones(64, 64), atol=1e-5)
    assert torch.equal(surface.mask, surface.label < 7) and 0.1 < surface.mask.float().mean() < 0.8
    ground = surface.label == 7
    assert surface.points_world[ground][:, 2].abs().max() < 1e-5
    assert torch.allclose(surface.points_world[surface.label == 8].norm(dim=-1), torch.tensor(6.0), atol=1e-5)


def test_normals_face_the_camera():
    camera = camera_at()
    directions, surface = camera.rays()[1], ProceduralWorld(3).trace(camera)
    assert ((directions * surface.normals).sum(-1) < 1e-3).float().mean() > 0.999


def test_two_views_agree_where_both_see():
    poses = spherical_pose(3.4, torch.tensor([62.0, 58.0]), torch.tensor([160.0, 180.0]))
    agreement = []
    for seed in range(3):
        views = ProceduralWorld(seed).render(Camera(intrinsics_from_fov(45, 256, 256), poses, 256, 256))
        made, seen = reproject(views[0], views[1], tolerance=0.01)
        agreement.append(psnr(made[:, seen], views[0].image[:, seen]))
        assert seen.float().mean() > 0.6 and agreement[-1] > psnr(views[1].image[:, seen], views[0].image[:, seen]) + 12
    assert min(agreement) > 34


def test_worlds_in_a_batch_are_the_worlds_alone():
    seeds, azimuth = [5, 6, 9], torch.tensor([[0.0, 30.0], [60.0, 90.0], [120.0, 200.0]])
    cameras = Camera(intrinsics_from_fov(45, 32, 32), spherical_pose(3.3, 60.0, azimuth), 32, 32)
    views, points = ProceduralWorld(seeds).render(cameras), torch.rand(3, 50, 3) * 2
    surface = ProceduralWorld(seeds).trace(cameras)
    assert views.image.shape == (3, 2, 3, 32, 32) and surface.normals.shape == (3, 2, 32, 32, 3)
    for i, seed in enumerate(seeds):
        world = ProceduralWorld(seed)
        assert (world.render(cameras[i]).image - views.image[i]).abs().mean() < 1e-6
        assert torch.allclose(world.sdf(points[i]), ProceduralWorld(seeds).sdf(points)[i], atol=1e-6)
    assert not torch.allclose(views.image[0], views.image[1], atol=0.05)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2), (2, 0 + 1, 3)])
def test_any_leading_dimensions(batch):
    n = math.prod(batch)
    azimuth = torch.arange(n, dtype=torch.float32).reshape(batch) * 25
    cameras = Camera(intrinsics_from_fov(45, 12, 20), spherical_pose(3.3, 60.0, azimuth), 12, 20)
    view = ProceduralWorld(2).render(cameras)
    assert view.image.shape == (*batch, 3, 12, 20) and view.depth.shape == view.mask.shape == (*batch, 12, 20)
    if batch:
        last = tuple(b - 1 for b in batch)
        assert torch.allclose(ProceduralWorld(2).render(cameras[last]).image, view.image[last], atol=1e-5)


def test_supersampling_smooths_outlines_and_leaves_the_depth():
    world, camera = ProceduralWorld(4), camera_at(size=32)
    truth = world.render(camera, supersample=12, pixel_sigma=0.0)
    one, four = world.render(camera), world.render(camera, supersample=4)
    assert psnr(four.image, truth.image) > psnr(one.image, truth.image) + 5
    assert torch.equal(one.depth, four.depth) and four.image.shape == one.image.shape


def test_textures_are_filtered_by_the_pixels_footprint():
    better = []
    for seed in (4, 5, 7):
        world, camera = ProceduralWorld(seed), camera_at(size=48)
        truth, flat = world.render(camera, supersample=10, pixel_sigma=0.0).image, world.trace(camera).label == 7
        one, raw = world.render(camera).image, world.render(camera, pixel_sigma=0.0).image
        better.append(psnr(one[:, flat], truth[:, flat]) - psnr(raw[:, flat], truth[:, flat]))
    assert sum(better) / 3 > 0.8


def test_open_sky():
    camera = camera_at(polar=82.0, fov=60.0)
    world = ProceduralWorld(4, dome_radius=math.inf)
    view, surface = world.render(camera), world.trace(camera)
    sky = view.depth.isnan()
    assert 0.05 < sky.float().mean() < 0.9 and torch.equal(sky, surface.label == 8)
    assert torch.equal(surface.points_world.isnan().any(-1), sky) and torch.equal(surface.normals.isnan().any(-1), sky)
    assert view.image.isfinite().all() and not (view.mask & sky).any()
    closed = ProceduralWorld(4).render(camera)
    assert torch.allclose(closed.image[:, closed.mask], view.image[:, closed.mask], atol=1e-5)


def test_the_camera_decides_the_dtype():
    view = ProceduralWorld(1).render(camera_at(dtype=torch.float64, size=32))
    assert view.image.dtype == view.depth.dtype == torch.float64
    assert psnr(view.image.float(), ProceduralWorld(1).render(camera_at(size=32)).image) > 45


def test_worlds_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    PairDataset(size=8)[3]
    assert torch.equal(torch.get_rng_state(), before)


STORED = {  # seed: means of red, green, blue, depth, mask, |normals|
    0: [0.47452, 0.42515, 0.43953, 3.78338, 0.34619, 0.38847],
    1: [0.36925, 0.39197, 0.45495, 3.8444, 0.32593, 0.3938],
    12345: [0.59278, 0.65441, 0.56813, 3.8123, 0.35034, 0.39599],
    2 ** 32 - 1: [0.54223, 0.55989, 0.52863, 3.66791, 0.37378, 0.39531],
}
STORED_SPARSE = {0: 167.9258, 1: 172.0598, 12345: 145.7261, 2 ** 32 - 1: 158.4851}  # sum of cosines, every ninth pixel


@pytest.mark.parametrize("seed", list(STORED))
@pytest.mark.parametrize("threads", [1, 2])
def test_equal_on_every_machine(seed, threads):
    had = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        view = ProceduralWorld(seed).render(camera_at(30.0))
        normals = ProceduralWorld(seed).trace(camera_at(30.0)).normals
    finally:
        torch.set_num_threads(had)
    found = torch.stack([*view.image.mean((1, 2)), view.depth.mean(), view.mask.float().mean(), normals.abs().mean()])
    assert torch.allclose(found, torch.tensor(STORED[seed]), atol=2e-4)  # one pixel of an outline may fall on the other side
    assert abs(view.image[:, ::9, ::9].double().cos().sum().item() - STORED_SPARSE[seed]) < 2e-2


@pytest.mark.parametrize(("error", "argument", "make"), [
    (ValueError, "seed", lambda: ProceduralWorld(-1)),
    (ValueError, "seed", lambda: ProceduralWorld(2 ** 32)),
    (ValueError, "seed", lambda: ProceduralWorld([])),
    (TypeError, "seed", lambda: ProceduralWorld(None)),
    (TypeError, "seed", lambda: ProceduralWorld(1.5)),
    (TypeError, "seed", lambda: ProceduralWorld(["0"])),
    (ValueError, "num_objects", lambda: ProceduralWorld(0, num_objects=0)),
    (ValueError, "dome_radius", lambda: ProceduralWorld(0, dome_radius=1.0)),
    (ValueError, "dome_radius", lambda: ProceduralWorld(0, dome_radius=math.nan)),
    (ValueError, "camera", lambda: ProceduralWorld(0).render(camera_at(radius=6.5))),
    (ValueError, "camera", lambda: ProceduralWorld(0).trace(camera_at(polar=95.0))),
    (ValueError, "camera", lambda: ProceduralWorld([0, 1]).render(camera_at())),
    (ValueError, "camera", lambda: ProceduralWorld([0, 1]).render(stack_cameras([camera_at()] * 3))),
    (ValueError, "supersample", lambda: ProceduralWorld(0).render(camera_at(), supersample=0)),
    (ValueError, "pixel_sigma", lambda: ProceduralWorld(0).render(camera_at(), pixel_sigma=-1.0)),
    (ValueError, "tolerance", lambda: ProceduralWorld(0).trace(camera_at(), tolerance=0.0)),
    (ValueError, "points_world", lambda: ProceduralWorld(0).sdf(torch.zeros(4, 2))),
    (ValueError, "points_world", lambda: ProceduralWorld(0).sdf(torch.full((4, 3), torch.nan))),
    (ValueError, "points_world", lambda: ProceduralWorld([0, 1]).sdf(torch.zeros(4, 3))),
    (ValueError, "split", lambda: PairDataset(split="test")),
    (ValueError, "size", lambda: PairDataset(size=0)),
    (ValueError, "radius", lambda: PairDataset(radius=(4.0, 3.0))),
    (ValueError, "orbit_deg", lambda: PairDataset(orbit_deg=(25.0, 10.0))),
    (ValueError, "index", lambda: PairDataset()[-1]),
    (ValueError, "index", lambda: PairDataset().batch([])),
    (TypeError, "index", lambda: PairDataset().batch(3)),
    (ValueError, "views", lambda: MultiViewDataset(views=0)),
    (ValueError, "num", lambda: collect(PairDataset(), 0)),
    (ValueError, "batch_size", lambda: next(PairDataset().batches(0))),
])
def test_bad_input_is_named(error, argument, make):
    with pytest.raises(error, match=argument):
        make()


def test_a_camera_inside_an_object_is_refused():
    world = ProceduralWorld(0)
    inside = world.shapes.center[0, 0] + world.shapes.ring[0, 0] * world.shapes.rotation[0, 0, :, 0]
    assert world.sdf(inside) < 0
    with pytest.raises(ValueError, match="outside the objects"):
        world.render(Camera(intrinsics_from_fov(45, 8, 8), look_at(inside, torch.zeros(3)), 8, 8))


# --- data sets ---

def test_an_item_is_a_function_of_seed_split_and_index():
    small = dict(size=24)
    a, b = PairDataset(3, **small).batch([7, 2, 90]), PairDataset(3, **small).batch(range(8))
    for which in ("source", "target"):
        x, y = getattr(a, which), getattr(b, which)
        assert torch.equal(x.camera.c2w[0], y.camera.c2w[7]) and torch.allclose(x.image[1], y.image[2], atol=1e-5)
        assert torch.allclose(getattr(PairDataset(3, **small)[90], which).image, x.image[2], atol=1e-5)
    others = [PairDataset(4, **small)[7], PairDataset(3, "heldout", **small)[7], PairDataset(3, **small)[8]]
    assert all(not torch.allclose(o.source.image, a.source.image[0], atol=0.1) for o in others)


def test_training_and_held_out_worlds_never_meet():
    seeds = {(s, split): PairDataset(s, split)._seeds(range(3000))[0] for s in range(4) for split in ("train", "heldout")}
    assert all(len(set(v)) == 3000 and 0 <= min(v) and max(v) < 2 ** 32 for v in seeds.values())
    train, heldout = ({x for (_, k), v in seeds.items() if k == split for x in v} for split in ("train", "heldout"))
    assert not train & heldout


def test_pairs_are_as_far_apart_as_they_say():
    pairs = PairDataset(0, size=8, orbit_deg=(10.0, 25.0)).batch(range(200))
    a, b = (torch.atan2(v.camera.center[:, 1], v.camera.center[:, 0]).rad2deg() for v in pairs)
    turn = ((b - a + 180) % 360 - 180).abs()
    assert turn.min() > 9.99 and turn.max() < 25.01 and turn.max() - turn.min() > 12
    radius = pairs.source.camera.center.norm(dim=-1)
    assert radius.min() >= 2.999 and radius.max() <= 3.801
    elevation = torch.asin(pairs.source.camera.center[:, 2] / radius).rad2deg()
    assert elevation.min() >= 17.99 and elevation.max() <= 45.01


def test_depth_stays_within_its_bounds():
    for change in ({}, dict(elevation_deg=(6.0, 10.0)), dict(fov_deg=70.0), dict(radius=(4.0, 4.5), dome_radius=9.0)):
        dataset = PairDataset(1, size=16, **change)
        depth = torch.cat([v.depth for v in dataset.batch(range(150))])
        assert 0 < dataset.near < depth.min() and depth.max() < dataset.far and depth.isfinite().all()
    assert PairDataset().near > 0.7


def test_endless_and_collected():
    dataset = PairDataset(5, size=16)
    fixed = collect(dataset, 7, start=3, batch_size=3)
    assert fixed.source.image.shape == (7, 3, 16, 16) and fixed.target.depth.shape == (7, 16, 16)
    batches = dataset.batches(2, start=3)
    for i in range(3):
        assert torch.allclose(next(batches).target.image, fixed.target.image[2 * i:2 * i + 2], atol=1e-5)
    first = list(itertools.islice(dataset, 4))
    assert torch.allclose(first[3].source.image, fixed.source.image[0], atol=1e-5)


def test_many_views_of_one_world():
    dataset = MultiViewDataset(2, views=5, size=32)
    batch, kept = dataset.batch([1, 4]), collect(dataset, 2, start=4)
    assert batch.batch_shape == (2, 5) and kept.batch_shape == (2, 5)
    assert torch.allclose(dataset[4].image, batch.image[1], atol=1e-5)
    assert torch.allclose(kept.image[0], batch.image[1], atol=1e-5)
    views = dataset[1]
    made, seen = reproject(views[0], views[1])  # the same world: colours agree where both see
    assert seen.float().mean() > 0.05 and psnr(made[:, seen], views[0].image[:, seen]) > 20
    azimuth = torch.atan2(views.camera.center[:, 1], views.camera.center[:, 0]).rad2deg()
    assert (azimuth.sort().values.diff() > 0).all() and azimuth.max() - azimuth.min() > 180


def test_a_loader_can_read_them():
    loader = torch.utils.data.DataLoader(PairDataset(0, size=8), sampler=range(6), batch_size=3, collate_fn=lambda items: items)
    assert [len(items) for items in loader] == [3, 3]


# --- arguments of the wrong kind ---

def two_views():
    return View(IMAGE[0], CAMERA[0]), View(IMAGE[1], CAMERA[1])


def test_stacking_promotes_nothing_and_says_whose_shape_differs():
    a, b = two_views()
    with pytest.raises(ValueError, match=r"views\[0\], views\[1\]: expected one dtype"):
        stack_views([a, b.to(torch.float64)])
    with pytest.raises(ValueError, match=r"views\[1\]: expected the shapes of the first"):
        stack_views([a, View(IMAGE[:2], CAMERA[:2])])
    with pytest.raises(ValueError, match=r"views\[1\]: expected the shapes of the first"):
        stack_views([View(IMAGE[:2], CAMERA[:2]), View(IMAGE[:2], CAMERA[0])])
    with pytest.raises(ValueError, match=r"views\[1\]: expected the shapes of the first"):
        stack_views([a, View(IMAGE[1][..., :2, :], CAMERA[1].cropped(0, 0, 2, 6))])
    with pytest.raises(TypeError, match=r"views\[1\]: expected a View, got NoneType"):
        stack_views([a, None])


@pytest.mark.parametrize(("name", "call"), [
    ("camera", lambda: ProceduralWorld(0).render(None)),
    ("camera", lambda: ProceduralWorld(0).trace(None)),
    ("src", lambda: reproject(None, two_views()[0])),
    ("dst", lambda: reproject(two_views()[0], None)),
    ("dataset", lambda: collect(None, 1)),
    ("batch_size", lambda: collect(PairDataset(size=8), 1, batch_size=0)),
    ("start", lambda: collect(PairDataset(size=8), 1, start=-1)),
    ("radius", lambda: PairDataset(radius=3.0)),
    ("radius", lambda: PairDataset(radius=(3.0,))),
    ("radius", lambda: PairDataset(radius=("a", "b"))),
    ("elevation_deg", lambda: MultiViewDataset(elevation_deg=None)),
    ("orbit_deg", lambda: PairDataset(orbit_deg=10)),
    ("jitter", lambda: PairDataset(jitter="a")),
    ("size", lambda: PairDataset(size=16.0)),
])
def test_arguments_of_the_wrong_kind_are_named(name, call):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
        call()
