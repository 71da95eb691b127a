"""`nvs-book fit`: what it leaves behind, what a Ctrl-C leaves, how it goes on, and what bad input gets."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from nvs_book import cli
from nvs_book.cameras import Camera, intrinsics_from_fov, look_at, orbit
from nvs_book.metrics import psnr
from nvs_book.scenes import ProceduralWorld, View, distort, read_views, stack_views, write_transforms
from nvs_book.training import load_record
from nvs_book.triplane import FIT, load_scene

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
HEIGHT, WIDTH, STEPS = 24, 32, 40
TOY = f"fit toy --steps {STEPS} --mesh-resolution 8"
FILES = ["checkpoints", "mesh.glb", "mesh.ply", "orbit.mp4", "report.html", "scene.json", "scene.safetensors"]


def invoke(command: str):
    return CliRunner().invoke(cli.main, shlex.split(command))


def said(done) -> str:
    "The one line on stderr."
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("nvs-book: ").strip()


def pictures(count: int = 6, fov: float = 50.0, height: int = HEIGHT, width: int = WIDTH) -> list[View]:
    "A procedural world, from all around."
    K = intrinsics_from_fov(fov, height, width)
    return [ProceduralWorld(3).render(Camera(K, c2w, height, width)) for c2w in orbit(count, 3.6, 25.0, target=(0, 0, 0.35))]


def plain(view: View) -> View:
    return View(view.image, view.camera)


def save(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image.movedim(0, -1).numpy() * 255).round().astype(np.uint8)).save(path)


def write_srn(views: list[View], folder: Path) -> None:
    "An object of Scene Representation Networks, before white."
    K = views[0].camera.K
    (folder / "pose").mkdir(parents=True)
    (folder / "intrinsics.txt").write_text(f"{K[0, 0]} {K[0, 2]} {K[1, 2]} 0.\n0. 0. 0.\n1.\n{HEIGHT} {WIDTH}\n")
    for i, view in enumerate(views):
        save(folder / "rgb" / f"{i:06d}.png", torch.where(view.mask, view.image, 1.0))
        (folder / "pose" / f"{i:06d}.txt").write_text(" ".join(map(str, view.camera.c2w.flatten().tolist())) + "\n")


def write_colmap(views: list[View], folder: Path, k1: float = 0.1) -> None:
    "COLMAP's text model, through a lens that bends."
    from scipy.spatial.transform import Rotation

    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    K, rows = views[0].camera.K, []
    (model / "cameras.txt").write_text(f"1 SIMPLE_RADIAL {WIDTH} {HEIGHT} {K[0, 0]} {K[0, 2]} {K[1, 2]} {k1}\n")
    for i, view in enumerate(views):
        save(folder / "images" / f"{i}.png", view.image)
        w2c = view.camera.c2w.double().inverse().numpy()
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        rows.append(f"{i + 1} {w} {x} {y} {z} {' '.join(map(str, w2c[:3, 3]))} 1 {i}.png\n\n")
    (model / "images.txt").write_text("".join(rows))


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    "Scenes on disk, good and bad."
    folder, views = tmp_path_factory.mktemp("desk"), pictures()
    write_transforms(map(plain, views), folder / "room")
    write_srn(views, folder / "toy")
    write_colmap(views, folder / "bent")
    write_transforms(map(plain, views[:1]), folder / "one")
    write_transforms(map(plain, pictures(4, fov=110.0)), folder / "wide")
    write_transforms(map(plain, [*views[:4], *pictures(2, height=40, width=40)]), folder / "mixed")
    shutil.copytree(folder / "room", folder / "torn")
    (folder / "torn" / "images" / "00003.png").write_bytes(b"no picture")
    (folder / "void").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("mine")
    (folder / "file").touch()
    return folder


@pytest.fixture
def here(desk, monkeypatch, tmp_path) -> Path:
    "The desk as working folder, and a place for results."
    monkeypatch.chdir(desk)
    return tmp_path


@pytest.fixture(scope="module")
def fitted(desk, tmp_path_factory):
    "A whole run: what was said, and the folder."
    out = tmp_path_factory.mktemp("results") / "toy-fit"
    before = os.getcwd()
    os.chdir(desk)
    try:
        return invoke(f"{TOY} -o {out}"), out
    finally:
        os.chdir(before)


def stamps(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# --- what a run leaves


def test_a_run_leaves_everything(fitted):
    done, out = fitted
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == FILES
    looks = re.findall(rf"^nvs-book: step (\d+) of {STEPS}: ([\d.]+) dB on 1 held-out picture$", done.stderr, re.M)
    record = load_record(out / "scene.json")
    assert [int(step) for step, _ in looks] == [look["step"] for look in record["validation"]] == list(range(5, STEPS + 1, 5))
    assert float(looks[-1][1]) > float(looks[0][1]) + 0.5  # it learns
    assert done.stdout.splitlines()[-1] == f"{out / 'report.html'}: {record['psnr']:.2f} dB on 1 held-out picture"
    assert all(str(out / name) in done.stdout for name in FILES[1:] if name != "scene.json")


def test_the_scene_is_as_good_as_its_record_says(fitted, desk):
    _, out = fitted
    record, view = load_record(out / "scene.json"), read_views(desk / "toy")[0]
    model = load_scene(out / "scene.safetensors")
    made = model.render(view.camera).rgb.movedim(-1, 0).clamp(0, 1)
    assert psnr(made, view.image).item() == pytest.approx(record["psnr"], abs=0.1)  # few pixels: all of them are judged
    assert record["psnr"] == max(look["psnr"] for look in record["validation"])
    assert not model.options["unbounded"] and record["fit"]["held out"] == 1 and record["fit"]["pictures"] == 6


def test_the_film_and_the_mesh(fitted):
    import imageio_ffmpeg
    import trimesh

    _, out = fitted
    assert imageio_ffmpeg.count_frames_and_secs(str(out / "orbit.mp4"))[0] == 60
    ply, glb = trimesh.load(out / "mesh.ply"), trimesh.load(out / "mesh.glb", force="mesh")
    assert len(ply.faces) == len(glb.faces) > 20
    options = load_record(out / "scene.json")["notes"]["scene"]
    assert (abs(ply.vertices - np.array(options["center"])) <= options["box_size"] / 2 + 1e-4).all()


class Links(HTMLParser):
    "What a page asks for, and its text."

    def __init__(self, page: str):
        super().__init__()
        self.asked, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.asked += [(tag, value) for name, value in attributes if name in ("src", "href", "srcset", "poster", "data")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else(fitted):
    _, out = fitted
    page = (out / "report.html").read_text(encoding="utf-8")
    links, record = Links(page), load_record(out / "scene.json")
    assert "@import" not in page and "url(" not in page.replace("url(#", "")
    inside = [value for tag, value in links.asked if tag in ("img", "video")]
    kinds = ("data:image/jpeg;base64,", "data:video/mp4;base64,")
    assert len(inside) == 4 + 1 and all(value.startswith(kinds) for value in inside)
    linked = [value for tag, value in links.asked if tag == "a"]
    assert sorted(linked) == sorted(set(FILES) - {"checkpoints", "report.html"})
    assert not [value for tag, value in links.asked if tag not in ("img", "video", "a", "use")]
    nearest = f"{record['nearest']:.2f} dB"
    assert f"{record['psnr']:.2f} dB" in links.text and nearest in links.text and "000000" in links.text


def test_the_page_in_a_browser(fitted, chromium):
    _, out = fitted
    for width in (1300, 390):
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                 {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600})  # fmt: skip
        chromium.get((out / "report.html").as_uri())
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
        broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert chromium.execute_script(broken) == 0
        assert chromium.execute_script("return document.images.length") == 4
        assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]


# --- again


def test_the_same_command_says_that_it_is_done(fitted, here):
    _, out = fitted
    before = stamps(out)
    done = invoke(f"{TOY} -o {out}")
    assert done.exit_code == 0 and "is there already" in done.stdout and not done.stderr
    assert stamps(out) == before


def on_lattice(out: Path, resolution: int) -> bool:
    "Whether the vertices of a mesh lie on the edges of a lattice of so many points a side."
    import trimesh

    options = load_record(out / "scene.json")["notes"]["scene"]
    corner = np.array(options["center"]) - options["box_size"] / 2
    place = (trimesh.load(out / "mesh.ply").vertices - corner) / (options["box_size"] / (resolution - 1))
    return bool(((abs(place - place.round()) < 1e-3).sum(1) >= 2).all())


def test_another_mesh_needs_no_other_fit(fitted, here):
    out = here / "copy"
    shutil.copytree(fitted[1], out)
    weights = (out / "scene.safetensors").read_bytes()
    done = invoke(f"fit toy --steps {STEPS} --mesh-resolution 16 -o {out}")
    assert done.exit_code == 0 and "step 5 of" not in done.stderr
    assert on_lattice(out, 16) and not on_lattice(out, 8) and on_lattice(fitted[1], 8)
    assert (out / "scene.safetensors").read_bytes() == weights
    assert load_record(out / "scene.json")["fit"]["--mesh-resolution"] == 16


def test_another_fit_is_not_mixed_in(fitted, here):
    _, out = fitted
    before = stamps(out)
    for words, told in {"--steps 41": "--steps 40 there, 41 here", "--holdout 3": "--holdout 8 there, 3 here",
                        "--size 16": "--size 32x24 there, 21x16 here", "--unbounded": "--bounded True there, False here"}.items():
        done = invoke(f"{TOY} {words} -o {out}")
        assert done.exit_code == 2 and told in said(done) and said(done).startswith(f"error: --out: {out} belongs to another fit")
    shutil.copytree("toy", here / "toy")
    save(here / "toy" / "rgb" / "000002.png", torch.ones(3, HEIGHT, WIDTH))
    done = invoke(f"{TOY.replace('toy', str(here / 'toy'))} -o {out}")
    assert done.exit_code == 2 and said(done).count(" there, ") == 1 and "pictures' digest" in said(done)
    assert stamps(out) == before


# --- stopped


def start(words: str, folder: Path) -> subprocess.Popen:
    program = [sys.executable, "-m", "nvs_book.cli", *shlex.split(words)]
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(program, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def stopped(desk, tmp_path_factory):
    "A run that a Ctrl-C ended, and the folder: what was said, before it is run again; then it is."
    out = tmp_path_factory.mktemp("stopped") / "toy-fit"
    program = start(f"{TOY} -o {out}", desk)
    while "step 10 of" not in (line := program.stderr.readline()):
        assert line, "it ended before it could be stopped"
    program.send_signal(signal.SIGINT)
    last = program.communicate(timeout=60)[1].splitlines()[-1]
    left = out.with_name("as-left")
    shutil.copytree(out, left)
    program_again = start(f"{TOY} -o {out}", desk)
    said_again = program_again.communicate(timeout=120)[1]
    return program.returncode, last, left, program_again.returncode, said_again, out


@POSIX
def test_ctrl_c_keeps_the_best_and_says_where(stopped):
    code, last, left, *_, out = stopped
    assert code == 130
    where = re.escape(str(out / "scene.safetensors"))
    best = rf"the best so far, ([\d.]+) dB on 1 held-out picture at step (\d+) of {STEPS}, is {where}"
    told = re.fullmatch(rf"nvs-book: stopped; {best}; the same command goes on from step (\d+)", last)
    assert told, last
    record = load_record(left / "scene.json")
    assert told[1] == f"{record['psnr']:.2f}" and int(told[2]) == record["step"] and 5 <= int(told[3]) <= int(told[2])
    load_scene(left / "scene.safetensors")  # whole, and its record's own
    assert not [path for path in left.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
    assert sorted(path.name for path in left.iterdir()) == ["checkpoints", "scene.json", "scene.safetensors"]


@POSIX
def test_the_same_command_goes_on(stopped, fitted):
    _, last, _, code, said_again, out = stopped
    assert code == 0, said_again
    steps = [int(step) for step in re.findall(r"step (\d+) of", said_again)]
    assert steps == list(range(int(last.split()[-1]), STEPS + 1, 5))  # not from the start: a note, and the looks that were left
    assert f"note: it goes on from step {steps[0]} of {STEPS}\n" in said_again
    assert sorted(path.name for path in out.iterdir()) == FILES
    ours, whole = (load_record(folder / "scene.json") for folder in (out, fitted[1]))
    assert ours["psnr"] == pytest.approx(whole["psnr"], abs=0.3) and len(ours["validation"]) == len(whole["validation"])


@POSIX
def test_it_goes_on_as_if_nobody_had_stopped_it(stopped, fitted):
    ours, whole = ((folder / "scene.safetensors").read_bytes() for folder in (stopped[-1], fitted[1]))
    assert ours == whole


@POSIX
def test_ctrl_c_before_the_first_look(here, desk):
    out = here / "early"
    program = start(f"fit toy --steps 100000 -o {out}", desk)
    while "fitted as an object" not in (line := program.stderr.readline()):
        assert line
    program.send_signal(signal.SIGINT)
    last = program.communicate(timeout=60)[1].splitlines()[-1]
    assert program.returncode == 130 and last == "nvs-book: stopped; nothing was measured yet; the same command begins again"
    assert [path.name for path in out.rglob("*")] == ["checkpoints", "fit.json"]


def test_a_best_of_before_is_not_replaced_by_a_worse_one(fitted, here):
    "Going on, a look that finds less than before leaves the best alone."
    out = here / "copy"
    shutil.copytree(fitted[1], out)
    folder = out / "checkpoints"
    for path in (out / "report.html", folder / "weights.json", folder / "weights.safetensors", *folder.glob("*40.safetensors")):
        path.unlink()
    record = load_record(folder / "best.json")
    (folder / "best.json").write_text(json.dumps(record | {"psnr": 99.0, "step": 7}))
    weights = (folder / "best.safetensors").read_bytes()
    done = invoke(f"{TOY} -o {out}")
    assert done.exit_code == 0, done.output
    assert "step 40 of 40: " in done.stderr and "step 35 of 40: " not in done.stderr  # it went on from 35
    assert (folder / "best.safetensors").read_bytes() == weights == (out / "scene.safetensors").read_bytes()
    assert load_record(out / "scene.json")["psnr"] == 99.0


@POSIX
def test_signals_wait_until_files_are_whole():
    done = []
    with pytest.raises(KeyboardInterrupt), cli.undisturbed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done == [True] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stopped_says_what_it_was_told():
    assert cli.outcome(KeyboardInterrupt("here it is")) == (130, "stopped; here it is")
    ended = cli.Terminated(signal.SIGTERM)
    ended.args = ("here it is",)
    assert cli.outcome(ended) == (143, "stopped; here it is")


# --- other scenes


def test_colmap_through_a_lens(here):
    done = invoke(f"fit bent -o {here / 'bent'} --steps 2 --holdout 0 --mesh-resolution 16")
    assert done.exit_code == 0, done.output
    assert "fitted as a place" in done.stderr and "no picture is held out" in done.stderr
    assert "the lens distortion of 6 pictures was undone" in done.stderr
    page = Links((here / "bent" / "report.html").read_text(encoding="utf-8")).text
    assert "No picture was held out" in page and "in their place" not in page
    assert "on 6 fitted pictures" in done.stdout


def test_one_view_is_a_warning(here):
    done = invoke(f"fit one -o {here / 'one'} --steps 2")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("one view only") == 1


def test_without_a_surface_there_is_no_mesh(here):
    out = here / "room"
    done = invoke(f"fit room -o {out} --steps 1 --holdout 3")
    assert done.exit_code == 0 and "on 2 held-out pictures" in done.stdout
    assert "note: no mesh: the scene has no surface yet" in done.stderr and "fitted as a place" in done.stderr
    assert not list(out.glob("mesh.*")) and "mesh.ply" not in (out / "report.html").read_text()


def test_pictures_of_several_sizes_become_one(desk):
    views, names, notes = cli.read_scene(desk / "mixed", 256)
    assert views.image.shape == (6, 3, HEIGHT, WIDTH) and len(names) == 6
    assert notes == ["pictures of 2 sizes, all scaled to 32x24"]
    original = read_views(desk / "mixed").frames[5].camera
    x = torch.tensor([[0.2, -0.3, 0.5]])
    xy, _ = original.project(x)
    assert torch.allclose(views.camera[5].project(x)[0], xy * torch.tensor([WIDTH / 40, HEIGHT / 40]), atol=1e-4)


def test_large_pictures_are_reduced_and_small_ones_are_not(desk):
    views, _, notes = cli.read_scene(desk / "room", 16)
    assert views.image.shape[-2:] == (16, 21) and notes == ["pictures of 32x24 pixels, reduced to 21x16 (--size)"]
    views, _, notes = cli.read_scene(desk / "room", 512)
    assert views.image.shape[-2:] == (HEIGHT, WIDTH) and notes == []


@pytest.mark.parametrize("k1", [0.3, -0.3, 0.0])
def test_the_rim_of_a_straightened_picture_is_cut_off(k1):
    K = intrinsics_from_fov(60.0, 40, 60)
    white = View(torch.ones(3, 40, 60), Camera(K, torch.eye(4), 40, 60))
    lens = (k1, 0, 0, 0, 0, 0, 0, 0) if k1 else ()
    if k1:
        grid = torch.stack(torch.meshgrid(torch.arange(60) + 0.5, torch.arange(40) + 0.5, indexing="xy"), -1)
        source = distort((grid - K[:2, 2]) / K[0, 0], lens) * K[0, 0] + K[:2, 2]
        seen = ((source >= 0) & (source <= torch.tensor([60, 40]))).all(-1)
        white = View(white.image * seen, white.camera, None, seen)
    part = cli.pinhole_part(white, lens)
    assert part.mask is None and (part.image == 1).all()
    cut = (40 - part.camera.height) / 2
    assert (cut > 0) == (k1 > 0) and cut < 8
    assert part.camera.K[1, 2] == K[1, 2] - cut and part.camera.K[0, 0] == K[0, 0]
    if cut:  # no more than is needed
        top, left = int(cut) - 1, (60 - part.camera.width) // 2 - 1
        assert not seen[top:40 - top, left:60 - left].all()


def test_rims_tell_an_object_from_a_place():
    views = stack_views(pictures(3))
    place = View(views.image, views.camera)
    same, bounded, background, line = cli.surroundings(place)
    assert (bounded, background) == (False, None) and same is place and "--bounded if" in line
    whitened, bounded, background, line = cli.surroundings(views)
    assert (bounded, background) == (True, (1.0, 1.0, 1.0)) and "white" in line
    assert (whitened.image.movedim(1, -1)[~views.mask] == 1).all()
    assert torch.equal(whitened.image.movedim(1, -1)[views.mask], views.image.movedim(1, -1)[views.mask])
    grey = View(torch.where(views.mask[:, None], views.image, torch.tensor(0.25)), views.camera)
    assert cli.surroundings(grey)[1:3] == (True, (0.25, 0.25, 0.25))
    assert cli.surroundings(grey, False)[1:3] == (False, None)
    holes = View(views.image, views.camera, None, views.mask.logical_not())  # the rims are not masked
    kept, bounded, _, _ = cli.surroundings(holes)
    assert not bounded and torch.equal(kept.image, views.image)
    assert cli.surroundings(place, True)[1] and "asked for" in cli.surroundings(place, True)[3]


def test_which_pictures_are_held_out():
    assert cli.split_views(10, None) == ([1, 2, 3, 4, 5, 6, 7, 9], [0, 8], 8)
    assert cli.split_views(10, 3) == ([1, 2, 4, 5, 7, 8], [0, 3, 6, 9], 3)
    assert cli.split_views(3, None) == ([0, 1, 2], [0, 1, 2], 0) == cli.split_views(3, 0)
    for count, every in ((1, 8), (5, 1)):
        with pytest.raises(click.UsageError, match=f"--holdout {every} leaves none of {count} picture"):
            cli.split_views(count, every)


@pytest.mark.parametrize("arc, full", [(360.0, True), (100.0, False)])
def test_the_film_stays_where_cameras_stood(arc, full):
    azimuth = torch.deg2rad(torch.arange(20) * arc / 20 + 30)
    target, up = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 0.0, 1.0])
    eye = target + torch.stack([3 * azimuth.cos(), 3 * azimuth.sin(), torch.full_like(azimuth, 1.5)], -1)
    poses = look_at(eye, target.expand(20, 3), up.expand(20, 3))
    camera = Camera(intrinsics_from_fov(50.0, 24, 32).expand(20, 3, 3), poses, 24, 32)
    way = cli.orbit_around(target, camera, 36)
    offset = way.center - target
    assert torch.allclose(offset.norm(dim=-1), torch.tensor(11.25).sqrt(), atol=1e-3)
    assert torch.allclose(offset[:, 2], torch.tensor(1.5), atol=1e-3)
    xy, z = way.project(target.expand(36, 1, 3))
    assert torch.allclose(xy[:, 0], torch.tensor([16.0, 12.0]), atol=1e-2) and (z > 0).all()
    assert (-way.c2w[:, :3, 1] @ up > 0.5).all()  # upright
    degrees = torch.rad2deg(torch.atan2(offset[:, 1], offset[:, 0])) - 30
    if full:
        assert (degrees % 360).sort().values.diff().max() < 10.5
    else:
        assert -1 < degrees.min() < 5 and 90 < degrees.max() < 96


# --- what bad input gets

NONSENSE = {
    "fit nowhere": "FOLDER: expected pictures and cameras, there is nothing at nowhere",
    "fit void": "void: expected transforms.json",
    "fit": "FOLDER",
    "fit torn": "00003.png",
    "fit room --steps 0": "--steps",
    "fit room --size 1": "--size",
    "fit room --holdout 1": "--holdout 1 leaves none of 6 pictures",
    "fit one --holdout 8": "--holdout 8 leaves none of 1 picture",
    "fit room --holdout -1": "--holdout",
    "fit room --mesh-resolution 1": "--mesh-resolution",
    "fit room --device tpu": "--device: expected cpu",
    "fit wide --bounded": "FOLDER: expected cameras outside the box",
    "fit room -o full": "--out: full holds something else",
    "fit room -o room": "--out: room holds something else",
    "fit room -o file": "--out: expected a folder, file is a file",
    "fit room -o no/such": "--out: there is no folder no; make it first",
}


@pytest.mark.parametrize("command", NONSENSE)
def test_nonsense_gets_one_line_and_nothing_is_written(command, here, desk):
    before = stamps(desk)
    done = invoke(command)
    assert done.exit_code == 2, (done.output, done.exception)
    assert NONSENSE[command] in said(done) and said(done).startswith("error: ")
    assert not done.stdout and stamps(desk) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_where_nobody_may_write(here):
    done = invoke("fit room -o /proc/fit")
    assert done.exit_code == 2 and "/proc/fit" in said(done)


def test_where_it_goes_without_out(desk, monkeypatch):
    monkeypatch.chdir(desk / "room")
    assert cli.fit_folder(Path("."), None) == desk / "room-fit"
    assert cli.fit_folder(Path("transforms.json"), None) == desk / "room-fit"
    assert cli.fit_folder(Path("../toy"), None) == Path("../toy-fit")
    assert cli.fit_folder(desk / "toy", None) == desk / "toy-fit"
    clip = desk / "clip.txt"
    clip.touch()
    assert cli.fit_folder(clip, None) == desk / "clip-fit"
    clip.unlink()


def test_the_default_is_the_chapters():
    steps = next(option for option in cli.main.commands["fit"].params if option.name == "steps")
    assert steps.default == FIT["steps"]
