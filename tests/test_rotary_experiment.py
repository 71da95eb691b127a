"""The rotary chapter's experiment: its pairs of cameras, the model with its eight codes, training, the shipped weights."""

import math

import pytest
import torch

from nvs_book.metrics import psnr
from nvs_book.rotary import (
    CODES,
    SCALES,
    WAVELENGTHS,
    ExoToEgo,
    Pairs,
    Places,
    RotaryCrossAttention,
    coded,
    exo_ego_cameras,
    exo_ego_pairs,
    exo_ego_views,
    filled_prior,
    join,
    load_rotary,
    patches_to_picture,
    place_tokens,
    predict_views,
    select,
    train,
    view_loss,
    weights_file,
)
from nvs_book.scenes import ViewPair
from nvs_book.training import Scale, load_record, scale, seeded

SMALL = dict(dim=24, heads=1, layers=1)
TRAINED = pytest.mark.skipif(not weights_file("4diff", 0).exists(), reason="the weights are not there")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return exo_ego_pairs(4, split="heldout")


@pytest.fixture(scope="module")
def views() -> ViewPair:
    return exo_ego_views(range(96), split="heldout")


def model(code: str, **sizes) -> ExoToEgo:
    with seeded(0):
        return ExoToEgo(code, **(SMALL | sizes))


# --- data


def test_cameras_stand_where_they_should():
    exo, ego = exo_ego_cameras(list(range(200)), size=16)
    for camera, near, far, low, high in ((exo, 3.0, 3.8, 32, 50), (ego, 2.3, 2.9, 20, 32)):
        radius = camera.center.norm(dim=-1)
        elevation = torch.rad2deg(torch.asin(camera.center[:, 2] / radius))
        assert (radius > near - 1e-4).all() and (radius < far + 1e-4).all()
        assert (elevation > low - 1e-3).all() and (elevation < high + 1e-3).all()
    turn = [torch.atan2(camera.center[:, 1], camera.center[:, 0]) for camera in (exo, ego)]
    turn = torch.rad2deg(torch.remainder(turn[1] - turn[0] + math.pi, 2 * math.pi) - math.pi)
    assert turn.abs().min() > 40 - 1e-3 and turn.abs().max() < 100 + 1e-3
    assert 60 < (turn > 0).sum() < 140  # to either side


def test_turn_and_lens_are_as_asked():
    exo, ego = exo_ego_cameras([1, 2], size=16, turn_deg=(120.0, 120.0), fov_deg=(50.0, 90.0))
    assert torch.allclose(ego.K[..., 0, 0], torch.tensor(8.0))
    across = torch.stack([torch.nn.functional.normalize(c.center[:, :2], dim=-1) for c in (exo, ego)])
    assert torch.allclose(across.prod(0).sum(-1), torch.tensor(-0.5), atol=1e-5)


def test_a_pair_is_a_function_of_its_number():
    alone, among = exo_ego_views(range(5, 6), seed=3, size=8), exo_ego_views(range(4, 7), seed=3, size=8)
    assert torch.allclose(alone.source.image[0], among.source.image[1], atol=1e-6)
    assert torch.equal(alone.target.camera.c2w[0], among.target.camera.c2w[1])
    other = exo_ego_views(range(5, 6), seed=4, size=8)
    assert not torch.allclose(alone.source.image, other.source.image, atol=1e-2)


def test_training_worlds_and_heldout_worlds_are_disjoint(monkeypatch):
    import nvs_book.rotary as rotary

    drawn = []
    real = rotary.ProceduralWorld

    def remember(seeds, **more):
        drawn.append(set(seeds))
        return real(seeds[:1], **more)

    monkeypatch.setattr(rotary, "ProceduralWorld", remember)
    monkeypatch.setattr(real, "render", lambda self, camera: None)
    numbers = range(SCALES["small"]["pairs"])
    for seed in range(3):
        rotary.exo_ego_views(numbers, seed, "train", size=4)
    rotary.exo_ego_views(range(2000), 0, "heldout", size=4)
    assert all(world % 2 == 0 for seeds in drawn[:3] for world in seeds) and all(world % 2 for world in drawn[3])
    assert not set.union(*drawn[:3]) & drawn[3]
    assert len(drawn[0]) > 0.999 * len(numbers) and not drawn[0] & drawn[1]


@pytest.mark.parametrize("wrong", [dict(split="test"), dict(seed=-1)])
def test_views_refuse_nonsense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        exo_ego_views(range(1), **wrong)


def test_pairs_refuse_none():
    with pytest.raises(ValueError, match="num"):
        exo_ego_pairs(0)


def test_places_are_those_of_the_tokens(pairs):
    views = exo_ego_views(range(4), split="heldout")
    at_exo, at_ego = pairs.at_exo, pairs.at_ego
    assert at_exo.pixels.shape == (4, 64, 2) and at_exo.pixels[0, 9].tolist() == [1, 1]
    assert all(x.isfinite().all() for at in (at_exo, at_ego) for x in at)
    # an exo token's point, seen by the ego camera's frame, lies on the exo camera's ray of that token
    to_exo = views.source.camera.w2c @ views.target.camera.c2w
    in_exo = at_exo.points @ to_exo[:, :3, :3].mT + to_exo[:, None, :3, 3]
    direction = torch.nn.functional.normalize(in_exo, dim=-1)
    assert torch.allclose(direction, at_exo.rays[..., :3], atol=1e-4)
    # an ego token's point lies on its own ray, at the depth that the exo picture promises, never the true one
    xy = at_ego.points[..., :2] / at_ego.points[..., 2:] * views.target.camera.K[..., 0, 0].mean() + 16
    assert torch.allclose(xy.flip(-1), 4 * at_ego.pixels + 2, atol=1e-3)
    blind = ViewPair(views.source, type(views.target)(views.target.image, views.target.camera))
    assert torch.equal(place_tokens(blind, 4).at_ego.points, at_ego.points)


def test_select_and_join_are_inverse(pairs):
    parts = [select(pairs, slice(i, i + 1)) for i in range(4)]
    again = join(parts)
    assert isinstance(again, Pairs) and isinstance(again.at_ego, Places)
    assert torch.equal(again.at_ego.points, pairs.at_ego.points) and torch.equal(again.exo, pairs.exo)


# --- model


@pytest.mark.parametrize("code", CODES)
def test_model_paints_a_picture_and_learns_everywhere(code, pairs):
    net = model(code)
    out = net(pairs.exo, pairs.at_exo, pairs.at_ego)
    assert out.shape == pairs.ego.shape and out.isfinite().all()
    view_loss(net, pairs).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [name for name in silent if not name.endswith("k.bias")] == []  # a bias of all keys alike changes no softmax


@pytest.mark.parametrize("code", CODES)
def test_only_the_code_tells_queries_apart(code, pairs):
    with torch.no_grad():
        out = model(code)(pairs.exo, pairs.at_exo, pairs.at_ego)
    patches = out.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3)
    assert (patches - patches[:, :1, :1]).abs().max() < 1e-5 if code == "none" else patches.std((1, 2)).max() > 1e-4


@pytest.mark.parametrize("code", CODES)
def test_codes_are_told_what_the_page_says(code, pairs):
    "Change one thing at a time; only the codes that are told about it may answer otherwise."
    told = dict(pixels=("sincos", "rope2d", "gta", "prope"), rays=("plucker",), points=("points", "4diff", "both"), pose=("gta",))
    told["projection"] = ("prope",)
    net = model(code)
    with torch.no_grad():
        before = net(pairs.exo, pairs.at_exo, pairs.at_ego)
        for name, codes in told.items():
            changed = getattr(pairs.at_ego, name).roll(1, 0 if name in ("pose", "projection") else 1)
            after = net(pairs.exo, pairs.at_exo, pairs.at_ego._replace(**{name: changed}))
            assert torch.equal(before, after) == (code not in codes), (code, name)


def moved(at: Places, by: torch.Tensor) -> Places:
    return at._replace(pose=at.pose @ by, projection=at.projection @ by)


@pytest.mark.parametrize("code", ["gta", "prope"])
def test_cameras_act_relatively(code, pairs):
    angle = torch.tensor(0.7)
    by = torch.eye(4)
    by[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    by[:3, 3] = torch.tensor([0.5, -1.0, 0.3])
    net = model(code)
    with torch.no_grad():
        here = net(pairs.exo, pairs.at_exo, pairs.at_ego)
        there = net(pairs.exo, moved(pairs.at_exo, by), moved(pairs.at_ego, by))
    assert torch.allclose(here, there, atol=1e-4)


def test_points_relative_and_absolute(pairs):
    "4Diff's answer stays when all points shift alike; that of the absolute control does not."
    change = {}
    for code in ("4diff", "points"):
        net, by = model(code), torch.tensor([0.3, -0.2, 0.5])
        with torch.no_grad():
            here = net(pairs.exo, pairs.at_exo, pairs.at_ego)
            at_exo, at_ego = (at._replace(points=at.points + by) for at in (pairs.at_exo, pairs.at_ego))
            change[code] = (net(pairs.exo, at_exo, at_ego) - here).abs().max()
    assert change["4diff"] < 1e-5 and change["points"] > 1e-3


def test_4diff_is_the_rotary_cross_attention(pairs):
    with seeded(1):
        attention = RotaryCrossAttention(24, 1, **WAVELENGTHS)
        x, y = torch.randn(2, 4, 64, 24)
    expected = attention(x, y, pairs.at_ego.points, pairs.at_exo.points)
    got = super(RotaryCrossAttention, attention).forward(x, y, attention=coded("4diff", pairs.at_ego, pairs.at_exo))
    assert torch.allclose(expected, got, atol=1e-6)


def test_patches_go_where_they_belong():
    picture = torch.rand(2, 3, 8, 12)
    patches = picture.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, 48)
    assert torch.equal(patches_to_picture(patches, 8, 12), picture)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(code="rope"), "code"),
        (dict(dim=36, heads=1), "dim"),
        (dict(dim=24, heads=2), "dim"),
        (dict(layers=0), "layers"),
        (dict(patch=3), "patch: expected a power of two, got 3"),
        (dict(patch=1), "patch"),
    ],
)
def test_model_refuses_sizes_that_do_not_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        ExoToEgo(**(dict(code="4diff") | SMALL | wrong))


def test_model_refuses_pictures_that_do_not_fit(pairs):
    net = model("4diff")
    with pytest.raises(ValueError, match="exo: expected a size that patches of 4 px divide, got 30 x 32"):
        net(pairs.exo[..., :30, :], pairs.at_exo, pairs.at_ego)
    with pytest.raises(ValueError, match="at_exo: expected places of 64 tokens for 4 pictures"):
        net(pairs.exo, select(pairs.at_exo, slice(0, 2)), pairs.at_ego)
    with pytest.raises(ValueError, match="at_ego"):
        net(pairs.exo, pairs.at_exo, select(pairs.at_ego, slice(0, 2)))
    with pytest.raises(ValueError, match="exo"):
        net(pairs.exo.masked_fill(pairs.exo > 0.5, math.nan), pairs.at_exo, pairs.at_ego)


# --- training


@pytest.fixture(scope="module")
def lesson() -> Pairs:
    return exo_ego_pairs(32)


@pytest.mark.parametrize("code", CODES)
def test_tiny_training_lowers_the_loss(code, lesson):
    size = scale(SCALES, "tiny")
    size.steps = 20
    loss = train(code, 0, size, pairs=lesson).record["curve"]["loss"]
    assert sum(loss[-5:]) < 0.8 * sum(loss[:5])


def test_training_is_reproducible_and_seeds_differ(lesson):
    size = Scale(name="tiny", **(SCALES["tiny"] | dict(steps=6)))
    first, again, other = (train("4diff", seed, size, pairs=lesson) for seed in (0, 0, 1))
    assert first.record["curve"]["loss"] == again.record["curve"]["loss"] != other.record["curve"]["loss"]
    assert all(torch.equal(a, b) for a, b in zip(first.ema.parameters(), again.ema.parameters()))
    assert first.record["notes"]["code"] == "4diff" and first.record["scale"] == "tiny"


# --- what ships


@TRAINED
def test_shipped_weights_are_small_and_have_records():
    for code in CODES:
        for seed in range(3):
            record = load_record(weights_file(code, seed))
            assert record["notes"]["code"] == code and record["seed"] == seed and record["scale"] == "small"
            assert "dirty" not in record["commit"]
    assert sum(path.stat().st_size for path in weights_file("none", 0).parent.glob("rotary_*")) < 3.6e6


@TRAINED
def test_shipped_weights_keep_the_order_that_the_page_claims(views):
    pairs, truth = place_tokens(views, 4), views.target.image
    found = {c: [psnr(predict_views(load_rotary(c, s), pairs), truth).mean().item() for s in range(3)] for c in CODES}
    found["rasterized prior"] = [psnr(filled_prior(views), truth).mean().item()]
    for better in ("plucker", "gta", "prope", "points", "4diff", "both"):
        for worse in ("none", "sincos", "rope2d", "rasterized prior"):
            assert min(found[better]) > max(found[worse]), (better, worse)
    assert min(found["4diff"]) > max(max(found[code]) for code in ("plucker", "gta", "prope"))


@TRAINED
def test_shipped_weights_refuse_what_is_not_there():
    with pytest.raises(ValueError, match="seed"):
        load_rotary("4diff", 7)
    with pytest.raises(ValueError, match="code"):
        load_rotary("rope")
