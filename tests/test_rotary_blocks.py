"""Cross-attention by points, CroCo's blocks: the original's numbers, definitions, invariances, memory, calculus, bad input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nvs_book.cameras import Camera, intrinsics_from_fov, look_at, spherical_pose, transform_points
from nvs_book.checks import golden
from nvs_book.rotary import (
    CrossAttention,
    DecoderBlock,
    EncoderBlock,
    RotaryCrossAttention,
    attend,
    carry_by_position,
    crop_to_patches,
    fill_holes,
    grid_positions,
    look_up,
    merge_heads,
    prior_depth,
    spatial_frequencies,
    split_heads,
    token_depth,
    token_points,
)
from nvs_book.scenes import ProceduralWorld, View

BATCHES = pytest.mark.parametrize("batch", [(), (2,), (1, 2)])


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def table_attention(q, k, v, mask=None, scale=None):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None, None, :], -torch.inf)
    return scores.softmax(-1).nan_to_num(0) @ v


class Largest(TorchDispatchMode):
    "Records the number of elements of the largest tensor made."

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


# ------------------------------------------------------------------------------------------------ the original's numbers
@pytest.mark.parametrize("name, block, inputs", [("encoder", EncoderBlock, 1), ("decoder", DecoderBlock, 2)])
def test_blocks_equal_the_original(name, block, inputs):
    reference = golden("croco_rope2d")
    block = block(32, int(reference["block_num_heads"]), mlp_ratio=2.0, eps=1e-5)
    weights = {k.removeprefix(f"w_{name[:3]}."): w for k, w in reference.items() if k.startswith(f"w_{name[:3]}.")}
    block.load_state_dict(weights, strict=True)
    tokens = [reference["block_x"], reference["block_mem"]][:inputs]
    with torch.no_grad():
        assert (block(*tokens, *[reference["positions_yx"]] * inputs) - reference[f"{name}_block_out"]).abs().max() <= 1e-5


def test_the_published_defaults_of_the_blocks():
    block = DecoderBlock(32, 2)
    assert {layer.eps for layer in block.modules() if isinstance(layer, nn.LayerNorm)} == {1e-6}
    assert block.mlp.fc1.out_features == 128 and block.attn.base == block.cross_attn.base == 100.0


@BATCHES
def test_blocks_take_any_leading_dimensions(batch):
    x, y = numbers(*batch, 6, 16), numbers(*batch, 4, 16, seed=1)
    here, there = grid_positions(2, 3), grid_positions(2, 2)
    encoder, decoder = EncoderBlock(16, 2), DecoderBlock(16, 2)
    one = decoder(x.reshape(-1, 6, 16)[-1], y.reshape(-1, 4, 16)[-1], here, there)
    torch.testing.assert_close(decoder(x, y, here, there).reshape(-1, 6, 16)[-1], one)
    assert encoder(x, here).shape == x.shape


def test_blocks_see_only_differences_of_pixels_and_no_order():
    x, y, order = numbers(6, 16), numbers(4, 16, seed=1), torch.tensor([3, 1, 0, 5, 4, 2])
    here, there = grid_positions(2, 3), grid_positions(2, 2)
    encoder, decoder = EncoderBlock(16, 2), DecoderBlock(16, 2)
    shift = torch.tensor([30, -4])
    torch.testing.assert_close(encoder(x, here + shift), encoder(x, here), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoder(x, y, here + shift, there + shift), decoder(x, y, here, there), atol=1e-5, rtol=1e-5)
    assert (decoder(x, y, here, there + shift) - decoder(x, y, here, there)).abs().max() > 1e-3
    torch.testing.assert_close(encoder(x[order], here[order]), encoder(x, here)[order])  # tokens carry their place with them
    torch.testing.assert_close(decoder(x, y.flip(0), here, there.flip(0)), decoder(x, y, here, there))


# ------------------------------------------------------------------------------------------------ attention
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9),
       st.sampled_from([(), (2,), (1, 2), (3, 1)]), st.booleans(), st.sampled_from([None, 0.3, 20.0]))
def test_attend_equals_the_table(seed, n, m, d, c, batch, masked, scale):
    q, k, v = numbers(*batch, 2, n, d, seed=seed), numbers(*batch, 2, m, d, seed=seed + 1), numbers(2, m, c, seed=seed + 2)
    mask = numbers(*batch, m, seed=seed + 3) > -0.3 if masked else None
    torch.testing.assert_close(attend(q, k, v, mask, scale), table_attention(q, k, v, mask, scale), atol=2e-5, rtol=1e-4)


def test_attend_without_heads_and_one_mask_for_many():
    q, k, v = numbers(5, 4), numbers(7, 4, seed=1), numbers(7, 3, seed=2)
    torch.testing.assert_close(attend(q, k, v), table_attention(q, k, v))
    mask, many = torch.arange(7) < 3, numbers(4, 2, 5, 4, seed=3)
    torch.testing.assert_close(attend(many, k, v, mask), table_attention(many, k[:3], v[:3]))


def test_heads_are_cut_and_put_together():
    x = numbers(2, 5, 12)
    assert split_heads(x, 3).shape == (2, 3, 5, 4) and torch.equal(split_heads(x, 3)[1, 2, 4], x[1, 4, 8:])
    assert torch.equal(merge_heads(split_heads(x, 3)), x)


# ------------------------------------------------------------------------------------------------ by points
@BATCHES
def test_rotary_cross_attention_takes_any_leading_dimensions(batch):
    layer = RotaryCrossAttention(24, 2, context_dim=7)
    x, y, here, there = numbers(*batch, 5, 24), numbers(*batch, 6, 7), numbers(*batch, 5, 3), numbers(*batch, 6, 3, seed=1)
    one = layer(*(t.reshape(-1, *t.shape[-2:])[-1] for t in (x, y, here, there)))
    torch.testing.assert_close(layer(x, y, here, there).reshape(-1, 5, 24)[-1], one)
    torch.testing.assert_close(layer(x, y, here.reshape(-1, 5, 3)[0], there.reshape(-1, 6, 3)[0]).reshape(-1, 5, 24)[0],
                               layer(*(t.reshape(-1, *t.shape[-2:])[0] for t in (x, y, here, there))))


def test_rotary_cross_attention_is_its_definition():
    layer = RotaryCrossAttention(12, 1, longest=8.0, shortest=0.5)
    x, y, here, there = numbers(3, 12), numbers(4, 12, seed=1), numbers(3, 3, seed=2), numbers(4, 3, seed=3)
    q, k, v = layer.q(x), layer.k(y), layer.v(y)
    scores = torch.zeros(3, 4)
    for i in range(3):
        for j in range(4):
            for axis in range(3):
                for pair, wavelength in enumerate((8.0, 0.5)):
                    a = 4 * axis + pair  # its partner stands 2 further
                    turn = (there[j] - here[i])[axis] * 2 * torch.pi / wavelength
                    (q0, q1), (k0, k1) = (q[i, a], q[i, a + 2]), (k[j, a], k[j, a + 2])
                    scores[i, j] += q0 * (k0 * turn.cos() - k1 * turn.sin()) + q1 * (k0 * turn.sin() + k1 * turn.cos())
    torch.testing.assert_close(layer(x, y, here, there), layer.out((scores / 12**0.5).softmax(-1) @ v), atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_a_shift_of_all_points_changes_nothing_and_one_of_the_keys_does(seed, shift):
    layer = RotaryCrossAttention(24, 2)
    x, y, here, there = numbers(5, 24, seed=seed), numbers(6, 24, seed=seed + 1), numbers(5, 3), numbers(6, 3, seed=seed)
    shift = torch.tensor(shift)
    with torch.no_grad():
        before = layer(x, y, here, there)
        assert (layer(x, y, here + shift, there + shift) - before).abs().max() <= 1e-5
        if shift.norm() > 0.1 and 0.1 < shift.norm() % 0.4 < 0.3:
            assert (layer(x, y, here, there + shift) - before).abs().max() > 1e-6


def test_the_context_is_a_set_and_what_is_masked_out_may_hold_anything():
    layer = RotaryCrossAttention(24, 2)
    x, y, here, there = numbers(2, 5, 24), numbers(2, 6, 24, seed=1), numbers(2, 5, 3), numbers(2, 6, 3, seed=1)
    order = torch.tensor([5, 2, 0, 1, 3, 4])
    torch.testing.assert_close(layer(x, y[:, order], here, there[:, order]), layer(x, y, here, there))
    order = [3, 0, 1, 2, 4]
    torch.testing.assert_close(layer(x[:, order], y, here[:, order], there), layer(x, y, here, there)[:, order])
    keep = torch.arange(6) < 4
    spoilt = [t.masked_fill(~keep[:, None], torch.nan).requires_grad_() for t in (y, there)]
    found = layer(x, spoilt[0], here, spoilt[1], keep.expand(2, 6))
    torch.testing.assert_close(found, layer(x, y[:, :4], here, there[:, :4]))
    found.sum().backward()
    assert all(t.grad.isfinite().all() for t in spoilt)
    torch.testing.assert_close(layer(x, y, here, there, torch.zeros(6, dtype=torch.bool)), layer.out.bias.expand(2, 5, 24))


@pytest.mark.parametrize("masked", [False, True])
def test_nothing_of_the_size_tokens_times_tokens(masked):
    x, points = numbers(600, 24).requires_grad_(), numbers(600, 3).requires_grad_()
    layer, mask = RotaryCrossAttention(24, 2), torch.arange(600) % 2 == 0 if masked else None
    with Largest() as meter:
        layer(x, x, points, points, mask).sum().backward()
    assert meter.numel <= 600 * 24 * 2
    with Largest() as meter:  # the meter does find a table
        table_attention(x, x, x)
    assert meter.numel >= 600 * 600


def test_gradients():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rotary, blocks = RotaryCrossAttention(12, 2).double(), (EncoderBlock(8, 2).double(), DecoderBlock(8, 2).double())
    x, y, here, there = (numbers(*shape, dtype=torch.float64).requires_grad_() for shape in ((2, 12), (3, 12), (2, 3), (3, 3)))
    assert gradcheck(rotary, (x, y, here, there))
    x, y = (numbers(n, 8, dtype=torch.float64).requires_grad_() for n in (2, 3))
    assert gradcheck(lambda x: blocks[0](x, grid_positions(1, 2)), (x,), fast_mode=True)
    assert gradcheck(lambda x, y: blocks[1](x, y, grid_positions(1, 2), grid_positions(3, 1)), (x, y), fast_mode=True)


# ------------------------------------------------------------------------------------------------ tokens in space
def two_views(size=48, seed=3):
    poses = spherical_pose(3.6, 50.0, 20.0), spherical_pose(2.9, 66.0, 80.0)
    return [ProceduralWorld(seed).render(Camera(intrinsics_from_fov(50.0, size, size), pose, size, size)) for pose in poses]


def test_a_tokens_depth_is_the_median_or_the_nearest_of_what_is_known():
    depth = torch.tensor([[1.0, 5.0, torch.nan, torch.nan], [3.0, torch.nan, torch.nan, torch.nan]])
    torch.testing.assert_close(token_depth(depth, 2), torch.tensor([[3.0, torch.nan]]), equal_nan=True)
    torch.testing.assert_close(token_depth(depth, 2, "nearest"), torch.tensor([[1.0, torch.nan]]), equal_nan=True)
    assert token_depth(depth, 1).equal(depth) or torch.equal(token_depth(depth, 1).isnan(), depth.isnan())


def test_tokens_stand_on_the_rays_through_their_centres():
    exo, ego = two_views()
    world = token_points(exo.camera, exo.depth, 4)
    xy, z = exo.camera.project(world)
    torch.testing.assert_close(xy, grid_positions(12, 12).flip(-1) * 4 + 2.0, atol=1e-3, rtol=0)
    torch.testing.assert_close(z, token_depth(exo.depth, 4).flatten())
    in_ego = token_points(exo.camera, exo.depth, 4, frame=ego.camera)
    torch.testing.assert_close(in_ego, transform_points(ego.camera.w2c, world), atol=1e-5, rtol=1e-5)
    own = token_points(exo.camera, token_depth(exo.depth, 4), frame=exo.camera)  # a grid of tokens in, its own frame
    torch.testing.assert_close(own[:, 2], z)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7), st.floats(0, 1))
def test_holes_take_the_nearest_known_depth(seed, height, width, share):
    g = torch.Generator().manual_seed(seed)
    depth = torch.rand(height, width, generator=g)
    depth[torch.rand(height, width, generator=g) < share] = torch.nan
    filled, known = fill_holes(depth), ~depth.isnan()
    if not known.any():
        assert filled.isnan().all()
        return
    places = grid_positions(height, width).view(height, width, 2)
    for at, value in zip(places.flatten(0, 1), filled.flatten()):
        away = (places[known] - at).square().sum(-1)
        assert value in depth[known][away == away.min()]
    torch.testing.assert_close(fill_holes(torch.stack([depth, depth.flip(0)]))[0], filled)


def test_the_prior_of_the_same_camera_is_the_picture_and_a_hidden_scene_is_unknown():
    exo, _ = two_views()
    torch.testing.assert_close(prior_depth(exo.camera, exo.depth, exo.camera, 4, radius=0.6), token_depth(exo.depth, 4))
    away = look_at(exo.camera.center, 2 * exo.camera.center)  # looks the other way
    behind = Camera(exo.camera.K, away, 48, 48)
    assert prior_depth(exo.camera, exo.depth, behind, 4).isnan().all()
    unknown = torch.full_like(exo.depth, torch.nan)
    assert prior_depth(exo.camera, unknown, exo.camera, 4).isnan().all()


def test_the_prior_is_near_the_truth_moves_with_the_world_and_takes_batches():
    exo, ego = two_views()
    depth, truth = prior_depth(exo.camera, exo.depth, ego.camera, 4, fill=False), token_depth(ego.depth, 4)
    seen = ~depth.isnan()
    assert 0.5 < seen.float().mean() < 0.9 and (depth - truth)[seen].abs().median() < 0.06
    motion = look_at(torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.0, 0.3, 0.0]))
    exo_2, ego_2 = (Camera(c.K, motion @ c.c2w, 48, 48) for c in (exo.camera, ego.camera))
    again = prior_depth(exo_2, exo.depth, ego_2, 4, fill=False)
    same = (again - depth).abs() < 1e-4
    assert (same | (again.isnan() & depth.isnan())).float().mean() > 0.98  # a point on the border of two pixels may jump
    both = Camera(ego.camera.K, torch.stack([ego.camera.c2w, exo.camera.c2w]), 48, 48)
    many = prior_depth(exo.camera, exo.depth, both, 4)
    torch.testing.assert_close(many[0], prior_depth(exo.camera, exo.depth, ego.camera, 4))


# ------------------------------------------------------------------------------------------------ by position alone
def test_look_up_is_a_kernel_about_the_query():
    frequencies = spatial_frequencies(8)
    points, values = numbers(50, 3), numbers(50, 4, seed=1)
    torch.testing.assert_close(look_up(points, points, values, frequencies, 5000.0), values, atol=1e-3, rtol=0)
    here = numbers(3, 3, seed=2)
    scores = ((points - here[:, None])[..., None] * frequencies).cos().sum((-1, -2)).float()
    found = look_up(here, points, values, frequencies, 0.7)
    torch.testing.assert_close(found, (0.7 * scores).softmax(-1) @ values, atol=1e-4, rtol=1e-4)


def test_a_picture_is_carried_onto_itself_and_beats_copying_elsewhere():
    exo, _ = two_views()
    made, covered = carry_by_position(exo, exo.camera, patch=4, sharpness=20_000.0)
    assert made.shape == (3, 48, 48) and covered.all() and (made - exo.image).abs().mean() < 0.01
    near = ProceduralWorld(3).render(Camera(exo.camera.K, spherical_pose(3.5, 50.0, 35.0), 48, 48))
    made, covered = carry_by_position(exo, near.camera, patch=2)
    error, copied = ((image - near.image).square().mean(0)[covered].mean() for image in (made, exo.image))
    assert error < 0.4 * copied


def test_crop_to_patches():
    view = View(torch.rand(3, 11, 13), Camera(intrinsics_from_fov(50.0, 11, 13), torch.eye(4), 11, 13), torch.ones(11, 13))
    cut = crop_to_patches(view, 4)
    assert cut.image.shape == (3, 8, 12) and cut.depth.shape == (8, 12) and cut.mask is None
    assert torch.equal(cut.camera.K, view.camera.K) and (cut.camera.height, cut.camera.width) == (8, 12)


# ------------------------------------------------------------------------------------------------ bad input
TOKENS, POINTS = torch.zeros(5, 24), torch.zeros(5, 3)


@pytest.mark.parametrize("change, words", [
    ({"query_positions": POINTS[:, :2]}, ["query_positions", "3", "(5, 2)"]),
    ({"query_positions": POINTS[0]}, ["query_positions", "(3,)"]),
    ({"query_positions": POINTS / 0}, ["query_positions", "finite"]),
    ({"context_positions": POINTS * torch.inf}, ["context_positions", "finite"]),
    ({"context_positions": POINTS[:4]}, ["context_positions", "m=5", "(4, 3)"]),
    ({"context": TOKENS[:, :20]}, ["context", "c=24", "(5, 20)"]),
    ({"queries": TOKENS.double()}, ["queries", "dtype"]),
    ({"queries": TOKENS.expand(2, 5, 24), "query_positions": POINTS.expand(3, 5, 3)}, ["query_positions (3,)", "broadcast"]),
    ({"context_mask": torch.ones(4, dtype=torch.bool)}, ["context_mask", "m=5", "(4,)"]),
])
def test_rotary_cross_attention_names_what_does_not_fit(change, words):
    layer = RotaryCrossAttention(24, 2)
    given = {"queries": TOKENS, "context": TOKENS, "query_positions": POINTS, "context_positions": POINTS, **change}
    with pytest.raises(ValueError) as error:
        layer(**given)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("make, words", [
    (lambda: RotaryCrossAttention(64, 4), ["dim", "multiple of 6", "64 / 4"]),
    (lambda: RotaryCrossAttention(20, 3), ["dim", "heads", "20"]),
    (lambda: CrossAttention(20, 0), ["heads", ">= 1", "0"]),
    (lambda: EncoderBlock(30, 5), ["dim", "multiple of 4", "30 / 5"]),
    (lambda: EncoderBlock(32, 2)(torch.zeros(6, 32), grid_positions(2, 2)), ["positions", "6, 2", "(4, 2)"]),
    (lambda: EncoderBlock(32, 2)(torch.zeros(6, 30), grid_positions(2, 3)), ["x", "d=32", "(6, 30)"]),
    (lambda: DecoderBlock(32, 2)(torch.zeros(6, 32), torch.zeros(4, 32), grid_positions(2, 3), grid_positions(2, 3)),
     ["memory_positions", "4, 2", "(6, 2)"]),
    (lambda: EncoderBlock(32, 2)(torch.zeros(6, 32), torch.full((6, 2), torch.nan)), ["positions", "finite"]),
    (lambda: EncoderBlock(32, 2)(torch.zeros(2, 6, 32), torch.zeros(3, 6, 2)), ["x (2,)", "positions (3,)", "broadcast"]),
    (lambda: token_depth(torch.ones(4, 6), 4), ["depth", "patches of 4", "(4, 6)"]),
    (lambda: token_depth(torch.ones(4, 6), 0), ["patch", ">= 1", "0"]),
    (lambda: token_depth(torch.ones(4, 6), 2, "mean"), ["pick", "median", "'mean'"]),
    (lambda: attend(torch.ones(2, 3), torch.ones(4, 5), torch.ones(4, 2)), ["k", "d=3", "(4, 5)"]),
    (lambda: look_up(POINTS, POINTS, TOKENS[:4], torch.ones(2)), ["v", "m=5", "(1, 4, 24)"]),
])
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


def test_depth_of_another_shape_than_the_camera_and_views_without_depth_are_refused():
    exo, _ = two_views(24)
    with pytest.raises(ValueError, match="depth: expected the proportions of the camera's 24 x 24"):
        token_points(exo.camera, torch.ones(12, 8))
    with pytest.raises(ValueError, match="view: expected one view with depth"):
        carry_by_position(View(exo.image, exo.camera), exo.camera)
    with pytest.raises(ValueError, match="patch: expected at most"):
        crop_to_patches(exo, 25)
