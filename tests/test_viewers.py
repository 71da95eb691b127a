"The viewers: what figures hold, that sliders change the picture, that videos decode, and what bad input gets."
import base64
import io
import json
import math
import subprocess
import sys

import imageio_ffmpeg
import ipywidgets
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nvs_book import viewers as v
from nvs_book.cameras import Camera, intrinsics, intrinsics_from_fov, orbit
from nvs_book.scenes import View

H, W = 24, 36
PLOTLY = "application/vnd.plotly.v1+json"


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def cameras(count=3):
    return Camera(intrinsics_from_fov(50.0, H, W), orbit(count, 2.0), H, W)


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def of_type(figure, kind, name=None):
    return [trace for trace in figure.data if trace.type == kind and name in (None, trace.name)]


# ---------------------------------------------------------------- pictures


def test_show_images_panels_titles_captions():
    figure = v.show_images({"a": random(3, H, W), "b": random(H, W), "mask": random(H, W) > 0.5}, captions=["", "12 dB", ""])
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "mask"]
    assert figure.axes[1].get_xlabel() == "12 dB"
    assert all(len(ax.images) == 1 for ax in figure.axes)


def test_show_images_keeps_values_and_orientation():
    image = torch.zeros(3, H, W)
    image[0, 0, -1] = 1.0  # red at the top right
    shown = v.show_images(image).axes[0].images[0].get_array()
    assert tuple(shown[0, -1]) == (1, 0, 0) and shown.sum() == 1


@pytest.mark.parametrize("count, columns, rows", [(5, 3, 2), (4, None, 1), (1, 4, 1)])
def test_show_images_grid(count, columns, rows):
    figure = v.show_images(random(count, 3, H, W), columns=columns, height=1.0)
    assert len(figure.axes) == count
    assert len({round(ax.get_subplotspec().rowspan.start) for ax in figure.axes}) == rows


def test_a_row_is_never_wider_than_a_page():
    assert v.show_images(random(9, 3, H, W), columns=9, height=4.0).get_figwidth() <= 10.01


def test_figures_are_shown_once():
    plt.close("all")
    made = [v.show_images(random(3, H, W)), v.show_depth(random(H, W)), v.compare(random(3, H, W), random(3, H, W)),
            v.plot_cost([1, 2], [1.0, 2.0])]
    assert len(made) == 4 and plt.get_fignums() == []  # an open figure would be shown a second time at the end of the cell


def test_mask_is_black_and_white():
    assert v.image_array(torch.tensor([[True, False]])).tolist() == [[[1, 1, 1], [0, 0, 0]]]


def test_unknown_depth_shows_the_hatched_ground():
    depth = torch.full((H, W), 2.0)
    depth[:, : W // 2] = torch.nan
    figure = v.show_depth(depth, vmin=1, vmax=3)
    ax = figure.axes[0]
    assert ax.images[0].get_array().mask[:, : W // 2].all() and not ax.images[0].get_array().mask[:, W // 2 :].any()
    assert ax.patch.get_hatch() and ax.patch.get_facecolor()[:3] == pytest.approx((0.8157,) * 3, abs=1e-3)
    drawn = pixels_of(v.figure_png(figure)).astype(int)
    left, right = drawn[drawn.shape[0] // 2, 20:60], drawn[drawn.shape[0] // 2, 220:280]
    assert np.ptp(left, 1).max() < 30 and np.ptp(right, 1).min() > 60  # grey against a colour of viridis


def test_depth_bar_has_its_unit_and_is_shared():
    figure = v.show_depth({"near": torch.full((H, W), 1.0), "far": torch.full((H, W), 5.0)}, unit="mm")
    assert {image.get_clim() for ax in figure.axes for image in ax.images} == {(1.0, 5.0)}
    assert any("depth (mm)" in (ax.get_ylabel() + ax.get_xlabel()) for ax in figure.findobj(matplotlib.axes.Axes))


def test_depth_all_unknown_is_drawn():
    v.figure_png(v.show_depth(torch.full((H, W), torch.nan)))


def test_error_map_is_mean_over_channels_and_masked():
    made, real, mask = random(3, H, W), random(3, H, W, seed=1), random(H, W, seed=2) > 0.5
    error = v.error_map(made, real, mask)
    assert torch.equal(error.isnan(), ~mask)
    torch.testing.assert_close(error[mask], (made - real).abs().mean(0)[mask])


def test_compare_reports_the_masked_mean():
    made, mask = torch.zeros(3, H, W), torch.zeros(H, W, dtype=torch.bool)
    real = torch.ones(3, H, W)
    real[:, :, :10], mask[:, :10] = 0.25, True
    figure = v.compare(made, real, mask, titles=("m", "r", "e"))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["m", "r", "e"]
    assert figure.axes[2].get_xlabel() == "mean 0.25"


def test_compare_of_nothing_says_so():
    nothing = torch.zeros(H, W, dtype=torch.bool)
    assert "nothing" in v.compare(random(3, H, W), random(3, H, W), nothing).axes[2].get_xlabel()


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: v.show_images([]), ValueError, "images"),
        (lambda: v.show_images(random(H, W, 3)), ValueError, "images"),
        (lambda: v.show_images(random(3, 0, W)), ValueError, "pixel"),
        (lambda: v.show_images(np.zeros((3, H, W))), ValueError, "images"),
        (lambda: v.show_images([np.zeros((3, H, W))]), TypeError, r"images\[0\]"),
        (lambda: v.show_images((random(3, H, W) * 255).byte()), TypeError, "uint8"),
        (lambda: v.show_images(random(2, 3, H, W), titles=["one"]), ValueError, "titles"),
        (lambda: v.show_images(random(2, 3, H, W), captions=["one"]), ValueError, "captions"),
        (lambda: v.show_images(random(3, H, W), height=0), ValueError, "height"),
        (lambda: v.show_images(random(3, H, W), columns=0.5), ValueError, "columns"),
        (lambda: v.show_depth("depth.png"), ValueError, "depth"),
        (lambda: v.compare(random(3, H, W), random(3, H, W + 1)), ValueError, "made, real"),
        (lambda: v.compare(random(3, H, W), random(3, H, W), titles=("a", "b")), ValueError, "titles"),
        (lambda: v.show_error(random(3, H, W), random(3, H, W), torch.ones(H, W)), TypeError, "mask"),
        (lambda: v.show_error(random(3, H, W), random(3, H, W), torch.ones(H, 1, dtype=torch.bool)), ValueError, "mask"),
        (lambda: v.set_style(dpi=0), ValueError, "dpi"),
    ],
)
def test_bad_pictures_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_style_stores_plotly_as_json_only():
    import plotly.io as pio

    before = plt.rcParams.copy(), pio.renderers.default, pio.templates.default
    try:
        v.set_style()
        assert pio.renderers.default == "plotly_mimetype" and plt.rcParams["figure.dpi"] <= 100
        assert set(plt.rcParams["axes.prop_cycle"].by_key()["color"]) <= set(v.OKABE_ITO.values())
    finally:
        plt.rcParams.update(before[0])
        pio.renderers.default, pio.templates.default = before[1:]


def test_small_png_keeps_the_page_white_and_the_colours_close():
    figure = v.show_images(random(3, H, W))
    full, small = v.figure_png(figure), v.figure_png(figure, colors=256)
    assert tuple(pixels_of(small)[0, 0]) == (255, 255, 255)
    assert abs(pixels_of(full).astype(int) - pixels_of(small)).mean() < 12
    assert len(Image.open(io.BytesIO(small)).getcolors()) <= 256


# ---------------------------------------------------------------- scenes


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 300), st.integers(2, 300), st.floats(0.2, 5), st.floats(0.01, 50))
def test_frustum_corners_project_to_the_image_corners(height, width, zoom, depth):
    K = intrinsics(zoom * width, zoom * width, 0.4 * width, 0.6 * height, torch.float64)
    c2w = torch.tensor([[0.0, 0, 1, 3], [1, 0, 0, -2], [0, 1, 0, 5], [0, 0, 0, 1]], dtype=torch.float64)
    camera = Camera(K, c2w, height, width)
    xy, z = camera.project(v.frustum_corners(camera, depth))
    corners = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float64)
    assert torch.allclose(xy, corners, atol=1e-8) and torch.allclose(z, torch.tensor(depth, dtype=torch.float64))


def test_frustum_corners_of_a_batch():
    batch = cameras(4)
    corners = v.frustum_corners(batch, 0.5)
    assert corners.shape == (4, 4, 3)
    for i in range(4):
        torch.testing.assert_close(corners[i], v.frustum_corners(batch[i], 0.5))


def test_scene_traces_axes_and_aspect():
    rays, lines = (torch.zeros(3), random(4, 3)), {"path": random(2, 5, 3)}
    figure = v.plot_scene(random(50, 3), random(50, 3), {"a": cameras()[0]}, random(1, 3, H, W), rays, lines, unit="mm")
    assert len(of_type(figure, "mesh3d")) == 1 and {"points", "a", "rays", "path"} <= {trace.name for trace in figure.data}
    scene = figure.layout.scene
    assert scene.aspectmode == "data" and [scene[f"{n}axis"].title.text for n in "xyz"] == ["x (mm)", "y (mm)", "z (mm)"]


@pytest.mark.parametrize("up, vector", [("z", (0, 0, 1)), ("-y", (0, -1, 0))])
def test_scene_is_the_right_way_up(up, vector):
    camera = v.plot_scene(random(5, 3), up=up).layout.scene.camera
    assert (camera.up.x, camera.up.y, camera.up.z) == vector
    project = v._viewpoint(v.plot_scene(random(5, 3), up=up, projection="orthographic"), random(5, 3).numpy())
    origin, above = project(np.array([[0.5, 0.5, 0.5], np.array([0.5, 0.5, 0.5]) + 0.1 * np.array(vector)]))
    assert above[1] > origin[1] and abs(above[0] - origin[0]) < 1e-6


def test_points_are_those_given():
    points = random(40, 3)
    points[3] = torch.nan
    cloud = v.plot_scene(points).data[0]
    np.testing.assert_array_equal(np.stack([cloud.x, cloud.y, cloud.z], 1), points[torch.arange(40) != 3].numpy())


def test_thinning_is_seeded_and_takes_given_points_with_their_colours():
    points, colors = random(5000, 3), torch.zeros(5000, 3)
    colors[points[:, 0] > 0.5] = 1.0  # white on one side, black on the other
    one, same, other = (v.plot_scene(points, colors, max_points=300, seed=seed).data[0] for seed in (0, 0, 1))
    assert len(one.x) == 300 and (one.x == same.x).all() and (one.x != other.x).any()
    scale = np.array([entry[1] for entry in one.marker.colorscale])
    assert (scale[one.marker.color] == np.where(one.x > 0.5, "#ffffff", "#000000")).all()


def test_clouds_share_the_points_and_pointmaps_take_images():
    pointmap, image = random(H, W, 3), random(3, H, W, seed=1)
    colors = {"map": image, "other": v.OKABE_ITO["green"]}
    figure = v.plot_scene({"map": pointmap, "other": random(H * W, 3)}, colors, max_points=500)
    a, b = of_type(figure, "scatter3d")
    assert abs(len(a.x) - 250) <= 1 and len(a.x) + len(b.x) <= 500 and b.marker.color == v.OKABE_ITO["green"]
    whole = v.plot_scene(pointmap, image).data[0]
    scale = [entry[1] for entry in whole.marker.colorscale]
    rgb = np.array([[int(scale[i][j : j + 2], 16) for j in (1, 3, 5)] for i in whole.marker.color]) / 255
    assert abs(rgb - image.flatten(1).T.numpy()).mean() < 0.06


def test_batched_pointmaps_take_batched_images():
    cloud = v.plot_scene(random(2, H, W, 3), random(2, 3, H, W)).data[0]
    assert len(cloud.x) == 2 * H * W


def test_scalar_colours_have_a_labelled_bar():
    figure = v.plot_scene(random(30, 3), random(30), color_label="error (m)")
    assert figure.data[0].marker.showscale and figure.data[0].marker.colorbar.title.text == "error (m)"
    drawn = v.draw_scene(figure)
    assert any(ax.get_ylabel() == "error (m)" for ax in drawn.axes)


def test_camera_image_is_upright_on_its_plane():
    image = torch.zeros(3, H, W)
    image[0, : H // 2] = 1.0  # the upper half red
    camera = cameras()[1]
    mesh = of_type(v.plot_scene(cameras=camera, images=[image], frustum_depth=0.5), "mesh3d")[0]
    vertices = np.stack([mesh.x, mesh.y, mesh.z], 1)
    middles = vertices[np.stack([mesh.i, mesh.j, mesh.k], 1)].mean(1)
    xy, z = camera.project(torch.from_numpy(middles).float())
    assert torch.allclose(z, torch.tensor(0.5), atol=1e-4)
    red = np.array([face == "#ff0000" for face in mesh.facecolor])
    sure = (xy[:, 1] - H / 2).abs().numpy() > 1.5
    assert (red == (xy[:, 1].numpy() < H / 2))[sure].all() and sure.sum() > 20


def test_all_kinds_of_cameras():
    one, batch = cameras()[0], cameras(5)
    for given_cameras, count in ((one, 1), (batch, 5), ([one, batch], 6), ({"a": one, "b": batch}, 6)):
        assert len(v.plot_scene(cameras=given_cameras).data) == count


def test_rays_have_their_length():
    origins, directions = random(7, 3), torch.nn.functional.normalize(random(7, 3, seed=1), dim=-1)
    rays = of_type(v.plot_scene(rays=(origins, directions), ray_length=1.5), "scatter3d", "rays")[0]
    ends = np.stack([rays.x, rays.y, rays.z], 1).reshape(7, 3, 3)
    np.testing.assert_allclose(ends[:, 1], origins + 1.5 * directions, atol=1e-6)
    assert np.isnan(ends[:, 2]).all()


def test_figures_stay_small():
    many, colors = random(200_000, 3), random(200_000, 3, seed=1)
    figure = v.plot_scene(many, colors, cameras(12), random(12, 3, 64, 64))
    assert v.stored_bytes(figure) < 400_000
    assert v.stored_bytes(v.plot_scene(many[:1000], colors[:1000])) < 30_000


def test_scene_bundle_is_json_and_a_png_and_nothing_else():
    bundle = v.plot_scene(random(50, 3), cameras=cameras(), images=random(3, 3, H, W))._repr_mimebundle_()
    assert set(bundle) == {PLOTLY, "image/png", "text/plain"}
    json.dumps(bundle[PLOTLY])
    assert pixels_of(base64.b64decode(bundle["image/png"])).std() > 5


def test_ipython_displays_the_bundle():
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(v.plot_scene(random(50, 3)))
    assert PLOTLY in data and "image/png" in data and "text/html" not in data


def test_static_scene_draws_every_trace():
    figure = v.plot_scene(random(50, 3), None, cameras(2), random(2, 3, H, W), rays=(torch.zeros(1, 3), random(1, 3)))
    ax = v.draw_scene(figure).axes[0]
    assert sum(len(c.get_offsets()) for c in ax.collections if isinstance(c, matplotlib.collections.PathCollection)) == 50
    assert sum(isinstance(c, matplotlib.collections.PolyCollection) for c in ax.collections) == 2


def test_static_scene_of_a_plane_and_a_point():
    v.figure_png(v.draw_scene(v.plot_scene(torch.tensor([[0.0, 0, 0], [1, 1, 0], [1, 0, 0]]))))
    v.figure_png(v.draw_scene(v.plot_scene(torch.zeros(1, 3))))


def test_near_points_are_drawn_over_far_ones():
    figure = v.plot_scene(random(200, 3))
    points = v.draw_scene(figure).axes[0].collections[0].get_offsets()
    project = v._viewpoint(figure, v._vertices(figure.data[0]))
    seen = project(v._vertices(figure.data[0]))
    order = np.argsort(-seen[:, 2])
    np.testing.assert_allclose(points, seen[order, :2])


def test_epipolar_lines_lie_in_the_image_plane_and_the_epipolar_plane():
    batch = cameras(6)
    src, dst = (View(random(3, H, W), batch[i]) for i in (0, 1))
    pixels = torch.tensor([[10.0, 12.0], [20.0, 8.0]])
    figure = v.plot_epipolar(src, dst, pixels, frustum_depth=0.4)
    line = of_type(figure, "scatter3d", "epipolar lines")[0]
    ends = torch.from_numpy(np.stack([line.x, line.y, line.z], 1).reshape(2, 3, 3)[:, :2])
    xy, z = dst.camera.project(ends)
    assert torch.allclose(z, torch.tensor(0.99 * 0.4), atol=1e-4)
    assert (xy > -0.01).all() and (xy[..., 0] < W + 0.01).all() and (xy[..., 1] < H + 0.01).all()
    rays = v.on_image_plane(src.camera, pixels, 1.0) - src.camera.center
    normals = torch.linalg.cross(rays, (dst.camera.center - src.camera.center).expand_as(rays))
    assert ((ends - src.camera.center) * normals[:, None]).sum(-1).abs().max() < 1e-4


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: v.plot_scene(), ValueError, "points, cameras"),
        (lambda: v.plot_scene(random(5, 2)), ValueError, "points"),
        (lambda: v.plot_scene([[0.0, 0, 0]]), TypeError, "points"),
        (lambda: v.plot_scene(random(5, 3), random(4, 3)), ValueError, "colors"),
        (lambda: v.plot_scene(random(5, 3), (random(5, 3) * 255).byte()), TypeError, "uint8"),
        (lambda: v.plot_scene(random(5, 3), [1.0] * 5), TypeError, "colors"),
        (lambda: v.plot_scene({"a": random(5, 3)}, {"b": random(5, 3)}), ValueError, "colors"),
        (lambda: v.plot_scene(random(5, 3), max_points=0), ValueError, "max_points"),
        (lambda: v.plot_scene(random(5, 3), up="y"), ValueError, "up"),
        (lambda: v.plot_scene(random(5, 3), projection="fisheye"), ValueError, "projection"),
        (lambda: v.plot_scene(cameras=torch.eye(4)), TypeError, "cameras"),
        (lambda: v.plot_scene(cameras=cameras(3), images=random(2, 3, H, W)), ValueError, "images"),
        (lambda: v.plot_scene(cameras=cameras(3), frustum_depth=-1.0), ValueError, "frustum_depth"),
        (lambda: v.plot_scene(rays=random(5, 3)), TypeError, "rays"),
        (lambda: v.plot_scene(rays=(random(5, 3), random(5, 2))), ValueError, "rays"),
        (lambda: v.plot_scene(rays=(random(5, 3), random(5, 3)), ray_length=0), ValueError, "ray_length"),
        (lambda: v.plot_scene(lines=random(5, 3)), ValueError, "lines"),
        (lambda: v.frustum_corners(cameras(), 0), ValueError, "depth"),
        (lambda: v.plot_epipolar(*[View(random(3, H, W), cameras()[0])] * 2, random(3, 2)), ValueError, "src and dst"),
        (lambda: v.plot_epipolar(*[View(random(3, H, W), cameras()[i]) for i in (0, 1)], random(3, 3)), ValueError, "xy"),
    ],
)
def test_bad_scenes_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_an_empty_or_unknown_cloud_is_drawn_as_nothing():
    assert len(v.plot_scene(torch.full((9, 3), torch.nan), cameras=cameras()).data[0].x) == 0
    assert len(v.plot_scene(torch.zeros(0, 3), torch.zeros(0, 3), cameras()).data[0].x) == 0


# ---------------------------------------------------------------- sliders


def shade(level, tint="red"):
    image = torch.zeros(3, H, W)
    image[["red", "green", "blue"].index(tint)] = level
    return image


def test_slider_changes_the_picture():
    explorer = v.scrub(shade, level=(0.0, 1.0, 0.1, 0.2), tint=["red", "green"])
    assert tuple(pixels_of(explorer.picture.value)[0, 0]) == (51, 0, 0)
    explorer.controls["level"].value = 1.0
    assert tuple(pixels_of(explorer.picture.value)[0, 0]) == (255, 0, 0)
    explorer.controls["tint"].value = "green"
    assert tuple(pixels_of(explorer.picture.value)[0, 0]) == (0, 255, 0)
    assert explorer.value == {"level": 1.0, "tint": "green"} and explorer.seconds > 0


def test_pictures_are_kept_until_cleared():
    calls = []

    def fn(level):
        calls.append(level)
        return shade(level)

    explorer = v.scrub(fn, cache=2, level=(0.0, 1.0, 0.25))
    for level in (0.25, 0.0, 0.25, 0.0):
        explorer.controls["level"].value = level
    assert calls == [0.0, 0.25]
    explorer.controls["level"].value = 0.5  # the third picture pushes out the one used longest ago, 0.25
    explorer.controls["level"].value = 0.0
    assert calls == [0.0, 0.25, 0.5]
    explorer.controls["level"].value = 0.25
    assert calls == [0.0, 0.25, 0.5, 0.25]
    explorer.clear()
    assert calls[-1] == 0.25 and len(calls) == 5


def test_without_a_cache_fn_is_always_called():
    count = iter(range(100))
    explorer = v.scrub(lambda level: shade(next(count) / 100), cache=0, level=(0.0, 1.0, 0.5))
    before = explorer.picture.value
    explorer.redraw()
    assert explorer.picture.value != before


def test_static_filmstrip_runs_over_the_first_slider():
    explorer = v.scrub(shade, frames=3, level=(0.0, 1.0, 0.1, 0.2), tint=["green", "blue"], units={"level": "of 1"})
    figure = explorer.figure()
    assert [ax.get_title() for ax in figure.axes] == ["level = 0 of 1", "level = 0.5 of 1", "level = 1 of 1"]
    assert [float(ax.images[0].get_array()[0, 0, 1]) for ax in figure.axes] == pytest.approx([0, 0.5, 1])
    assert "tint = green" in figure._supxlabel.get_text()


def test_bundle_has_the_live_view_and_a_png():
    bundle = v.scrub(shade, level=(0.0, 1.0, 0.1))._repr_mimebundle_()
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert pixels_of(base64.b64decode(bundle["image/png"])).shape[1] > 100


def test_figures_can_be_scrubbed():
    def fn(power):
        figure, ax = plt.subplots()
        ax.plot([0, 1], [0, 1**power + power])
        return figure

    plt.close("all")
    explorer = v.scrub(fn, power=(1, 3, 1))
    before = explorer.picture.value
    explorer.controls["power"].value = 3
    assert explorer.picture.value != before and plt.get_fignums() == []
    assert isinstance(explorer.figure(), matplotlib.figure.Figure)


def test_an_error_in_fn_is_shown_and_the_picture_stays():
    explorer = v.scrub(lambda level: shade(1.0 / level), level=(0, 4, 1, 4))
    before = explorer.picture.value
    explorer.controls["level"].value = 0
    assert "ZeroDivisionError" in explorer.note.value and "level = 0" in explorer.note.value
    assert explorer.picture.value == before
    explorer.controls["level"].value = 2
    assert "Error" not in explorer.note.value and explorer.picture.value != before


def test_controls_by_kind_and_label():
    kinds = {
        (0, 5, 1): ipywidgets.IntSlider, (0.0, 1.0, 0.1): ipywidgets.FloatSlider, True: ipywidgets.Checkbox,
    }  # fmt: skip
    for spec, kind in kinds.items():
        control = v.make_control("radius", spec, "px")
        assert isinstance(control, kind) and control.description == "radius (px)"
    assert isinstance(v.make_control("k", [1, 2, 4]), ipywidgets.SelectionSlider)
    assert isinstance(v.make_control("k", ["a", "b"]), ipywidgets.Dropdown)
    assert v.make_control("r", (0.0, 1.0, 0.05)).readout_format == ".2f"
    assert v.make_control("r", (0.0, 1.0, 0.5, 0.5)).value == 0.5
    own = ipywidgets.IntSlider(3)
    assert v.make_control("k", own) is own


@settings(max_examples=50, deadline=None)
@given(st.integers(-5, 5), st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.integers(1, 9))
def test_filmstrip_values_are_values_of_the_slider(low, steps, step, count):
    control = v.make_control("x", (float(low), low + steps * step, step))
    values = v.control_values(control, count)
    assert 1 <= len(values) <= count and values == sorted(set(values)) and values[0] == low
    for value in values:
        assert math.isclose((value - low) / step, round((value - low) / step), abs_tol=1e-6)
        control.value = value
        assert math.isclose(control.value, value, abs_tol=1e-9)
    if count > 1 and steps >= count:
        assert len(values) == count and math.isclose(values[-1], low + steps * step)


def test_png_is_lossless_enlarged_and_right_way_round():
    image = random(3, 5, 7)
    shown = pixels_of(v.encode_png(image, height=20))
    assert shown.shape == (20, 28, 3)
    np.testing.assert_array_equal(shown[::4, ::4], (image * 255 + 0.5).byte().permute(1, 2, 0).numpy())
    assert pixels_of(v.encode_png(image[:, :, :1], height=1)).shape == (5, 1, 3)
    assert pixels_of(v.encode_png(random(3, 250, 30))).shape == (250, 30, 3)  # not doubled for the sake of six rows
    assert pixels_of(v.encode_png(torch.tensor([[0.0, 1.0], [2.0, -1.0]]), height=2))[..., 0].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: v.scrub("fn", level=(0, 1, 1)), TypeError, "fn"),
        (lambda: v.scrub(shade), ValueError, "sliders"),
        (lambda: v.scrub(shade, level=(1.0, 0.0, 0.1)), ValueError, "level"),
        (lambda: v.scrub(shade, level=(0.0, 1.0, 0.0)), ValueError, "level"),
        (lambda: v.scrub(shade, level=(0.0, 1.0, 0.1, 2.0)), ValueError, "level"),
        (lambda: v.scrub(shade, level=(0.0, 1.0)), ValueError, "level"),
        (lambda: v.scrub(shade, level=(0.0, math.nan, 0.1)), ValueError, "level"),
        (lambda: v.scrub(shade, level=[]), ValueError, "level"),
        (lambda: v.scrub(shade, level=0.5), ValueError, "level"),
        (lambda: v.scrub(shade, level=(0.0, 1.0, 0.1), units={"radius": "px"}), ValueError, "units"),
        (lambda: v.scrub(shade, level=(0.0, 1.0, 0.1), cache=-1), ValueError, "cache"),
        (lambda: v.scrub(lambda level: "picture", level=(0.0, 1.0, 0.1)), TypeError, "fn"),
        (lambda: v.scrub(lambda level: random(2, H, W), level=(0.0, 1.0, 0.1)), ValueError, "image"),
    ],
)
def test_bad_sliders_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


# ---------------------------------------------------------------- videos


def flat(camera):
    "One grey for each camera: its index can be read back from the video."
    return torch.full((3, 21, 33), 0.1 + 0.8 * float((camera.center[0] + 2) / 4))


def decode(path):
    if path.suffix == ".gif":
        with Image.open(path) as gif:
            frames = []
            for i in range(gif.n_frames):
                gif.seek(i)
                frames.append(np.asarray(gif.convert("RGB")))
            return frames, 1000 / gif.info["duration"]
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    w, h = meta["size"]
    return [np.frombuffer(frame, np.uint8).reshape(h, w, 3) for frame in reader], meta["fps"]


@pytest.mark.parametrize("extension, shape", [(".mp4", (22, 34, 3)), (".gif", (21, 33, 3))])
def test_video_decodes_to_what_was_rendered(tmp_path, extension, shape):
    path_of_cameras = Camera(intrinsics_from_fov(50.0, 21, 33), orbit(9, 2.0, start_deg=10.0), 21, 33)
    video = v.orbit_video(flat, path_of_cameras, tmp_path / f"orbit{extension}", fps=10)
    frames, fps = decode(video.path)
    assert len(frames) == video.frames == 9 and fps == pytest.approx(10)
    assert frames[0].shape == shape == (video.height, video.width, 3)
    for i, frame in enumerate(frames):
        assert abs(frame[5:-5, 5:-5].mean() / 255 - float(flat(path_of_cameras[i])[0, 0, 0])) < 0.02
    assert [p.name for p in tmp_path.iterdir()] == [f"orbit{extension}"]


def test_video_shows_itself_and_is_a_path(tmp_path):
    video = v.orbit_video(flat, cameras(3), tmp_path / "a.mp4")
    with open(video, "rb") as file:
        data = file.read()
    html = video._repr_html_()
    assert base64.b64encode(data).decode() in html and "<video" in html and "aria-label" in html
    assert "<video" not in video._repr_html_(limit=10) and "too large" in video._repr_html_(limit=10)
    assert '<img alt="' in v.orbit_video(flat, cameras(3), tmp_path / "a.gif")._repr_html_()


def test_without_a_path_the_video_is_temporary():
    video = v.orbit_video(flat, list(map(cameras(3).__getitem__, range(3))))
    assert video.path.suffix == ".mp4" and video.path.exists()
    video.path.unlink()
    video.path.parent.rmdir()


def test_views_can_be_rendered(tmp_path):
    video = v.orbit_video(lambda camera: View(random(3, H, W), camera), cameras(3), tmp_path / "a.gif")
    assert (video.height, video.width) == (H, W)


@pytest.mark.parametrize("extension", [".mp4", ".gif"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [0, 3])
def test_an_interrupted_video_leaves_the_old_one(tmp_path, extension, error, at):
    target = tmp_path / f"orbit{extension}"
    target.write_bytes(b"the old one")
    calls = []

    def render(camera):
        if len(calls) == at:
            raise error
        calls.append(camera)
        return flat(camera)

    with pytest.raises(error):
        v.orbit_video(render, cameras(6), target)
    assert [p.name for p in tmp_path.iterdir()] == [target.name] and target.read_bytes() == b"the old one"


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda folder: v.orbit_video(flat, cameras(2), folder / "a.avi"), ValueError, "extension"),
        (lambda folder: v.orbit_video(flat, cameras(2), folder / "a"), ValueError, "extension"),
        (lambda folder: v.orbit_video(flat, cameras(2), folder / "no" / "a.mp4"), FileNotFoundError, "folder"),
        (lambda folder: v.orbit_video(flat, [], folder / "a.mp4"), ValueError, "cameras"),
        (lambda folder: v.orbit_video(flat, [torch.eye(4)], folder / "a.mp4"), TypeError, "cameras"),
        (lambda folder: v.orbit_video("flat", cameras(2), folder / "a.mp4"), TypeError, "render"),
        (lambda folder: v.orbit_video(flat, cameras(2), folder / "a.mp4", fps=0), ValueError, "fps"),
        (lambda folder: v.orbit_video(lambda c: random(H, W), cameras(2), folder / "a.gif"), ValueError, r"cameras\[0\]"),
        (lambda folder: v.orbit_video(lambda c: random(3, H, W) * torch.nan, cameras(2), folder / "a.mp4"), ValueError, "finite"),
        (lambda folder: v.orbit_video(lambda c: None, cameras(2), folder / "a.mp4"), TypeError, r"cameras\[0\]"),
        (lambda folder: v.orbit_video(growing(), cameras(2), folder / "a.gif"), ValueError, r"cameras\[1\]"),
        (lambda folder: v.orbit_video(growing(), cameras(2), folder / "a.mp4"), ValueError, r"cameras\[1\]"),
    ],
)
def test_bad_videos_are_named_and_leave_nothing(tmp_path, call, error, says):
    with pytest.raises(error, match=says):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def growing():
    sizes = iter(range(8, 99))
    return lambda camera: random(3, 8, next(sizes))


# ---------------------------------------------------------------- cost and headline


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 3), st.floats(1e-6, 1e3))
def test_cost_exponent_of_a_power_law(power, factor):
    sizes = [10, 100, 1000]
    assert math.isclose(v.cost_exponent(sizes, [factor * size**power for size in sizes]), power, rel_tol=1e-6)


def test_plot_cost_has_a_line_and_an_exponent_for_each():
    costs = {"ours": [1.0, 10.0, 100.0], "peer": [1.0, 100.0, 10_000.0]}
    figure = v.plot_cost([1, 10, 100], costs, xlabel="points", ylabel="time (s)")
    ax = figure.axes[0]
    assert ax.get_xscale() == ax.get_yscale() == "log" and (ax.get_xlabel(), ax.get_ylabel()) == ("points", "time (s)")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "1.00" in labels[0] and "2.00" in labels[1] and len(ax.lines) == 2


def test_best_time_calls_once_more_than_it_counts():
    calls = []
    assert 0 <= v.best_time(lambda: calls.append(1), repeats=3) < 1 and len(calls) == 4


@pytest.mark.parametrize(
    "sizes, seconds, says",
    [([1], [1.0], "two or more"), ([1, 2], [1.0], "as many"), ([1, 2], [1.0, 0.0], "seconds"),
     ([1, math.inf], [1.0, 2.0], "sizes")],
)
def test_bad_costs_are_named(sizes, seconds, says):
    with pytest.raises(ValueError, match=says):
        v.plot_cost(sizes, seconds)


def shown(capture, **changes):
    arguments = dict(chapter="04_viewers", label="speed", value=20.0, unit="fps", baseline=4, baseline_label="naive") | changes
    with capture as outputs:
        assert v.headline(**arguments) is None
    return outputs.outputs[0].data


def test_headline_stores_its_numbers():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    data = shown(capture_output(), value=torch.tensor(20.0), baseline=np.float32(4))
    assert data[v.HEADLINE_MIME] == {
        "chapter": "04_viewers", "label": "speed", "value": 20.0, "unit": "fps", "baseline": 4.0, "baseline_label": "naive",
        "higher_is_better": True,
    }  # fmt: skip
    json.dumps(data)
    assert "20 fps" in data["text/plain"] and "naive: 4 fps" in data["text/markdown"] and "higher is better" in data["text/plain"]
    assert "lower is better" in shown(capture_output(), higher_is_better=False)["text/plain"]
    assert "65,536 fps" in shown(capture_output(), value=65536)["text/plain"]


@pytest.mark.parametrize(
    "changes, error",
    [
        (dict(value=math.nan), ValueError), (dict(value=math.inf), ValueError), (dict(baseline=math.nan), ValueError),
        (dict(value="fast"), TypeError), (dict(value=None), TypeError), (dict(chapter=""), ValueError),
        (dict(label=None), ValueError), (dict(baseline_label=" "), ValueError),
    ],
)  # fmt: skip
def test_bad_headlines_are_named(changes, error):
    arguments = dict(chapter="c", label="l", value=1.0, unit="", baseline=1.0, baseline_label="b") | changes
    with pytest.raises(error, match=next(iter(changes))):
        v.headline(**arguments)


def test_importing_is_light():
    heavy = "('matplotlib', 'plotly', 'ipywidgets', 'PIL', 'IPython')"
    code = f"import sys, nvs_book.viewers; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
