"""Rotations of nvs_book.rotary: parity with the originals, relative position, exactness, memory layouts, gradients, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from nvs_book.checks import golden
from nvs_book.rotary import (
    LAYOUTS,
    axial_angles,
    grid_positions,
    rope_1d,
    rope_2d,
    rope_3d,
    rope_axial,
    rope_frequencies,
    rotate,
    sincos_2d,
    sincos_axial,
    spatial_frequencies,
)

BAR = 1e-5
draws = settings(max_examples=200, deadline=None)
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**20)
layouts = st.sampled_from(LAYOUTS)


def randn(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_hand(x, angles, layout):
    "Eq. 2, pair by pair, in float64."
    half = x.shape[-1] // 2
    shape = (*torch.broadcast_shapes(x.shape[:-1], angles.shape[:-1]), x.shape[-1])
    x, angles, out = x.double().expand(shape), angles.double(), torch.empty(shape, dtype=torch.float64)
    for k in range(half):
        i, j = (k, k + half) if layout == "half" else (2 * k, 2 * k + 1)
        c, s = angles[..., k].cos(), angles[..., k].sin()
        out[..., i], out[..., j] = x[..., i] * c - x[..., j] * s, x[..., i] * s + x[..., j] * c
    return out


# --- parity --------------------------------------------------------------------------------------------------


def first_half(x, positions):
    return torch.cat([rope_1d(x[..., :8], positions), x[..., 8:]], -1)


def test_one_dimension_equals_rotary_embedding_torch():
    "Golden rotary_embedding_torch (version 0.9.1): interleaved pairs; all features, or the first half, from position 0 or 5 on."
    g, p = golden("rotary_embedding_torch"), torch.arange(10)
    assert (rope_frequencies(16) - g["freqs_1d_full"]).abs().max() < 1e-7
    for name in "qk":
        assert (rope_1d(g[name], p) - g[f"{name}_1d_full"]).abs().max() <= BAR
        assert (rope_1d(g[name], p, layout="half") - g[f"{name}_1d_full"]).abs().max() > 0.1
    assert (first_half(g["q"], p) - g["q_1d_half_rotated"]).abs().max() <= BAR
    assert (first_half(g["q"], p + 5.0) - g["q_1d_half_offset5"]).abs().max() <= BAR


def test_axial_equals_rotary_embedding_torch():
    "Golden rotary_embedding_torch: positions -1 to 1 with frequencies up to 128 pi (made in float32), and whole positions."
    g = golden("rotary_embedding_torch")
    square = torch.cartesian_prod(torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 5)).view(4, 5, 2)
    angles = axial_angles(square, g["axial_freqs_param"])
    assert torch.equal(angles.repeat_interleave(2, -1), g["axial_freqs"])
    assert (rotate(g["q_axial_in"], angles, "interleaved") - g["q_axial_out"]).abs().max() <= BAR
    assert (rope_axial(g["q_axial_in"], square, g["axial_freqs_param"], "interleaved") - g["q_axial_out"]).abs().max() <= BAR
    lang = rope_axial(g["q_axial_in"], grid_positions(4, 5).view(4, 5, 2), rope_frequencies(8), "interleaved")
    assert (lang - g["q_axial_lang_out"]).abs().max() <= BAR


def test_two_dimensions_equal_croco():
    "Golden croco_rope2d (CroCo as DUSt3R pins it): halves within each axis's block, y first; bases 100 and 10,000, F0 1 and 2."
    g = golden("croco_rope2d")
    places = g["positions_yx"][:, None]  # (batch, 1 for the heads, n, 2)
    assert torch.equal(grid_positions(3, 4), g["positions_yx"][0])
    assert (rope_2d(g["tokens"], places) - g["rope2d_freq100"]).abs().max() <= BAR
    assert (rope_2d(g["tokens"], places, f0=2.0) - g["rope2d_freq100_F0_2"]).abs().max() <= BAR
    assert (rope_2d(g["tokens"], places.float(), base=10_000.0) - g["rope2d_freq10000"]).abs().max() <= BAR
    assert (sincos_2d(g["positions_yx"][0], 16) - g["sincos2d_dim16"]).abs().max() <= BAR


@quick
@given(seed=seeds, n=st.integers(1, 6), pairs=st.integers(1, 5), layout=layouts)
def test_rotate_is_its_definition(seed, n, pairs, layout):
    x, angles = randn(seed, 2, 3, n, 2 * pairs), randn(seed + 1, 3, n, pairs) * 5
    assert (rotate(x, angles, layout) - by_hand(x, angles, layout)).abs().max() < 1e-5
    assert (rotate(x[0, 0], angles, layout) - by_hand(x[0, 0], angles, layout)).abs().max() < 1e-5  # angles with more dimensions
    assert torch.allclose(rotate(x, angles, layout).norm(dim=-1), x.norm(dim=-1), rtol=1e-5)
    order = torch.arange(2 * pairs).view(-1, 2).T.flatten()
    assert torch.allclose(rotate(x[..., order], angles), rotate(x, angles, "interleaved")[..., order], atol=1e-6)


def test_default_layouts():
    x, p = randn(0, 5, 8), torch.arange(5)
    assert torch.equal(rotate(x, randn(1, 5, 4)), rotate(x, randn(1, 5, 4), "half"))
    assert torch.equal(rope_1d(x, p), rope_1d(x, p, base=10_000.0, layout="interleaved"))
    assert torch.equal(rope_2d(x, p[:, None].expand(5, 2)), rope_2d(x, p[:, None].expand(5, 2), base=100.0, layout="half"))


def test_each_axis_turns_its_own_block():
    x, points = randn(0, 4, 24), randn(1, 4, 3)
    for layout in LAYOUTS:
        for axis in range(3):
            only = torch.zeros(4, 3)
            only[:, axis] = points[:, axis]
            block = torch.arange(24) // 8 == axis
            turned = rope_3d(x, only, layout=layout)
            assert torch.equal(turned[:, ~block], x[:, ~block])
            assert torch.allclose(turned[:, block], rope_3d(x, points, layout=layout)[:, block], atol=1e-6)
    wavelengths = 2 * math.pi / spatial_frequencies(4, 16.0, 2.0)
    assert torch.allclose(wavelengths, torch.tensor([16.0, 8.0, 4.0, 2.0], dtype=torch.float64))
    assert torch.allclose(2 * math.pi / spatial_frequencies(1, 16.0, 2.0), torch.tensor([16.0], dtype=torch.float64))
    assert torch.allclose(rope_3d(x[:, :6], points + 16, 16.0, 2.0), rope_3d(x[:, :6], points, 16.0, 2.0), atol=1e-5)


def test_sincos_is_the_angles_of_the_rotation():
    positions, frequencies = randn(0, 2, 5, 3), spatial_frequencies(4)
    code = sincos_axial(positions, frequencies).unflatten(-1, (3, 2, 4))
    angles = axial_angles(positions, frequencies).view(2, 5, 3, 4)
    assert code.dtype == torch.float32 and sincos_axial(positions.double(), frequencies).dtype == torch.float64
    assert (code[..., 0, :] - angles.sin()).abs().max() < 1e-6 and (code[..., 1, :] - angles.cos()).abs().max() < 1e-6


# --- relative position ---------------------------------------------------------------------------------------


@draws
@given(seed=seeds, shift=st.integers(-1_000_000, 1_000_000), layout=layouts, whole=st.booleans())
def test_scores_stay_when_a_line_is_moved(seed, shift, layout, whole):
    q, k = randn(seed, 2, 3, 9, 32)
    p = torch.randint(0, 500, (9,), generator=torch.Generator().manual_seed(seed))
    moved = p + shift if whole else p.double() + shift / 7

    def scores(at):
        return rope_1d(q, at, layout=layout) @ rope_1d(k, at, layout=layout).mT / 32**0.5

    assert (scores(moved) - scores(p)).abs().max() <= BAR


@draws
@given(seed=seeds, dy=st.integers(-5000, 5000), dx=st.integers(-5000, 5000), layout=layouts)
def test_scores_stay_when_a_picture_is_moved(seed, dy, dx, layout):
    q, k = randn(seed, 2, 12, 32)
    places = grid_positions(3, 4)

    def scores(at):
        return rope_2d(q, at, layout=layout) @ rope_2d(k, at, layout=layout).mT / 32**0.5

    before = scores(places)
    assert (scores(places + torch.tensor([dy, dx])) - before).abs().max() <= BAR
    assert (scores(places.flip(-1)) - before).abs().max() > 1e-3  # x for y is noticed


@draws
@given(seed=seeds, layout=layouts)
def test_scores_stay_when_points_are_translated(seed, layout):
    q, k = randn(seed, 2, 8, 24)
    points, step = randn(seed + 1, 8, 3) * 2, randn(seed + 2, 3) * 5

    def scores(at):
        return rope_3d(q, at, layout=layout) @ rope_3d(k, at, layout=layout).mT / 24**0.5

    assert (scores(points.double() + step) - scores(points)).abs().max() <= BAR
    assert (scores(1.5 * points) - scores(points)).abs().max() > 1e-3


def test_layouts_mixed_lose_relative_position():
    q, k, p = randn(0, 1, 32).expand(50, -1), randn(1, 1, 32).expand(50, -1), torch.arange(50)
    mixed = (rope_1d(q, p, layout="half") * rope_1d(k, p + 3, layout="interleaved")).sum(-1)
    right = (rope_1d(q, p, layout="half") * rope_1d(k, p + 3, layout="half")).sum(-1)
    assert right.std() < 1e-5 and mixed.std() > 0.5


# --- digits, dtypes, memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype, bar", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_once(layout, dtype, bar):
    x, p = randn(0, 2, 64, 32), torch.arange(64) + 100_000
    narrow = rope_1d(x.to(dtype), p, layout=layout)
    exact = rope_1d(x.to(dtype).double(), p, layout=layout)
    assert narrow.dtype == dtype
    assert ((narrow.double() - exact).abs() <= bar * exact.abs() + 1e-6).all()  # half a unit in the last place
    assert torch.equal(rotate(x.to(dtype), axial_angles(p[:, None], rope_frequencies(32)), layout), narrow)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_far_positions_are_exact(layout):
    x, p = randn(0, 16, 32), torch.arange(16) * 999_983
    exact = rope_1d(x.double(), p, layout=layout)
    assert (rope_1d(x, p, layout=layout) - exact).abs().max() < 2e-6
    angles = p[:, None] * rope_frequencies(32)
    assert (rotate(x, angles, layout) - exact).abs().max() < 2e-6 < (rotate(x, angles.float(), layout) - exact).abs().max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(layout):
    packed = randn(0, 2, 5, 3, 4, 9)[..., 1:]
    views = [packed[:, :, 0].transpose(1, 2), packed[..., 1:7].transpose(1, 3), packed.mT, packed[:, :1].expand(2, 5, 3, 4, 8)]
    views += [torch.arange(41.0)[1:].view(5, 8), packed[..., ::2], packed[:, :, :, 1:2].transpose(0, 3)]
    for x in views:
        p = torch.arange(x.shape[-2])
        plain = rope_1d(x.clone(memory_format=torch.contiguous_format), p, layout=layout)
        assert torch.allclose(rope_1d(x, p, layout=layout), plain, atol=1e-5)


def test_broadcasting_and_empty():
    x = randn(0, 2, 3, 5, 12)
    assert rope_1d(x[0, 0], torch.arange(15).view(3, 5)).shape == (3, 5, 12)
    positions = torch.arange(10).view(2, 1, 5)
    assert torch.equal(rope_1d(x, positions)[1, 2], rope_1d(x[1, 2], positions[1, 0]))
    assert rope_3d(x[..., :0, :], torch.zeros(0, 3)).shape == (2, 3, 0, 12)
    assert rope_2d(x[:0], grid_positions(1, 5)).shape == (0, 3, 5, 12)


class Largest(TorchDispatchMode):
    "The size of the largest tensor that is made."

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, made.numel() if isinstance(made, torch.Tensor) else 0)
        return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_that_of_the_features(layout):
    x = randn(0, 2, 4, 300, 12)
    with Largest() as seen:
        rope_3d(x, randn(1, 2, 1, 300, 3), layout=layout)
        rope_1d(x, torch.arange(300), layout=layout)
    assert seen.numel == x.numel()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients(layout):
    x, places, angles = (randn(i, *shape, dtype=torch.float64) for i, shape in enumerate([(2, 2, 12), (2, 3), (2, 2, 6)]))
    for inputs in (x, places, angles):
        inputs.requires_grad_()
    for fn, inputs in ((lambda x, a: rotate(x, a, layout), (x, angles)), (lambda x, p: rope_3d(x, p, layout=layout), (x, places)),
                       (lambda x, p: rope_2d(x, p[:, :2], layout=layout), (x, places)),
                       (lambda x, p: rope_1d(x, p[:, 0], layout=layout), (x, places))):
        assert gradcheck(fn, inputs)
    assert gradgradcheck(lambda x, a: rotate(x[:1, :1, :4], a[:1, :1, :2], layout), (x, angles))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_in_one_piece(layout):
    x, p, grid = randn(0, 2, 6, 16), torch.arange(6), grid_positions(2, 3)
    for fn in (lambda x: rope_1d(x, p, layout=layout), lambda x: rope_2d(x, grid, layout=layout)):
        assert torch.allclose(torch.compile(fn, backend="eager", fullgraph=True)(x), fn(x), atol=1e-6)


def test_gradients_in_float32_reach_points():
    x, points = randn(0, 4, 24).requires_grad_(), randn(1, 4, 3).requires_grad_()
    upstream = randn(2, 4, 24)
    grads = torch.autograd.grad((rope_3d(x, points) * upstream).sum(), (x, points))
    wide = x.detach().double().requires_grad_(), points.detach().double().requires_grad_()
    exact = torch.autograd.grad((rope_3d(*wide) * upstream).sum(), wide)
    for ours, theirs, like in zip(grads, exact, (x, points)):
        assert ours.dtype == like.dtype and torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_inputs_stay_as_they_were():
    x, points = randn(0, 4, 24), randn(1, 4, 3)
    kept = x.clone(), points.clone()
    for layout in LAYOUTS:
        rope_3d(x, points, layout=layout)
        rotate(x, randn(2, 4, 12, dtype=torch.float64), layout)
    assert torch.equal(x, kept[0]) and torch.equal(points, kept[1])


def test_device_and_dtype_of_the_inputs(device, dtype):
    x, points = randn(0, 2, 3, 5, 24).to(device, dtype), randn(1, 5, 3).to(device, dtype)
    for made in (rope_3d(x, points), rope_2d(x, grid_positions(1, 5, device)), rope_1d(x, torch.arange(5, device=device)),
                 rope_1d(x, torch.arange(5, device=device), layout="half")):
        assert made.dtype == dtype and made.device.type == device.type
    assert torch.allclose(rope_3d(x, points).cpu(), rope_3d(x.cpu(), points.cpu()), atol=1e-5)


# --- bad input -------------------------------------------------------------------------------------------------

X, P1, P2, P3 = torch.ones(2, 3, 5, 12), torch.arange(5), torch.ones(5, 2), torch.ones(5, 3)
NAN = torch.tensor([0.0, 1.0, float("nan"), 3.0, 4.0])
BAD = {
    "odd features": (lambda: rotate(X[..., :7], torch.ones(5, 3)), ValueError, r"x: .*even, got d=7"),
    "no features": (lambda: rotate(X[..., :0], torch.ones(5, 0)), ValueError, r"x: .*got d=0"),
    "two axes": (lambda: rope_2d(X[..., :6], P2), ValueError, r"x: .*divisible by 4 \(2 axes.*got d=6"),
    "three axes": (lambda: rope_3d(X[..., :8], P3), ValueError, r"x: .*divisible by 6 \(3 axes.*got d=8"),
    "whole features": (lambda: rope_1d(X.long(), P1), TypeError, r"x: .*floating-point tensor, got torch.int64"),
    "no tensor": (lambda: rope_1d([1.0, 2.0], P1), TypeError, r"x: expected a torch tensor, got list"),
    "one dimension": (lambda: rotate(X[0, 0, 0], torch.ones(6)), ValueError, r"x: expected shape \(\.\.\., n, d\), got \(12,\)"),
    "layout": (lambda: rope_1d(X, P1, layout="neox"), ValueError, r"layout: expected one of 'half', 'interleaved', got 'neox'"),
    "layout of rotate": (lambda: rotate(X, torch.ones(5, 6), layout=None), ValueError, r"layout: .*got None"),
    "angles of all features": (lambda: rotate(X, torch.ones(5, 12)), ValueError, r"angles: .*\(…, 5, 6\).*\(5, 12\)"),
    "angles: other n": (lambda: rotate(X, torch.ones(4, 6)), ValueError, r"angles: .*got \(4, 6\)"),
    "angles: no tensor": (lambda: rotate(X, 1.0), TypeError, r"angles: expected a torch tensor, got float"),
    "angles: NaN": (lambda: rotate(X, NAN[:, None].expand(5, 6)), ValueError, r"angles: expected finite numbers, got 6"),
    "positions: other n": (lambda: rope_1d(X, P1[:4]), ValueError, r"positions: expected shape \(…, 5\).*got \(4,\)"),
    "positions: a number": (lambda: rope_1d(X, torch.tensor(3)), ValueError, r"positions: .*got \(\)"),
    "positions: a list": (lambda: rope_1d(X, [0, 1, 2, 3, 4]), TypeError, r"positions: expected a torch tensor, got list"),
    "positions: bool": (lambda: rope_1d(X, P1 > 2), TypeError, r"positions: .*got torch.bool"),
    "positions: complex": (lambda: rope_1d(X, P1 + 0j), TypeError, r"positions: .*got torch.complex64"),
    "positions: NaN": (lambda: rope_1d(X, NAN), ValueError, r"positions: expected finite numbers, got 1 NaN"),
    "positions: infinite": (lambda: rope_1d(X, P1 / 0), ValueError, r"positions: expected finite numbers"),
    "positions_yx: a line": (lambda: rope_2d(X, P1), ValueError, r"positions_yx: expected shape \(…, 5, 2\).*got \(5,\)"),
    "positions_yx: three": (lambda: rope_2d(X, P3), ValueError, r"positions_yx: expected shape \(…, 5, 2\).*got \(5, 3\)"),
    "positions_yx: NaN": (lambda: rope_2d(X, P2 * NAN[:, None]), ValueError, r"positions_yx: expected finite"),
    "points: two": (lambda: rope_3d(X, P2), ValueError, r"points: expected shape \(…, 5, 3\).*got \(5, 2\)"),
    "points: other n": (lambda: rope_3d(X, P3[:4]), ValueError, r"points: .*got \(4, 3\)"),
    "points: infinite": (lambda: rope_3d(X, P3 / 0), ValueError, r"points: expected finite numbers, got 15"),
    "positions of a batch": (lambda: rope_2d(X, torch.ones(2, 5, 2)), ValueError, r"positions_yx: .*heads: positions_yx"),
    "base 0": (lambda: rope_1d(X, P1, base=0.0), ValueError, r"base: .*> 0"),
    "base NaN": (lambda: rope_2d(X, P2, base=math.nan), ValueError, r"base: "),
    "base a word": (lambda: rope_2d(X, P2, base="100"), TypeError, r"base: "),
    "f0": (lambda: rope_2d(X, P2, f0=-1.0), ValueError, r"f0: "),
    "shortest": (lambda: rope_3d(X, P3, shortest=0.0), ValueError, r"shortest: "),
    "longest": (lambda: rope_3d(X, P3, longest=0.1, shortest=0.2), ValueError, r"longest: .*>= 0.2"),
    "no axes": (lambda: rope_axial(X, torch.ones(5, 0), torch.ones(4)), ValueError, r"positions: .*got \(5, 0\)"),
    "frequencies": (lambda: rope_axial(X, P2, torch.ones(4)), ValueError, r"frequencies: expected shape \(f=3\), got \(4,\)"),
    "sincos": (lambda: sincos_2d(grid_positions(2, 2), 6), ValueError, r"dim: .*divisible by 4.*got 6"),
    "device": (lambda: rope_1d(X, P1.to("meta")), ValueError, r"positions: expected the device of x, cpu, got meta"),
}


@pytest.mark.parametrize("call, error, words", BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
