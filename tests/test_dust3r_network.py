"The network of the DUSt3R chapter: its parts, published checkpoints, its training, its weights, and pictures to a cloud."

import argparse
import os
import pickle
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch.nn import functional as F

from nvs_book import cli, dust3r
from nvs_book.cameras import Camera, pixel_grid
from nvs_book.dust3r import (
    DPT,
    CrossCompletion,
    Fusion,
    PointmapNet,
    Prediction,
    as_example,
    as_squares,
    completion_loss,
    doubled,
    fit_pictures,
    fitting_size,
    load_dust3r,
    load_pointmap_net,
    one_name_each,
    pair_errors,
    pointmap_loss,
    predict_pairs,
    published_layout,
    read_config,
    read_tensors,
    reconstruct,
    relative_camera,
    summary,
    take_over,
    train_dust3r,
    turned_deg,
    weights_file,
    wide_pairs,
)
from nvs_book.pointmaps import align_similarity, simulate_pair
from nvs_book.scenes import MultiViewDataset
from nvs_book.training import load_record, scale, seeded

F64 = torch.float64
SMALL = dict(dim=32, depth=2, heads=2, decoder_dim=48, decoder_depth=2, decoder_heads=3, patch=8, head="linear")
DEEP = dict(dim=64, depth=1, heads=1, decoder_dim=64, decoder_depth=4, decoder_heads=1, head="dpt", dpt_widths=(8, 8, 16, 16),
            dpt_features=16)  # fmt: skip


def made(seed=0, **options):
    with seeded(seed):
        return PointmapNet(**(SMALL | options)).eval()


def deep(seed=0):
    with seeded(seed):
        return PointmapNet(**DEEP).eval()


def pictures(*size, seed=0, count=2):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 3, *size, generator=g) for _ in range(count)]


@pytest.fixture(scope="module")
def heldout():
    return wide_pairs(24, split="heldout")


@pytest.fixture(scope="module")
def ring():
    return MultiViewDataset(seed=0, split="heldout", views=4, size=96, arc_deg=80)[4]


# --- the network


@torch.no_grad()
def test_blocks_look_at_the_tokens_from_before():
    net, (a, b) = made().double(), [x.double() for x in pictures(16, 24)]
    place = net.positions(a)
    encoded = [net.encode(x) for x in (a, b)]
    x, y = (net.decoder_embed(t) for t in encoded)
    for one, two in zip(net.dec_blocks, net.dec_blocks2):
        x, y = one(x, y, place, place), two(y, x, place, place)
    expected = [net.downstream_head1(net.dec_norm(x), 2), net.downstream_head2(net.dec_norm(y), 2)]
    said = net(a, b)
    assert said.points_1.shape == (2, 16, 24, 3) and said.conf_2.shape == (2, 16, 24) and said.points_1.dtype == F64
    for k, (points, conf) in enumerate(expected):
        torch.testing.assert_close(said[k], points), torch.testing.assert_close(said[2 + k], conf)
    assert (said.conf_1 > 1).all() and (said.points_1[..., 2] > 0).all()  # it begins ahead of the camera


@torch.no_grad()
def test_only_the_look_across_carries_the_other_picture():
    a, b = pictures(16, 16)
    with_it, without = made(), made(cross=False)
    assert sum(p.numel() for p in with_it.parameters()) == sum(p.numel() for p in without.parameters())
    assert not torch.equal(with_it(a, b).points_1, with_it(a, b.flip(-1)).points_1)
    assert torch.equal(without(a, b).points_1, without(a, b.flip(-1)).points_1)
    assert not torch.equal(without(a, b).points_2, without(a, b.flip(-1)).points_2)


def test_every_weight_is_trained_but_the_mask_token():
    net, example = made(), as_example(wide_pairs(2))
    pointmap_loss(net.train(), example)[0].backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["mask_token"]


@torch.no_grad()
def test_tokens_may_come_in_any_order():
    net, (a, _) = made(), pictures(24, 16)
    order = torch.stack([torch.randperm(6) for _ in range(2)])
    expected = net.encode(a).gather(1, order[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(net.encode(a, order), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_bfloat16_keeps_points_in_float32():
    net, (a, b) = made(), pictures(16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        said = net(a, b)
    assert said.points_1.dtype == torch.float32
    assert (said.points_1 - net(a, b).points_1).abs().max() < 0.1


@torch.no_grad()
def test_dpt_is_the_published_one_written_the_other_way_round():
    with seeded(0):
        fusion, head = Fusion(6).double(), DPT((4, 5, 5, 5), (4, 4, 8, 8), 8).double()
        coarse, fine = torch.randn(2, 1, 6, 3, 5, dtype=F64)
        tokens = [torch.randn(2, 15, d, dtype=F64) for d in (4, 5, 5, 5)]
    published = fusion.out_conv(doubled(fusion.resConfUnit2(coarse + fusion.resConfUnit1(fine))))
    torch.testing.assert_close(fusion(coarse, fine), published, rtol=1e-12, atol=1e-12)
    assert head(tokens, 3).shape == (2, 4, 48, 80) and head(tokens, 5).shape == (2, 4, 80, 48)  # odd numbers of tokens


def test_the_published_size():
    with torch.device("meta"):
        net = PointmapNet()
    assert sum(p.numel() for p in net.parameters()) == 570_949_064  # the published model's card says 571 M


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(head="mlp"), "head: expected one of"),
        (dict(head="dpt"), "patch: expected 16 for a DPT head"),
        (dict(heads=5), "dim: expected dim / heads a multiple of 4"),
        (dict(depth=0), "depth: "),
        (dict(patch=2.5), "patch: "),
    ],
)
def test_sizes_that_make_no_network(options, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        PointmapNet(**(SMALL | options))


def test_pictures_that_do_not_fit():
    net, (a, b) = made(), pictures(16, 16)
    broken = b.clone()
    broken[0, 0, 0, 0] = torch.nan
    for other, words in ((b[..., :8], "image_2: expected image_1's shape"), (255 * b, "image_2: expected values in [0, 1]"),
                         (broken, "image_2"), (b.double(), "dtype"), (b[0], "image_2: expected shape")):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(words)):
            net(a, other)
    with pytest.raises(ValueError, match="patches of 8 px divide"):
        net(a[..., :12], b[..., :12])


# --- published checkpoints


def write_published(path, net, **more):
    options = argparse.Namespace(model="AsymmetricCroCo3DStereo(pos_embed='RoPE100', head_type='dpt')", lr=1e-4)
    torch.save({"model": published_layout(net) | more, "args": options, "epoch": 3}, path)
    return path


@torch.no_grad()
def test_a_published_file_is_read(tmp_path):
    net, (a, b) = deep(), pictures(32, 48)
    again = load_dust3r(write_published(tmp_path / "a.pth", net))
    assert all(map(torch.equal, again(a, b), net(a, b))) and not again.training
    names = torch.load(tmp_path / "a.pth", weights_only=False)["model"]
    assert "downstream_head1.dpt.scratch.layer_rn.0.weight" in names and "downstream_head2.dpt.scratch.layer4_rn.weight" in names
    save_file({k: v.clone() for k, v in published_layout(net).items()}, tmp_path / "a.safetensors")
    assert all(map(torch.equal, load_dust3r(tmp_path / "a.safetensors")(a, b), net(a, b)))
    config = read_config(one_name_each(read_tensors(tmp_path / "a.pth")))
    assert config == DEEP | dict(patch=16, dpt_widths=[8, 8, 16, 16])


@torch.no_grad()
def test_one_decoder_is_both(tmp_path):
    net, (a, b) = made(), pictures(16, 16)
    net.dec_blocks2.load_state_dict(net.dec_blocks.state_dict())
    torch.save({"model": published_layout(net, both_decoders=False)}, tmp_path / "one.pth")
    again = load_dust3r(tmp_path / "one.pth", heads=2, decoder_heads=3)
    assert all(map(torch.equal, again(a, b), net(a, b)))


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"model": published_layout(made()), "args": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(ValueError, match=f"{name}: not a whole checkpoint of tensors"):
            load_dust3r(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_files_that_hold_something_else(tmp_path):
    whole = write_published(tmp_path / "a.pth", deep())
    (tmp_path / "half.pth").write_bytes(whole.read_bytes()[:20_000])
    (tmp_path / "half.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    write_published(tmp_path / "mast3r.pth", deep(), **{"downstream_head1.head_local_features.fc1.weight": torch.zeros(1)})
    write_published(tmp_path / "sizes.pth", deep(), **{"dec_norm.weight": torch.zeros(3)})
    for name, words in {"half.pth": "not a whole checkpoint", "half.safetensors": "not a whole checkpoint",
                        "other.pth": "got weight", "list.pth": "got list",
                        "mast3r.pth": "unknown downstream_head1.head_local_features",
                        "sizes.pth": "dec_norm.weight is (3,), expected (64,)"}.items():  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            load_dust3r(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_dust3r(tmp_path / "nowhere.pth")


# --- what it is trained with


def test_every_way_of_showing_a_pair_is_a_pair(heldout):
    views = heldout[:4]
    swap, mirror = torch.tensor([False, True, False, True]), torch.tensor([False, False, True, True])
    shown, plain = as_example(views, swap, mirror), as_example(views)
    K = views.camera.K[:, 0]
    xy, z = Camera(K, torch.eye(4).expand(4, 4, 4), 64, 64).project(shown.points_1)
    assert (xy - pixel_grid(64, 64)).abs().max() < 1e-3 and (z > 0).all()
    assert torch.equal(shown.image_1[1], plain.image_2[1]) and torch.equal(shown.image_2[1], plain.image_1[1])
    assert torch.equal(shown.image_1[2], plain.image_1[2].flip(-1)) and torch.equal(shown.image_2[3], plain.image_1[3].flip(-1))
    flipped = as_example(views, mirror=swap | ~swap)
    again = (flipped.points_1[:, 10, 63 - 20] - flipped.points_2[:, 40, 63 - 30]).norm(dim=-1)
    apart = (plain.points_1[:, 10, 20] - plain.points_2[:, 40, 30]).norm(dim=-1)
    torch.testing.assert_close(apart, again)  # a mirror keeps distances


def test_the_camera_is_read_off_true_pointmaps(heldout):
    there, back = as_example(heldout[:6]), as_example(heldout[:6], swap=torch.ones(6, dtype=torch.bool))
    sure = torch.full((64, 64), 2.0)
    for k in range(6):
        ends = (Prediction(3 * e.points_1[k], 3 * e.points_2[k], sure, sure) for e in (there, back))
        c2w, true = relative_camera(*ends), torch.linalg.inv(heldout.camera.c2w[k, 0]) @ heldout.camera.c2w[k, 1]
        assert turned_deg(c2w, true) < 0.1
        torch.testing.assert_close(c2w[:3, 3], 3 * true[:3, 3], atol=1e-3, rtol=1e-3)


def test_completion_sees_what_is_seen_only(heldout):
    with seeded(0):
        model = CrossCompletion(made())
    a, b = as_example(heldout[:2])[:2]
    order = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(k)) for k in range(2)])
    said, true = model(a, b, order)
    assert said.shape == true.shape == (2, 58, 192)
    squares = F.pixel_unshuffle(a, 8).flatten(-2)
    gone = torch.zeros(2, 1, 64, dtype=torch.bool).scatter(-1, order[:, None, 6:], True)
    other = F.pixel_shuffle(torch.where(gone, 0.3, squares).unflatten(-1, (8, 8)), 8)
    torch.testing.assert_close(model(other, b, order)[0], said)
    assert not torch.allclose(model(a, b.flip(-1), order)[0], said)
    torch.testing.assert_close(true[0, 0], as_squares(a, 8)[0, order[0, 6]])
    completion_loss(model, (a, b, order)).backward()
    assert model.net.mask_token.grad.any() and model.net.dec_blocks2[0].mlp.fc1.weight.grad is None


def test_what_croco_hands_over():
    start, net = made(1), made(2)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    take_over(net, start)
    for name, x in net.state_dict().items():
        source = start.state_dict()[name.replace("dec_blocks2.", "dec_blocks.")]
        assert torch.equal(x, before[name] if name.startswith("downstream_") else source), name


def test_a_seed_is_a_run_and_crocos_weights_are_taken_over():
    size = scale(dust3r.SCALES, "tiny")
    pairs = wide_pairs(8)
    runs = [train_dust3r("dust3r", pairs, size).record for _ in range(2)]
    assert runs[0]["curve"]["loss"] == runs[1]["curve"]["loss"]
    assert not Path("runs").exists() or not list(Path("runs").glob("dust3r-*-tiny-*"))
    start = train_dust3r("completion", pairs, size)
    after = train_dust3r("croco", pairs, size, start.ema)
    assert after.record["config"]["steps"] == size.short
    short = train_dust3r("short", pairs, size)  # the same but for the weights that it began with
    assert after.record["curve"]["loss"][0] != short.record["curve"]["loss"][0]
    wrong = ("croco", None, "start: expected"), ("dust3r", start.ema, "start: expected"), ("other", None, "run: ")
    for run, given, words in wrong:
        with pytest.raises(ValueError, match=words):
            train_dust3r(run, pairs, size, given)


# --- what it has learnt


def test_the_shipped_weights_meet_the_bars(heldout):
    record, blind = load_record(weights_file()), as_example(wide_pairs(32))
    assert weights_file().stat().st_size <= 6e6 and set(record["runs"]) == set(dust3r.LONG + dust3r.SHORT)
    assert all(run["scale"] == "small" and "dirty" not in run["commit"] for run in record["runs"].values())
    found, true = summary(*pair_errors(load_pointmap_net(), heldout)), as_example(heldout)
    scaled = dust3r.normalize_pointmaps(*blind[2:])[:2]
    means = [x.mean(0).expand(24, -1, -1, -1) for x in scaled]
    mean_error = sum(float(x.mean()) for x in dust3r.pointmap_errors(*means, *true[2:])) / 2
    assert found["error"] <= 0.6 * mean_error
    assert found["turn_deg"] <= 10 and found["error_sure"] <= 0.5 * found["error_unsure"]
    judged = {run: record["runs"][run]["heldout"] for run in dust3r.LONG}
    assert judged["dust3r"]["error"] <= 0.8 * judged["alone"]["error"]
    assert record["runs"]["dust3r"]["config"]["steps"] == record["runs"]["alone"]["config"]["steps"]


# --- the whole path


def test_pixels_of_a_picture_that_was_cut(ring):
    image = ring.image[0]
    fitted = fit_pictures([image, image[:, :, 10:80], image[:, 20:70]], 32, 32)
    assert fitted.images.shape == (3, 3, 32, 32)
    torch.testing.assert_close(fitted.zoom, torch.tensor([3.0, 70 / 32, 50 / 32]))
    torch.testing.assert_close(fitted.corner, torch.tensor([[0.0, 0.0], [0.0, 13.0], [23.0, 0.0]]))
    assert fitting_size([image[:, :48]], 16) == (256, 512) and fitting_size([torch.zeros(3, 100, 75)], 16, 224) == (224, 160)


def test_cameras_count_in_the_pixels_that_were_given(ring, monkeypatch):
    views = [ring[k] for k in range(4)]
    small = [view.__class__(F.avg_pool2d(view.image, 2), view.camera.resized(48, 48), view.depth[::2, ::2]) for view in views]
    truth = lambda net, images, pairs: [simulate_pair(small, *pair, noise=0.0) for pair in pairs]  # noqa: E731
    monkeypatch.setattr(dust3r, "predict_pairs", truth)
    with seeded(0):
        net = PointmapNet(**SMALL)
    scene = reconstruct(list(ring.image), net, size=(48, 48))
    torch.testing.assert_close(scene.focals, ring.camera.K[:, 0, 0], rtol=0.02, atol=0)
    assert (scene.cameras[2].height, scene.cameras[2].width) == (96, 96)
    places, true = (torch.stack([c.center for c in cameras]) for cameras in (scene.cameras, ring.camera))
    onto = align_similarity(places, true)
    assert (onto.apply(places) - true).norm(dim=-1).max() < 0.1
    xy_0, xy_1 = scene.matches[0, 1]
    assert len(xy_0) == len(xy_1) > 20 and 24 < xy_0.mean() < 72 and xy_0.max() > 64  # not in the network's 48 pixels
    assert set(scene.matches) == {(i, j) for i in range(4) for j in range(i + 1, 4)}


def test_pictures_of_two_sizes_to_a_cloud(ring):
    given = [*ring.image[:3], ring.image[3][:, 12:84, 6:]]
    scene = reconstruct(given)
    assert scene.points.shape == scene.colours.shape and len(scene.points) > 4 * 64 * 64 // 4
    assert [(c.height, c.width) for c in scene.cameras] == [(96, 96)] * 3 + [(72, 90)]
    torch.testing.assert_close(scene.focals[:3], ring.camera.K[:3, 0, 0], rtol=0.2, atol=0)
    torch.testing.assert_close(scene.cameras[3].K[:2, 2], torch.tensor([45.0, 36.0]), atol=1.0, rtol=0)
    few = reconstruct(given, keep=0.1)
    assert len(few.points) < len(scene.points) / 3


def test_a_window_of_a_film_needs_fewer_pairs(ring):
    scene = reconstruct(list(ring.image), window=1)
    assert set(scene.matches) == {(0, 1), (1, 2), (2, 3)} and len(scene.cameras) == 4


def test_pairs_are_the_networks_own_answers(ring):
    net, images = made(), ring.image[:3, :, :32, :48]
    pairs = predict_pairs(net, images, batch_size=2)
    assert [(pair.i, pair.j) for pair in pairs] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    with torch.no_grad():
        said = net(images[2:], images[:1])
    torch.testing.assert_close(pairs[4].points_j, said.points_2[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pairs[4].conf_i, said.conf_1[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="pairs: expected two numbers of the 3 pictures"):
        predict_pairs(net, images, [(0, 3)])


def test_pictures_that_make_no_scene(ring):
    a, b = ring.image[0], ring.image[1]
    broken = b.clone()
    broken[0, 0, 0] = torch.nan
    for given, words in (([a], "images: expected two or more pictures, got 1"), ([a, broken], "images[1]"),
                         ([a, 255 * b], "images[1]: expected values in [0, 1]"), ([a, b[0]], "images[1]: expected shape"),
                         ([a, b[:, :0]], "images[1]")):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(words)):
            reconstruct(given)
    for options, words in ((dict(keep=2.0), "keep: "), (dict(window=0), "window: "), (dict(size=(0, 64)), "size[0]: "),
                           (dict(size=(64, 60)), "size[1]: "), (dict(size=64), "size: "), (dict(size=(64, 64, 3)), "size: "),
                           (dict(net="a.pth"), "net: ")):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match="^" + re.escape(words)):
            reconstruct([a, b], **options)
    with pytest.raises(ValueError, match="^images: .* makes no scene"):
        reconstruct([a * 0 + 0.5, a * 0 + 0.5])
    with pytest.raises(ValueError, match="images: expected one or more"):
        dust3r.fit_pictures([], 64, 64)
    for given in ([a, (b * 255).byte()], [a, b.numpy()]):
        with pytest.raises(TypeError, match=re.escape("images[1]")):
            reconstruct(given)


# --- the command


@pytest.fixture
def desk(ring, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for k, image in enumerate(ring.image):
        plt.imsave(f"{k}.png", (image if k else image[:, 10:]).movedim(0, -1).numpy())
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def test_a_cloud_from_the_command_line(desk):
    done = CliRunner().invoke(cli.main, "reconstruct 0.png 1.png 2.png --out scene.ply".split())
    assert done.exit_code == 0, done.output
    header, _, rows = (desk / "scene.ply").read_bytes().partition(b"end_header\n")
    count = int(re.search(rb"element vertex (\d+)", header)[1])
    assert len(rows) == 15 * count and count > 1000
    lines = done.output.splitlines()
    assert len(lines) == 4 and all(re.match(rf"{k}\.png: focal length \d+ px, camera at \(", lines[k]) for k in range(3))
    assert re.fullmatch(rf"scene\.ply: {count:,} points, \d+ kB", lines[3])


def test_a_published_checkpoint_from_the_command_line(desk):
    with seeded(3):
        net = PointmapNet(**DEEP)
        with torch.no_grad():  # the last layer begins near zero: too little to tell one point from another
            net.downstream_head1.dpt.head[-1].weight.mul_(30), net.downstream_head2.dpt.head[-1].weight.mul_(30)
    write_published(desk / "own.pth", net)
    done = CliRunner().invoke(cli.main, "reconstruct 1.png 2.png -o scene.ply --checkpoint own.pth --size 64".split())
    assert done.exit_code == 0 and (desk / "scene.ply").stat().st_size > 10_000, done.output


@pytest.mark.parametrize(
    "words, answer",
    {
        "0.png -o a.ply": "PICTURES: expected two or more, got 1",
        "0.png 1.png -o a.obj": ".ply",
        "0.png 1.png": "--out",
        "0.png nowhere.png -o a.ply": "nowhere.png",
        "0.png text.png -o a.ply": "text.png",
        "0.png 1.png -o a.ply --checkpoint text.png": "text.png: not a whole checkpoint",
        "0.png 1.png -o a.ply --size 64": "--size goes with --checkpoint",
        "0.png 1.png -o a.ply --keep 0": "--keep",
        "0.png 1.png -o clouds/a.ply": "clouds",
    }.items(),
)
def test_mistakes_get_one_line(desk, words, answer):
    before = sorted(desk.rglob("*"))
    done = CliRunner().invoke(cli.main, ["reconstruct", *words.split()])
    assert done.exit_code == 2 and answer in done.stderr and not done.stdout, done.output
    assert sorted(desk.rglob("*")) == before
