"""Triplane NeRF, the fit: guidance by a grid, scenes that are fitted, saved and taken up again, meshes, what is refused."""

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvs_book.cameras import Camera, intrinsics_from_fov, orbit
from nvs_book.metrics import psnr
from nvs_book.scenes import View
from nvs_book.training import TrainConfig, seeded, shipped
from nvs_book.triplane import (
    FIT,
    TriplaneDecoder,
    TriplaneField,
    TriplaneNeRF,
    contract,
    expected_depth,
    extract_mesh,
    fit,
    lattice_density,
    load_scene,
    pixel_rays,
    render_rays,
    scene_around,
    seen_from,
    standard_scene,
    surface_normals,
)  # fmt: skip


def ball(unbounded=False, box_size=2.0, center=(0.0, 0.0, 0.0), radius=0.6):
    "A ball of fog with a sharp border, of this radius in half box sides: planes hold squares, the network adds them."
    scene = TriplaneNeRF(box_size, center, unbounded, background=(1.0, 1.0, 1.0), size=96, channels=2, hidden=4)
    line = ((torch.arange(96) + 0.5) / 48 - 1) / (0.5 if unbounded else 1.0)  # an unbounded scene has the box in the middle half
    squares = (line[:, None] ** 2 + line[None] ** 2) / 2
    with torch.no_grad():
        for plane in scene.planes:
            plane.zero_()
        scene.planes[-1][:, 0] = squares / 5.0  # planes are kept in units of five
        for layer in scene.decoder.layers:
            layer.weight.zero_(), layer.bias.zero_()
        scene.decoder.layers[0].weight[0, ::2] = 1.0
        scene.decoder.layers[1].weight[0, 0] = 1.0
        scene.decoder.layers[2].weight[0, 0], scene.decoder.layers[2].bias[0] = -3000.0, 3000.0 * radius**2
        scene.decoder.layers[2].bias[1:] = torch.tensor([3.0, 0.0, -3.0])
    scene.look_around(scene.field())
    return scene


def cameras(num=6, distance=3.0, size=48, target=(0.0, 0.0, 0.0)):
    return Camera(intrinsics_from_fov(50.0, size, size), orbit(num, distance, 25.0, target), size, size)


@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3))
def test_contract_keeps_directions_and_order(x):
    x = torch.tensor(x, dtype=torch.float64)
    made, larger = contract(x), contract(1.5 * x)
    assert made.abs().max() < 1 and (larger.abs() >= made.abs()).all()
    assert (torch.linalg.cross(made, x) / (1 + x.norm())).abs().max() < 1e-9
    if x.abs().max() <= 1:
        assert torch.equal(made, x / 2)


@pytest.mark.parametrize("third", ["zy", "yz", "zx"])
def test_a_lattice_is_its_points(third):
    torch.manual_seed(0)
    field = TriplaneField(torch.randn(3, 3, 5, 8), TriplaneDecoder(3, hidden=6), third_plane=third)
    lines = tuple(2.4 * torch.rand(n) - 1.2 for n in (9, 4, 6))
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
    expected = field(points.reshape(-1, 3))[0].view(9, 4, 6)
    torch.testing.assert_close(lattice_density(field, lines), expected.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("unbounded", [False, True])
def test_the_grid_guides_to_the_same_picture(unbounded):
    scene = ball(unbounded)
    origins, directions = cameras(2).rays()
    with torch.no_grad():
        options = dict(rule="point", background=(1.0, 1.0, 1.0))
        plain = render_rays(scene.field(), origins, directions, 256, 256, **options)
        guided = render_rays(scene.field(), origins, directions, 128, 48, grid=scene.grid, **options)
    error = (guided.rgb - plain.rgb).abs().mean()
    assert error < 0.01
    inside = plain.opacity > 0.5
    assert inside.float().mean() > 0.05
    assert (guided.depth - plain.depth)[inside].abs().mean() < 0.02


def test_what_the_grid_does_not_know_is_still_found():
    scene = ball()
    scene.grid.zero_()  # nothing anywhere: samples are spread evenly
    seen = scene.render(cameras(1), 96)
    assert abs(float(seen.opacity.mean()) - float(ball().render(cameras(1), 96).opacity.mean())) < 0.01


@pytest.mark.parametrize("unbounded", [False, True])
def test_units_and_places_do_not_matter(unbounded):
    here, there = ball(unbounded), ball(unbounded, box_size=200.0, center=(1000.0, -500.0, 0.0))
    near = here.render(cameras(2))
    far = there.render(cameras(2, 300.0, target=(1000.0, -500.0, 0.0)))
    torch.testing.assert_close(near.rgb, far.rgb, atol=5e-3, rtol=0)
    torch.testing.assert_close(100 * near.depth, far.depth, atol=2.0, rtol=1e-2)


@pytest.mark.parametrize("unbounded", [False, True])
def test_mesh_of_a_ball(unbounded):
    scene = ball(unbounded, box_size=4.0, center=(1.0, 2.0, 3.0))
    mesh = extract_mesh(scene, resolution=96)
    distance = torch.from_numpy(mesh.vertices - [1.0, 2.0, 3.0]).norm(dim=-1)
    assert (distance - 1.2).abs().max() < 0.03
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * math.pi * 1.2**3, rel=0.04)  # faces look outwards
    red, green, blue = mesh.visual.vertex_colors[:, :3].mean(0) / 255
    assert red > 0.9 and abs(green - 0.5) < 0.05 and blue < 0.1


def test_mesh_keeps_what_cameras_see():
    scene = ball()
    from_one_side = cameras(1)
    mesh = extract_mesh(scene, from_one_side, resolution=64)
    towards = torch.from_numpy(mesh.vertices).float() @ torch.nn.functional.normalize(from_one_side.center[0], dim=0)
    assert len(mesh.vertices) < 0.7 * len(extract_mesh(scene, resolution=64).vertices)
    assert towards.min() > -0.1
    with pytest.raises(ValueError, match="level"):
        extract_mesh(scene, level=1e9)


def test_points_behind_a_camera_or_a_surface_are_not_seen():
    scene, camera = ball(), cameras(1)
    axis = torch.nn.functional.normalize(camera.center[0], dim=0)
    points = torch.stack([0.6 * axis, -0.6 * axis, 5.0 * axis, 0.6 * axis + torch.tensor([0.0, 50.0, 0.0])])
    assert seen_from(scene, points, camera, 0.05).tolist() == [True, False, False, False]


def test_normals_of_a_ball_point_outwards():
    scene, camera = ball(), cameras(1)[0]
    distance = expected_depth(scene.render(camera))
    normals = surface_normals(scene, camera, distance)
    origins, directions = camera.rays()
    out = torch.nn.functional.normalize(origins + distance[..., None] * directions, dim=-1)
    known = ~distance.isnan()
    assert torch.equal(normals.isnan().any(-1), ~known) and known.float().mean() > 0.05
    assert (normals * out).sum(-1)[known].mean() > 0.97


@pytest.fixture(scope="module")
def small():
    "A small world, and a short fit of it."
    views, heldout, world = standard_scene(size=32)
    with seeded(0):
        model = TriplaneNeRF(3.4, unbounded=True, near=0.8, size=64, channels=8, hidden=16)
    config = TrainConfig(**FIT | dict(steps=100, batch_size=1024, validate_every=50))
    return views, heldout, world, fit(views, model, heldout, config, num_samples=10)


def test_a_short_fit_beats_every_picture(small):
    views, heldout, _, fitted = small
    image = fitted.model.render(heldout.camera).rgb.movedim(-1, -3).clamp(0, 1)
    made = psnr(image, heldout.image).mean()
    nearest = views.image[torch.cdist(heldout.camera.center, views.camera.center).argmin(1)]
    mean = views.image.mean((0, 2, 3))[:, None, None].expand_as(heldout.image)
    assert made > psnr(mean, heldout.image).mean() + 4 and made > psnr(nearest, heldout.image).mean() + 4
    on_the_way = [line["psnr"] for line in fitted.record["validation"]]
    assert on_the_way[-1] > on_the_way[0] and on_the_way[-1] == pytest.approx(float(made), abs=0.3)


def test_pixels_are_those_of_the_views(small):
    views = small[0]
    index = torch.tensor([0, 5 * 32 * 32 + 7 * 32 + 3])
    origins, directions, colours = pixel_rays(views, index)
    o, d = views.camera.rays()
    torch.testing.assert_close(directions, torch.stack([d[0, 0, 0], d[5, 7, 3]]))
    torch.testing.assert_close(origins, torch.stack([o[0, 0, 0], o[5, 7, 3]]))
    assert torch.equal(colours, torch.stack([views.image[0, :, 0, 0], views.image[5, :, 7, 3]]))


def test_scene_around_looks_where_the_cameras_look():
    target = (10.0, 20.0, 30.0)
    camera = cameras(8, 3.0, target=target)
    scene = scene_around(View(torch.zeros(8, 3, 48, 48), camera))
    assert scene.center.tolist() == pytest.approx(target, abs=1e-2)
    assert scene.options["box_size"] == pytest.approx(2 * 3 * math.tan(math.radians(25)), rel=1e-2)


def test_a_fit_is_kept_and_taken_up_again(small, tmp_path):
    views, heldout, *_ = small
    make = lambda: TriplaneNeRF(3.4, unbounded=True, near=0.8, size=32, channels=4, hidden=8)  # noqa: E731
    config = TrainConfig(**FIT | dict(steps=30, batch_size=256, validate_every=10, checkpoint_every=10))

    class Stop(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        import nvs_book.triplane as triplane

        plain = triplane.fit_loss

        def stops(model, batch, **options):
            if batch[-1] == 25:
                raise Stop
            return plain(model, batch, **options)

        patch.setattr(triplane, "fit_loss", stops)
        fit(views, make(), heldout, config, 8, folder=tmp_path)
    record = json.loads((tmp_path / "best.json").read_text())
    best = load_scene(tmp_path / "best.safetensors")
    assert record["step"] in (10, 20) and best.options["size"] == 32
    fitted = fit(views, make(), heldout, config, 8, folder=tmp_path)
    assert [line["step"] for line in fitted.record["validation"]] == [10, 20, 30]
    again = load_scene(tmp_path / "weights.safetensors")
    torch.testing.assert_close(again.render(heldout.camera[0]).rgb, fitted.model.render(heldout.camera[0]).rgb)


def test_the_scene_that_ships():
    views, heldout, world = standard_scene()
    scene = load_scene(shipped("triplane"))
    image = scene.render(heldout.camera).rgb.movedim(-1, -3).clamp(0, 1)
    assert psnr(image, heldout.image).mean() > 30
    mesh = extract_mesh(scene, views.camera, resolution=96)
    off = world.sdf(torch.from_numpy(mesh.sample(5000, seed=0)).float()).abs()
    assert off.mean() < 0.015 * scene.options["box_size"]  # the world knows how far a point is from its surface


def test_equal_seeds_give_equal_scenes(small):
    views, *_ = small
    config = TrainConfig(**FIT | dict(steps=3, batch_size=128, seed=5))
    one, two = (fit(views, config=config).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


def test_one_view_is_allowed_with_a_warning(small):
    views, *_ = small
    config = TrainConfig(**FIT | dict(steps=2, batch_size=64))
    with pytest.warns(UserWarning, match="one view only"):
        fit(views[:1], config=config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(views[:2], config=config)


def test_bad_input_is_named(small):
    views, *_ = small
    config = TrainConfig(**FIT | dict(steps=2, batch_size=64))
    with pytest.raises(ValueError, match=r"views: expected cameras outside the box.*30 of 30 inside.*unbounded"):
        fit(views, TriplaneNeRF(20.0, size=16), config=config)
    wrong_size = views.camera.resized(16, 16)
    broken = View.__new__(View)
    for key, value in {**vars(views), "camera": wrong_size}.items():
        object.__setattr__(broken, key, value)
    with pytest.raises(ValueError, match=r"views: expected cameras of the pictures' size \(32, 32\), got \(16, 16\)"):
        fit(broken, config=config)
    with pytest.raises(TypeError, match="views: expected a View"):
        fit(views.image, config=config)
    with pytest.raises(ValueError, match="heldout: expected shape"):
        fit(views, heldout=views[0], config=config)
    with pytest.raises(ValueError, match="image: expected finite numbers"):
        fit(replace(views, image=views.image * math.nan), config=config)
    with pytest.raises(ValueError, match="smooth"):
        fit(views, config=config, smooth=-1.0)
    with pytest.raises(ValueError, match="size: expected a multiple of 8"):
        TriplaneNeRF(size=20)
    with pytest.raises(ValueError, match="grid: expected the field of one scene"):
        field = TriplaneField(torch.randn(2, 3, 2, 4, 4), TriplaneDecoder(2))
        render_rays(field, torch.zeros(2, 1, 3), torch.eye(3)[None, :1].expand(2, 1, 3), grid=torch.zeros(4, 4, 4))


def test_a_file_that_is_no_scene_is_refused(tmp_path):
    from nvs_book.training import save_weights

    save_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors", {"notes": {}})
    with pytest.raises(ValueError, match="whose record has no scene"):
        load_scene(tmp_path / "other.safetensors")
