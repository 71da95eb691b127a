"""Behaviour of nvs_book.metrics: parity with torchmetrics and PyTorch3D, closed forms, invariances, gradients, bad input."""
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from nvs_book.checks import golden
from nvs_book.metrics import (
    VGG16,
    chamfer,
    clip_score,
    depth_errors,
    dists,
    f_score,
    load_vgg16,
    lpips,
    mask_iou,
    nearest,
    psnr,
    ssim,
    ssim_map,
)

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**20)
sides = st.integers(12, 48)


def images(seed, *shape, dtype=torch.float32):
    "A random image and a noisy copy of it, in [0, 1]."
    g = torch.Generator().manual_seed(seed)
    true = torch.rand(*shape, generator=g, dtype=dtype)
    sigma = 10 ** (-2.5 * torch.rand((), generator=g, dtype=dtype))
    return (true + sigma * torch.randn(*shape, generator=g, dtype=dtype)).clamp(0, 1), true


def cloud(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return torch.from_numpy(q * np.sign(np.linalg.det(q)))


# --- images: against torchmetrics ---------------------------------------------------------------------------


@quick
@given(seed=seeds, h=sides, w=sides)
def test_psnr_and_ssim_equal_torchmetrics(seed, h, w):
    pred, true = images(seed, 2, 3, h, w)
    theirs = torch.stack([peak_signal_noise_ratio(p, t, data_range=1.0) for p, t in zip(pred, true)])
    assert (psnr(pred, true) - theirs).abs().max() <= 1e-5
    # the full map, because torchmetrics before autumn 2024 cropped it before averaging
    _, full = structural_similarity_index_measure(pred, true, data_range=1.0, reduction="none", return_full_image=True)
    assert (ssim(pred, true) - full.mean((1, 2, 3))).abs().max() <= 1e-5
    assert (ssim(pred, true, border="crop") - full[..., 5:-5, 5:-5].mean((1, 2, 3))).abs().max() <= 1e-5


def test_cropped_ssim_equals_scikit_image():
    from skimage.metrics import structural_similarity

    pred, true = images(1, 3, 40, 33, dtype=torch.float64)
    theirs = structural_similarity(pred.numpy(), true.numpy(), data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
                                   use_sample_covariance=False)
    assert abs(ssim(pred, true, border="crop").item() - theirs) < 1e-9
    pred[:, :5] = 0  # an error that only windows over the border see in full
    assert ssim(pred, true, border="crop") > ssim(pred, true) + 0.01


def test_value_range():
    pred, true = images(2, 3, 20, 20, dtype=torch.float64)
    assert torch.isclose(psnr(pred * 255, true * 255, data_range=255), psnr(pred, true))
    assert torch.isclose(ssim(pred * 255, true * 255, data_range=255), ssim(pred, true))


# --- images: closed forms and properties --------------------------------------------------------------------


@quick
@given(error=st.floats(1e-3, 0.4), h=sides, w=sides)
def test_psnr_of_a_known_error(error, h, w):
    true = torch.full((3, h, w), 0.5, dtype=torch.float64)
    assert math.isclose(psnr(true + error, true).item(), -20 * math.log10(error), abs_tol=1e-9)


def test_identical_images():
    _, true = images(3, 3, 16, 16)
    assert psnr(true, true) == math.inf
    assert ssim(true, true) == 1


@pytest.mark.parametrize("lead", [(), (2,), (1, 2)])
def test_leading_dimensions(lead):
    pred, true = images(4, *lead, 3, 17, 23)
    for metric in (psnr, ssim):
        found = metric(pred, true)
        assert found.shape == lead
        one = metric(pred[(0,) * len(lead)], true[(0,) * len(lead)])
        assert torch.isclose(found.flatten()[0], one, rtol=1e-5)
        assert metric(pred, true[(0,) * len(lead)]).shape == lead  # one image against many


def test_mask_counts_only_its_pixels():
    pred, true = images(5, 2, 3, 24, 24)
    mask = torch.rand(24, 24, generator=torch.Generator().manual_seed(0)) < 0.4
    expected = -10 * torch.log10((pred - true)[..., mask].square().mean((1, 2)))
    assert torch.allclose(psnr(pred, true, mask), expected)
    spoilt = torch.where(mask, pred, 1 - pred)
    assert torch.equal(psnr(spoilt, true, mask), psnr(pred, true, mask))
    assert torch.allclose(ssim(pred, true, mask), ssim_map(pred, true)[..., mask].mean((1, 2)))
    assert torch.allclose(ssim(pred, true, torch.ones(24, 24, dtype=torch.bool)), ssim(pred, true))


def test_half_precision_is_computed_in_float32():
    pred, true = images(6, 3, 32, 32)
    for metric in (psnr, ssim):
        found = metric(pred.bfloat16(), true.bfloat16())
        assert found.dtype == torch.float32
        assert torch.isclose(found, metric(pred.bfloat16().float(), true.bfloat16().float()))


def test_gradients_of_image_metrics():
    pred, true = images(7, 1, 3, 8, 9, dtype=torch.float64)
    mask = torch.arange(9) > 2
    pred.requires_grad_()
    for metric in (psnr, ssim):
        assert torch.autograd.gradcheck(lambda p, m=metric: m(p, true), pred)
        assert torch.autograd.gradcheck(lambda p, m=metric: m(p, true, mask.expand(8, 9)), pred)


# --- networks -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = VGG16().requires_grad_(False)
        for layer in net.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return net


def test_lpips_equals_torchmetrics_arithmetic(net, monkeypatch):
    from torchmetrics.functional.image import lpips as theirs

    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda name, pretrained=False: net.features)
    model = theirs._LPIPS(pretrained=True, net="vgg", pnet_rand=True)
    true, pred = torch.rand(2, 2, 3, 33, 40, generator=torch.Generator().manual_seed(8))
    expected = model(pred, true, normalize=True).flatten()
    assert expected.min() > 0.01
    assert (lpips(pred, true, net=net) - expected).abs().max() <= 1e-5


def test_dists_equals_torchmetrics_arithmetic(net, monkeypatch):
    from torchmetrics.functional.image import dists as theirs

    monkeypatch.setattr(theirs, "_TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(theirs, "VGG16_Weights", SimpleNamespace(DEFAULT=None), raising=False)
    monkeypatch.setattr(theirs, "vgg16", lambda weights: SimpleNamespace(features=net.features), raising=False)
    load = torch.load  # the weights were saved on a GPU and the library loads them without map_location
    monkeypatch.setattr(torch, "load", lambda path: load(path, map_location="cpu", weights_only=True))
    model = theirs.DISTSNetwork()
    monkeypatch.undo()
    true, pred = torch.rand(2, 2, 3, 33, 40, generator=torch.Generator().manual_seed(9))
    expected = model(pred, true)
    assert expected.min() > 0.01
    assert (dists(pred, true, net=net) - expected).abs().max() <= 1e-5


def test_vgg16_taps_and_key_layout(net):
    found = net(torch.rand(1, 3, 32, 48))
    assert [tuple(f.shape[1:]) for f in found] == [(64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3)]
    assert min(f.min() for f in found) == 0  # after the ReLU
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # torchvision's
    assert set(net.state_dict()) == {f"features.{i}.{kind}" for i in convolutions for kind in ("weight", "bias")}


@pytest.mark.parametrize("metric", [lpips, dists])
def test_network_metrics_behave(metric, net):
    pred, true = images(10, 1, 2, 3, 24, 24)
    found = metric(pred, true, net=net)
    assert found.shape == (1, 2) and (found > 0).all()
    assert metric(true, true, net=net).abs().max() < 1e-5
    assert torch.allclose(metric(true, pred, net=net), found, rtol=1e-4, atol=1e-7)  # symmetric
    pred.requires_grad_()
    metric(pred, true, net=net).sum().backward()
    assert pred.grad.abs().max() > 0


def test_weights_come_from_a_file_or_a_folder(net, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    pred, true = images(11, 3, 20, 20)
    expected = lpips(pred, true, net=net)
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    classifier = {"classifier.0.weight": torch.zeros(2, 2)}  # as in torchvision's file: there, and not needed
    torch.save(net.state_dict() | classifier, hub / "vgg16-397923af.pth")
    save_file(net.state_dict() | classifier, tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    for weights in (hub / "vgg16-397923af.pth", hub, tmp_path, str(tmp_path / "model.safetensors")):
        assert torch.equal(lpips(pred, true, weights=weights), expected)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert torch.equal(lpips(pred, true), expected)
    assert load_vgg16() is load_vgg16()  # read once
    assert torch.equal(torch.get_rng_state(), state)  # loading draws nothing
    snapshot = tmp_path / "hf" / "models--timm--vgg16.tv_in1k" / "snapshots" / "b8d8aa2"
    snapshot.mkdir(parents=True)
    (tmp_path / "model.safetensors").rename(snapshot / "model.safetensors")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "nothing"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    assert torch.equal(lpips(pred, true), expected)


@pytest.mark.parametrize("metric", [lpips, dists])
def test_missing_weights_say_how_to_get_them(metric, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    pred, true = images(12, 3, 20, 20)
    for weights in (None, tmp_path, tmp_path / "none.pth"):
        with pytest.raises(FileNotFoundError, match="weights: no VGG16 weights") as caught:
            metric(pred, true, weights=weights)
        message = str(caught.value)
        assert str(weights or tmp_path / "hub" / "checkpoints") in message
        assert "vgg16-397923af.pth" in message and "hf download timm/vgg16.tv_in1k" in message


def test_broken_weights_name_the_file(tmp_path):
    pred, true = images(13, 3, 20, 20)
    (tmp_path / "page.pth").write_bytes(b"<html>not found</html>")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    for name in ("page.pth", "cut.safetensors"):
        with pytest.raises(ValueError, match=f"weights: cannot read .*{name}"):
            lpips(pred, true, weights=tmp_path / name)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other.pth does not hold VGG16"):
        lpips(pred, true, weights=tmp_path / "other.pth")
    torch.save(SimpleNamespace(a=1), tmp_path / "code.pth")  # an object: would run code when unpickled
    with pytest.raises(ValueError, match="weights: cannot read .*code.pth"):
        lpips(pred, true, weights=tmp_path / "code.pth")


def test_net_on_other_dtype_is_refused(net):
    pred, true = images(14, 3, 20, 20, dtype=torch.float64)
    with pytest.raises(ValueError, match="net: expected .*float64"):
        lpips(pred, true, net=net)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "A small CLIP with random weights, a byte-level tokenizer, and the folder both are saved in."
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 520,
            "max_position_embeddings": 24, "projection_dim": 8, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
              "patch_size": 16, "projection_dim": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
    letters = [chr(i) for i in range(33, 289)]
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[])
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(**size), tokenizer)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


class TensorFeatures:
    "What torchmetrics 1.9 expects of a CLIP model: features as tensors (transformers 5 wraps them)."

    def __init__(self, model):
        self.model, self.config = model, model.config

    def to(self, device):
        return self

    def __getattr__(self, name):
        def features(*args):
            found = getattr(self.model, name)(*args)
            return found if isinstance(found, torch.Tensor) else found.pooler_output

        return features


def test_clip_score_equals_torchmetrics(clip):
    from torchmetrics.functional.multimodal import clip_score as theirs

    model, processor, folder = clip
    captions = ["a red motorcycle", "two trees", "four red wheels"]
    picture = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    as_bytes = (picture * 255).round().byte()
    ours = clip_score(picture, captions, model=(model, processor))
    found = []
    for one, caption in zip(as_bytes, captions):
        with torch.no_grad():
            found.append(theirs(one, caption, model_name_or_path=lambda: (TensorFeatures(model), processor)))
    assert ours.shape == (3,) and ours.max() > 0.1
    assert (ours - torch.stack(found)).abs().max() <= 1e-4  # of 100
    assert torch.equal(clip_score(picture, captions, model=folder), ours)  # from disk
    with torch.no_grad():
        pair = theirs(as_bytes[0], as_bytes[1], model_name_or_path=lambda: (TensorFeatures(model), processor))
    assert (clip_score(picture[0], picture[1], model=folder) - pair).abs() <= 1e-4


def test_clip_score_shapes_and_bounds(clip):
    model = clip[:2]
    picture = torch.rand(1, 2, 3, 40, 48, generator=torch.Generator().manual_seed(1))
    assert clip_score(picture, "one caption for all", model=model).shape == (1, 2)
    assert clip_score(picture[0, 0], "a caption", model=model).shape == ()
    assert torch.allclose(clip_score(picture, picture, model=model), torch.tensor(100.0))
    assert clip_score(picture, picture[0, 0, :, :32], model=model).shape == (1, 2)  # sizes may differ: both are resized
    alone = clip_score(picture[0, 1], "y", model=model)
    assert torch.allclose(clip_score(picture, ["x", "y"], model=model)[0, 1], alone, atol=1e-4)
    long = "letter by letter this is longer than the model's 24 places"  # cut, and its end token kept
    assert torch.equal(clip_score(picture, long, model=model), clip_score(picture, long[:40], model=model))
    with pytest.raises(ValueError, match="other: expected .* each of 2 images"):
        clip_score(picture, ["one", "two", "three"], model=model)
    with pytest.raises(TypeError, match="image: "):
        clip_score((picture * 255).byte(), "bytes", model=model)


def test_missing_clip_says_how_to_get_it(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match=r"(?s)model: no CLIP model at .*hf download") as caught:
        clip_score(torch.rand(3, 32, 32), "a caption", model=tmp_path)
    assert str(tmp_path) in str(caught.value)


# --- points -------------------------------------------------------------------------------------------------


def test_chamfer_equals_pytorch3d():
    g = golden("p3d_chamfer")
    found = chamfer(g["a"], g["b"])
    assert found.shape == (3,)
    assert (found.mean() - g["chamfer_mean_sq"]).abs() <= 1e-5
    assert (chamfer(g["a"].double(), g["b"].double()).mean() - g["chamfer_mean_sq"]).abs() <= 1e-5


@quick
@given(seed=seeds, n=st.integers(1, 700), m=st.integers(1, 700))
def test_nearest_equals_all_distances(seed, n, m):  # both the tree and the slices, by size
    a, b = cloud(seed, n), cloud(seed + 1, m)
    assert torch.equal(nearest(a, b), torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1))


@quick
@given(seed=seeds, n=st.integers(1, 60), m=st.integers(1, 60))
def test_chamfer_is_symmetric_and_invariant(seed, n, m):
    a, b = cloud(seed, n), cloud(seed + 1, m)
    found = chamfer(a, b)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    move, shift = rotation(seed), cloud(seed + 2, 1)
    assert torch.isclose(chamfer(b, a), found)
    assert torch.isclose(chamfer(a[order], b), found)
    assert torch.isclose(chamfer(a @ move.T + shift, b @ move.T + shift), found)
    assert torch.isclose(chamfer(3 * a, 3 * b), 9 * found)  # m²
    assert torch.isclose(f_score(a @ move.T + shift, b @ move.T + shift, 0.5).f, f_score(a, b, 0.5).f)


def test_chamfer_is_zero_for_equal_sets_only():
    a = cloud(0, 50)
    assert chamfer(a, a[torch.randperm(50, generator=torch.Generator().manual_seed(0))]) == 0
    assert chamfer(a, torch.cat([a, a[:10]])) == 0  # sets, not lists
    assert chamfer(a, a[:49]) > 0 and chamfer(a[:49], a) > 0  # a missing point shows in either direction


@pytest.mark.parametrize("lead", [(), (2,), (1, 2)])
@pytest.mark.parametrize("n", [30, 800])  # slices and tree
def test_cloud_leading_dimensions(lead, n):
    a, b = cloud(1, *lead, n), cloud(2, *lead, n + 5)
    found, scored = chamfer(a, b), f_score(a, b, 0.3)
    assert found.shape == lead and all(part.shape == lead for part in scored) and nearest(a, b).shape == (*lead, n)
    first = (0,) * len(lead)
    assert torch.isclose(found[first], chamfer(a[first], b[first]))
    assert torch.isclose(scored.f[first], f_score(a[first], b[first], 0.3).f)
    assert chamfer(a, b[first]).shape == lead  # one cloud against many


def test_gradient_of_chamfer():
    a, b = cloud(3, 1, 9).requires_grad_(), cloud(4, 2, 7).requires_grad_()
    assert torch.autograd.gradcheck(chamfer, (a, b))
    big = cloud(5, 800).requires_grad_()  # through the tree: the closed form, 2 (p - q) / n, and the other cloud's part
    true = cloud(6, 900)
    chamfer(big, true).backward()
    there = big.detach() - true[nearest(big, true)]
    expected = 2 * there / 800
    back = nearest(true, big)
    expected.index_add_(0, back, 2 * (big.detach()[back] - true) / 900)
    assert torch.allclose(big.grad, expected)


def test_f_score_by_hand():
    made, real = torch.tensor([[0.0, 0, 0], [1, 0, 0], [4, 0, 0]]), torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    precision, recall, f = f_score(made, real, 0.5)
    assert torch.allclose(torch.stack([precision, recall, f]), torch.tensor([2 / 3, 1.0, 0.8]))
    swapped = f_score(real, made, 0.5)
    assert swapped.f == f and swapped.precision == recall
    far = f_score(made, real + 100, 0.5)
    assert (far.precision, far.recall, far.f) == (0, 0, 0)
    assert f_score(made, real, 3.001).f == 1 and f_score(made, real, 3.0).f < 1  # nearer than the threshold, not at it


# --- masks --------------------------------------------------------------------------------------------------


def test_mask_iou():
    a = torch.zeros(4, 6, dtype=torch.bool)
    b = a.clone()
    a[:, :3], b[:, 1:5] = True, True
    assert torch.isclose(mask_iou(a, b), torch.tensor(8 / 20))
    assert mask_iou(a, a) == 1 and mask_iou(a, ~a) == 0
    assert mask_iou(torch.zeros_like(a), torch.zeros_like(a)) == 1
    assert mask_iou(a.expand(1, 2, 4, 6), b).shape == (1, 2)


# --- depth --------------------------------------------------------------------------------------------------


def depths(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    true = 1 + 4 * torch.rand(*shape, generator=g, dtype=torch.float64)
    return true * torch.exp(0.2 * torch.randn(*shape, generator=g, dtype=torch.float64)), true


def test_depth_errors_equal_plain_numpy():
    pred, true = depths(0, 7, 9)
    true[0, :4] = torch.nan
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(1)) < 0.8
    found = depth_errors(pred, true, mask)
    where = (~true.isnan() & mask).numpy()
    d, t = pred.numpy()[where], true.numpy()[where]
    log, ratio = np.log(d) - np.log(t), np.maximum(d / t, t / d)
    expected = {"abs_rel": np.mean(abs(d - t) / t), "sq_rel": np.mean((d - t) ** 2 / t), "rmse": np.sqrt(np.mean((d - t) ** 2)),
                "rmse_log": np.sqrt(np.mean(log**2)), "scale_invariant": np.mean(log**2) - np.mean(log) ** 2,
                "delta_1": np.mean(ratio < 1.25), "delta_2": np.mean(ratio < 1.25**2), "delta_3": np.mean(ratio < 1.25**3),
                "coverage": 1.0, "scale": 1.0, "shift": 0.0}
    assert {name: float(value) for name, value in vars(found).items()} == pytest.approx(expected, rel=1e-5)


@quick
@given(seed=seeds, factor=st.floats(0.05, 20))
def test_scale_ambiguity(seed, factor):
    pred, true = depths(seed, 2, 5, 6)
    plain, scaled = depth_errors(pred, true), depth_errors(factor * pred, true)
    assert torch.allclose(plain.scale_invariant, scaled.scale_invariant, atol=1e-9)
    for align in ("median", "scale", "scale_shift"):
        a, b = depth_errors(pred, true, align=align), depth_errors(factor * pred, true, align=align)
        assert torch.allclose(a.abs_rel, b.abs_rel) and torch.allclose(a.rmse, b.rmse)
        assert torch.allclose(a.scale, factor * b.scale)
    assert torch.allclose(depth_errors(factor * true, true).abs_rel, torch.tensor(abs(factor - 1)).double())


def test_alignments_are_the_best_of_their_kind():
    pred, true = depths(2, 8, 8)
    for align, shifts in (("scale", [0.0]), ("scale_shift", [-0.01, 0.0, 0.01])):
        best = depth_errors(pred, true, align=align)
        for ds in (-0.01, 0.0, 0.01):
            for db in shifts:
                other = (best.scale + ds) * pred + best.shift + db
                assert best.rmse <= depth_errors(other, true).rmse + 1e-12
    affine = depth_errors(0.3 * true + 2, true, align="scale_shift")
    assert affine.rmse < 1e-9 and torch.isclose(affine.scale, torch.tensor(1 / 0.3).double())
    assert depth_errors(-true, true, align="scale_shift").rmse < 1e-9  # a disparity-like prediction, sign and all
    median = depth_errors(pred, true, align="median")
    assert torch.isclose(median.scale, true.median() / pred.median())


def test_aligned_depth_is_held_above_zero():
    true = torch.tensor([[1.0, 1.0, 1.0, 9.0]])
    pred = torch.tensor([[0.0, 1.0, 2.0, 3.0]])  # the line through these falls below zero
    found = depth_errors(pred, true, align="scale_shift", min_depth=0.1)
    assert all(torch.isfinite(value).all() for value in vars(found).values())
    fitted = (found.scale * pred + found.shift)
    assert fitted.min() < 0
    assert torch.isclose(found.rmse, (fitted.clamp(min=0.1) - true).square().mean().sqrt())


def test_abstaining_lowers_coverage_only():
    pred, true = depths(3, 6, 6)
    holes = pred.clone()
    holes[:2] = torch.nan
    found = depth_errors(holes, true)
    assert torch.isclose(found.coverage, torch.tensor(4 / 6))
    assert torch.isclose(found.abs_rel, depth_errors(pred[2:], true[2:]).abs_rel)


@pytest.mark.parametrize("lead", [(), (2,), (1, 2)])
def test_depth_leading_dimensions(lead):
    pred, true = depths(4, *lead, 5, 6)
    for align in ("none", "median", "scale", "scale_shift"):
        first = (0,) * len(lead)
        found, one = depth_errors(pred, true, align=align), depth_errors(pred[first], true[first], align=align)
        for name, value in vars(found).items():
            assert value.shape == lead, name
            assert torch.isclose(value[first], getattr(one, name)), name


def test_gradients_of_depth_errors():
    pred, true = depths(5, 3, 4)
    true[0, 0] = torch.nan
    pred.requires_grad_()
    for align in ("none", "scale", "scale_shift"):

        def errors(p, align=align):
            found = depth_errors(p, true, align=align)
            return found.abs_rel, found.rmse, found.rmse_log, found.scale_invariant

        assert torch.autograd.gradcheck(errors, pred)
    holes = pred.detach().clone()
    holes[1, 1] = torch.nan
    depth_errors(holes.requires_grad_(), true).abs_rel.backward()
    assert holes.grad.isfinite().all()


# --- bad input ----------------------------------------------------------------------------------------------

IMAGE, MASK, CLOUD, DEPTH = torch.rand(3, 16, 16), torch.ones(16, 16, dtype=torch.bool), torch.rand(5, 3), 1 + torch.rand(4, 4)
NAN_IMAGE = IMAGE.clone()
NAN_IMAGE[0, 0, 0] = torch.nan


@pytest.mark.parametrize("call, error, message", [
    (lambda: psnr(IMAGE, IMAGE.permute(1, 2, 0)), ValueError, r"image_true: expected shape"),
    (lambda: psnr(IMAGE[..., :8], IMAGE), ValueError, r"image_pred: expected shape .* got \(3, 16, 8\)"),
    (lambda: psnr(IMAGE.numpy(), IMAGE), TypeError, "image_pred: expected a torch tensor"),
    (lambda: psnr((IMAGE * 255).byte(), IMAGE), TypeError, "image_pred: expected a floating-point tensor"),
    (lambda: psnr(NAN_IMAGE, IMAGE), ValueError, "image_pred: expected finite"),
    (lambda: psnr(IMAGE, NAN_IMAGE), ValueError, "image_true: expected finite"),
    (lambda: psnr(IMAGE.double(), IMAGE), ValueError, "image_pred, image_true: expected one dtype"),
    (lambda: psnr(IMAGE, IMAGE, MASK.to("meta")), ValueError, "mask: expected device cpu, got meta"),
    (lambda: psnr(IMAGE * 255, IMAGE), ValueError, r"image_pred: expected values in \[0, 1\], got 2.*divide by 255"),
    (lambda: ssim(IMAGE, IMAGE * 255), ValueError, r"image_true: expected values in \[0, 1\]"),
    (lambda: psnr(IMAGE, IMAGE, data_range=0), ValueError, "data_range: expected a finite number > 0"),
    (lambda: psnr(IMAGE.expand(2, 3, 16, 16), IMAGE.expand(3, 3, 16, 16)), ValueError, "image_pred, image_true: .*leading"),
    (lambda: psnr(IMAGE[:, :0], IMAGE[:, :0]), ValueError, "image_true: expected at least 1 x 1"),
    (lambda: psnr(IMAGE, IMAGE, MASK.float()), TypeError, "mask: expected a boolean"),
    (lambda: psnr(IMAGE, IMAGE, MASK[:8]), ValueError, "mask: expected shape"),
    (lambda: psnr(IMAGE, IMAGE, ~MASK), ValueError, "mask: expected a pixel that counts"),
    (lambda: ssim(IMAGE, IMAGE, ~MASK), ValueError, "mask: expected a pixel that counts"),
    (lambda: psnr(IMAGE, IMAGE, torch.stack([MASK, ~MASK])), ValueError, "mask: .* none in 1 of 2"),
    (lambda: ssim(IMAGE[:, :5], IMAGE[:, :5]), ValueError, "image_true: expected at least 6 x 6 pixels, got 5 x 16"),
    (lambda: ssim(IMAGE[:, :10], IMAGE[:, :10], border="crop"), ValueError, "image_true: expected at least 11 x 11"),
    (lambda: ssim(IMAGE, IMAGE, border="wrap"), ValueError, "border: expected one of 'reflect', 'crop'"),
    (lambda: lpips(IMAGE[:, :8], IMAGE[:, :8], net=VGG16()), ValueError, "image_true: expected at least 16 x 16"),
    (lambda: dists(IMAGE, NAN_IMAGE, net=VGG16()), ValueError, "image_true: expected finite"),
    (lambda: chamfer(CLOUD[:0], CLOUD), ValueError, "points_pred: expected at least one point"),
    (lambda: chamfer(CLOUD, CLOUD[:0]), ValueError, "points_true: expected at least one point"),
    (lambda: chamfer(CLOUD, CLOUD[:, :2]), ValueError, "points_true: expected shape"),
    (lambda: chamfer(CLOUD / 0, CLOUD), ValueError, "points_pred: expected finite"),
    (lambda: chamfer(CLOUD, CLOUD.double()), ValueError, "points_pred, points_true: expected one dtype"),
    (lambda: nearest(CLOUD.expand(2, 5, 3), CLOUD.expand(3, 5, 3)), ValueError, "points_from, points_to: expected leading"),
    (lambda: f_score(CLOUD, CLOUD, 0), ValueError, "threshold: expected a finite number > 0"),
    (lambda: mask_iou(MASK.float(), MASK), TypeError, "mask_pred: expected a boolean"),
    (lambda: mask_iou(MASK, MASK[:3]), ValueError, "mask_pred: expected shape"),
    (lambda: depth_errors(DEPTH, DEPTH * 0), ValueError, "depth_true: expected finite depth above 0, and NaN where unknown"),
    (lambda: depth_errors(-DEPTH, DEPTH), ValueError, "depth_pred: expected finite depth above 0"),
    (lambda: depth_errors(DEPTH / 0, DEPTH), ValueError, "depth_pred: expected finite depth"),
    (lambda: depth_errors(DEPTH, DEPTH * torch.nan), ValueError, "mask: expected a pixel with known and predicted depth"),
    (lambda: depth_errors(DEPTH * torch.nan, DEPTH), ValueError, "mask: expected a pixel with known and predicted depth"),
    (lambda: depth_errors(DEPTH, DEPTH, ~MASK[:4, :4]), ValueError, "mask: expected a pixel with known"),
    (lambda: depth_errors(DEPTH, DEPTH, MASK[:4, :4].to("meta")), ValueError, "mask: expected device cpu, got meta"),
    (lambda: depth_errors(DEPTH, DEPTH[:3]), ValueError, "depth_pred: expected shape"),
    (lambda: depth_errors(torch.ones(4, 4), DEPTH, align="scale_shift"), ValueError, "depth_pred: expected depth that varies"),
    (lambda: depth_errors(DEPTH, DEPTH, align="least"), ValueError, "align: expected one of"),
    (lambda: depth_errors(DEPTH, DEPTH, min_depth=0), ValueError, "min_depth: expected a finite number > 0"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: mixed devices, and the search without a tree")
def test_cuda():
    a, b = cloud(1, 2, 700), cloud(2, 2, 800)
    assert torch.equal(nearest(a.cuda(), b.cuda()).cpu(), nearest(a, b))
    assert torch.isclose(chamfer(a.cuda(), b.cuda()).cpu(), chamfer(a, b)).all()
    pred, true = images(15, 3, 32, 32)
    for metric in (psnr, ssim):
        assert torch.isclose(metric(pred.cuda(), true.cuda()).cpu(), metric(pred, true), rtol=1e-5)
        with pytest.raises(ValueError, match="image_pred, image_true: expected one device"):
            metric(pred.cuda(), true)


def test_import_is_light():
    heavy = "kornia scipy transformers torchmetrics matplotlib skimage"
    code = f"import sys, nvs_book.metrics; print([m for m in '{heavy}'.split() if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
