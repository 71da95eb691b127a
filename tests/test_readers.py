"""Readers of folders on disk: small folders are written here in each real format, and what was written must come back."""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nvs_book.cameras import Camera, intrinsics, intrinsics_from_fov, invert_pose, look_at, orbit, stack_cameras
from nvs_book.scenes import (
    ProceduralWorld,
    View,
    ViewFolder,
    _in_front,
    distort,
    epipolar_check,
    epipolar_residual,
    fundamental_matrix,
    judge_poses,
    match_pixels,
    motorcycle,
    read_colmap,
    read_depth,
    read_image,
    read_realestate10k,
    read_srn,
    read_transforms,
    read_views,
    resize_view,
    stack_views,
    write_transforms,
)

HEIGHT, WIDTH, NUM = 40, 48, 4
FORMATS = ("nerf_synthetic", "nerfstudio", "colmap_text", "colmap_binary", "realestate10k", "srn")
ID = [0.0, 0.0, 0.0, 1.0]


def quaternion(R: np.ndarray) -> np.ndarray:
    "w, x, y, z of a rotation, by the eigenvector of Bar-Itzhack's matrix: another way than the library's."
    K = (
        np.array(
            [
                [R[0, 0] - R[1, 1] - R[2, 2], 0, 0, 0],
                [R[0, 1] + R[1, 0], R[1, 1] - R[0, 0] - R[2, 2], 0, 0],
                [R[0, 2] + R[2, 0], R[1, 2] + R[2, 1], R[2, 2] - R[0, 0] - R[1, 1], 0],
                [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1], np.trace(R)],
            ]
        )
        / 3
    )
    x, y, z, w = np.linalg.eigh(K)[1][:, -1]
    return np.array([w, x, y, z]) * (1 if w >= 0 else -1)


def save(path: Path, image: torch.Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def photos() -> View:
    "A world seen from four places; the last K differs, so that per-frame intrinsics matter where a format has them."
    eyes = orbit(36, radius=3.5, elevation_deg=30.0)[:NUM, :3, 3]
    aims = torch.tensor([0.0, -0.3, 0.4]) + torch.linspace(0, 1, NUM)[:, None] * torch.tensor([0.3, 0.6, 0.0])
    K = intrinsics(45.5, 44.25, 23.0, 21.5)
    return ProceduralWorld(seed=4).render(Camera(K, look_at(eyes, aims), HEIGHT, WIDTH))


def write_nerf_synthetic(folder: Path, images, camera) -> Path:
    frames = []
    for i in range(len(images)):
        save(folder / "train" / f"r_{i}.png", images[i])
        gl = camera.c2w[i].double().numpy() @ np.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"./train/r_{i}", "rotation": 0.01, "transform_matrix": gl.tolist()})
    angle = 2 * math.atan(0.5 * camera.width / camera.K[0, 0, 0].item())
    (folder / "transforms_train.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return folder


def write_nerfstudio(folder: Path, images, camera) -> Path:
    frames = []
    for i in range(len(images)):
        save(folder / "images" / f"frame_{i:05d}.png", images[i])
        gl = camera.c2w[i].double().numpy() @ np.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"images/frame_{i:05d}.png", "transform_matrix": gl.tolist()})
    fx, fy, cx, cy = camera.K[0, [0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    meta = {
        "camera_model": "OPENCV",
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "w": camera.width,
        "h": camera.height,
        "k1": 0.0,
        "p1": 0,
        "applied_transform": [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]],
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def colmap_numbers(camera, i):
    w2c = np.linalg.inv(camera.c2w[i].double().numpy())
    return [*quaternion(w2c[:3, :3]).tolist(), *w2c[:3, 3].tolist()]


POINTS = [
    (63390, (1.67241, 0.292931, 0.609726), (115, 121, 122), 1.33927, ((16, 6542), (15, 7345))),
    (63371, (1.71102, 0.28566, 0.53475), (245, 251, 249), 0.612829, ((118, 4140),)),
]


def write_colmap_text(folder: Path, images, camera, model="PINHOLE", extra=()) -> Path:
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True, exist_ok=True)
    fx, fy, cx, cy = camera.K[0, [0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    numbers = [fx, cx, cy] if model.startswith("SIMPLE") or model == "RADIAL" else [fx, fy, cx, cy]
    sparse.joinpath("cameras.txt").write_text(
        "# Camera list with one line of data per camera:\n#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
        + " ".join(map(str, [3, model, camera.width, camera.height, *numbers, *extra]))
        + "\n"
    )
    lines = [
        "# Image list with two lines of data per image:",
        "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
        "#   POINTS2D[]",
    ]
    for i in reversed(range(len(images))):  # ids and order say nothing
        save(folder / "images" / f"img {i}.png", images[i])
        lines += [
            " ".join(map(str, [7 * i + 5, *colmap_numbers(camera, i), 3, f"img {i}.png"])),
            "" if i % 2 else "12.5 3.25 63390 1.5 2.5 -1",
        ]
    sparse.joinpath("images.txt").write_text("\n".join(lines) + "\n")
    rows = [" ".join(map(str, [n, *x, *c, e, *(v for t in track for v in t)])) for n, x, c, e, track in POINTS]
    sparse.joinpath("points3D.txt").write_text("# 3D point list with one line of data per point:\n" + "\n".join(rows) + "\n")
    return folder


def write_colmap_binary(folder: Path, images, camera, model=1, extra=()) -> Path:
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True, exist_ok=True)
    params = [*camera.K[0, [0, 1, 0, 1], [0, 1, 2, 2]].tolist(), *extra]
    data = (
        struct.pack("<Q", 1)
        + struct.pack("<iiQQ", 3, model, camera.width, camera.height)
        + struct.pack(f"<{len(params)}d", *params)
    )
    sparse.joinpath("cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for i in reversed(range(len(images))):
        save(folder / "images" / f"img {i}.png", images[i])
        data += (
            struct.pack("<i", 7 * i + 5)
            + struct.pack("<7d", *colmap_numbers(camera, i))
            + struct.pack("<i", 3)
            + f"img {i}.png".encode()
            + b"\x00"
        )
        data += struct.pack("<Q", i) + b"".join(struct.pack("<ddq", 1.5 * k, 2.5, -1) for k in range(i))
    sparse.joinpath("images.bin").write_bytes(data)
    data = struct.pack("<Q", len(POINTS))
    for n, x, c, e, track in POINTS:
        data += (
            struct.pack("<QdddBBBd", n, *x, *c, e)
            + struct.pack("<Q", len(track))
            + b"".join(struct.pack("<ii", *t) for t in track)
        )
    sparse.joinpath("points3D.bin").write_bytes(data)
    return folder


def write_realestate10k(folder: Path, images, camera) -> Path:
    fx, fy, cx, cy = (
        camera.K[0, [0, 1, 0, 1], [0, 1, 2, 2]] / torch.tensor([camera.width, camera.height, camera.width, camera.height])
    ).tolist()
    rows = ["https://www.youtube.com/watch?v=xxxxxxxxxxx"]
    for i in range(len(images)):
        save(folder / "clip" / f"{52553000 + 33333 * i}.png", images[i])
        w2c = np.linalg.inv(camera.c2w[i].double().numpy())[:3].ravel()
        rows.append(
            " ".join(
                f"{v:.9f}" if isinstance(v, float) else str(v)
                for v in [52553000 + 33333 * i, fx, fy, cx, cy, 0.0, 0.0, *w2c.tolist()]
            )
        )
    folder.joinpath("clip.txt").write_text("\n".join(rows) + "\n")
    return folder / "clip.txt"


def write_srn(folder: Path, images, camera, flag=None, stated=1) -> Path:
    f, cx, cy = camera.K[0, 0, 0].item(), camera.K[0, 0, 2].item(), camera.K[0, 1, 2].item()
    (folder / "pose").mkdir(parents=True, exist_ok=True)
    lines = [
        f"{stated * f} {stated * cx} {stated * cy} 0.",
        "0. 0. 0.",
        "1.",
        f"{stated * camera.height} {stated * camera.width}",
    ]
    folder.joinpath("intrinsics.txt").write_text("\n".join(lines + ([] if flag is None else [str(flag)])) + "\n")
    for i in range(len(images)):
        save(folder / "rgb" / f"{i:06d}.png", images[i])
        pose = camera.c2w[i].double().numpy()
        pose = np.linalg.inv(pose) if flag else pose
        (folder / "pose" / f"{i:06d}.txt").write_text(" ".join(map(str, pose.ravel().tolist())) + "\n")
    return folder


WRITERS = {
    "nerf_synthetic": write_nerf_synthetic,
    "nerfstudio": write_nerfstudio,
    "colmap_text": write_colmap_text,
    "colmap_binary": write_colmap_binary,
    "realestate10k": write_realestate10k,
    "srn": write_srn,
}
SQUARE = ("nerf_synthetic", "srn")  # formats with one focal length


def written_camera(photos: View, form: str) -> Camera:
    "The cameras that a format can hold: one focal length, and for NeRF-synthetic a centred principal point."
    if form not in SQUARE:
        return photos.camera
    centre = (WIDTH / 2, HEIGHT / 2) if form == "nerf_synthetic" else (23.0, 21.5)
    return Camera(intrinsics(45.5, 45.5, *centre), photos.camera.c2w, HEIGHT, WIDTH)


@pytest.mark.parametrize("form", FORMATS)
def test_cameras_and_images_come_back(form, photos, tmp_path):
    camera = written_camera(photos, form)
    views = read_views(WRITERS[form](tmp_path, photos.image, camera))
    assert isinstance(views, ViewFolder) and len(views) == NUM and len(views.names) == NUM
    torch.testing.assert_close(views.cameras.c2w, camera.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(views.cameras.K, camera.K, atol=1e-5 * WIDTH, rtol=0)
    assert views.cameras.batch_shape == (NUM,) and (views.cameras.height, views.cameras.width) == (HEIGHT, WIDTH)
    for i in range(NUM):
        assert isinstance(views[i], View) and views[i].image.dtype == torch.float32
        torch.testing.assert_close(views[i].image, photos.image[i], atol=0.51 / 255, rtol=0)
        torch.testing.assert_close(views[i].camera.c2w, camera.c2w[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMATS)
def test_epipolar_lines_go_through_matches_and_inverted_ones_do_not(form, photos, tmp_path):
    views = read_views(WRITERS[form](tmp_path, photos.image, written_camera(photos, form)))
    a, b = views.cameras[0], views.cameras[1]
    points = a.unproject(photos.depth[0])[8:32:4, 8:40:4].reshape(-1, 3)  # any points in front of both will do
    xy_a, xy_b = a.project(points)[0], b.project(points)[0]
    assert epipolar_residual(a, b, xy_a, xy_b).max() < 1e-2
    wrong_a, wrong_b = replace(a, c2w=invert_pose(a.c2w)), replace(b, c2w=invert_pose(b.c2w))
    assert epipolar_residual(wrong_a, wrong_b, xy_a, xy_b).median() > 1
    figure = epipolar_check(views, 0, 1, readings=("as read", "inverted"))
    assert len(figure.axes) == 3 and len(figure.axes[1].lines) > 0


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(FORMATS),
    eye=st.tuples(*[st.floats(-9, 9)] * 3),
    aim=st.tuples(*[st.floats(-1, 1)] * 3),
    focal=st.floats(20, 59),  # longer ones, in pictures of 6 rows, are taken for pixels where they should be normalised
)
def test_any_pose_comes_back(form, eye, aim, focal, tmp_path):
    eye, aim = torch.tensor(eye, dtype=torch.float64), torch.tensor(aim, dtype=torch.float64)
    if torch.linalg.cross(eye - aim, torch.tensor([0.0, 0, 1], dtype=torch.float64)).norm() < 0.1:
        eye = eye + torch.tensor([3.0, 2.0, 0])  # look_at has no answer straight up
    if torch.linalg.cross(eye - aim, torch.tensor([0.0, 0, 1], dtype=torch.float64)).norm() < 0.1:
        return
    camera = Camera(intrinsics(focal, focal, 4.0, 3.0, torch.float64)[None], look_at(eye, aim)[None], 6, 8)
    views = read_views(WRITERS[form](tmp_path / form, torch.rand(1, 3, 6, 8), camera))
    torch.testing.assert_close(views.cameras.c2w.double(), camera.c2w, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(views.cameras.K.double(), camera.K, atol=1e-4, rtol=1e-6)


# --- transforms.json -----------------------------------------------------------------------------------------


def edit(path: Path, frame: dict | None = None, drop: str | None = None, **top) -> Path:
    "Change a transforms file: its own values, or those of its frame 1."
    meta = {**json.loads(path.read_text()), **top}
    meta["frames"][1].update(frame or {})
    meta["frames"][1].pop(drop, None)
    path.write_text(json.dumps(meta))
    return path


def test_nerf_synthetic_pictures_are_laid_over_the_background(photos, tmp_path):
    write_nerf_synthetic(tmp_path, photos.image, photos.camera)
    rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    rgba[:, :, 1] = 255  # green; transparent on the left, half so in the middle
    rgba[:, 16:32, 3], rgba[:, 32:, 3] = 51, 255
    Image.fromarray(rgba).save(tmp_path / "train" / "r_1.png")
    for background in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.5)):
        view = read_transforms(tmp_path, "train", background=background)[1]
        torch.testing.assert_close(view.image[:, 0, 0], torch.tensor(background))
        torch.testing.assert_close(view.image[:, 0, 20], 0.2 * torch.tensor([0.0, 1, 0]) + 0.8 * torch.tensor(background))
        torch.testing.assert_close(view.image[:, 0, 40], torch.tensor([0.0, 1, 0]))
        assert view.mask[:, 32:].all() and not view.mask[:, :32].any()
    assert read_transforms(tmp_path, "train")[0].mask is None


def test_splits_of_nerf_synthetic_and_nerfstudio(photos, tmp_path):
    write_nerf_synthetic(tmp_path / "a", photos.image, photos.camera)
    meta = json.loads((tmp_path / "a/transforms_train.json").read_text())
    (tmp_path / "a/transforms_test.json").write_text(json.dumps({**meta, "frames": meta["frames"][:1]}))
    assert [len(read_transforms(tmp_path / "a", s)) for s in ("train", "test", None)] == [NUM, 1, NUM + 1]
    with pytest.raises(FileNotFoundError, match="transforms_val.json"):
        read_transforms(tmp_path / "a", "val")
    write_nerfstudio(tmp_path / "b", photos.image, photos.camera)
    edit(tmp_path / "b/transforms.json", test_filenames=["images/frame_00002.png"])
    assert read_transforms(tmp_path / "b", "test").names == ["images/frame_00002.png"]
    with pytest.raises(ValueError, match=r"transforms.json: expected a list train_filenames"):
        read_transforms(tmp_path / "b", "train")


def test_per_frame_intrinsics_win_over_the_files_own(photos, tmp_path):
    write_nerfstudio(tmp_path, photos.image, photos.camera)
    edit(tmp_path / "transforms.json", frame={"fl_x": 60.0, "cx": 20.0})
    K = read_transforms(tmp_path).cameras.K
    assert K[1, 0, 0] == 60 and K[1, 0, 2] == 20 and K[0, 0, 0] == 45.5 and K[1, 1, 1] == 44.25


def test_depth_and_mask_of_nerfstudio(photos, tmp_path):
    path = write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json"
    stored = (photos.depth[1].double() * 1000).round().numpy().astype(np.uint16)
    stored[0, 0] = 0
    Image.fromarray(stored).save(tmp_path / "d.png")
    np.save(tmp_path / "d.npy", photos.depth[1].numpy() * 100)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :10] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    edit(path, frame={"depth_file_path": "d.png", "mask_path": "m.png"})
    view = read_transforms(tmp_path)[1]
    assert view.depth[0, 0].isnan() and view.depth.isnan().sum() == 1
    torch.testing.assert_close(view.depth[1:], photos.depth[1, 1:], atol=0.51e-3, rtol=0)
    assert view.mask[:, :10].all() and not view.mask[:, 10:].any() and read_transforms(tmp_path)[0].depth is None
    edit(path, frame={"depth_file_path": "d.npy"})
    torch.testing.assert_close(read_transforms(tmp_path, depth_scale=0.01)[1].depth, photos.depth[1])
    edit(path, depth_unit_scale_factor=0.02)  # what the file says wins
    torch.testing.assert_close(read_transforms(tmp_path, depth_scale=0.01)[1].depth, 2 * photos.depth[1])


def test_the_exporters_transform_and_scale_are_undone_on_request(photos, tmp_path):
    path = write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json"
    A = np.array([[1.0, 0, 0, 0.3], [0, 0, 1, -2], [0, -1, 0, 5], ID])
    meta = json.loads(path.read_text())
    for frame in meta["frames"]:
        moved = A @ np.array(frame["transform_matrix"])
        moved[:3, 3] *= 0.25
        frame["transform_matrix"] = moved.tolist()
    np.save(tmp_path / "d.npy", photos.depth[1].numpy())
    path.write_text(
        json.dumps({**meta, "applied_transform": A[:3].tolist(), "applied_scale": 0.25, "depth_unit_scale_factor": 1.0})
    )
    edit(path, frame={"depth_file_path": "d.npy"})
    original = read_transforms(tmp_path, original_world=True)
    torch.testing.assert_close(original.cameras.c2w, photos.camera.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(original[1].depth, photos.depth[1])
    for bad, message in (
        ({"applied_transform": [[1, 0], [0, 1]]}, "applied_transform: expected 3 x 4 numbers"),
        ({"applied_scale": 0}, "applied_scale: expected"),
        ({"applied_transform": np.diag([0.0, 1, 1, 1])[:3].tolist()}, "applied_transform: expected a rotation"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**json.loads(path.read_text()), **bad}))
        with pytest.raises(ValueError, match=f"bad.json.*{message}"):
            read_transforms(tmp_path / "bad.json", original_world=True)
    as_stored = read_transforms(tmp_path)
    assert (as_stored.cameras.center - photos.camera.center).abs().max() > 0.5
    torch.testing.assert_close(as_stored[1].depth, photos.depth[1] * 0.25)  # depth in the poses' unit


def test_lens_distortion_is_refused_or_undone(photos, tmp_path):
    "A picture drawn through a lens, x' = x (1 + k1 r^2): each pixel's value is a smooth function of the ray it shows."
    path = write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json"
    k1, (fx, fy, cx, cy) = -0.2, (45.5, 44.25, 23.0, 21.5)
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5 - cx) / fx, (np.arange(HEIGHT) + 0.5 - cy) / fy)

    def pattern(u, v):
        return np.stack([0.5 + 0.4 * np.sin(3 * u), 0.5 + 0.4 * np.sin(3 * v), 0.5 + 0 * u], -1)

    xd, yd = x.copy(), y.copy()
    for _ in range(50):  # invert the lens: which pinhole ray does each pixel see?
        r2 = xd * xd + yd * yd
        xd, yd = x / (1 + k1 * r2), y / (1 + k1 * r2)
    Image.fromarray((pattern(xd, yd) * 255).round().astype(np.uint8)).save(tmp_path / "images/frame_00001.png")
    edit(path, frame={"k1": k1})
    with pytest.raises(ValueError, match=r"transforms.json, frame 1 \(images/frame_00001.png\): expected a pinhole .*k1 -0.2"):
        read_transforms(tmp_path)
    view = read_transforms(tmp_path, undistort=True)[1]
    expected = torch.from_numpy(pattern(x, y)).permute(2, 0, 1).float()
    assert view.mask.float().mean() > 0.9
    torch.testing.assert_close(view.image[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=0.02, rtol=0)
    assert read_transforms(tmp_path, undistort=True)[0].mask is None  # frames without distortion are left alone


def test_distort_agrees_with_a_hand_computed_point():
    xy = distort(torch.tensor([0.5, -0.25], dtype=torch.float64), (0.1, 0.2, 0.01, -0.02, 0.3, 0.0, 0.0, 0.0))
    r2 = 0.3125
    radial = 1 + 0.1 * r2 + 0.2 * r2**2 + 0.3 * r2**3
    x = 0.5 * radial + 2 * 0.01 * 0.5 * -0.25 + -0.02 * (r2 + 2 * 0.25)
    y = -0.25 * radial + 0.01 * (r2 + 2 * 0.0625) + 2 * -0.02 * 0.5 * -0.25
    torch.testing.assert_close(xy, torch.tensor([x, y], dtype=torch.float64))


def test_write_transforms_comes_back(photos, tmp_path):
    path = write_transforms([photos[i] for i in range(NUM)], tmp_path / "out")
    views = read_views(path)
    torch.testing.assert_close(views.cameras.c2w, photos.camera.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(views.cameras.K, photos.camera.K, atol=1e-4, rtol=0)
    for i in range(NUM):
        torch.testing.assert_close(views[i].image, photos.image[i], atol=0.51 / 255, rtol=0)
        torch.testing.assert_close(views[i].depth, photos.depth[i], atol=0.51e-3, rtol=0)
        assert torch.equal(views[i].mask, photos.mask[i])


def test_write_transforms_refuses_batches_and_nothing(photos, tmp_path):
    with pytest.raises(ValueError, match="views: expected one or more"):
        write_transforms([], tmp_path)
    with pytest.raises(ValueError, match=r"views\[0\].image: expected shape"):
        write_transforms([photos], tmp_path)
    with pytest.raises(ValueError, match="depth_scale"):
        write_transforms([photos[0]], tmp_path, depth_scale=0)


def test_write_transforms_keeps_unknown_depth_unknown(photos, tmp_path):
    depth = photos.depth[0].clone()
    depth[0, 0], depth[0, 1] = torch.nan, 70.0  # 70 m don't fit in 16 bits of millimetres
    back = read_views(write_transforms([replace(photos[0], depth=depth)], tmp_path))[0].depth
    assert back[0, :2].isnan().all() and back.isnan().sum() == 2


# --- COLMAP --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["colmap_text", "colmap_binary"])
def test_sparse_points_come_back(form, photos, tmp_path):
    views = read_colmap(WRITERS[form](tmp_path, photos.image, photos.camera))
    torch.testing.assert_close(views.points_world, torch.tensor([p[1] for p in POINTS]))
    torch.testing.assert_close(views.points_rgb, torch.tensor([p[2] for p in POINTS]) / 255)
    assert views.names == [f"img {i}.png" for i in range(NUM)]  # sorted, and names may hold spaces


def test_a_published_line_of_images_txt_is_read_as_colmap_means_it(tmp_path):
    "The example of COLMAP's documentation: the centre is -R^T t."
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_PINHOLE 3072 2304 2559.81 1536 1152\n")
    (tmp_path / "images.txt").write_text(
        "1 0.851773 0.0165051 0.503764 -0.142941 -0.737434 1.02973 3.74354 1 P1180141.JPG\n2362.39 248.498 58396\n"
    )
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 23)).save(tmp_path / "images" / "P1180141.JPG")
    camera = read_colmap(tmp_path).frames[0].camera
    w, x, y, z = 0.851773, 0.0165051, 0.503764, -0.142941
    R = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    torch.testing.assert_close(camera.center, -R.T @ torch.tensor([-0.737434, 1.02973, 3.74354]), atol=1e-4, rtol=0)
    torch.testing.assert_close(camera.K, torch.tensor([[2559.81, 0, 1536], [0, 2559.81, 1152], [0, 0, 1]]))
    with pytest.raises(ValueError, match=r"P1180141.JPG: expected 2304x3072 pixels .*, got 23x30"):
        read_colmap(tmp_path)[0]
    scaled = read_colmap(tmp_path, rescale=True)[0].camera
    torch.testing.assert_close(scaled.K[:2, 2], torch.tensor([15.0, 11.5]))


def test_binary_wins_over_text_and_models_may_lie_anywhere(photos, tmp_path):
    write_colmap_text(tmp_path, photos.image, photos.camera)
    moved = replace(photos.camera, K=photos.camera.K * torch.tensor([2.0, 1, 1])[:, None])
    write_colmap_binary(tmp_path, photos.image, moved)
    assert read_colmap(tmp_path).cameras.K[0, 0, 0] == 91
    assert read_colmap(tmp_path / "sparse" / "0").cameras.K[0, 0, 0] == 91
    assert read_colmap(tmp_path, images=tmp_path / "images").cameras.K[0, 0, 0] == 91


@pytest.mark.parametrize(
    "model, extra",
    [
        ("SIMPLE_PINHOLE", ()),
        ("SIMPLE_RADIAL", (0.0,)),
        ("RADIAL", (0.0, 0.0)),
        ("OPENCV", (0.0,) * 4),
        ("FULL_OPENCV", (0.0,) * 8),
    ],
)
def test_models_without_distortion_are_pinholes(model, extra, photos, tmp_path):
    camera = Camera(intrinsics(45.5, 45.5, 23.0, 21.5), photos.camera.c2w, HEIGHT, WIDTH)
    torch.testing.assert_close(read_colmap(write_colmap_text(tmp_path, photos.image, camera, model, extra)).cameras.K, camera.K)
    if extra:
        write_colmap_text(tmp_path, photos.image, camera, model, (*extra[:-1], 0.125))
        with pytest.raises(ValueError, match=r"cameras.txt, line 3: expected a pinhole .*0.125"):
            read_colmap(tmp_path)
        assert any(read_colmap(tmp_path, undistort=True).frames[0].distortion)


def test_binary_distortion_and_unknown_models_name_the_file(photos, tmp_path):
    write_colmap_binary(tmp_path, photos.image, photos.camera, 4, (0.1, 0, 0, 0))
    with pytest.raises(ValueError, match=r"cameras.bin, camera 0: expected a pinhole .*k1 0.1"):
        read_colmap(tmp_path)
    for number, name in ((5, "OPENCV_FISHEYE"), (77, "unknown")):
        write_colmap_binary(tmp_path, photos.image, photos.camera, number)
        with pytest.raises(ValueError, match=rf"cameras.bin, camera 0: expected a camera model of .*, got {number} \({name}\)"):
            read_colmap(tmp_path)


def test_colmap_depth_maps(photos, tmp_path):
    write_colmap_text(tmp_path, photos.image, photos.camera)
    folder = tmp_path / "stereo" / "depth_maps"
    folder.mkdir(parents=True)
    depth = photos.depth.numpy().copy()
    depth[:, 0, 0] = 0
    for i in range(NUM):
        (folder / f"img {i}.png.geometric.bin").write_bytes(f"{WIDTH}&{HEIGHT}&1&".encode() + depth[i].astype("<f4").tobytes())
    view = read_colmap(tmp_path, depth="geometric")[2]
    assert view.depth[0, 0].isnan()
    torch.testing.assert_close(view.depth[1:], photos.depth[2, 1:])
    (folder / "img 2.png.geometric.bin").write_bytes(b"48&40&1&1234")
    with pytest.raises(ValueError, match=r"img 2.png.geometric.bin: expected a depth map"):
        read_colmap(tmp_path, depth="geometric")[2]


@pytest.mark.parametrize("cut", [4, 30, 90, 200])
def test_truncated_binaries_name_the_file(cut, photos, tmp_path):
    file = write_colmap_binary(tmp_path, photos.image, photos.camera) / "sparse/0/images.bin"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"images.bin: expected .* the end of the file"):
        read_colmap(tmp_path)


def test_a_wild_count_in_a_binary_neither_hangs_nor_fills_memory(photos, tmp_path):
    file = write_colmap_binary(tmp_path, photos.image, photos.camera) / "sparse/0/images.bin"
    file.write_bytes(struct.pack("<Q", 2**60) + file.read_bytes()[8:])
    with pytest.raises(ValueError, match="images.bin: expected"):
        read_colmap(tmp_path)


# --- RealEstate10K and SRN -----------------------------------------------------------------------------------


def test_realestate_rows_without_a_frame(photos, tmp_path):
    clip = write_realestate10k(tmp_path, photos.image, photos.camera)
    (tmp_path / "clip" / "52586333.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip.txt, line 3: .*52586333"):
        read_realestate10k(clip)
    views = read_realestate10k(clip, missing="skip")
    assert views.names == ["52553000", "52619666", "52652999"]
    torch.testing.assert_close(views[1].camera.c2w, photos.camera.c2w[2], atol=1e-5, rtol=0)


def test_realestate_intrinsics_follow_the_frames_size(photos, tmp_path):
    clip = write_realestate10k(tmp_path, photos.image, photos.camera)
    for file in (tmp_path / "clip").iterdir():
        Image.open(file).resize((2 * WIDTH, 3 * HEIGHT)).save(file)
    K = read_realestate10k(clip, frames=tmp_path / "clip").cameras.K[0]
    torch.testing.assert_close(K[[0, 1, 0, 1], [0, 1, 2, 2]], torch.tensor([91.0, 132.75, 46.0, 64.5]), atol=1e-4, rtol=0)


def test_srn_scales_k_to_the_pictures_and_knows_inverted_poses(photos, tmp_path):
    camera = written_camera(photos, "srn")
    for name, options in {"stated larger": {"stated": 4}, "w2c": {"flag": 1}, "c2w": {"flag": 0}}.items():
        views = read_srn(write_srn(tmp_path / name, photos.image, camera, **options))
        torch.testing.assert_close(views.cameras.K, camera.K, atol=1e-4, rtol=0)
        torch.testing.assert_close(views.cameras.c2w, camera.c2w, atol=1e-5, rtol=0)


# --- the folder as a sequence --------------------------------------------------------------------------------


def test_pictures_are_read_only_when_a_view_is_taken(photos, tmp_path):
    views = read_views(write_nerfstudio(tmp_path, photos.image, photos.camera))
    (tmp_path / "images/frame_00002.png").write_bytes(b"\x89PNG nothing more")
    assert len(views) == NUM and views.cameras.batch_shape == (NUM,) and views[1].image.shape == (3, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="frame_00002.png: expected an image"):
        views[2]
    with pytest.raises(ValueError, match="frame_00002.png"):
        views.verify()
    assert views[:2].verify().names == views.names[:2] and len(views[::2]) == 2


@pytest.mark.parametrize("background", [(1.0, 1.0), (0.0, 0.0, 2.0), ("a", 0, 0), 3, None])
def test_a_background_that_is_no_colour(background, photos, tmp_path):
    folder = write_nerf_synthetic(tmp_path, photos.image, photos.camera)
    for read in (read_views, lambda path, **o: read_image(path / "train/r_0.png", **o)):
        with pytest.raises(ValueError, match="background: expected three numbers"):
            read(folder, background=background)


def test_a_data_loader_takes_a_folder(photos, tmp_path):
    views = read_views(write_nerfstudio(tmp_path, photos.image, photos.camera))
    loader = torch.utils.data.DataLoader(views, batch_size=3, collate_fn=stack_views, num_workers=1)
    first, last = list(loader)
    assert first.image.shape == (3, 3, HEIGHT, WIDTH) and last.camera.batch_shape == (1,)
    torch.testing.assert_close(first.camera.c2w, photos.camera.c2w[:3], atol=1e-5, rtol=0)


def test_indices_behave_like_a_list(photos, tmp_path):
    views = read_views(write_nerfstudio(tmp_path, photos.image, photos.camera))
    assert torch.equal(views[-1].image, views[NUM - 1].image) and len(list(views)) == NUM
    assert torch.equal(views[np.int64(1)].image, views[torch.tensor(1)].image)
    for bad in (NUM, -NUM - 1):
        with pytest.raises(IndexError, match=f"view {bad}: .* has {NUM}"):
            views[bad]


def test_resized_views_show_the_same_points_at_the_scaled_pixels(photos, tmp_path):
    path = write_transforms([photos[i] for i in range(NUM)], tmp_path)
    full, small = read_views(path), read_views(path).resized(20, 16)
    assert small[0].image.shape == (3, 20, 16) and small[0].depth.shape == (20, 16) and small[0].mask.shape == (20, 16)
    points = torch.tensor([[0.1, 0.2, 0.3], [-0.4, 0.1, 0.2]])
    scale = torch.tensor([16 / WIDTH, 20 / HEIGHT])
    torch.testing.assert_close(small.cameras[1].project(points)[0], full.cameras[1].project(points)[0] * scale)
    torch.testing.assert_close(small[1].image.mean((1, 2)), full[1].image.mean((1, 2)), atol=0.01, rtol=0)
    known = set(full[1].depth.flatten().tolist())
    assert all(d in known for d in small[1].depth.flatten().tolist())  # depth is never averaged
    for bad in ({"height": 0, "width": 4}, {"height": 4, "width": 2.5}):
        with pytest.raises(ValueError, match="height" if bad["height"] == 0 else "width"):
            full.resized(**bad)


def test_one_view_is_resized_and_nothing_else_is_taken_for_one():
    view = ProceduralWorld(0).render(Camera(intrinsics_from_fov(50.0, 12, 16), orbit(2, 4.0)[0], 12, 16))
    small = resize_view(view, 6, 8)
    assert small.image.shape == (3, 6, 8) and small.depth.shape == small.mask.shape == (6, 8)
    assert torch.equal(small.camera.K, view.camera.resized(6, 8).K)
    many = ProceduralWorld(0).render(Camera(intrinsics_from_fov(50.0, 12, 16), orbit(2, 4.0), 12, 16))
    with pytest.raises(ValueError, match=r"view: expected one view, got \(2,\) of them"):
        resize_view(many, 6, 8)
    with pytest.raises(ValueError, match="height: expected"):
        resize_view(view, 0, 8)


def test_mixed_sizes_ask_for_resized(photos, tmp_path):
    path = write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json"
    Image.open(tmp_path / "images/frame_00001.png").resize((24, 20)).save(tmp_path / "images/frame_00001.png")
    edit(path, frame={"w": 24, "h": 20, "fl_x": 22.75, "fl_y": 22.1, "cx": 11.5, "cy": 10.75})
    views = read_views(tmp_path)
    with pytest.raises(ValueError, match=r"one image size .*\(20, 24\), \(40, 48\)"):
        _ = views.cameras
    assert views[1].image.shape == (3, 20, 24) and views.resized(10, 12).cameras.batch_shape == (NUM,)


# --- what bad input gets -------------------------------------------------------------------------------------


def _clip_with(folder: Path, name: str) -> Path:
    "A clip whose one frame is this file."
    (folder / "clip").mkdir(exist_ok=True)
    (folder / "clip" / name).write_bytes((folder / name).read_bytes())
    row = [Path(name).stem, 1, 1, 0.5, 0.5, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    (folder / "clip.txt").write_text("https://example.org/clip\n" + " ".join(map(str, row)) + "\n")
    return folder / "clip.txt"


def test_truncated_and_foreign_images_name_the_file(photos, tmp_path):
    file = save(tmp_path / "a.png", photos.image[0])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a.png: expected an image .*truncated"):
        read_image(file)
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")  # would start Ghostscript
    with pytest.raises(ValueError, match="b.png: expected an image"):
        read_image(tmp_path / "b.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "7.png", format="PPM")  # a format that is not on the list, whatever its name
    with pytest.raises(ValueError, match="7.png: expected an image"):
        read_image(tmp_path / "7.png")
    with pytest.raises(ValueError, match="7.png: expected an image"):
        read_realestate10k(_clip_with(tmp_path, "7.png"))  # and where only the header is read
    with pytest.raises(FileNotFoundError, match="c.png"):
        read_image(tmp_path / "c.png")
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / "d.png")
    with pytest.raises(ValueError, match="d.png: expected 8 bits a channel"):
        read_image(tmp_path / "d.png")
    with pytest.raises(ValueError, match="depth.png: expected one number a pixel"):
        read_depth(save(tmp_path / "depth.png", photos.image[0]))


def test_arrays_that_would_run_code_are_refused(tmp_path):
    np.save(tmp_path / "d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"d.npy: expected a depth map"):
        read_depth(tmp_path / "d.npy")


R90 = [[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], ID]
BAD_FRAMES = {
    "missing matrix": ({"drop": "transform_matrix"}, "expected transform_matrix, it is missing"),
    "missing path": ({"drop": "file_path"}, "expected file_path, it is missing"),
    "no image": ({"frame": {"file_path": "images/none"}}, "expected an image, there is nothing at .*none"),
    "scaled rotation": ({"frame": {"transform_matrix": (np.diag([2.0, 2, 2, 1])).tolist()}}, "expected a rotation"),
    "reflection": ({"frame": {"transform_matrix": np.diag([1.0, 1, -1, 1]).tolist()}}, "reflection"),
    "shear": ({"frame": {"transform_matrix": [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], ID]}}, "expected a rotation"),
    "transposed": (
        {"frame": {"transform_matrix": np.array([[1.0, 0, 0, 3], [0, 1, 0, 2], [0, 0, 1, 1], ID]).T.tolist()}},
        "last row",
    ),
    "not numbers": ({"frame": {"transform_matrix": [["a"] * 4] * 4}}, "transform_matrix: expected 4 x 4 numbers, got"),
    "ragged": ({"frame": {"transform_matrix": [[1, 0], [0, 1, 0]]}}, "transform_matrix: expected 4 x 4 numbers, got"),
    "too small": ({"frame": {"transform_matrix": [[1, 0], [0, 1]]}}, "transform_matrix: expected 4 x 4 numbers, got 2 x 2"),
    "NaN": ({"frame": {"transform_matrix": [[math.nan, 0, 0, 0], *R90[1:]]}}, "expected finite numbers, got nan"),
    "normalised K": ({"frame": {"fl_x": 0.9, "fl_y": 1.1, "cx": 0.5, "cy": 0.5}}, "look divided by the image size"),
    "negative focal": ({"frame": {"fl_x": -45.0}}, "focal lengths > 0"),
    "fisheye": ({"camera_model": "OPENCV_FISHEYE"}, "camera_model: expected one of .*'OPENCV_FISHEYE'"),
    "k4": ({"frame": {"k4": 0.1}}, "expected k4 = 0"),
    "focal is text": ({"frame": {"fl_x": "wide"}}, "fl_x: expected one numbers?, got 'wide'"),
    "no depth": ({"frame": {"depth_file_path": "depth/none.png"}}, "depth: expected a file, there is nothing at .*none.png"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_transforms_name_the_file_and_the_frame(case, photos, tmp_path):
    change, message = BAD_FRAMES[case]
    edit(write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json", **change)
    frame = "0" if case == "fisheye" else "1"
    with pytest.raises((ValueError, FileNotFoundError), match=rf"transforms.json, frame {frame} .*{message}") as error:
        read_transforms(tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_without_focal_length_or_frames(photos, tmp_path):
    path = write_nerf_synthetic(tmp_path, photos.image, photos.camera) / "transforms_train.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({"frames": meta["frames"]}))
    with pytest.raises(ValueError, match="frame 0 .*expected fl_x .*or camera_angle_x"):
        read_transforms(path)
    for text in ('{"frames": [', "[1, 2]", '{"frames": []}', '{"frames": [3]}', '{"camera_angle_x": 1}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="transforms_train.json: expected"):
            read_transforms(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="transforms_train.json: expected a text file"):
        read_transforms(path)


def test_sizes_that_disagree_name_the_picture(photos, tmp_path):
    path = write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json"
    edit(path, w=2 * WIDTH, h=2 * HEIGHT, fl_x=91.0, fl_y=88.5, cx=46.0, cy=43.0)
    with pytest.raises(ValueError, match=r"frame_00000.png: expected 80x96 pixels .*got 40x48; rescale=True"):
        read_transforms(tmp_path)[0]
    torch.testing.assert_close(read_transforms(tmp_path, rescale=True).cameras.K, photos.camera.K)


BAD_COLMAP = {
    "quaternion": (
        "images.txt",
        lambda t: t.replace("\n26 ", "\n26 9"),
        r"images.txt, line \d+ \(img 3.png\): .*unit quaternion",
    ),
    "short row": ("images.txt", lambda t: t.replace(" 3 img 3.png", ""), r"images.txt, line 4: expected 9 numbers, got 8"),
    "no name": ("images.txt", lambda t: t.replace(" img 3.png", ""), r"images.txt, line 4: expected a file name"),
    "no camera": (
        "images.txt",
        lambda t: t.replace(" 3 img 3.png", " 8 img 3.png"),
        r"img 3.png\): expected a camera of cameras.txt, got camera 8",
    ),
    "unknown model": (
        "cameras.txt",
        lambda t: t.replace("PINHOLE", "MAGIC"),
        r"cameras.txt, line 3: expected a camera model of .*, got MAGIC",
    ),
    "too few parameters": ("cameras.txt", lambda t: t.rsplit(" ", 1)[0], r"cameras.txt, line 3: expected 7 numbers, got 6"),
    "text in points": ("points3D.txt", lambda t: t.replace("1.71102", "x"), r"points3D.txt, line 3: expected 6 numbers, got"),
}


@pytest.mark.parametrize("case", BAD_COLMAP)
def test_bad_colmap_text_names_the_line(case, photos, tmp_path):
    name, change, message = BAD_COLMAP[case]
    file = write_colmap_text(tmp_path, photos.image, photos.camera) / "sparse/0" / name
    before = file.read_text()
    file.write_text(change(before))
    assert file.read_text() != before
    with pytest.raises(ValueError, match=message):
        read_colmap(tmp_path)


def test_missing_parts_of_folders(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_views(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected transforms.json, COLMAP's sparse/"):
        read_views(tmp_path)
    with pytest.raises(FileNotFoundError, match="cameras and images"):
        read_colmap(tmp_path)
    write_colmap_text(tmp_path / "c", photos.image, photos.camera)
    (tmp_path / "c/images/img 2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images.txt, line \d+ \(img 2.png\)"):
        read_colmap(tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="images: expected a folder"):
        read_colmap(tmp_path / "c", images="images_4")
    write_srn(tmp_path / "s", photos.image, photos.camera)
    (tmp_path / "s/pose/000001.txt").unlink()
    with pytest.raises(FileNotFoundError, match="000001 has no pose"):
        read_srn(tmp_path / "s")


def test_bad_realestate_and_srn_rows(photos, tmp_path):
    clip = write_realestate10k(tmp_path, photos.image, photos.camera)
    rows = clip.read_text().splitlines()
    for bad, message in (
        (rows[2] + " 1", "line 3: expected 19 numbers, got 20"),
        (rows[2].rsplit(" ", 1)[0], "line 3: expected 19 numbers, got 18"),
        (rows[2].replace(" 0.0", " 0.3", 1), "line 3: expected zeros in columns 6 and 7"),
        (" ".join([*rows[2].split()[:7], *["2"] * 12]), "line 3: .*expected"),
        (" ".join([rows[2].split()[0], "455", *rows[2].split()[2:]]), "line 3: .*looks like pixels"),
    ):
        clip.write_text("\n".join([*rows[:2], bad]))
        with pytest.raises(ValueError, match=f"clip.txt, {message}"):
            read_realestate10k(clip)
    clip.write_text("\n".join(rows[1:]))
    with pytest.raises(ValueError, match="clip.txt: expected the video's address"):
        read_realestate10k(clip)
    folder = write_srn(tmp_path / "srn", photos.image, written_camera(photos, "srn"))
    (folder / "pose/000002.txt").write_text("1 0 0 0 0 1 0 0")
    with pytest.raises(ValueError, match="000002.txt: expected 16 numbers, got 8"):
        read_srn(folder)
    (folder / "intrinsics.txt").write_text("45 24 20 0\n0 0 0\n")
    with pytest.raises(ValueError, match="intrinsics.txt: expected four lines"):
        read_srn(folder)


@pytest.mark.parametrize("angle", [0, -1.0, 6.3, math.pi])
def test_angles_of_view_that_no_pinhole_has(angle, photos, tmp_path):
    path = write_nerf_synthetic(tmp_path, photos.image, photos.camera) / "transforms_train.json"
    edit(path, camera_angle_x=angle)
    with pytest.raises(ValueError, match=r"transforms_train.json, frame 0 .*camera_angle_x: expected 0 < angle < π"):
        read_transforms(path)


@pytest.mark.parametrize("header", [b"0&0&0&", b"-4&-4&1&", b"0&4&1&", b"a&b&c&", b"4&4&", b"",
                                    b"4&4&1&" + b"\0" * 63, b"9" * 30 + b"&9&1&"])
def test_depth_files_with_malformed_headers(header, tmp_path):
    (tmp_path / "d.bin").write_bytes(header)
    with pytest.raises(ValueError, match=r"d.bin: expected a depth map"):
        read_depth(tmp_path / "d.bin")


def test_a_zip_is_no_array(tmp_path):
    np.savez(tmp_path / "d.npz", np.ones((4, 4)))
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    with pytest.raises(ValueError, match=r"d.npy: expected a depth map"):
        read_depth(tmp_path / "d.npy")


@pytest.mark.parametrize("scale", [math.nan, 0.0, -1.0, math.inf])
def test_scales_of_depth_that_are_none(scale, tmp_path):
    np.save(tmp_path / "d.npy", np.ones((4, 4)))
    with pytest.raises(ValueError, match="scale: expected"):
        read_depth(tmp_path / "d.npy", scale)


@pytest.mark.parametrize("ending", ["txt", "bin"])
@pytest.mark.parametrize("name", ["cameras", "images"])
def test_empty_colmap_files_name_the_file(name, ending, photos, tmp_path):
    write = write_colmap_text if ending == "txt" else write_colmap_binary
    file = write(tmp_path, photos.image, photos.camera) / f"sparse/0/{name}.{ending}"
    for data in (b"",) if ending == "txt" else (b"", struct.pack("<Q", 0)):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}.{ending}: expected"):
            read_colmap(tmp_path)


def test_nan_in_binary_points(photos, tmp_path):
    file = write_colmap_binary(tmp_path, photos.image, photos.camera) / "sparse/0/points3D.bin"
    data = bytearray(file.read_bytes())
    data[16:24] = struct.pack("<d", math.nan)
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"points3D.bin: expected finite numbers, got nan"):
        read_colmap(tmp_path)
    file.write_bytes(struct.pack("<Q", 0))
    assert read_colmap(tmp_path).points_world.shape == (0, 3)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_trailing_bytes_name_the_file(name, photos, tmp_path):
    file = write_colmap_binary(tmp_path, photos.image, photos.camera) / f"sparse/0/{name}.bin"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes() + b"12345")
    with pytest.raises(ValueError, match=rf"{name}.bin: expected the end of the file at {size}, got 5 bytes more"):
        read_colmap(tmp_path)


@pytest.mark.parametrize("names", ["img {}.png", "{}.png", "{}"])
def test_images_txt_without_keypoint_lines_is_refused(names, photos, tmp_path):
    write_colmap_text(tmp_path, photos.image, photos.camera)
    rows = [" ".join(map(str, [i, *colmap_numbers(photos.camera, i), 3, names.format(i)])) for i in range(NUM)]
    (tmp_path / "sparse/0/images.txt").write_text("# Image list\n" + "\n".join(rows) + "\n")
    with pytest.raises(ValueError, match=r"images.txt, line 3: expected the keypoints of line 2"):
        read_colmap(tmp_path)


def test_long_rows_of_keypoints_are_no_images(photos, tmp_path):
    file = write_colmap_text(tmp_path, photos.image, photos.camera) / "sparse/0/images.txt"
    file.write_text(file.read_text().replace("12.5 3.25 63390", "12.5 3.25 63390 " + "7.5 8.5 -1 " * 40))
    assert len(read_colmap(tmp_path)) == NUM


@pytest.mark.parametrize("size", [(0, WIDTH), (HEIGHT, 0), (HEIGHT, 47.5)])
def test_bad_sizes_blame_the_file_that_states_them(size, photos, tmp_path):
    h, w = size
    file = write_colmap_text(tmp_path / "c", photos.image, photos.camera) / "sparse/0/cameras.txt"
    file.write_text(file.read_text().replace(f"PINHOLE {WIDTH} {HEIGHT}", f"PINHOLE {w} {h}"))
    with pytest.raises(ValueError, match=r"cameras.txt, line 3: expected a height and a width"):
        read_colmap(tmp_path / "c")
    file = write_srn(tmp_path / "s", photos.image, written_camera(photos, "srn")) / "intrinsics.txt"
    file.write_text(file.read_text().replace(f"\n{HEIGHT} {WIDTH}", f"\n{h} {w}"))
    with pytest.raises(ValueError, match=r"intrinsics.txt, line 4: expected a height and a width"):
        read_srn(tmp_path / "s")
    edit(write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json", w=w, h=h)
    with pytest.raises(ValueError, match=r"transforms.json, frame 0 .*expected a height and a width"):
        read_transforms(tmp_path)


@pytest.mark.parametrize("names", [3, [], None, [1], "frame_00000.png", ["none.png"]])
def test_split_lists_that_are_none(names, photos, tmp_path):
    edit(write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json", train_filenames=names)
    with pytest.raises(ValueError, match=r"transforms.json, train_filenames: expected"):
        read_transforms(tmp_path, "train")


@pytest.mark.parametrize("text", ["[" * 200000, '{"frames": ' + "[" * 5000 + "]" * 5000 + "}", "9" * 5000])
def test_json_beyond_reason_names_the_file(text, tmp_path):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ValueError, match=r"transforms.json: expected") as error:
        read_transforms(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("key", ["file_path", "depth_file_path", "mask_path"])
def test_names_too_long_for_the_disk(key, photos, tmp_path):
    edit(write_nerfstudio(tmp_path, photos.image, photos.camera) / "transforms.json", frame={key: "x" * 5000})
    with pytest.raises(ValueError, match=r"transforms.json, frame 1 .*expected a file name") as error:
        read_transforms(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("read", [read_image, read_depth, read_transforms, read_colmap, read_realestate10k, read_srn, read_views])
def test_paths_that_are_none(read):
    with pytest.raises(TypeError, match="path: expected a path, got NoneType"):
        read(None)


# --- the epipolar check --------------------------------------------------------------------------------------


def random_pair(seed: int) -> tuple[Camera, Camera, torch.Tensor]:
    "Two cameras that see a cloud around the origin, in float64."
    g = torch.Generator().manual_seed(seed)
    eyes = torch.nn.functional.normalize(torch.randn(2, 3, generator=g, dtype=torch.float64), dim=-1) * 4 + torch.tensor(
        [0.0, 0, 0.3], dtype=torch.float64
    )
    cameras = Camera(
        intrinsics(80.0, 90.0, 30.0, 25.0, torch.float64), look_at(eyes, torch.zeros(3, dtype=torch.float64)), 50, 60
    )
    return cameras[0], cameras[1], torch.rand(20, 3, generator=g, dtype=torch.float64) - 0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_residual_is_zero_for_matches_and_the_distance_moved_for_others(seed):
    a, b, points = random_pair(seed)
    if (a.center - b.center).norm() < 0.2:
        return
    xy_a, xy_b = a.project(points)[0], b.project(points)[0]
    assert epipolar_residual(a, b, xy_a, xy_b).max() < 1e-7
    line = (fundamental_matrix(a, b) @ torch.cat([xy_a, torch.ones(20, 1, dtype=torch.float64)], -1).T).T
    normal = torch.nn.functional.normalize(line[:, :2], dim=-1)
    torch.testing.assert_close(
        epipolar_residual(a, b, xy_a, xy_b + 3 * normal), torch.full((20,), 3.0, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_cameras_in_one_place_have_points_for_lines():
    a, _, points = random_pair(0)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(0.2), -math.sin(0.2)], [math.sin(0.2), math.cos(0.2)]])
    b = replace(a, c2w=a.c2w @ turn)
    xy_a, xy_b = a.project(points)[0], b.project(points)[0]
    with pytest.raises(ValueError, match="one centre"):
        fundamental_matrix(a, b)
    assert epipolar_residual(a, b, xy_a, xy_b).max() < 1e-6
    torch.testing.assert_close(
        epipolar_residual(a, b, xy_a, xy_b + torch.tensor([3.0, 4.0])),
        torch.full((20,), 5.0, dtype=torch.float64),
        atol=1e-6,
        rtol=0,
    )


@pytest.mark.parametrize("depth_of_b, expected", [(1.0, 1.0), (8.0, 0.0)])
def test_a_point_counts_only_in_front_of_both(depth_of_b, expected):
    "Both look along z; the second stands before the point, or beyond it, and then sees it behind itself."
    pose = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    pose[1, :3, 3] = torch.tensor([0.5, 0.0, depth_of_b])
    a, b = (Camera(intrinsics(50.0, 50.0, 30.0, 20.0, torch.float64), p, 40, 60) for p in pose)
    point = torch.tensor([[0.3, 0.1, 3.0]], dtype=torch.float64)
    assert _in_front(a, b, a.project(point)[0], b.project(point)[0]).tolist() == [expected]


def test_residual_refuses_bad_arguments():
    a, b, _ = random_pair(1)
    xy = torch.zeros(5, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="xy_dst"):
        epipolar_residual(a, b, xy, xy[:3])
    with pytest.raises(ValueError, match="xy_src"):
        epipolar_residual(a, b, xy * torch.nan, xy)
    with pytest.raises(ValueError, match="single cameras"):
        epipolar_residual(stack_cameras([a, b]), b, xy, xy)


@pytest.mark.parametrize("max_size", [512, 60])
def test_matches_have_pixel_centres_at_half_numbers(max_size):
    "Blobs around known places, matched with themselves, are found there: also where the picture was shrunk for the search."
    g = torch.Generator().manual_seed(3)
    grid = torch.stack(torch.meshgrid(torch.arange(120) + 0.5, torch.arange(90) + 0.5, indexing="xy"), -1)
    centres = torch.tensor([[20.5, 20.5], [60.5, 24.5], [98.5, 22.5], [24.5, 66.5], [61.5, 62.5], [96.5, 64.5]])
    image = torch.zeros(90, 120)
    for n, centre in enumerate(centres):
        a, b = 4 + 2 * torch.rand(2, generator=g)
        turn = torch.tensor([[math.cos(n), -math.sin(n)], [math.sin(n), math.cos(n)]])
        u, v = ((grid - centre) @ turn).unbind(-1)
        image += torch.exp(-((u / a) ** 2) - (v / b) ** 2)
    view = View(image.clamp(0, 1).expand(3, 90, 120), Camera(intrinsics_from_fov(50.0, 90, 120), torch.eye(4), 90, 120))
    xy, other = match_pixels(view, view, max_size=max_size)
    assert len(xy) >= 4
    torch.testing.assert_close(xy, other)
    near = torch.cdist(centres, xy).amin(-1)
    assert (near < 0.3).all(), near  # forgetting the half pixel would be off by 0.7, forgetting SIFT's bias by 0.35 or 0.7


def test_matches_come_from_the_pictures_and_ignore_the_cameras():
    left, right = motorcycle()
    small = [
        replace(v, image=v.image[:, :256, :256], camera=v.camera.cropped(0, 0, 256, 256), depth=None, mask=None)
        for v in (left, right)
    ]
    xy_l, xy_r = match_pixels(*small)
    assert len(xy_l) > 50
    assert (xy_l[:, 1] - xy_r[:, 1]).abs().median() < 0.5  # a rectified pair: matches share their row
    wrong = [
        replace(v, camera=replace(v.camera, c2w=invert_pose(v.camera.c2w) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))))
        for v in small
    ]
    assert torch.equal(match_pixels(*wrong)[0], xy_l)


@pytest.fixture(scope="module")
def textured() -> list[View]:
    eyes = orbit(36, radius=3.5, elevation_deg=30.0)[:3, :3, 3] + torch.linspace(0, 0.3, 3)[:, None] * torch.tensor([0.0, 0, 1])
    aims = torch.tensor([0.0, -0.4, 0.4]) + torch.linspace(0, 1, 3)[:, None] * torch.tensor([0.2, 0.4, 0.0])
    views = ProceduralWorld(seed=4).render(Camera(intrinsics_from_fov(50.0, 120, 160), look_at(eyes, aims), 120, 160))
    return [views[i] for i in range(3)]


@pytest.mark.parametrize(
    "name, undo",
    [
        ("as read", lambda c2w: c2w),
        ("inverted", invert_pose),
        ("OpenGL axes", lambda c2w: c2w * torch.tensor([1.0, -1, -1, 1])),
        ("inverted, OpenGL axes", lambda c2w: invert_pose(c2w * torch.tensor([1.0, -1, -1, 1]))),
        ("PyTorch3D axes", lambda c2w: c2w * torch.tensor([-1.0, -1, 1, 1])),
    ],
)
def test_judge_poses_names_the_mistake(name, undo, textured):
    stored = [replace(v, camera=replace(v.camera, c2w=undo(v.camera.c2w))) for v in textured]
    best = judge_poses(stored)[0]
    assert best.name == name and best.residual < 1 and best.in_front > 0.9


def test_rectified_stereo_hides_the_axes_but_not_the_inversion():
    left, right = motorcycle()
    half = [
        replace(v, image=v.image[:, ::2, ::2], camera=v.camera.resized(250, 371), depth=None, mask=None) for v in (left, right)
    ]
    scores = {r.name: r for r in judge_poses(half)}
    assert (
        scores["OpenGL axes"].residual == pytest.approx(scores["as read"].residual, abs=1e-3)
        and scores["OpenGL axes"].in_front > 0.9
    )
    assert scores["inverted"].residual < 1 and scores["inverted"].in_front < 0.1
    stored_inverted = [replace(v, camera=replace(v.camera, c2w=invert_pose(v.camera.c2w))) for v in half]
    assert judge_poses(stored_inverted)[0].in_front > 0.9  # all lines fit alike: the side decides


def test_pictures_without_texture(photos):
    flat = [replace(photos[i], image=torch.full((3, HEIGHT, WIDTH), 0.5), depth=None, mask=None) for i in range(2)]
    assert match_pixels(*flat)[0].shape == (0, 2)
    with pytest.raises(ValueError, match="found no matches"):
        judge_poses(flat)
    figure = epipolar_check(flat, pixels=4)  # drawn all the same, from a grid
    assert "unknown" in figure.axes[1].get_title() and len(figure.axes[0].lines) == 8


def test_epipolar_check_draws_what_it_is_given(textured):
    xy = torch.tensor([[80.5, 60.5], [40.5, 90.5]])
    figure = epipolar_check(textured, 0, 2, pixels=xy, matches=(xy, xy))
    assert "view 0" in figure.axes[0].get_title() and "view 2" in figure.axes[1].get_title()
    with pytest.raises(ValueError, match="readings: expected one of"):
        epipolar_check(textured, readings=("upside down",))
    with pytest.raises(ValueError, match="pixels"):
        epipolar_check(textured, pixels=0)
    with pytest.raises(ValueError, match="views: expected two or more, got 1"):
        judge_poses(textured[:1])
