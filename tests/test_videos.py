"Films: paths, clean depth, filling from behind, what can be read, what is written, and the two commands."

import json
import math
import os
import re
import shutil
import sys
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nvs_book import videos as v
from nvs_book.cameras import Camera, intrinsics_from_fov, look_at, to_colmap
from nvs_book.cli import main
from nvs_book.metrics import psnr
from nvs_book.scenes import ProceduralWorld, View, motorcycle, resize_view, write_transforms

H, W = 48, 64
numbers = st.floats(-3, 3, allow_nan=False)
points = st.tuples(numbers, numbers, numbers)


def camera_at(eye=(3.0, 0.0, 1.0), target=(0.0, 0.0, 0.0), fov=50.0, up=(0.0, 0.0, 1.0), height=H, width=W):
    pose = look_at(torch.tensor(eye, dtype=torch.float64), torch.tensor(target, dtype=torch.float64), up)
    return Camera(intrinsics_from_fov(fov, height, width), pose.float(), height, width)


def step_view(near=1.0, far=3.0, height=H, width=W):
    "A near red square before a far blue wall."
    image, depth = torch.zeros(3, height, width), torch.full((height, width), far)
    image[2] = 0.8
    image[:, 12:36, 20:44], depth[12:36, 20:44] = torch.tensor([0.9, 0.1, 0.1])[:, None, None], near
    return View(image, Camera(intrinsics_from_fov(50.0, height, width), torch.eye(4), height, width), depth)


@pytest.fixture(scope="module")
def left():
    view = motorcycle()[0]
    return resize_view(view, 100, 148)


# ---------------------------------------------------------------- paths


def is_pose(c2w):
    R = c2w[..., :3, :3].double()
    assert (R.mT @ R - torch.eye(3)).abs().max() < 1e-5 and (torch.linalg.det(R) > 0).all()
    assert torch.equal(c2w[..., 3, :], torch.tensor([0.0, 0, 0, 1]).expand(*c2w.shape[:-2], 4))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(v.PATHS)), points, st.integers(2, 50), st.floats(0.2, 5), st.floats(1, 20), st.floats(0, 30))
def test_paths_start_at_the_camera_close_and_hit_nothing(name, eye, frames, near, ratio, amount):
    camera = camera_at(tuple(e + 4 for e in eye), target=(0.1, 0.2, -1.0), up=(0.1, -0.9, 0.3))
    path = v.PATHS[name](camera, frames, near, near * ratio, amount)
    is_pose(path.c2w)
    assert path.batch_shape == (frames,) and (path.height, path.width) == (H, W)
    assert torch.allclose(path.c2w[0], camera.c2w, atol=1e-5)
    offset = (path.center - camera.center).norm(dim=-1)
    assert offset.max() <= 0.75 * near + 1e-5  # inside the ball before anything near
    steps = (path.center - path.center.roll(1, 0)).norm(dim=-1)
    assert frames < 16 or steps[0] <= steps[1:].max() * 1.2 + 1e-6  # from the last frame to the first is a step like the others


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["wobble", "spiral", "orbit"]), st.floats(0.5, 3), st.floats(1.1, 10), st.floats(0.1, 3))
def test_paths_keep_the_focus_in_the_middle(name, near, ratio, amount):
    camera = camera_at(up=(0.2, 0.1, 1.0))
    path = v.PATHS[name](camera, 12, near, near * ratio, amount)
    target = camera.center + v.focus_depth(near, near * ratio) * camera.c2w[:3, 2]
    xy, z = path.project(target.expand(12, 1, 3))
    assert (z > 0).all() and (xy - torch.tensor([W / 2, H / 2])).abs().max() < 0.02


@pytest.mark.parametrize("name", sorted(v.PATHS))
def test_paths_are_smooth(name):
    path = v.PATHS[name](camera_at(), 96, 1.0, 4.0)
    centre = torch.cat([path.center, path.center[:2]])
    bend = (centre[2:] - 2 * centre[1:-1] + centre[:-2]).norm(dim=-1)
    assert bend.max() < 0.35 * (centre[1:] - centre[:-1]).norm(dim=-1).max()


def test_sideways_parts_near_and_far_as_promised():  # eqs. 1 to 3
    camera, near, far = camera_at(), 1.5, 6.0
    b = v.sideways(camera, near, far, 2.0)
    f = camera.K[0, 0].item()
    shift = [f * b * (1 / z - 1 / v.focus_depth(near, far)) for z in (near, far)]
    assert shift[0] - shift[1] == pytest.approx(2 * v.SHARE * W, rel=1e-5)
    assert shift[0] == pytest.approx(-shift[1], rel=1e-5)


def test_a_full_orbit_goes_round():
    camera = camera_at((3.0, 0.0, 1.0))
    up = torch.tensor([0.0, 0, 1])
    path = v.orbit_path(camera, 8, 1, 5, sweep_deg=360, focus=math.sqrt(10), up=up)
    is_pose(path.c2w)
    assert torch.allclose(path.center.norm(dim=-1), torch.full((8,), math.sqrt(10)), atol=1e-5)
    assert torch.allclose(path.center[:, 2], torch.ones(8), atol=1e-5)  # level, though the camera looks down
    assert torch.allclose(path.center[4, :2], torch.tensor([-3.0, 0]), atol=1e-5)


def test_dolly_zoom_keeps_the_plane_in_focus():
    camera = camera_at()
    path, plain = (v.dolly_path(camera, 10, 1.0, 4.0, 2.0, zoom=zoom) for zoom in (True, False))
    depth = v.focus_depth(1.0, 4.0)
    pair = camera.center + depth * camera.c2w[:3, 2] + torch.stack([torch.zeros(3), 0.3 * camera.c2w[:3, 0]])
    length, free = (p.project(pair.expand(10, 2, 3))[0].diff(dim=1).norm(dim=-1).flatten() for p in (path, plain))
    assert length.std() < 1e-3 and free.max() > 1.05 * free.min()


@settings(max_examples=40, deadline=None)
@given(points, points, st.integers(1, 20), st.booleans())
def test_between_two_views(a, b, frames, loop):
    src, dst = camera_at((a[0] + 5, a[1], a[2]), fov=40.0), camera_at((b[0] - 5, b[1], b[2]), fov=60.0, height=2 * H, width=2 * W)
    path = v.between_path(src, dst, frames, loop)
    is_pose(path.c2w)
    assert torch.equal(path.c2w[0], src.c2w) and torch.equal(path.K[0], src.K)
    if loop and frames % 2 == 0:
        assert torch.allclose(path.c2w[frames // 2], dst.c2w, atol=1e-6)
    if not loop and frames > 1:
        assert torch.equal(path.c2w[-1], dst.c2w)
        assert torch.allclose(path.K[-1, 0, 0], dst.K[0, 0] / 2) and (path.height, path.width) == (H, W)


def test_between_goes_round_what_both_look_at_and_straight_where_they_are_parallel():
    src, dst = camera_at((3.0, 0, 0)), camera_at((-2.9, 0.5, 0))
    assert v.between_path(src, dst, 21).center.norm(dim=-1).min() > 2.8
    shifted = Camera(src.K, src.c2w + F.pad(torch.tensor([[0.0], [1.0], [0.5], [0.0]]), (3, 0)), H, W)
    path = v.between_path(src, shifted, 9)
    along = (path.center - src.center) @ F.normalize(shifted.center - src.center, dim=0)
    assert torch.allclose((path.center - src.center).norm(dim=-1), along, atol=1e-6)
    assert torch.allclose(path.c2w[:, :3, :3], src.c2w[:3, :3].expand(9, 3, 3), atol=1e-6)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: v.wobble_path(camera_at(), 0, 1, 2), "frames: expected a whole number >= 1, got 0"),
        (lambda: v.wobble_path(camera_at(), 5, 2, 1), "far: expected a finite number >= 2, got 1"),
        (lambda: v.wobble_path(camera_at(), 5, 0, 1), "near: expected"),
        (lambda: v.wobble_path(camera_at(), 5, 1, 2, -1), "amount: expected"),
        (lambda: v.wobble_path(v.wobble_path(camera_at(), 5, 1, 2), 5, 1, 2), "camera: expected one camera"),
        (lambda: v.orbit_path(camera_at(), 5, 1, 2, sweep_deg=400), "sweep_deg: expected"),
        (lambda: v.between_path(camera_at(), v.wobble_path(camera_at(), 5, 1, 2), 5), "dst: expected one camera"),
        (lambda: v.follow("loop", [camera_at()], 5, 1, 2), "path: expected one of"),
        (lambda: v.follow("between", [camera_at()], 5, 1, 2), "path: 'between' needs two views"),
        (lambda: v.follow("orbit", [camera_at()], 5, 1, 2, start=3), "start: expected the number of a view, 0 to 0, got 3"),
        (lambda: v.follow("orbit", [camera_at()] * 2, 5, 1, 2, start=-1), "start: expected the number of a view, 0 to 1, got -1"),
        (lambda: v.follow("between", [camera_at()] * 2, 5, 1, 2, to=-1), "to: expected the number of a view, 0 to 1, got -1"),
        (lambda: v.follow("between", [camera_at()] * 2, 5, 1, 2, start=1, to=1), "to: expected another view than 1"),
        (lambda: v.depth_range(torch.full((4, 4), math.nan)), "depth: expected at least one known pixel"),
    ],
)
def test_bad_paths_are_refused_by_name(call, says):
    with pytest.raises((ValueError, TypeError), match=re.escape(says)):
        call()


# ---------------------------------------------------------------- depth


@settings(max_examples=20, deadline=None)
@given(st.floats(-0.003, 0.003), st.floats(-0.003, 0.003))
def test_a_plane_stays_as_it_is(across, down):
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    inverse = 0.5 + across * x + down * y
    inverse[:, 0] = inverse[:, 1]
    assert torch.equal(v.sharpen(inverse, 0.02), inverse)
    assert not v.outlines(inverse, 0.02).any()


def test_soft_outlines_become_steps():
    ramp = torch.cat([torch.full((8,), 0.2), torch.linspace(0.25, 0.55, 5), torch.full((8,), 0.6)]).expand(12, 21)
    sharp = v.sharpen(ramp, 0.016)
    assert sharp.unique().numel() == 2 and torch.equal(sharp[:, :8], ramp[:, :8]) and torch.equal(sharp[:, -8:], ramp[:, -8:])


def test_strays_are_forgotten_and_unknown_pixels_take_the_side_of_their_colour():
    view = step_view()
    depth = view.depth.clone()
    depth[5, 5] = 1.7  # a flying pixel
    depth[12:36, 20:22] = math.nan  # the near square's left rim, by colour the square's
    clean = v.clean_depth(view.image, depth)
    assert torch.allclose(clean, view.depth)


def test_clean_depth_of_nothing_but_noise_is_finite():
    depth = 1 + 10 * torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(v.clean_depth(torch.rand(3, 20, 30), depth)).all()
    assert torch.allclose(v.clean_depth(torch.rand(3, 20, 30), torch.full((20, 30), 2.0)), torch.tensor(2.0))


# ---------------------------------------------------------------- filling


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 0.98), st.integers(0, 99))
def test_pull_push_keeps_what_is_known_and_stays_within_it(h, w, share, seed):
    generator = torch.Generator().manual_seed(seed)
    values, known = torch.rand(2, h, w, generator=generator), torch.rand(h, w, generator=generator) < share
    known[0, 0] = True
    filled = v.pull_push(torch.where(known, values, torch.nan), known)
    assert torch.equal(filled[:, known], values[:, known])
    for c in range(2):
        assert values[c, known].min() - 1e-5 <= filled[c].min() and filled[c].max() <= values[c, known].max() + 1e-5


def test_pull_push_needs_something_to_start_from():
    with pytest.raises(ValueError, match="known: expected at least one known pixel, got none"):
        v.pull_push(torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.bool))


def test_rims_by_hand():
    known = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 1]], dtype=torch.bool)
    pixels, ends = v.rims(known)
    assert pixels.tolist() == [1, 2, 4, 5]
    assert ends.T.tolist() == [[0, 3, -1, -1], [0, 3, -1, 6], [-1, 6, 0, -1], [-1, 6, -1, -1]]


def test_gaps_are_filled_from_the_far_side():
    image, inverse, known = torch.zeros(3, 30, 40), torch.full((30, 40), 0.2), torch.ones(30, 40, dtype=torch.bool)
    image[0, :, :20], inverse[:, :20], image[2, :, 20:] = 0.9, 0.5, 0.9
    known[5:25, 18:26] = False
    made = v.fill_frame(torch.where(known, image, 0.5), torch.where(known, inverse, 9.0), known.float(), 0.02)
    assert torch.equal(made[:, known], image[:, known])
    assert (made[2, ~known] > 0.85).all() and (made[0, ~known] < 0.05).all()


def test_a_slope_is_filled_from_both_sides():
    inverse = torch.linspace(0.2, 0.5, 60).expand(20, 60)
    known = torch.ones(20, 60, dtype=torch.bool)
    known[5:15, 28:32] = False
    sources = v.far_side(inverse, known, 0.05)
    assert sources[10, 27] and sources[10, 32] and not sources[~known].any()


def test_a_frame_that_sees_nothing_is_an_error():
    with pytest.raises(ValueError, match="camera: it sees no point of the scene"):
        v.fill_frame(torch.zeros(3, 4, 4), torch.zeros(4, 4), torch.zeros(4, 4), 0.1)


def test_the_hidden_layer_is_the_far_things():
    view = step_view()
    colours, behind = v.hidden_layer(view.image, view.depth, reach=6)
    hidden = torch.isfinite(behind)
    assert hidden[12:36, 20:44].sum() == hidden.sum() > 0  # only within the square
    assert not hidden[20:28, 28:36].any()  # and only near its outline
    assert (behind[hidden] - 3).abs().max() < 0.05
    assert (colours[2, hidden] > 0.7).all() and (colours[0, hidden] < 0.05).all()
    assert not torch.isfinite(v.hidden_layer(view.image, view.depth, reach=0)[1]).any()
    assert not torch.isfinite(v.hidden_layer(view.image, torch.full_like(view.depth, 2.0), reach=6)[1]).any()


def test_the_hidden_layer_closes_the_gap():
    view = step_view()
    cameras, render = v.splat_film(view, "orbit", 8, amount=2.0)
    frame = render(cameras[2])
    red, blue = frame[0] > 0.5, frame[2] > 0.5
    assert (red | blue).float().mean() > 0.97 and (frame.sum(0) > 0.5).all()  # no black, little in between
    assert frame.shape == (3, H, W) and 0 <= frame.min() and frame.max() <= 1


def test_a_film_begins_with_its_picture(left):
    cameras, render = v.splat_film(left, "wobble", 10)
    assert psnr(render(cameras[0]), left.image) > 28


def test_layers_beat_gaps_on_a_real_pair(left):
    right = motorcycle()[1]
    target, truth = right.camera.resized(100, 148), resize_view(right, 100, 148).image
    near, far = v.depth_range(left.depth)
    reach, margin = v.path_needs(left.camera, v.between_path(left.camera, target, 2), near, far)
    made = v.cloud_renderer(v.layered_cloud(left, reach, margin))(target)
    image, _, opacity = v.splat_cloud(v.layered_cloud(left), target)
    gaps = torch.where(opacity > 0.5, image, 0.0)
    assert psnr(made, truth) > psnr(gaps, truth) + 3 and psnr(made, truth) > psnr(left.image, truth) + 6


def test_path_needs_follow_the_path():  # eq. 2
    camera = camera_at()
    still, near, far = v.wobble_path(camera, 8, 1.0, 4.0, 0.0), 1.0, 4.0
    assert v.path_needs(camera, still, near, far) == (2, 2)
    reach, margin = v.path_needs(camera, v.wobble_path(camera, 8, near, far, 2.0), near, far)
    assert v.SHARE * 2 * W < reach <= v.SHARE * 2 * W * 1.5 + 3 and margin > 2
    assert max(v.path_needs(camera, v.orbit_path(camera, 8, near, far, sweep_deg=360), near, far)) <= 0.15 * W


@pytest.mark.parametrize(
    "size, shape", [((100, 200, 480), (200, 400)), ((1000, 2000, 480), (480, 960)), ((2000, 1000, 102), (204, 102))]
)
def test_film_size(size, shape):
    assert v.film_size(*size) == shape


# ---------------------------------------------------------------- sources


def test_open_source():
    assert len(v.open_source("motorcycle")) == 2
    assert v.open_source("world:7").seeds == (7,) and v.open_source("world").seeds == (0,)
    view = step_view()
    assert v.open_source(view) == [view]
    for bad, says in (("world:x", "world:SEED with a whole number"), ("nowhere", "there is nothing at nowhere")):
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            v.open_source(bad)


@pytest.mark.parametrize("path", ["orbit", "dolly", "between"])
def test_a_world_is_really_rendered(path):
    film = v.make_film("world:3", path, frames=3, size=24)
    frames = list(film)
    assert len(film) == len(frames) == 3 and frames[0].shape == (3, 24, 32)
    assert torch.equal(frames[1], ProceduralWorld(3).render(film.cameras[1], supersample=2).image)
    assert (film.cameras.center.norm(dim=-1) > 1.5).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, world = tmp_path_factory.mktemp("views") / "world", ProceduralWorld(3)
    cameras = v.world_cameras(48, 64)
    write_transforms([world.render(cameras[i]) for i in range(4)], path)
    return path


def test_a_folder_of_views_is_merged(folder):
    film = v.make_film(folder, "between", frames=3, size=48, start=0, to=1, most_views=3)
    frames = list(film)
    assert film.notes == ("made of the points of 3 of 4 views",)
    truth = ProceduralWorld(3).render(film.cameras[1]).image
    assert psnr(frames[1], truth) > 20 and psnr(frames[0], ProceduralWorld(3).render(film.cameras[0]).image) > 22
    assert len(list(v.make_film(folder, "orbit", frames=2, size=32, sweep_deg=360.0))) == 2


def test_pixels_at_outlines_are_taken_from_the_view_that_sees_them_better():
    view = step_view()
    moved = replace(view.camera, c2w=view.camera.c2w + F.pad(torch.tensor([[0.3], [0.0], [0.0], [0.0]]), (3, 0)))
    alone, pair = v.merged_cloud([view]), v.merged_cloud([view, replace(step_view(), camera=moved)])
    assert len(alone.points_world) == H * W  # nobody sees them better
    assert 0 < 2 * H * W - len(pair.points_world) < 2 * (2 * (24 + 24) * 2 + 16)
    inverse, edges = 1 / view.depth, torch.zeros(H, W, dtype=torch.bool)
    centre = view.camera.unproject(view.depth)[24, 30]
    seen = v.sees_inside(view.camera, inverse, edges, 0.02, torch.stack([centre, 1.5 * centre, -centre, centre + 9]))
    assert seen.tolist() == [True, False, False, False]
    assert not v.sees_inside(view.camera, inverse, ~edges, 0.02, centre[None]).any()


def test_views_along_a_path():
    centres = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    way = torch.tensor([[0.1, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    assert v.views_along(centres, way, 2) == [0, 2] and sorted(v.views_along(centres, way, 9)) == [0, 1, 2, 3]


def test_views_without_depth_say_what_to_do(tmp_path):
    world, cameras = ProceduralWorld(1), v.world_cameras(24, 32)
    write_transforms([View(world.render(cameras[i]).image, cameras[i]) for i in range(2)], tmp_path / "views")
    says = r"00000\.png: expected a view with depth, it has none; depth_file_path in transforms\.json .*; `nvs-book photo`"
    for path in ("wobble", "between"):
        with pytest.raises(ValueError, match=says):
            v.make_film(tmp_path / "views", path)


def test_views_that_have_depth_are_merged(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "views")
    file = tmp_path / "views" / "transforms.json"
    meta = json.loads(file.read_text())
    for i in (0, 3):
        del meta["frames"][i]["depth_file_path"]
    file.write_text(json.dumps(meta))
    film = v.make_film(tmp_path / "views", "between", frames=2, size=48, start=0, to=3)
    assert film.notes == ("made of the points of 2 of 4 views; 2 have no depth",) and len(list(film)) == 2
    with pytest.raises(ValueError, match=r"00000\.png: expected a view with depth, view 0 has none; others have it: 1, 2$"):
        v.make_film(tmp_path / "views", "wobble", frames=2, size=48)
    assert len(v.make_film(tmp_path / "views", "wobble", frames=2, size=48, start=1)) == 2


def colmap_folder(folder, kinds, views=2):
    "A dense workspace as COLMAP leaves it: images, sparse, stereo/depth_maps with the kinds named for each view."
    world, cameras = ProceduralWorld(3), v.world_cameras(H, W)
    for name in ("images", "sparse", "stereo/depth_maps"):
        (folder / name).mkdir(parents=True)
    rows = []
    for i in range(views):
        view = world.render(cameras[i])
        Image.fromarray(v.frame_bytes(view.image)).save(folder / "images" / f"{i}.png")
        q, t = to_colmap(view.camera.c2w.double())
        rows += [" ".join(map(str, [i + 1, *q.tolist(), *t.tolist(), 1, f"{i}.png"])), ""]
        for kind in kinds[i]:
            depth = view.depth.nan_to_num(0).numpy() * (1 if kind == "geometric" else 2)
            data = f"{W}&{H}&1&".encode() + depth.astype("<f4").tobytes()
            (folder / "stereo" / "depth_maps" / f"{i}.png.{kind}.bin").write_bytes(data)
    K = cameras.K[0] if cameras.K.ndim > 2 else cameras.K
    numbers = [K[0, 0].item(), K[1, 1].item(), K[0, 2].item(), K[1, 2].item()]
    (folder / "sparse" / "cameras.txt").write_text(" ".join(map(str, [1, "PINHOLE", W, H, *numbers])) + "\n")
    (folder / "sparse" / "images.txt").write_text("\n".join(rows) + "\n")
    return folder


def test_colmap_with_dense_stereo_is_filmed(tmp_path):
    both = colmap_folder(tmp_path / "dense", [("photometric", "geometric"), ("photometric",)])
    for place in (both, both / "sparse"):
        views = v.open_source(place)
        assert [frame.depth.name for frame in views.frames] == ["0.png.geometric.bin", "1.png.photometric.bin"]
        truth = ProceduralWorld(3).render(v.world_cameras(H, W)[0]).depth
        assert torch.allclose(views[0].depth, truth, equal_nan=True, atol=1e-5)
    frame = list(v.make_film(both, frames=2, size=48))[0]
    assert psnr(frame, views[0].image) > 22
    none = colmap_folder(tmp_path / "sparse-only", [(), ()])
    with pytest.raises(
        ValueError, match=r"0\.png: expected a view with depth, it has none; run COLMAP's dense stereo: stereo/depth_maps"
    ):
        v.make_film(none)


def test_what_is_not_as_asked_is_noted(left, folder):
    most = v.most_amount("orbit", left.camera, *v.depth_range(left.depth))
    assert v.make_film(left, "orbit", 2, amount=most, size=32).notes == ()
    for path in ("orbit", "wobble", "spiral", "dolly"):
        notes = v.make_film(left, path, 2, amount=1000, size=32).notes
        assert len(notes) == 1 and notes[0].startswith("--amount 1000 is more than this scene bears, ")
    assert v.most_amount("dolly", left.camera, 1.0, 2.0) == 3
    camera = camera_at()
    most = v.most_amount("wobble", camera, 1.0, 5.0)
    assert (
        v.sideways(camera, 1, 5, 0.999 * most)
        < v.sideways(camera, 1, 5, most)
        == pytest.approx(v.sideways(camera, 1, 5, 2 * most))
    )
    flat = step_view(3.0, 3.0)
    assert v.make_film(flat, "wobble", 2, size=32).notes == ()
    assert v.make_film(flat, "wobble", 2, amount=2.0, size=32).notes == ("--amount 2 changes nothing, the scene is flat",)
    assert "twice the picture's 64x48: made at 128x96" in v.make_film(folder, "orbit", 2, size=160).notes[0]
    assert "twice" in v.make_film(folder, "between", 2, size=160).notes[0]


def test_masked_views_keep_their_empty_background():
    view = step_view()
    mask = view.depth < 2
    cloud = v.layered_cloud(View(view.image, view.camera, torch.where(mask, view.depth, torch.nan), mask))
    assert len(cloud.points_world) == mask.sum()


# ---------------------------------------------------------------- photographs


def picture(mode="RGB", size=(60, 40)):
    y, x = np.mgrid[: size[1], : size[0]]
    rgb = np.stack([4 * x, 5 * y, 0 * x + 60], -1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


@pytest.mark.parametrize(
    "name, mode",
    [
        ("a.png", "RGB"),
        ("a.jpg", "RGB"),
        ("a.png", "L"),
        ("a.png", "P"),
        ("a.png", "LA"),
        ("a.png", "RGBA"),
        ("a.jpg", "CMYK"),
        ("a.webp", "RGB"),
        ("a.bmp", "RGB"),
        ("a.tif", "RGB"),
        ("a.png", "1"),
    ],
)
def test_every_kind_of_picture(tmp_path, name, mode):
    picture(mode).save(tmp_path / name)
    photo = v.read_photo(tmp_path / name)
    assert photo.image.shape == (3, 40, 60) and photo.image.dtype == torch.float32 and photo.focal is None
    assert 0 <= photo.image.min() and photo.image.max() <= 1
    if mode == "RGB" and name.endswith(("png", "bmp", "tif")):
        assert torch.equal((photo.image * 255).round().byte().permute(1, 2, 0), torch.from_numpy(np.array(picture())))


def test_sixteen_bits_and_alpha(tmp_path):
    values = (np.linspace(0, 65535, 40 * 60).reshape(40, 60)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert torch.allclose(
        v.read_photo(tmp_path / "deep.png").image[1], torch.from_numpy(values.astype(np.float32) / 65535), atol=1e-6
    )
    rgba = picture("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat(np.uint8([[0, 255]]), 40, 0).repeat(30, 1)))
    rgba.save(tmp_path / "cut.png")
    photo = v.read_photo(tmp_path / "cut.png")
    assert (photo.image[:, :, :30] == 1).all() and photo.notes == ("its transparent pixels were laid over white",)


@pytest.mark.parametrize("orientation, shape", [(1, (40, 60)), (3, (40, 60)), (6, (60, 40)), (8, (60, 40))])
def test_exif_turns_the_picture_and_tells_the_focal_length(tmp_path, orientation, shape):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0xA405] = 28
    picture().save(tmp_path / "a.jpg", exif=exif, quality=100)
    photo = v.read_photo(tmp_path / "a.jpg")
    assert photo.image.shape[1:] == shape
    assert photo.focal == pytest.approx(28 / 43.267 * math.hypot(40, 60), rel=1e-3)
    upright = torch.from_numpy(np.array(picture())).permute(2, 0, 1) / 255
    turned = torch.rot90(upright, {1: 0, 3: 2, 6: 3, 8: 1}[orientation], (1, 2))
    assert (photo.image - turned).abs().mean() < 0.02
    small = v.read_photo(tmp_path / "a.jpg", longest=30)
    assert max(small.image.shape) == 30 and small.focal == pytest.approx(photo.focal / 2) and "made smaller" in small.notes[0]


def test_focal_length_decides_the_camera(tmp_path):
    photo, depth = v.Photo(torch.rand(3, 40, 60), 70.0), torch.ones(40, 60)
    assert v.photo_view(photo, depth).camera.K[0, 0] == 70
    assert torch.allclose(v.photo_view(photo, depth, fov_deg=60.0).camera.K, intrinsics_from_fov(60.0, 40, 60))
    assert v.photo_view(v.Photo(photo.image, None), depth).camera.K[0, 0] == pytest.approx(30 / math.tan(math.pi / 6))


def write_depth(path, depth):
    if path.suffix == ".npy":
        np.save(path, depth)
    elif path.suffix == ".npz":
        np.savez(path, other=depth * 2, depth=depth)
    elif path.suffix == ".pfm":
        path.write_bytes(f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode() + depth[::-1].astype("<f4").tobytes())
    elif path.suffix == ".tif":
        Image.fromarray(depth).save(path)
    else:
        Image.fromarray((depth * 1000).round().astype(np.uint16)).save(path)


@pytest.mark.parametrize("name", ["d.npy", "d.npz", "d.pfm", "d.tif", "d.png"])
def test_every_form_of_depth(tmp_path, name):
    depth = np.linspace(1, 4, 40 * 60, dtype=np.float32).reshape(40, 60)
    write_depth(tmp_path / name, depth)
    values = v.read_values(tmp_path / name)
    assert values.dtype == torch.float32 and values.shape == (40, 60)
    assert np.allclose(values, depth * (1000 if name == "d.png" else 1), atol=0.51 if name == "d.png" else 1e-6)


def test_grey_depth_saved_as_colour_is_read_and_coloured_is_not(tmp_path):
    grey = np.arange(40 * 60, dtype=np.int64).reshape(40, 60) % 256
    Image.fromarray(np.stack([grey] * 3, -1).astype(np.uint8)).save(tmp_path / "grey.png")
    assert np.array_equal(v.read_values(tmp_path / "grey.png"), grey)
    picture().save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match=r"colour\.png: expected one number a pixel.*coloured picture"):
        v.read_values(tmp_path / "colour.png")


def test_kinds_of_depth():
    stored = torch.tensor([[0.0, 2.0], [math.nan, 4.0]])
    assert torch.equal(v.depth_from_values(stored, scale=0.5).nan_to_num(-1), torch.tensor([[-1.0, 1.0], [-1.0, 2.0]]))
    inverse = v.depth_from_values(torch.linspace(0, 1, 101)[None], "inverse")[0]
    assert inverse[0] == v.FAR_OVER_NEAR and inverse[-1] == 1 and (inverse[1:] <= inverse[:-1]).all()
    assert torch.isnan(v.depth_from_values(stored, "inverse")[1, 0])
    for values, kind, says in (
        (torch.zeros(2, 2), "metric", "at least one known depth, got no finite value above 0"),
        (torch.ones(2, 2), "inverse", "expected values that differ, all of them are 1"),
        (torch.full((2, 2), math.nan), "inverse", "at least one known depth"),
        (stored, "z", "kind: expected one of"),
    ):
        with pytest.raises(ValueError, match=says):
            v.depth_from_values(values, kind)


def test_depth_is_fitted_only_where_it_fits():
    depth = torch.rand(20, 30) + 1
    assert torch.equal(v.fit_depth(depth, 40, 60), depth.repeat_interleave(2, 0).repeat_interleave(2, 1))
    with pytest.raises(ValueError, match="expected the picture's shape, 30x40, or one in proportion, got 20x30"):
        v.fit_depth(torch.rand(30, 20), 40, 30, "d.npy")
    with pytest.raises(ValueError, match="expected the picture's shape, 185x125, or one in proportion, got 4x3"):
        v.fit_depth(torch.rand(3, 4), 125, 185)
    with pytest.raises(ValueError, match="as its EXIF tag says"):
        v.fit_depth(depth, 60, 40, turned=True)
    with pytest.raises(ValueError, match="got 30x20; rows and columns are exchanged"):
        v.fit_depth(depth, 60, 40)
    with pytest.raises(ValueError, match="expected the picture's shape, 8000x6000, or"):
        v.fit_depth(torch.rand(20, 20), 1200, 1600, stored=(6000, 8000))


def test_what_is_odd_about_a_depth_map_is_noted(tmp_path):
    grey = np.arange(40 * 60, dtype=np.int64).reshape(40, 60) % 256
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "d.png")
    assert v.stored_depth(tmp_path / "d.png")[1] == (
        f"{tmp_path / 'd.png'}: 8-bit depth, read as metric; --depth-kind inverse if larger is nearer",
    )
    assert v.stored_depth(tmp_path / "d.png", "inverse")[1] == ()
    np.save(tmp_path / "d.npy", grey)
    assert v.stored_depth(tmp_path / "d.npy")[1] == ()
    with pytest.raises(ValueError, match=r"d\.npy: expected depths of 1e-06 to 1e\+09 m, got .*; --depth-scale sets the unit"):
        v.stored_depth(tmp_path / "d.npy", scale=1e-30)


def broken_files(folder):
    picture().save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    np.save(folder / "whole.npy", np.ones((40, 60), np.float32))
    files = {
        "cut.jpg": data[:200],
        "text.jpg": b"hello",
        "empty.png": b"",
        "phone.heic": b"\0\0\0\x18ftypheic",
        "text.npy": b"hello",
        "empty.npy": b"",
        "cut.npy": (folder / "whole.npy").read_bytes()[:300],
        "text.npz": b"hello",
        "cut.pfm": b"Pf\n60 40\n-1\nabc",
        "text.exr": b"hello",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(folder / "two.npz", a=np.ones((40, 60)), b=np.ones((40, 60)))
    np.save(folder / "flat.npy", np.ones(7))
    np.save(folder / "complex.npy", np.ones((4, 4), complex))
    np.save(folder / "hundred.npy", np.ones((100, 100), np.float32))
    return folder


PICTURES_BROKEN = ["cut.jpg", "text.jpg", "empty.png", "phone.heic", "whole.npy"]
DEPTHS_BROKEN = [
    "text.npy",
    "empty.npy",
    "cut.npy",
    "text.npz",
    "cut.pfm",
    "text.exr",
    "objects.npy",
    "two.npz",
    "flat.npy",
    "complex.npy",
    "text.jpg",
]


@pytest.mark.parametrize("name", PICTURES_BROKEN)
def test_broken_pictures_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        v.read_photo(broken_files(tmp_path) / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", DEPTHS_BROKEN)
def test_broken_depths_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        v.read_values(broken_files(tmp_path) / name)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- estimators


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    "Depth Anything as it is stored, too small to know anything."
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        image_size=28,
        patch_size=14,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        out_indices=[1, 2],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8],
        reassemble_factors=[2, 1],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    path = tmp_path_factory.mktemp("model") / "tiny"
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(path)
    transformers.DPTImageProcessor(
        size={"height": 28, "width": 28}, keep_aspect_ratio=True, ensure_multiple_of=14
    ).save_pretrained(path)
    return path


def test_an_estimator_from_a_folder(estimator):
    depth = v.estimate_depth(torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)), estimator)
    assert depth.shape == (40, 60) and 1 <= depth.min() and depth.max() <= v.FAR_OVER_NEAR


def test_a_metric_estimator_gives_metres(estimator):
    processor, network = v.load_estimator(estimator)
    network.config.depth_estimation_type = "metric"
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    inputs = processor(images=(image * 255).round().byte().permute(1, 2, 0).numpy(), return_tensors="pt")
    with torch.no_grad():
        network.head.conv3.bias += 5.0
        raw = processor.post_process_depth_estimation(network(**inputs), target_sizes=[(40, 60)])[0]["predicted_depth"]
    assert torch.allclose(v.estimate_depth(image, (processor, network)), raw)


def test_what_is_missing_from_an_estimator_is_said(estimator, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    config = (estimator / "config.json").read_text()
    made = {}
    for name in ("empty", "unweighted", "cut", "lacking", "nonsense"):
        made[name] = tmp_path / name
        made[name].mkdir()
        if name != "empty":
            (made[name] / "config.json").write_text("{}" if name == "nonsense" else config)
            (made[name] / "preprocessor_config.json").write_text((estimator / "preprocessor_config.json").read_text())
    (made["cut"] / "model.safetensors").write_bytes((estimator / "model.safetensors").read_bytes()[:2000])
    weights = load_file(estimator / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, made["lacking"] / "model.safetensors", {"format": "pt"})
    for name, path in made.items():
        with pytest.raises((ValueError, FileNotFoundError), match="^model: ") as error:
            v.load_estimator(path)
        assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(
        FileNotFoundError, match=r"model: expected a folder or a name such as .*, there is no \./nope; or give .* --depth FILE"
    ):
        v.load_estimator("./nope")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'nvs_book\[pretrained\]'; or give a depth map with --depth FILE"):
        v.load_estimator(estimator)


def test_a_model_that_the_hub_does_not_give(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub.HfApi, "model_info", refuse)
    with pytest.raises(
        FileNotFoundError, match="some/model is not in the cache, and the hub cannot be asked .*--model.*--depth FILE"
    ):
        v.load_estimator("some/model")


# ---------------------------------------------------------------- writing


def frames(count=5, height=20, width=30):
    return [torch.full((3, height, width), i / count) for i in range(count)]


def test_films_are_written(tmp_path):
    made = v.write_film(tmp_path / "a.mp4", frames(), fps=10)
    assert imageio_ffmpeg.count_frames_and_secs(str(made.path))[0] == 5 == made.frames and (made.height, made.width) == (20, 30)
    v.write_film(tmp_path / "a.gif", frames())
    assert Image.open(tmp_path / "a.gif").n_frames == 5
    v.write_film(tmp_path / "a.png", frames())
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (20, 5 * 30 + 4 * 4, 3) and sheet[0, 34 * 2, 0] == round(255 * 2 / 5) and sheet[0, 31, 0] == 255
    v.write_film(tmp_path / "b.png", frames(7))
    assert np.asarray(Image.open(tmp_path / "b.png")).shape == (3 * 24 - 4, 3 * 34 - 4, 3)
    v.write_film(tmp_path / "c.png", frames(1))
    assert np.asarray(Image.open(tmp_path / "c.png")).shape == (20, 30, 3)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.gif", "a.mp4", "a.png", "b.png", "c.png"]


@pytest.mark.parametrize("ending", v.FILM_ENDINGS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
def test_a_film_appears_whole_or_not_at_all(tmp_path, ending, error):
    path = tmp_path / f"film{ending}"
    path.write_bytes(b"what was there")

    def breaks_off():
        yield from frames(3)
        raise error

    with pytest.raises(error if isinstance(error, type) else OSError):
        v.write_film(path, breaks_off())
    assert [f.name for f in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"what was there"


@pytest.mark.skipif(os.name != "posix", reason="the limit is POSIX's")
@pytest.mark.parametrize("ending", v.FILM_ENDINGS)
def test_a_full_disk_is_said(tmp_path, ending):
    import resource

    path = tmp_path / f"film{ending}"
    path.write_bytes(b"what was there")
    noise = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(i)) for i in range(12)]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limit[1]))
    try:
        with pytest.raises(OSError) as error:
            v.write_film(path, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.filename == str(path) and error.value.errno and "\n" not in str(error.value)
    assert [f.name for f in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"what was there"


def test_a_film_through_a_link(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    v.write_film(tmp_path / "link.png", frames(1))
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").is_file()


def test_places_where_no_film_can_be_written(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link.png").symlink_to(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"link\.png: expected the name of a film, this is a link to .*notes\.txt"):
        v.write_film(tmp_path / "link.png", frames())
    for path, error, says in (
        (tmp_path / "a.avi", ValueError, "the ending: expected one of"),
        (tmp_path / "no/a.mp4", FileNotFoundError, "there is no folder"),
        (tmp_path / "folder.mp4", IsADirectoryError, "this is a folder"),
    ):
        with pytest.raises(error, match=says):
            v.write_film(path, frames())
    with pytest.raises(ValueError, match="frames: expected at least one, got none"):
        v.write_film(tmp_path / "a.mp4", [])
    if os.path.isdir("/proc/self"):  # a folder in which nobody can make a file
        with pytest.raises(OSError) as error:
            v.film_path("/proc/a.mp4")
        assert error.value.filename == "/proc/a.mp4"
    if hasattr(os, "geteuid") and os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            v.film_path(tmp_path / "a.mp4")


# ---------------------------------------------------------------- commands


def run(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code if result.return_value is None else result.return_value, result.stdout, result.stderr


def test_render_commands(tmp_path, folder):
    for arguments in (
        ("motorcycle", "-o", tmp_path / "a.mp4", "--frames", 2),
        ("world:2", "-o", tmp_path / "b.gif", "--frames", 2, "--path", "dolly", "--zoom"),
        (folder, "-o", tmp_path / "c.png", "--path", "between", "--from", 1, "--to", 2, "--views", 2, "--frames", 2),
    ):
        code, out, err = run("render", *arguments, "--size", 32)
        assert code == 0 and str(arguments[2]) in out and arguments[2].stat().st_size > 100, err
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.mp4", "b.gif", "c.png"]


def links(file, folder):
    "The file's own name, and others for it."
    (folder / "soft.png").symlink_to(file)
    os.link(file, folder / "hard.png")
    return file, folder / "soft.png", folder / "hard.png", file.parent / "." / file.name


def test_what_a_film_is_made_of_survives(tmp_path, folder):
    (tmp_path / "in").mkdir(), (tmp_path / "out").mkdir()
    picture().save(tmp_path / "in" / "me.png")
    Image.fromarray(np.full((40, 60), 2000, np.uint16)).save(tmp_path / "in" / "depth.png")
    shutil.copytree(folder, tmp_path / "in" / "views")
    made = ["photo", tmp_path / "in" / "me.png", "--depth", tmp_path / "in" / "depth.png"]
    of_views = ["render", tmp_path / "in" / "views", "--path", "between"]
    inputs = [file for file in (tmp_path / "in").rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in inputs}
    pictures = sorted(file for file in inputs if file.suffix == ".png")
    assert len(pictures) >= 6
    for i, file in enumerate(pictures):
        (tmp_path / "out" / str(i)).mkdir()
        for name in links(file, tmp_path / "out" / str(i)):
            command = made if file.parent.name == "in" else of_views
            code, out, err = run(*command, "-o", name, "--frames", 2, "--size", 32)
            assert code == 2 and out == "" and err.count("\n") == 1, err
            assert "expected another file to write to, the film is made of this one" in err and str(name) in err
    assert before == {file: file.read_bytes() for file in before} and len(before) == len(inputs)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (
            ("motorcycle", "--path", "between", "--amount", 2),
            "--amount goes with a path around one view, not with --path between",
        ),
        (("world", "--path", "orbit", "--amount", 2), "--amount goes with a path around one view, not with --path orbit"),
        (("world", "--path", "between", "--views", 2), "--views goes with a folder of views"),
        (("motorcycle", "--path", "dolly", "--to", 1), "--to goes with --path between, not with --path dolly"),
        (("motorcycle", "--views", 3), "--views goes with --path between, not with --path orbit"),
        (("motorcycle", "--from", -1), "--from"),
        (("motorcycle", "--path", "between", "--to", -1), "--to"),
        (("motorcycle", "--path", "between", "--from", 1, "--to", 1), "--to: expected another view than 1"),
        (("motorcycle", "--from", 7), "--from: expected the number of a view, 0 to 1, got 7"),
        (("",), "empty"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, arguments, says):
    code, out, err = run("render", *arguments, "-o", tmp_path / "a.png", "--frames", 2, "--size", 32)
    assert code == 2 and out == "" and says in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def test_messages_know_what_the_user_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(size=(5000, 20)).save("long.png"), picture(size=(2400, 1600)).save("large.png"), picture().save("me.png")
    np.save("d.npy", np.ones((40, 60), np.float32)), np.save("square.npy", np.ones((40, 40), np.float32))
    os.mkdir("empty")
    for arguments, says in (
        (("long.png", "--depth", "d.npy"), "long.png: expected a picture less long and narrow, got 5000x20"),
        (("large.png", "--depth", "square.npy"), "expected the picture's shape, 2400x1600, or one in proportion, got 40x40"),
        (("me.png", "--depth", "d.npy", "--depth-scale", "1e-30"), "--depth-scale"),
        (("me.png", "--model", "empty"), "--model: expected a folder that holds a model (config.json, "),
    ):
        code, out, err = run("photo", *arguments, "-o", "a.mp4", "--frames", 2, "--size", 32)
        assert code == 2 and out == "" and says in err and err.count("\n") == 1, err
    for name, says in (("", "an empty one"), ("x.mp4/", "x.mp4/ is a folder's")):
        code, out, err = run("photo", "me.png", "--depth", "d.npy", "-o", name)
        assert code == 2 and says in err and err.count("\n") == 1, err
    assert not list(tmp_path.glob("*.mp4"))


def test_photo_commands(tmp_path, estimator):
    picture().save(tmp_path / "me.png")
    depth = np.ones((40, 60), np.float32)
    depth[:, 30:] = 2
    np.save(tmp_path / "d.npy", depth)
    for i, arguments in enumerate(
        [
            ("--depth", tmp_path / "d.npy"),
            ("--depth", tmp_path / "d.npy", "--depth-kind", "inverse", "--fov", 40, "--path", "spiral"),
            ("--model", estimator, "--path", "dolly"),
        ]
    ):
        code, out, err = run("photo", tmp_path / "me.png", "-o", tmp_path / f"{i}.png", "--frames", 2, "--size", 40, *arguments)
        assert code == 0 and "2 frames, 124x40" in out, err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("render", "nowhere", "-o", "a.mp4"), "there is nothing at nowhere"),
        (("render", "motorcycle", "-o", "a.avi"), "a.avi"),
        (("render", "motorcycle", "-o", "no/a.mp4"), "no folder no"),
        (("render", "motorcycle", "-o", "."), "this is a folder"),
        (("render", "motorcycle", "-o", "a.mp4", "--from", "9"), "0 to 1, got 9"),
        (("render", "motorcycle", "-o", "a.mp4", "--zoom"), "--zoom goes with --path dolly"),
        (("render", ".", "-o", "a.mp4"), "transforms.json"),
        (("render", "motorcycle", "-o", "a.mp4", "--amount", "nan"), "amount"),
        (("render", "world:-1", "-o", "a.mp4"), "world:-1"),
        (("photo", "whole.jpg", "-o", "a.mp4", "--depth", "no.npy"), "no.npy"),
        (("photo", ".", "-o", "a.mp4"), "directory"),
        (("photo", "whole.jpg", "-o", "a.mp4", "--depth", "hundred.npy"), "hundred.npy: expected the picture's shape, 60x40"),
        (
            ("photo", "whole.jpg", "-o", "a.mp4", "--depth", "whole.npy", "--depth-kind", "inverse"),
            "whole.npy: expected values that differ",
        ),
        (("photo", "whole.jpg", "-o", "a.mp4", "--depth", "whole.npy", "--model", "x/y"), "--depth and --model"),
        (("photo", "whole.jpg", "-o", "a.mp4", "--model", "./none"), "there is no ./none"),
        *[(("photo", name, "-o", "a.mp4", "--depth", "whole.npy"), name) for name in PICTURES_BROKEN],
        *[(("photo", "whole.jpg", "-o", "a.mp4", "--depth", name), name) for name in DEPTHS_BROKEN],
    ],
)
def test_nonsense_gets_one_line_and_loses_nothing(tmp_path, monkeypatch, arguments, says):
    broken_files(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"what was there")
    before = sorted(f.name for f in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments, "--frames", 2, "--size", 32)
    assert code == 2 and out == "" and says in err
    lines = [line for line in err.splitlines() if "note:" not in line]
    assert len(lines) == 1 and lines[0].startswith("nvs-book: error: ")
    assert sorted(f.name for f in tmp_path.iterdir()) == before and (tmp_path / "a.mp4").read_bytes() == b"what was there"
