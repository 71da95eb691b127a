"""LRM: parity with the published blocks, the frame and its cameras, bad input, the loader, and what the shipped weights know."""

import math
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.autograd import gradcheck

from nvs_book.cameras import Camera, intrinsics_from_fov, look_at
from nvs_book.checks import golden
from nvs_book.lrm import (
    KINDS,
    LRM,
    SCALES,
    CameraEmbedder,
    ModLN,
    ModulatedBlock,
    PatchEncoder,
    PretrainedEncoder,
    camera_numbers,
    draw_batch,
    draw_patches,
    into_box,
    load_lrm,
    load_openlrm,
    lrm_loss,
    make_model,
    object_views,
    picture_loss,
    predict_views,
    render_views,
    tokens_to_planes,
    train_lrm,
    vivid,
    weights_file,
)
from nvs_book.metrics import VGG16, psnr
from nvs_book.scenes import View, world_seeds
from nvs_book.training import Step, load_record, scale, seeded
from nvs_book.triplane import TriplaneDecoder

TOLERANCE = 1e-5


def some_cameras(*shape: int, size: int = 16, seed: int = 0) -> Camera:
    g = torch.Generator().manual_seed(seed)
    eye = 3 * torch.nn.functional.normalize(torch.rand(*shape, 3, generator=g) + 0.2, dim=-1)
    return Camera(intrinsics_from_fov(40, size, size), look_at(eye, (0.0, 0.0, 0.0)), size, size)


def small_lrm(camera_dim: int | None = 6, dtype=torch.float32, patch: int = 8) -> LRM:
    with seeded(1):
        model = LRM(PatchEncoder(8, 2, 1, patch), 12, 3, 2, camera_dim, low_res=2, channels=4, upsample=2, hidden=8)
        if camera_dim:  # a fresh network's camera has no effect yet
            for layer in model.transformer.layers:
                nn.init.normal_(layer.norm1.mlp[1].weight)
    return model.to(dtype)


# --- parity


@pytest.fixture(scope="module")
def published() -> dict:
    return golden("openlrm_blocks")


def weights_of(published: dict, module: str) -> dict:
    return {k.removeprefix(f"w_{module}."): v for k, v in published.items() if k.startswith(f"w_{module}.")}


def test_modulated_norm_equals_the_published_one(published):
    norm = ModLN(published["x"].shape[-1], published["mod"].shape[-1])
    norm.load_state_dict(weights_of(published, "modln"))
    assert (norm(published["x"], published["mod"]) - published["modln_out"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("training", [True, False])
def test_block_equals_the_published_one(published, training):
    sizes = published["x"].shape[-1], published["cond"].shape[-1], published["mod"].shape[-1], int(published["num_heads"])
    block = ModulatedBlock(*sizes).train(training)
    block.load_state_dict(weights_of(published, "block"))
    with torch.set_grad_enabled(training):
        assert (block(published["x"], published["cond"], published["mod"]) - published["block_out"]).abs().max() <= TOLERANCE


def test_shift_comes_first(published):
    "The golden numbers tell the right reading from the ones that look as right."
    norm = ModLN(published["x"].shape[-1], published["mod"].shape[-1])
    norm.load_state_dict(weights_of(published, "modln"))
    gain, shift = norm.mlp(published["mod"])[:, None].chunk(2, -1)
    assert (norm.norm(published["x"]) * (1 + gain) + shift - published["modln_out"]).abs().max() > 1e-2


def test_camera_embedder_equals_the_published_one(published):
    embedder = CameraEmbedder(published["camera_embedding"].shape[-1])
    embedder.load_state_dict(weights_of(published, "camembed"))
    assert (embedder(published["camera_raw16"]) - published["camera_embedding"]).abs().max() <= TOLERANCE


def test_planes_equal_the_published_ones(published):
    weight = published["w_upsampler.weight"]
    upsampler = nn.ConvTranspose2d(weight.shape[0], weight.shape[1], weight.shape[2:], weight.shape[2:])
    upsampler.load_state_dict(weights_of(published, "upsampler"))
    planes = tokens_to_planes(published["tokens"], upsampler)
    assert planes.shape == published["upsampled_planes"].shape
    assert (planes - published["upsampled_planes"]).abs().max() <= TOLERANCE


def test_block_by_hand():
    "Equations 5 and 6, written out with einsum, for sizes where picture and planes have the same width."
    with seeded(0):
        block = ModulatedBlock(8, 8, 3, 2).double()
        x, cond, mod = (torch.randn(2, n, d, dtype=torch.float64) for n, d in ((5, 8), (4, 8), (1, 3)))

    def attend(attention, q, k):
        wq, wk, wv = attention.in_proj_weight.chunk(3)
        q, k, v = ((t @ w.T).unflatten(-1, (2, 4)) for t, w in ((q, wq), (k, wk), (k, wv)))
        table = (torch.einsum("bnhd,bmhd->bhnm", q, k) / 2).softmax(-1)
        return torch.einsum("bhnm,bmhd->bnhd", table, v).flatten(-2) @ attention.out_proj.weight.T

    y = x + attend(block.cross_attn, block.norm1(x, mod[:, 0]), cond)
    z = block.norm2(y, mod[:, 0])
    y = y + attend(block.self_attn, z, z)
    y = y + block.mlp(block.norm3(y, mod[:, 0]))
    torch.testing.assert_close(block(x, cond, mod[:, 0]), y, atol=1e-12, rtol=0)


def test_gradients_of_a_block():
    with seeded(0):
        block = ModulatedBlock(4, 6, 3, 2).double()
        inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((1, 3, 4), (1, 2, 6), (1, 3))]
    assert gradcheck(block, inputs)


# --- the frame


def test_the_input_camera_stands_where_it_always_stands():
    views = object_views(range(5), views=3)
    eye = views.camera.center[:, 0]
    assert eye[:, 0].abs().max() < 1e-5 and (eye[:, 1] < 0).all()
    xy, z = views.camera.project(torch.zeros(5, 3, 1, 3))
    assert ((xy[..., 0, :] - views.camera.K[..., :2, 2]).abs() < 1e-3).all() and (z > 1).all()


def test_the_frame_keeps_pictures():
    "A point of the world and the same point of the box fall on the same pixel, and z stays up."
    camera = some_cameras(4, 2)
    g = torch.Generator().manual_seed(0)
    center, radius = torch.rand(4, 3, generator=g), 0.5 + torch.rand(4, generator=g)
    boxed = into_box(camera, center, radius)
    inside = torch.rand(4, 6, 3, generator=g) - 0.5
    to_world = boxed.c2w[:, 0, :3, :3] @ camera.c2w[:, 0, :3, :3].mT  # what turned the axes
    world = center[:, None] + radius[:, None, None] * (inside @ to_world)
    for v in range(2):
        a, b = boxed[:, v].project(inside)[0], camera[:, v].project(world)[0]
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
    torch.testing.assert_close(to_world[:, 2], torch.tensor([0.0, 0, 1]).expand(4, 3), atol=1e-6, rtol=0)


def test_camera_numbers_do_not_depend_on_pixels():
    camera = some_cameras(3)
    torch.testing.assert_close(camera_numbers(camera), camera_numbers(camera.resized(48, 48)))
    numbers = camera_numbers(camera[0])
    assert numbers.shape == (16,)
    assert numbers[14:].tolist() == [0.5, 0.5]
    assert math.isclose(numbers[12], 0.5 / math.tan(math.radians(20)), rel_tol=1e-5)
    torch.testing.assert_close(numbers[[3, 7, 11]], camera.center[0])


# --- the network


def test_every_item_is_its_own():
    model, image, camera = small_lrm(), torch.rand(3, 3, 16, 16), some_cameras(3)
    planes, order = model(image, camera), torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(image[order], camera[order]), planes[order])
    torch.testing.assert_close(model(image[1], camera[1]), planes[1])


def test_any_leading_dimensions():
    model, image, camera = small_lrm(), torch.rand(2, 3, 3, 16, 24), some_cameras(2, 3)
    camera = replace(camera, height=16, width=24)
    planes = model(image, camera)
    assert planes.shape == (2, 3, 3, 4, 4, 4)
    flat = Camera(camera.K.flatten(0, 1), camera.c2w.flatten(0, 1), 16, 24)
    torch.testing.assert_close(model(image.flatten(0, 1), flat), planes.flatten(0, 1))


def test_the_camera_matters_only_where_it_is_told():
    image, one, other = torch.rand(1, 3, 16, 16), some_cameras(1, seed=0), some_cameras(1, seed=5)
    told, untold = small_lrm(), small_lrm(None)
    assert not torch.allclose(told(image, one), told(image, other))
    assert torch.equal(untold(image, one), untold(image, other))


def test_gradients_reach_everything():
    model = small_lrm()
    size = scale(SCALES | {"tiny": SCALES["tiny"] | dict(size=32, patches=24)}, "tiny")
    batch = draw_batch(object_views(range(3), views=4, size=32), Step(0, 2, 0), size)
    loss, parts = lrm_loss(model, batch, num_samples=8)
    loss.backward()
    assert 0 < parts["mse"] < loss
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_gradients_of_the_planes():
    "A picture of the planes, against finite differences, in float64."
    model = small_lrm(dtype=torch.float64)
    camera = some_cameras(1, size=8).to(torch.float64)
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)

    def picture(image):
        return render_views(model(image, camera), model.decoder, camera, 6, 0).sum((-1, -2))

    x = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(picture(x)[0, 0], x)
    nudge = 1e-6 * torch.randn_like(image)
    change = (picture((image + nudge).clamp(0, 1)) - picture((image - nudge).clamp(0, 1)))[0, 0] / 2
    used = ((image + nudge).clamp(0, 1) - (image - nudge).clamp(0, 1)) / 2
    torch.testing.assert_close((gradient * used).sum(), change, rtol=1e-4, atol=1e-12)


def test_a_pretrained_encoder_takes_the_small_ones_place():
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    vit = transformers.ViTModel(transformers.ViTConfig(intermediate_size=16, patch_size=8, **sizes), add_pooling_layer=False)
    dino = transformers.Dinov2Model(transformers.Dinov2Config(patch_size=8, **sizes))
    for network in (vit, dino):
        encoder = PretrainedEncoder(network)
        assert (encoder.dim, encoder.patch) == (16, 8)
        model = LRM(encoder, 12, 3, 1, 4, low_res=2, channels=4, hidden=8)
        assert encoder(torch.rand(2, 3, 48, 48)).shape == (2, 37, 16)  # 36 patches and the class token
        planes = model(torch.rand(2, 3, 48, 48), some_cameras(2, size=48))
        planes.sum().backward()
        assert planes.shape == (2, 3, 4, 8, 8)
        assert all(p.grad is None for p in encoder.parameters()) and model.pos_embed.grad is not None


def test_a_missing_pretrained_encoder_is_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match=r"(?s)model: no network at .*hf download"):
        PretrainedEncoder(str(tmp_path / "nothing"))


def test_a_pretrained_encoder_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    network = transformers.Dinov2Model(config).eval()
    network.save_pretrained(tmp_path)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(PretrainedEncoder(tmp_path)(image), PretrainedEncoder(network)(image))


# --- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(image=torch.rand(2, 3, 20, 16)), "image: expected a size that patches of 8 px divide, got 20 x 16"),
        (dict(image=torch.rand(2, 4, 16, 16)), "image: expected shape"),
        (dict(image=torch.full((2, 3, 16, 16), math.nan)), "image: expected finite numbers"),
        (dict(image=255 * torch.rand(2, 3, 16, 16)), r"image: expected values in \[0, 1\], got"),
        (
            dict(image=torch.rand(2, 3, 24, 24)),
            r"camera: expected one for each picture, \(2,\) of 24 x 24 px, got \(2,\) of 16 x 16",
        ),
        (dict(camera=some_cameras(3)), r"camera: expected one for each picture, \(2,\) of 16 x 16 px, got \(3,\)"),
        (dict(camera=some_cameras(2, 4)), r"camera: expected one for each picture, \(2,\) of 16 x 16 px, got \(2, 4\)"),
        (dict(camera=some_cameras(1)[0]), r"camera: expected one for each picture, \(2,\) of 16 x 16 px, got \(\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = dict(image=torch.rand(2, 3, 16, 16), camera=some_cameras(2)) | change
    with pytest.raises(ValueError, match=message):
        small_lrm()(**given)


def test_other_types_are_named():
    with pytest.raises(TypeError, match="camera: expected a Camera, got Tensor"):
        small_lrm()(torch.rand(2, 3, 16, 16), torch.rand(2, 16))
    with pytest.raises(TypeError, match="image: expected a torch tensor, got list"):
        small_lrm()([[0.5]], some_cameras(2))
    with pytest.raises(TypeError, match="camera: expected a Camera, got Tensor"):
        camera_numbers(torch.eye(4))


def test_wrong_counts_are_named():
    with pytest.raises(ValueError, match="tokens: expected those of three square planes, 3 r\\^2 of them, got 13"):
        tokens_to_planes(torch.rand(1, 13, 4), nn.ConvTranspose2d(4, 2, 2, 2))
    with pytest.raises(ValueError, match=r"camera: expected cameras \(\*b, v\) of objects \*b, got \(3,\)"):
        into_box(some_cameras(3), torch.zeros(3, 3), torch.ones(3))
    with pytest.raises(ValueError, match="radius: expected > 0, got 0"):
        into_box(some_cameras(3, 1), torch.zeros(3, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="side: expected a whole number"):
        draw_patches(object_views([0], views=1, size=16), 4, 17)
    with pytest.raises(ValueError, match="kind: expected one of"):
        make_model("no such thing", scale(SCALES, "tiny"))
    with pytest.raises(ValueError, match="split: expected one of"):
        object_views([0], split="test")


def test_lpips_needs_a_network():
    a, b = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match="network: expected a VGG16 for lpips_weight = 2, got None"):
        picture_loss(a, b, 2.0)
    with pytest.raises(ValueError, match="lpips_weight: expected a finite number >= 0"):
        picture_loss(a, b, -1.0)
    with seeded(0):
        network = VGG16().requires_grad_(False)
    a.requires_grad_()
    loss, parts = picture_loss(a, b, 2.0, network)
    loss.backward()
    plain, alone = picture_loss(a, b)
    assert math.isclose(loss.item(), plain.item() + 2 * parts["lpips"], rel_tol=1e-5) and alone["mse"] == parts["mse"]
    assert parts["lpips"] > 0 and a.grad.abs().sum() > 0


def test_vivid_pictures_keep_their_grey_and_differ_more_in_colour():
    image = torch.rand(2, 3, 4, 4)
    made = vivid(image, 4.0)
    torch.testing.assert_close(made.mean(-3), image.mean(-3))
    torch.testing.assert_close(made[:, 0] - made[:, 1], 4 * (image[:, 0] - image[:, 1]))
    darker = image - 0.1  # a difference of brightness counts once, one of colour sixteen times
    assert math.isclose(picture_loss(darker, image)[0].item(), 0.01, rel_tol=1e-4)
    tinted = image + torch.tensor([0.1, -0.1, 0.0]).view(3, 1, 1)
    assert math.isclose(picture_loss(tinted, image)[0].item(), 16 * 0.02 / 3, rel_tol=1e-4)


# --- data


def test_views_are_the_same_alone_and_in_a_batch():
    views = object_views([3, 4, 5], views=2, size=32)
    torch.testing.assert_close(object_views([4], views=2, size=32).image[0], views.image[1])
    assert views.image.shape == (3, 2, 3, 32, 32)
    assert (views.image[..., 0, 0] == 1).all()  # corners are white
    assert (views.image.amin((-1, -2, -3)) < 0.9).all()


def test_heldout_objects_are_others():
    train, heldout = (world_seeds(range(500), 0, split)[0] for split in ("train", "heldout"))
    assert len(set(train)) == len(set(heldout)) == 500 and not set(train) & set(heldout)


def test_another_sun_changes_colours_and_no_outline():
    own, other = object_views([0, 1], views=2), object_views([0, 1], views=2, sun=torch.tensor([[0.0, -0.7, 0.7]] * 2))
    assert (own.image - other.image).abs().max() > 0.05
    assert torch.equal(own.image.amin(-3) == 1, other.image.amin(-3) == 1)
    assert torch.equal(own.camera.c2w, other.camera.c2w)


def test_patches_are_what_their_rays_see():
    views = object_views([0, 1], views=2, size=32)
    asked = draw_patches(views, 5, 4, torch.Generator().manual_seed(0))
    assert asked.rgb.shape == asked.origins.shape == (2, 2, 5, 4, 4, 3)
    for item in range(2):
        for v in range(2):
            camera = views.camera[item, v]
            xy, _ = camera.project((asked.origins + asked.directions)[item, v].flatten(0, 2))
            column, row = xy.floor().long().unbind(-1)
            torch.testing.assert_close(xy, xy.floor() + 0.5, atol=2e-3, rtol=0)
            seen = views.image[item, v][:, row, column].T
            torch.testing.assert_close(seen, asked.rgb[item, v].flatten(0, 2))
            corner = xy.view(5, 4, 4, 2)
            torch.testing.assert_close(corner[:, -1, -1] - corner[:, 0, 0], torch.full((5, 2), 3.0), atol=4e-3, rtol=0)


def test_any_view_of_an_object_may_be_the_input():
    "Over many draws each view is the input, it stands at -y, and the rays belong to the colours."
    size = scale(SCALES | {"tiny": SCALES["tiny"] | dict(patches=5, views=2)}, "tiny")
    views = object_views([0], views=3, size=32)
    seen = set()
    for number in range(12):
        source, asked = draw_batch(views, Step(number, 1, 0), size)
        seen |= {k for k in range(3) if torch.equal(source.image[0], views.image[0, k])}
        assert source.camera.center[0, 0].abs() < 1e-5 and source.camera.center[0, 1] < 0
        xy, _ = source.camera[0].project((asked.origins + asked.directions)[0, 0].flatten(0, -2))
        column, row = xy.floor().long().unbind(-1)
        torch.testing.assert_close(source.image[0][:, row, column].T, asked.rgb[0, 0].flatten(0, -2))
    assert seen == {0, 1, 2}


# --- training and what ships


def test_training_is_repeatable_and_learns():
    size = scale(SCALES | {"tiny": SCALES["tiny"] | dict(steps=12, batch_size=2, objects=6, size=32, patches=48)}, "tiny")
    runs = [train_lrm("lrm", size) for _ in range(2)]
    first, again = (run.record["curve"]["loss"] for run in runs)
    assert first == again and sum(first[-4:]) < sum(first[:4])
    assert all(torch.equal(a, b) for a, b in zip(*(run.ema.state_dict().values() for run in runs)))


def test_render_views_shapes_and_background():
    decoder = TriplaneDecoder(4, 8, 2)
    nn.init.zeros_(decoder.layers[-1].weight), nn.init.constant_(decoder.layers[-1].bias, -50.0)
    planes = torch.zeros(2, 3, 4, 8, 8)
    pictures = render_views(planes, decoder, some_cameras(2, 3, size=8), 4, 0, background=(0.2, 0.4, 0.6))
    assert pictures.shape == (2, 3, 3, 8, 8)
    torch.testing.assert_close(pictures[0, 0, :, 0, 0], torch.tensor([0.2, 0.4, 0.6]))
    assert render_views(planes[0], decoder, some_cameras(1, size=8)[0], 4, 0).shape == (3, 8, 8)
    with pytest.raises(TypeError, match="camera: expected a Camera"):
        render_views(planes, decoder, torch.eye(4))


@pytest.fixture(scope="module")
def heldout() -> View:
    return object_views(range(12), seed=7, split="heldout", views=3)


@pytest.fixture(scope="module")
def scores(heldout) -> dict:
    said = {kind: predict_views(load_lrm(kind), heldout[:, 0], heldout.camera[:, 1:]) for kind in KINDS}
    return {kind: psnr(pictures, heldout.image[:, 1:]).mean().item() for kind, pictures in said.items()}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_shipped_weights_beat_what_does_not_look(scores, kind):
    assert scores["lrm"] > scores[kind]


def test_shipped_weights_beat_the_input_picture(scores, heldout):
    copied = psnr(heldout.image[:, :1].expand_as(heldout.image[:, 1:]), heldout.image[:, 1:]).mean().item()
    assert scores["lrm"] > copied + 1


def test_shipped_weights_are_small_and_have_records():
    files = [weights_file(kind) for kind in KINDS]
    assert sum(path.stat().st_size for path in files) <= 8e6
    records = [load_record(path) for path in files]
    assert [record["notes"]["kind"] for record in records] == list(KINDS)
    assert all(re.fullmatch("[0-9a-f]{40}", record["commit"]) for record in records)
    same = ("steps", "batch_size", "lr", "seed", "weight_decay")
    assert all(records[0]["config"][key] == records[1]["config"][key] for key in same)


# --- the published layout


def published_file(path, model: LRM) -> dict:
    "A file in OpenLRM's layout, of a model's weights: names differ in the NeRF's network, and an encoder is in it, too."
    tensors = {name: x.clone() for name, x in model.state_dict().items() if not name.startswith("encoder.")}
    renamed = {}
    for name, x in tensors.items():
        found = re.match(r"decoder\.layers\.(\d+)\.(.*)", name)
        renamed[f"synthesizer.decoder.net.{2 * int(found[1])}.{found[2]}" if found else name] = x
    save_file(renamed | {"encoder.model.cls_token": torch.zeros(1)}, path)
    return renamed


def test_a_file_of_the_published_layout(tmp_path):
    model, image, camera = small_lrm(), torch.rand(2, 3, 16, 16), some_cameras(2)
    names = published_file(tmp_path / "model.safetensors", model)
    wanted = {"pos_embed", "upsampler.weight", "camera_embedder.mlp.2.bias", "transformer.layers.1.cross_attn.k_proj_weight",
              "transformer.layers.0.self_attn.in_proj_weight", "transformer.layers.0.norm3.mlp.1.weight", "transformer.norm.bias",
              "transformer.layers.0.mlp.3.weight", "synthesizer.decoder.net.4.bias"}  # fmt: skip
    assert wanted <= set(names)
    loaded = load_openlrm(tmp_path / "model.safetensors", model.encoder, heads=3)
    torch.testing.assert_close(loaded(image, camera), model(image, camera))
    assert len(loaded.transformer.layers) == 2 and len(loaded.decoder.layers) == 3


def test_files_of_other_layouts_are_named(tmp_path):
    path, model = tmp_path / "model.safetensors", small_lrm()
    with pytest.raises(FileNotFoundError, match="path: expected a file"):
        load_openlrm(path, model.encoder)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_openlrm(path, model.encoder)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="OpenLRM's layout, there is no pos_embed"):
        load_openlrm(path, model.encoder)
    published_file(path, model)
    with pytest.raises(ValueError, match="on an encoder of 16 features, these do not fit: transformer.layers.0.cross_attn"):
        load_openlrm(path, PatchEncoder(16, 2, 1), heads=3)
