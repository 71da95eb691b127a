"""The epipolar chapter's experiment: units, the five networks, their loss, training, the shipped weights."""

import math
from dataclasses import replace

import pytest
import torch

from nvs_book.cameras import Camera
from nvs_book.epipolar import (
    FAR,
    KINDS,
    NEAR,
    SCALES,
    UNITS,
    DepthDistribution,
    EpipolarDepth,
    depth_loss,
    draw_units,
    likely_depth,
    load_epipolar,
    predict_depth,
    scaled_views,
    train,
    weights_file,
)
from nvs_book.metrics import depth_errors
from nvs_book.rotary import token_depth
from nvs_book.scenes import View, render_pairs
from nvs_book.training import Scale, load_record, scale, seeded

TRAINED = pytest.mark.skipif(not weights_file("wrong pose", 2).exists(), reason="the weights are not there")
SMALL = dict(dim=16, heads=2, layers=1, num_samples=8, buckets=24)


@pytest.fixture(scope="module")
def views() -> View:
    return render_pairs(6, split="heldout")


def network(kind: str, **sizes) -> EpipolarDepth:
    with seeded(0):
        return EpipolarDepth(kind, **(SMALL | sizes))


# --- units


def test_units_are_log_uniform():
    units = draw_units(20_000, torch.Generator().manual_seed(0))
    assert units.min() >= UNITS[0] and units.max() <= UNITS[1]
    middle = math.sqrt(UNITS[0] * UNITS[1])
    assert abs(float((units < middle).float().mean()) - 0.5) < 0.02
    assert torch.equal(units[:5], draw_units(20_000, torch.Generator().manual_seed(0))[:5])


def test_another_unit_is_the_same_picture_of_the_same_scene(views):
    units = torch.tensor([0.3, 0.5, 1.0, 2.0, 3.0, 0.7])
    found = scaled_views(views, units)
    assert torch.equal(found.image, views.image) and torch.equal(found.camera.K, views.camera.K)
    assert torch.equal(found.camera.c2w[..., :3, :3], views.camera.c2w[..., :3, :3])
    torch.testing.assert_close(found.depth, views.depth * units[:, None, None, None])
    points = views.camera.unproject(views.depth) * units[:, None, None, None, None]
    torch.testing.assert_close(found.camera.unproject(found.depth), points, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"units: expected shape \(n=6\), got \(5,\)"):
        scaled_views(views, units[:5])


def test_pairs_are_held_out_and_fit_the_bounds(views):
    other = render_pairs(6, split="train")
    assert not torch.allclose(views.image, other.image)
    assert torch.equal(render_pairs(6, split="heldout").image, views.image)
    assert views.depth.min() * UNITS[0] > NEAR and views.depth.max() * UNITS[1] < FAR
    directions = views.camera.rays()[1]
    ahead = (directions @ views.camera.c2w[..., None, :3, 2:3])[..., 0]
    assert (views.depth / ahead).max() * UNITS[1] < FAR  # along the rays, too


# --- networks


@pytest.mark.parametrize("kind", KINDS)
def test_networks_say_a_distribution_and_learn_everywhere(kind, views):
    net = network(kind)
    found = net(views.image, views.camera)
    assert isinstance(found, DepthDistribution) and found.probabilities.shape == (6, 2, 16, 16, 24)
    loss, parts = depth_loss(net, views)
    assert set(parts) == {"surprise", "offset"}
    torch.testing.assert_close(loss, parts["surprise"] + parts["offset"])
    loss.backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    unused = ("attn", "norm1") if kind == "no self-attention" else ()
    assert [name for name in silent if not any(part in name for part in unused)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_told_the_unit(kind, views):
    "Another unit changes what the network is told only through the poses."
    net = network(kind)
    with torch.no_grad():
        one, other = (net(v.image, v.camera).probabilities for v in (views, scaled_views(views, torch.full((6,), 2.0))))
    assert torch.equal(one, other) == (kind == "monocular")


def test_the_monocular_network_sees_one_picture(views):
    net = network("monocular")
    swapped = views.image.clone()
    swapped[:, 1] = views.image[:, 1].roll(1, 0)
    with torch.no_grad():
        one, other = (net(image, views.camera).probabilities[:, 0] for image in (views.image, swapped))
        assert torch.equal(one, other)
        seeing = network("epipolar")
        assert not torch.equal(*(seeing(image, views.camera).probabilities[:, 0] for image in (views.image, swapped)))


def test_without_self_attention_a_hidden_patch_knows_only_itself(views):
    "Cameras that look away from each other: then no patch hears of any other, beyond what the stem sees of its neighbourhood."
    away = views.camera.c2w.clone()
    away[:, 1, :3, :3] = away[:, 1, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    away[:, 1, :3, 3] = 2 * away[:, 1, :3, 3]
    camera = Camera(views.camera.K, away, 64, 64)
    changed = views.image.clone()
    changed[..., :32, :] = 1 - changed[..., :32, :]  # the upper half
    for kind, same in (("no self-attention", True), ("epipolar", False)):
        net = network(kind)
        with torch.no_grad():
            one, other = (net(image, camera).probabilities[:, 0, 12:] for image in (views.image, changed))
        assert torch.allclose(one, other, atol=1e-6) == same, kind


def test_networks_have_the_same_size():
    count = {kind: sum(p.numel() for p in EpipolarDepth(kind).parameters()) for kind in KINDS}
    assert max(count.values()) < 1.05 * min(count.values())


def test_the_wrong_pose_is_that_of_the_next_scene(views):
    wrong, right = network("wrong pose"), network("epipolar")
    right.load_state_dict(wrong.state_dict())
    rolled = Camera(views.camera.K, views.camera.c2w.roll(1, 0), 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(wrong(views.image, views.camera).probabilities, right(views.image, rolled).probabilities)


@pytest.mark.parametrize(
    "wrong,message",
    [
        (dict(image=torch.zeros(6, 2, 3, 62, 64)), "image: expected a size that patches of 4 px divide"),
        (dict(image=torch.full((6, 2, 3, 64, 64), math.nan)), "image: expected finite numbers"),
        (dict(image=torch.zeros(6, 2, 3, 32, 32)), "camera: expected one for each"),
        (dict(image=torch.zeros(5, 2, 3, 64, 64)), "camera: expected one for each"),
    ],
)
def test_networks_refuse(wrong, message, views):
    with pytest.raises(ValueError, match=message):
        network("epipolar")(**({"image": views.image, "camera": views.camera} | wrong))
    with pytest.raises(ValueError, match="kind: expected one of 'epipolar'"):
        EpipolarDepth("stereo")


def test_one_view_is_refused(views):
    one = Camera(views.camera.K[:, :1], views.camera.c2w[:, :1], 64, 64)
    with pytest.raises(ValueError, match="v >= 2 views"):
        network("epipolar")(views.image[:, :1], one)
    assert network("monocular")(views.image[:, :1], one).probabilities.shape[1] == 1


# --- a single depth


def test_the_likely_depth_has_the_smallest_expected_relative_error():
    g = torch.Generator().manual_seed(0)
    found = DepthDistribution.from_logits(2 * torch.randn(40, 30, generator=g), torch.randn(40, 30, generator=g), 0.5, 20.0)
    said = likely_depth(found)
    expected = ((said[:, None] / found.depths - 1).abs() * found.probabilities).sum(-1)
    for candidate in found.depths.unbind(-1):
        assert (expected <= ((candidate[:, None] / found.depths - 1).abs() * found.probabilities).sum(-1) + 1e-5).all()


def test_predictions_do_not_depend_on_the_batch(views):
    net = network("epipolar").eval()
    torch.testing.assert_close(predict_depth(net, views, batch_size=2), predict_depth(net, views))


# --- training


@pytest.fixture(scope="module")
def lesson() -> View:
    return render_pairs(12)


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_training_lowers_the_loss(kind, lesson):
    size = Scale(name="tiny", **(SCALES["tiny"] | dict(steps=16, lr=4e-3)))
    loss = train(kind, 0, size, pairs=lesson).record["curve"]["loss"]
    assert sum(loss[-4:]) < 0.97 * sum(loss[:4])


def test_training_is_reproducible_and_seeds_differ(lesson):
    size = Scale(name="tiny", **(SCALES["tiny"] | dict(steps=4)))
    first, again, other = (train("epipolar", seed, size, pairs=lesson) for seed in (0, 0, 1))
    assert first.record["curve"]["loss"] == again.record["curve"]["loss"] != other.record["curve"]["loss"]
    assert first.record["notes"]["kind"] == "epipolar" and first.record["scale"] == "tiny"


def test_scales_are_complete():
    for name in ("tiny", "small", "full"):
        assert scale(SCALES, name).config(seed=0).steps == SCALES[name]["steps"]


# --- what ships


def test_units_that_are_none_and_a_wrong_pose_that_is_the_right_one_are_refused():
    views = render_pairs(2)
    with pytest.raises(ValueError, match="units: expected numbers > 0, got -1"):
        scaled_views(views, torch.tensor([1.0, -1.0]))
    with pytest.raises(TypeError, match="generator: expected a torch.Generator"):
        draw_units(3, None)
    assert scaled_views(replace(views, depth=None), torch.ones(2)).depth is None
    with pytest.raises(ValueError, match="expected 2 scenes or more, got 1"):
        EpipolarDepth("wrong pose")(views.image[:1], views[:1].camera)
    with pytest.raises(ValueError, match="near: expected depths > 0, got 0"):
        EpipolarDepth(near=0.0)


@TRAINED
def test_shipped_weights_are_small_and_have_records():
    for kind in KINDS:
        for seed in range(3):
            record = load_record(weights_file(kind, seed))
            assert record["notes"]["kind"] == kind and record["seed"] == seed and record["scale"] == "small"
            assert "dirty" not in record["commit"]
    assert sum(path.stat().st_size for path in weights_file("epipolar", 0).parent.glob("epipolar_*")) < 6e6


@TRAINED
def test_shipped_weights_know_the_unit_and_the_monocular_ones_cannot():
    views = scaled_views(render_pairs(32, split="heldout"), draw_units(32, torch.Generator().manual_seed(3)))
    true = token_depth(views.depth, 4)
    error = {
        kind: [float(depth_errors(predict_depth(load_epipolar(kind, seed), views), true).abs_rel.mean()) for seed in range(3)]
        for kind in ("epipolar", "monocular")
    }
    assert max(error["epipolar"]) <= 0.5 * min(error["monocular"])
    assert min(error["monocular"]) > 0.4  # eq. 2 says 0.48 on average over units


@TRAINED
def test_shipped_weights_refuse_what_is_not_there():
    with pytest.raises(ValueError, match="seed"):
        load_epipolar("epipolar", 7)
    with pytest.raises(ValueError, match="kind"):
        load_epipolar("stereo")
