"""Rotary attention at its edges: no tokens, masks that do not fit, mixed precision, and numbers that are none."""
import pytest
import torch

from nvs_book.cameras import Camera, intrinsics_from_fov, look_at
from nvs_book.rotary import (
    CODES,
    EncoderBlock,
    RotaryCrossAttention,
    absolute_features,
    attend,
    camera_matrices,
    carry_by_position,
    coded,
    exo_ego_pairs,
    grid_positions,
    load_rotary,
    look_up,
    patch_stem,
    rope_frequencies,
    sincos_2d,
    sincos_axial,
    spatial_frequencies,
    token_depth,
    token_points,
)
from nvs_book.scenes import View

CAMERA = Camera(intrinsics_from_fov(50.0, 32, 32), look_at(torch.tensor([20.0, 0, 3]), torch.zeros(3)), 32, 32)


def heads(n, m, c=8):
    g = torch.Generator().manual_seed(n + 10 * m)
    return [torch.randn(2, 3, tokens, size, generator=g) for tokens, size in ((n, 8), (m, 8), (m, c))]


@pytest.fixture(scope="module")
def pairs():
    return exo_ego_pairs(2, split="heldout")


@pytest.mark.parametrize("masked", (False, True))
def test_no_context_gives_nothing_and_no_query_gives_no_token(masked):
    layer = RotaryCrossAttention(24, 2)
    x, p = torch.randn(2, 5, 24), torch.randn(2, 5, 3)
    masks = [torch.ones(2, m, dtype=torch.bool) if masked else None for m in (0, 5)]
    torch.testing.assert_close(layer(x, x[:, :0], p, p[:, :0], masks[0]), layer.out.bias.expand(2, 5, 24))
    assert layer(x[:, :0], x, p[:, :0], p, masks[1]).shape == (2, 0, 24)
    assert attend(*heads(5, 0, 11)).shape == (2, 3, 5, 11) and attend(*heads(0, 4)).shape == (2, 3, 0, 8)
    assert EncoderBlock(24, 2)(x[:, :0], grid_positions(0, 3)).shape == (2, 0, 24)


def test_a_mask_may_not_change_the_shape():
    layer, x, p = RotaryCrossAttention(24, 2), torch.randn(2, 7, 24), torch.randn(2, 7, 3)
    for shape in ((2, 1, 1, 7), (3, 7), (2, 7, 7)):
        with pytest.raises(ValueError, match="mask: expected leading dimensions"):
            layer(x, x, p, p, torch.ones(shape, dtype=torch.bool))
    q, k, v = (part[0, 0] for part in heads(5, 7))
    assert torch.equal(attend(q, k, v, torch.ones(7, dtype=torch.bool)), attend(q, k, v))


@pytest.mark.parametrize("code", CODES)
def test_every_model_runs_and_learns_within_autocast(code, pairs):
    model = load_rotary(code)
    exact = model(pairs.exo, pairs.at_exo, pairs.at_ego)
    with torch.autocast("cpu", torch.bfloat16):
        made = model(pairs.exo, pairs.at_exo, pairs.at_ego)
    torch.testing.assert_close(made.float(), exact, atol=0.03, rtol=0)
    made.float().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_geometry_keeps_its_digits_within_autocast():
    g = torch.Generator().manual_seed(0)
    places, values = [2 * torch.rand(n, 3, generator=g) for n in (50, 400)], torch.rand(400, 2, generator=g)
    exact = camera_matrices(CAMERA, "projection"), look_up(*places, values, spatial_frequencies(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(camera_matrices(CAMERA, "projection"), exact[0])
        assert torch.equal(look_up(*places, values, spatial_frequencies(8)), exact[1])


def test_numbers_that_are_none_are_named():
    q, k, v = heads(5, 7)
    places, known = torch.rand(5, 3), torch.ones(3, 32, 32)
    wrong = {
        "scale": lambda: attend(q, k, v, scale=float("nan")),
        "sharpness": lambda: look_up(places, places, places, spatial_frequencies(4), sharpness=float("nan")),
        "positions_yx": lambda: sincos_2d(torch.zeros(3, 3), 8),
        "positions": lambda: sincos_axial(torch.zeros(3), rope_frequencies(8)),
        "size": lambda: rope_frequencies(3),
        "num": lambda: spatial_frequencies(-2),
        "longest": lambda: RotaryCrossAttention(24, 2, longest=-1.0),
        "patch": lambda: patch_stem(48, 3),
        "code": lambda: coded("x", None, None),
        "camera": lambda: carry_by_position(View(known, CAMERA, torch.full((32, 32), torch.nan)), CAMERA, 4),
    }
    for name, call in wrong.items():
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            call()
    with pytest.raises(ValueError, match="^code: expected"):
        absolute_features("x", None, 8)
    for wrong_type in ([[1, 2]], torch.ones(3, 2, dtype=torch.bool), torch.ones(3, 2, dtype=torch.cfloat)):
        with pytest.raises(TypeError, match="^positions_yx: expected"):
            sincos_2d(wrong_type, 8)


@pytest.mark.parametrize("pick", ("median", "nearest"))
def test_depth_that_is_no_picture_of_this_camera(pick):
    with pytest.raises(ValueError, match="^depth: expected metres"):
        token_depth(torch.full((8, 8), torch.inf), 4, pick)
    with pytest.raises(ValueError, match="^depth: expected the size of the camera's picture"):
        token_points(CAMERA, torch.ones(24, 24), 4, pick=pick)  # a crop: every ray would be another
