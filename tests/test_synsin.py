"""SynSin's network, its training, its shipped weights and 4Diff's egocentric prior. The renderer has a file of its own."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from nvs_book.cameras import Camera, intrinsics_from_fov, look_at
from nvs_book.metrics import VGG16, psnr
from nvs_book.scenes import PairDataset, ProceduralWorld, collect
from nvs_book.synsin import (
    SCALES,
    AdversarialSynSin,
    PatchDiscriminator,
    PoseUNet,
    SynSin,
    SynSinOutput,
    UNet,
    adversarial_losses,
    depth_from_logits,
    depth_scores,
    draw_pairs,
    egocentric_prior,
    image_loss,
    load_synsin,
    mean_depth_baseline,
    predict,
    rank_correlation,
    render_points,
    sharpen,
    splat_loss,
    splat_view,
    synsin_loss,
    train,
    training_pairs,
    weights_file,
)
from nvs_book.training import Step, load_record, scale, seeded


@pytest.fixture(autouse=True)
def fixed_random_numbers():
    with seeded(0):
        yield


SMALL = dict(channels=4, width=16, near=1.0, far=10.0)


def cameras(n=2, height=24, width=32, turn=0.3):
    "Two batches of cameras around the origin, a small turn apart."
    angle = torch.linspace(0, 1, n)
    K = intrinsics_from_fov(45.0, height, width)
    eyes = [torch.stack([3 * torch.cos(a), 3 * torch.sin(a), torch.ones_like(a)], -1) for a in (angle, angle + turn)]
    return tuple(Camera(K, look_at(eye, torch.zeros(3)), height, width) for eye in eyes)


def with_batch(batch, **size):
    "The same cameras with batch dimensions (), (2,) or (1, 2)."
    return [{(): c[0], (2,): c, (1, 2): c[None]}[batch] for c in cameras(**size)]


@pytest.fixture(scope="module")
def heldout():
    return collect(PairDataset(split="heldout"), 12)


@pytest.fixture
def net():
    with seeded(0):
        return SynSin(**SMALL)


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(16, 16), (45, 62), (7, 9)])
def test_unet_keeps_any_size(height, width):
    assert UNet(3, 2, (8, 16, 24))(torch.rand(2, 3, height, width)).shape == (2, 2, height, width)


def test_depth_lies_between_the_planes_and_falls_with_the_logit():
    depth = depth_from_logits(torch.linspace(-20, 20, 50, dtype=torch.float64), 1.5, 8.0)
    assert (depth.diff() < 0).all() and depth.min() >= 1.5 and depth.max() <= 8.0
    torch.testing.assert_close(depth_from_logits(torch.tensor(-math.log(4.0) / 2), 2.0, 8.0), torch.tensor(4.0))


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_forward_shapes_and_batches(net, batch):
    image = torch.rand(*batch, 3, 24, 32)
    source, target = with_batch(batch)
    out = net(image, source, target)
    assert out.image.shape == (*batch, 3, 24, 32) and out.depth.shape == (*batch, 24, 32)
    assert out.features.shape == (*batch, 4, 24, 32) and out.coverage.shape == (*batch, 24, 32)
    assert out.to(torch.float64).image.dtype == torch.float64
    if batch == (1, 2):
        flat = net(image[0], source[0], target[0])
        torch.testing.assert_close(out.image[0], flat.image)


def test_one_picture_into_many_cameras(net):
    _, targets = cameras(3)
    source = cameras()[0][0]
    out = net(torch.rand(3, 24, 32), source, targets)
    assert out.image.shape == (3, 3, 24, 32)


def test_the_target_may_have_another_size(net):
    source, target = cameras()
    assert net(torch.rand(2, 3, 24, 32), source, target.resized(30, 40)).image.shape == (2, 3, 30, 40)


def test_an_untrained_net_shows_the_splat_of_a_plane(net):
    source, target = cameras()
    out = net(torch.rand(2, 3, 24, 32), source, target)
    torch.testing.assert_close(out.image, out.colour)  # the refinement starts at zero
    assert (out.depth / math.sqrt(10) - 1).abs().max() < 0.4  # near the geometric mean of 1 and 10 m


def test_true_depth_gives_the_renderer_s_picture(net, heldout):
    source, target = heldout.source[:2], heldout.target[:2]
    out = net(source.image, source.camera, target.camera, depth=source.depth)
    points, colours = source.camera.unproject(source.depth).flatten(1, 2), source.image.flatten(2).mT
    values = torch.cat([colours, torch.ones_like(colours[..., :1])], -1)
    carried = render_points(points, values, target.camera, net.radius, net.points_per_pixel)
    torch.testing.assert_close(out.coverage, carried[:, 3])
    torch.testing.assert_close(out.colour * out.coverage[:, None].clamp(min=1e-3), carried[:, :3])
    assert torch.equal(out.depth, source.depth)


def test_pixels_of_unknown_depth_make_no_points(net):
    source, target = cameras()
    image, depth = torch.rand(2, 3, 24, 32), torch.full((2, 24, 32), 3.0)
    depth[:, :, 16:] = math.nan
    depth.requires_grad_()
    out = net(image, source, target, depth=depth)
    spoiled = torch.where(depth[:, None].isfinite(), image, 1 - image)
    moved = [splat_view(x, depth, source, target)[0] for x in (image, spoiled)]
    assert torch.equal(*moved) and out.image.isfinite().all() and 0 < out.coverage.mean() < 0.7
    out.image.sum().backward()
    assert depth.grad.isfinite().all() and not depth.grad[:, :, 16:].any()
    nothing = net(image, source, target, depth=torch.full((2, 24, 32), math.nan))
    assert not nothing.coverage.any() and not nothing.colour.any()


def test_image_loss_alone_reaches_every_part(net, heldout):
    source, target = heldout.source[:2], heldout.target[:2]
    nn.init.normal_(net.refinement.head.weight, std=0.1)  # at its zero start it passes no gradient back
    (net(source.image, source.camera, target.camera).image - target.image).abs().mean().backward()
    for part in (net.depth, net.features, net.refinement):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_the_gradient_moves_a_plane_towards_its_depth():
    "A textured wall at 3 m, guessed too near and too far: following the loss leads back, from both sides."
    world = torch.Generator().manual_seed(0)
    K = intrinsics_from_fov(45.0, 32, 32)
    aside = torch.eye(4)
    aside[0, 3] = 0.25
    source, target = (Camera(K, c2w, 32, 32) for c2w in (torch.eye(4), aside))
    image = nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=world), size=(32, 32), mode="bilinear")[0]
    truth, seen = splat_view(image, torch.full((32, 32), 3.0), source, target, 2.0)
    truth = truth / seen.clamp(min=1e-3)
    for guess in (2.6, 3.5):
        depth = torch.tensor(guess, requires_grad=True)
        moved, coverage = splat_view(image, depth.expand(32, 32), source, target, 2.0)
        splat_loss(moved / coverage.clamp(min=1e-3), coverage, truth).backward()
        assert depth.grad * (guess - 3.0) > 0


# -- losses ------------------------------------------------------------------------------------------------------------


def output_of(colour, coverage, image=None):
    return SynSinOutput(colour if image is None else image, coverage, colour, colour, coverage)


def test_splat_loss_counts_covered_pixels_only():
    target, colour = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    coverage = (torch.rand(2, 16, 16) < 0.5).float()
    expected = ((colour - target).abs().mean(1) * coverage).sum() / coverage.sum()
    torch.testing.assert_close(splat_loss(colour, coverage, target, levels=1), expected)
    spoiled = torch.where(coverage[:, None] > 0, colour, colour + 5)
    torch.testing.assert_close(splat_loss(spoiled, coverage, target), splat_loss(colour, coverage, target))
    assert splat_loss(target, coverage, target) == 0 and splat_loss(colour, 0 * coverage, target) == 0


def test_synsin_loss_is_the_sum_of_its_parts():
    target, made, coverage = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32)
    loss, parts = synsin_loss(output_of(made, coverage), target, splat_weight=0.25)
    torch.testing.assert_close(parts["l1"], (made - target).abs().mean())
    torch.testing.assert_close(loss, parts["l1"] + 0.25 * parts["splat"])
    with seeded(0):
        vgg = VGG16().eval()  # random weights: the arithmetic is the same
    loss, parts = synsin_loss(output_of(made, coverage), target, content=vgg, content_weight=2.0)
    torch.testing.assert_close(parts["content"], sum((a - b).abs().mean() for a, b in zip(vgg(made), vgg(target))))
    torch.testing.assert_close(loss, parts["l1"] + 0.5 * parts["splat"] + 2.0 * parts["content"])
    assert synsin_loss(output_of(target, coverage), target, content=vgg)[0] == 0


def test_adversarial_losses_reach_their_own_network_only():
    with seeded(0):
        judge, made, real = PatchDiscriminator(8), torch.rand(2, 3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32)
    fool, score = adversarial_losses(judge, made, real)
    grads = torch.autograd.grad(fool, [made, *judge.parameters()], allow_unused=True, retain_graph=True)
    assert grads[0].abs().max() > 0 and all(g is None for g in grads[1:])
    grads = torch.autograd.grad(score, [made, *judge.parameters()], allow_unused=True)
    assert grads[0] is None and all(g is not None for g in grads[1:])


def test_the_discriminator_learns_to_tell():
    with seeded(0):
        judge = PatchDiscriminator(8)
        optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
        for _ in range(40):
            real, made = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 1, 1).expand(4, 3, 16, 16)
            score = adversarial_losses(judge, made, real)[1]
            optimizer.zero_grad(), score.backward(), optimizer.step()
    assert score < 1.0  # 2 is what ignorance pays


# -- rivals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", SCALES)
def test_the_rival_has_as_many_parameters(row):
    size = SCALES[row]
    ours, theirs = SynSin(size["channels"], size["width"]), PoseUNet(size["width"])
    count = [sum(p.numel() for p in m.parameters()) for m in (ours, theirs)]
    assert abs(count[1] / count[0] - 1) <= 0.05


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_pose_unet_shapes_and_start(batch):
    source, target = with_batch(batch)
    image = torch.rand(*batch, 3, 24, 32)
    torch.testing.assert_close(PoseUNet()(image, source, target), image)  # a copy, until it has learnt


def test_pose_unet_sees_the_relative_pose_only():
    "Moving the whole world changes nothing; moving one camera does."
    with seeded(0):
        model, image = PoseUNet().eval(), torch.rand(2, 3, 24, 32)
        nn.init.normal_(model.net.head.weight)
    source, target = cameras()
    moved = look_at(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    there = [Camera(c.K, moved @ c.c2w, 24, 32) for c in (source, target)]
    torch.testing.assert_close(model(image, *there), model(image, source, target), atol=1e-3, rtol=1e-3)
    assert (model(image, source, source) - model(image, source, target)).abs().max() > 0.01


def test_mean_depth_baseline_is_exact_on_a_plane_and_fills_with_the_source():
    K, image = intrinsics_from_fov(45.0, 32, 32), torch.rand(3, 32, 32)
    source = Camera(K, torch.eye(4), 32, 32)
    shift = torch.eye(4)
    shift[0, 3] = 4 * 2.0 / float(K[0, 0])  # four pixels at 2 m
    made, coverage = mean_depth_baseline(image, 2.0, source, Camera(K, shift, 32, 32), radius=0.6)
    torch.testing.assert_close(made[..., :28], image[..., 4:], atol=1e-5, rtol=0)
    torch.testing.assert_close(made[..., 28:], image[..., 28:], atol=0, rtol=0)
    assert (coverage[:, :28] > 0).all() and (coverage[:, 28:] == 0).all()


def test_rank_correlation():
    a = torch.rand(3, 6, 7)
    torch.testing.assert_close(rank_correlation(a, a.pow(3)), torch.ones(3))
    torch.testing.assert_close(rank_correlation(a, -a), -torch.ones(3))
    from scipy.stats import spearmanr

    b, mask = (torch.rand(3, 6, 7) * 4).round(), torch.rand(3, 6, 7) < 0.7  # ties
    expected = [spearmanr(x[m], y[m])[0] for x, y, m in zip(a, b, mask)]
    torch.testing.assert_close(rank_correlation(a, b, mask), torch.tensor(expected).float())


# -- training ----------------------------------------------------------------------------------------------------------


def tiny(**more):
    size = scale(SCALES, "tiny")
    vars(size).update(dict(steps=4, pairs=4, batch_size=2, size=32) | more)
    return size


def test_no_depth_reaches_the_training():
    image_1, image_2, *cams = training_pairs(tiny())
    assert image_1.shape == image_2.shape == (4, 3, 32, 32) and all(type(c) is Camera for c in cams)


def test_both_views_are_source_in_turn():
    pairs = (torch.zeros(4, 3, 8, 8), torch.ones(4, 3, 8, 8), *cameras(4))
    first = {draw_pairs(pairs, Step(number=i, batch_size=2, seed=0))[0].mean().item() for i in range(20)}
    assert first == {0.0, 1.0}


@pytest.mark.parametrize("name", ["synsin", "pose"])
def test_same_seed_same_weights_and_resume(name, tmp_path):
    size = tiny()
    one, two = (train(name, 3, size, folder).ema.state_dict() for folder in (None, tmp_path))
    assert all(torch.equal(one[k], two[k]) for k in one)
    again = train(name, 3, size, tmp_path)  # a run that has ended returns at once, with the same weights
    assert all(torch.equal(one[k], v) for k, v in again.ema.state_dict().items())
    other = train(name, 4, size).ema.state_dict()
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_training_lowers_the_loss():
    record = train("synsin", 0, tiny(steps=40, pairs=2, size=32)).record
    loss = record["curve"]["loss"]
    assert sum(loss[-5:]) < 0.9 * sum(loss[:5])


def test_sharpening_moves_the_refinement_only():
    size = tiny(sharpen=3)
    with seeded(0):
        model = SynSin(size.channels, size.width)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run = sharpen(model, 0, size)
    assert isinstance(run.ema, AdversarialSynSin) and {"fool", "judge"} <= set(run.record["curve"])
    after = run.ema.synsin.state_dict()
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"refinement"}


def test_image_loss_of_all_terms_together():
    "Everything can also be trained at once, as in the paper."
    model = AdversarialSynSin(SynSin(**SMALL), PatchDiscriminator(8), weight=0.1)
    batch = draw_pairs(training_pairs(tiny()), Step(number=0, batch_size=2, seed=0))
    loss, parts = image_loss(model, batch)
    torch.testing.assert_close(loss, parts["l1"] + 0.5 * parts["splat"] + 0.1 * parts["fool"] + parts["judge"])
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


# -- what ships --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_shipped_weights_beat_the_baselines_on_heldout_worlds(seed, heldout):
    source, target = heldout
    ours, theirs = predict(load_synsin(seed), heldout), predict(load_synsin(seed, "pose"), heldout)
    card, _ = mean_depth_baseline(source.image, source.depth.mean((-2, -1)), source.camera, target.camera)
    best = psnr(ours.image.clamp(0, 1), target.image).mean()
    for rival in (source.image, card, theirs.clamp(0, 1)):
        assert best > psnr(rival, target.image).mean() + 0.5
    mean_depth = source.depth.mean(0)
    found = depth_scores(ours.depth, source, mean_depth)
    ramp = depth_scores(mean_depth.expand_as(source.depth), source, mean_depth)
    assert found["rho"] >= 0.6 and found["rho"] > ramp["rho"] and found["rho_objects"] > ramp["rho_objects"]
    assert found["rho_beyond_mean"] > 0.2


def test_shipped_weights_are_small_and_recorded():
    files = [weights_file(name, seed) for name in ("synsin", "pose") for seed in range(3)] + [weights_file("sharp", 0)]
    assert sum(f.stat().st_size for f in files) <= 5e6
    for file in files:
        record = load_record(file)
        assert {"config", "scale", "commit", "device", "seconds", "peak_memory_bytes", "curve", "weights_sha256"} <= set(record)
        assert record["config"]["seed"] == int(file.stem[-1])


def test_the_sharpened_weights_differ_in_the_refinement_and_are_crisper(heldout):
    plain, sharp = load_synsin(0), load_synsin(0, "sharp")
    image = heldout.source.image[:4]
    assert torch.equal(plain.predict_depth(image), sharp.predict_depth(image))
    before, after, real = predict(plain, heldout).image, predict(sharp, heldout).image, heldout.target.image
    edges = [x.diff(dim=-1).abs().mean() for x in (before, after, real)]
    assert edges[0] < edges[1] < 1.2 * edges[2]
    with pytest.raises(FileNotFoundError, match="synsin_sharp_1"):
        load_synsin(1, "sharp")


# -- 4Diff's prior -----------------------------------------------------------------------------------------------------


def brute_force_prior(points, values, camera, radius, k):
    "Eq. N5 for one picture, pixel by pixel, point by point."
    xy, z = camera.project(points)
    out = torch.zeros(values.shape[-1], camera.height, camera.width)
    for v in range(camera.height):
        for u in range(camera.width):
            dist2 = (xy - torch.tensor([u + 0.5, v + 0.5])).square().sum(-1)
            hits = [i for i in z.argsort().tolist() if z[i] > 0 and dist2[i] < radius**2][:k]
            left = 1.0
            for i in hits:
                alpha = 1 - math.sqrt(min(max(float(dist2[i]) / radius**2, 1e-3), 1.0))
                out[:, v, u] += left * alpha * values[i]
                left *= 1 - alpha
    return out


def test_egocentric_prior_equals_brute_force():
    g = torch.Generator().manual_seed(0)
    exo, ego = (c[0] for c in cameras(height=12, width=16, turn=0.5))
    image, features = torch.rand(3, 12, 16, generator=g), torch.randn(5, 6, 8, generator=g)
    depth = 2 + torch.rand(12, 16, generator=g)
    depth[::3] = math.nan
    prior = egocentric_prior(image, features, depth, exo, ego, radius=1.2)
    points, values = [], []
    for r in range(6):
        for c in range(8):
            if depth[2 * r + 1, 2 * c + 1].isfinite():  # the pixel at the centre of a 2 x 2 patch
                x = torch.tensor([2.0 * c + 1.0, 2.0 * r + 1.0, 1.0])
                ray = torch.linalg.solve(exo.K, x) * depth[2 * r + 1, 2 * c + 1]
                points.append(exo.c2w[:3, :3] @ ray + exo.c2w[:3, 3])
                patch = image[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((1, 2))
                values.append(torch.cat([patch, features[:, r, c], torch.ones(1)]))
    expected = brute_force_prior(torch.stack(points), torch.stack(values), ego.resized(6, 8), 1.2, 8)
    coverage = expected[-1].clamp(min=1e-3)
    torch.testing.assert_close(prior.coverage, expected[-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prior.colour, expected[:3] / coverage, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prior.features, expected[3:8] / coverage, atol=1e-4, rtol=1e-4)
    assert torch.equal(prior.mask, expected[-1] > 0)


def test_prior_of_unknown_depth_is_empty_and_of_the_same_camera_is_the_picture():
    exo, ego = (c[0] for c in cameras(height=16, width=16))
    image, features = torch.rand(3, 16, 16), torch.rand(2, 16, 16)
    empty = egocentric_prior(image, features, torch.full((16, 16), math.nan), exo, ego)
    assert not empty.mask.any() and not empty.colour.any() and not empty.features.any()
    same = egocentric_prior(image, features, torch.full((16, 16), 2.0), exo, exo, radius=0.6)
    torch.testing.assert_close(same.colour, image, atol=1e-4, rtol=0)
    torch.testing.assert_close(same.features, features, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_prior_batches_and_size(batch):
    exo, ego = with_batch(batch, height=16, width=16)
    image, features, depth = torch.rand(*batch, 3, 16, 16), torch.rand(*batch, 4, 8, 8), torch.full((*batch, 16, 16), 3.0)
    prior = egocentric_prior(image, features, depth, exo, ego, size=(10, 12))
    assert prior.colour.shape == (*batch, 3, 10, 12) and prior.features.shape == (*batch, 4, 10, 12)
    assert prior.coverage.shape == prior.mask.shape == (*batch, 10, 12)
    assert prior.to(torch.float64).mask.dtype == torch.bool


def test_true_depth_shows_what_the_ego_camera_sees():
    world = ProceduralWorld(5)
    K = intrinsics_from_fov(45.0, 64, 64)
    exo = world.render(Camera(K, look_at(torch.tensor([3.0, 0.0, 1.5]), torch.zeros(3)), 64, 64))
    ego = world.render(Camera(K, look_at(torch.tensor([2.6, 1.2, 1.4]), torch.zeros(3)), 64, 64))
    prior = egocentric_prior(exo.image, exo.image, exo.depth, exo.camera, ego.camera, radius=1.5)
    assert psnr(prior.colour, ego.image, prior.mask) > psnr(exo.image, ego.image, prior.mask) + 2


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, name",
    [
        (dict(near=2.0, far=2.0), "near"),
        (dict(near=-1.0), "near"),
        (dict(width=20), "width"),
        (dict(channels=0), "channels"),
        (dict(radius=0.0), "radius"),
        (dict(points_per_pixel=0), "points_per_pixel"),
    ],
)
def test_a_synsin_that_cannot_be(wrong, name):
    with pytest.raises(ValueError, match=name):
        SynSin(**SMALL | wrong)


@pytest.mark.parametrize("model", [SynSin(**SMALL), PoseUNet()], ids=["synsin", "pose"])
def test_inputs_that_do_not_fit_are_named(model):
    source, target = cameras()
    with pytest.raises(ValueError, match="image"):
        model(torch.rand(2, 3, 32, 32), source, target)
    with pytest.raises(ValueError, match="image.*camera_source"):
        model(torch.rand(3, 3, 24, 32), source, target)
    with pytest.raises(TypeError, match="image"):
        model(torch.randint(255, (2, 3, 24, 32)), source, target)
    with pytest.raises(ValueError, match="image"):
        model(torch.full((2, 3, 24, 32), math.nan), source, target)


def test_a_rival_needs_cameras_of_one_size():
    source, target = cameras()
    with pytest.raises(ValueError, match="camera_target"):
        PoseUNet()(torch.rand(2, 3, 24, 32), source, target.resized(12, 16))


def test_a_depth_that_does_not_fit_is_named(net):
    source, target = cameras()
    with pytest.raises(ValueError, match="depth"):
        net(torch.rand(2, 3, 24, 32), source, target, depth=torch.ones(2, 12, 16))
    with pytest.raises(ValueError, match="depth"):
        net(torch.rand(2, 3, 24, 32), source, target, depth=torch.zeros(2, 24, 32))


def test_prior_inputs_that_do_not_fit_are_named():
    exo, ego = (c[0] for c in cameras(height=16, width=16))
    image, features, depth = torch.rand(3, 16, 16), torch.rand(4, 8, 8), torch.ones(16, 16)
    with pytest.raises(ValueError, match="depth"):
        egocentric_prior(image, features, torch.ones(8, 8), exo, ego)
    with pytest.raises(ValueError, match="features"):
        egocentric_prior(image, features[0], depth, exo, ego)
    with pytest.raises(ValueError, match="dtype"):
        egocentric_prior(image, features.double(), depth, exo, ego)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name"):
        load_synsin(0, "gan")
    with pytest.raises(ValueError, match="name"):
        train("vgg", 0, tiny())


def test_outputs_compare_by_identity():
    a, b = (SynSinOutput(*(torch.zeros(2) for _ in range(5))) for _ in range(2))
    assert a == a and a != b


def test_import_leaves_scipy_for_when_it_is_needed():
    code = "import sys, nvs_book.synsin; print([name for name in sys.modules if name.split('.')[0] == 'scipy'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_batches_that_do_not_fit_are_named():
    source, target = cameras(2)
    image, depth, features = torch.rand(2, 3, 24, 32), torch.ones(2, 24, 32), torch.rand(2, 5, 6, 8)
    three = torch.ones(3, 24, 32)
    with pytest.raises(ValueError, match=r"features \(2,\), depth \(3,\)"):
        splat_view(image, three, source, target)
    with pytest.raises(ValueError, match="features: expected shape"):
        splat_view(features, depth, source, target)
    with pytest.raises(ValueError, match=r"depth \(3,\)"):
        egocentric_prior(image, features, three, source, target)
    with pytest.raises(ValueError, match=r"features \(3,\)"):
        egocentric_prior(image, torch.rand(3, 5, 6, 8), depth, source, target)
    with pytest.raises(ValueError, match=r"image \(2,\), depth \(3,\)"):
        SynSin(**SMALL)(image, source, target, depth=three)
