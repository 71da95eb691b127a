"""Gaussians of nvs_book.epipolar: the originals' numbers, the harmonics' definition, turns, equivariance, calculus, bad input."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.geometry.conversions import axis_angle_to_rotation_matrix
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nvs_book.cameras import Camera, backproject, denormalize_intrinsics, intrinsics
from nvs_book.checks import golden
from nvs_book.epipolar import (
    Gaussians,
    band_matrix,
    circle_directions,
    covariance_matrices,
    gaussians_from_features,
    harmonics_damping,
    rotate_harmonics,
    rotation_from_xyzw,
    scales_from_features,
    sh_basis,
)

BAR = 1e-4
BATCHES = pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
draws = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**20)
degrees = st.integers(0, 4)
Q = torch.tensor([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64)  # e3nn's band 1 is (x, y, z), here it is (-y, z, -x)
FIELDS = "means", "covariances", "harmonics", "opacities"


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotations(*batch, seed=0, dtype=torch.float64):
    "Any rotations, by the exponential map."
    turn = numbers(*batch, 3, seed=seed)
    return axis_angle_to_rotation_matrix((3 * turn).reshape(-1, 3)).reshape(*batch, 3, 3).to(dtype)


def directions_of(*shape, seed=0, dtype=torch.float64):
    return F.normalize(numbers(*shape, 3, seed=seed), dim=-1).to(dtype)


def e3nn_rule(harmonics, rotation):
    "What e3nn's Wigner matrices make of coefficients: ours, in its axes."
    return rotate_harmonics(harmonics, Q.T.to(rotation) @ rotation @ Q.to(rotation))


def some_inputs(*batch, r=5, degree=2, seed=0, dtype=torch.float64):
    c2w = torch.eye(4, dtype=dtype).repeat(*batch, 1, 1)
    c2w[..., :3, :3], c2w[..., :3, 3] = rotations(*batch, seed=seed, dtype=dtype), numbers(*batch, 3, seed=seed, dtype=dtype)
    camera = Camera(intrinsics(300.0, 280.0, 160.0, 130.0, dtype), c2w, 240, 320)
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(*batch, r, 2, generator=g, dtype=dtype) * torch.tensor([320, 240])
    t, opacities = 1 + 3 * torch.rand(*batch, r, generator=g, dtype=dtype), torch.rand(*batch, r, generator=g, dtype=dtype)
    return numbers(*batch, r, 7 + 3 * (degree + 1) ** 2, seed=seed + 1, dtype=dtype), camera, xy, t, opacities


def close(ours, theirs, bar=BAR):
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= bar * theirs.abs().max()


# ------------------------------------------------------------------------------------------------ the originals' numbers


def original():
    "Golden pixelsplat_gaussian_adapter: K and pixels divided by the picture's size, quaternions x, y, z, w, colour by channels."
    g = golden("pixelsplat_gaussian_adapter")
    height, width = g["image_shape_hw"].tolist()
    camera = Camera(denormalize_intrinsics(g["intrinsics_normalized"], height, width), g["extrinsics_c2w"], height, width)
    return g, camera, g["coordinates_uv"] * torch.tensor([width, height])


def test_gaussians_equal_the_originals():
    "pixelSplat's adapter, commit 32b1b662bb, at 1e-4 of the largest number; `harmonics` with its own rule for turning them."
    g, camera, xy = original()
    raw, t = g["raw_gaussians"], g["depths_along_ray"]
    bounds = g["scale_min"].item(), g["scale_max"].item()
    made = gaussians_from_features(raw, camera, xy, t, g["opacities_in"], *bounds)
    for name in ("means", "covariances", "opacities"):
        close(getattr(made, name), g[name])
    close(scales_from_features(raw[..., :3], t, camera.K, *bounds), g["scales"])
    close(0.1 * (1 / camera.K[..., 0, 0] + 1 / camera.K[..., 1, 1]), g["scale_multiplier"])
    close(F.normalize(raw[..., 3:7], dim=-1), g["rotations_xyzw"])
    close(harmonics_damping(g["sh_degree"].item(), raw), g["sh_mask"])
    still = Camera(camera.K, torch.eye(4), camera.height, camera.width)
    in_camera = gaussians_from_features(raw, still, xy, t, g["opacities_in"]).harmonics.flatten(-3, -2)
    close(e3nn_rule(in_camera, camera.c2w[..., :3, :3]).unflatten(-2, (9, 3)), g["harmonics"])
    assert (made.harmonics - g["harmonics"])[..., 1:].norm() > 0.1 * g["harmonics"][..., 1:].norm()  # the slip is not ours
    close(made.harmonics[..., 0], g["harmonics"][..., 0])


def test_quaternions_and_covariances_equal_the_originals():
    g = golden("pixelsplat_gaussian_adapter")
    turned = rotation_from_xyzw(g["quat_xyzw"])
    close(turned, g["quat_matrix"])
    close(covariance_matrices(g["cov_scale"], turned), g["covariance_local"])
    assert (rotation_from_xyzw(g["quat_xyzw"].roll(1, -1)) - g["quat_matrix"]).abs().max() > 0.1


def test_harmonics_equal_the_originals():
    "Values and turns in both bases: bands 0 to 2 in the rasteriser's, 0 to 4 in e3nn's, ours with directions turned by Q."
    g = golden("pixelsplat_gaussian_adapter")
    k, R, d = g["sh_rot_in"][:, None], g["sh_rot_R"], g["sh_rot_dirs"]
    there = torch.einsum("nij,nj->ni", R, d)
    close((k[:, 0, :9] * sh_basis(d, 2)).sum(-1), g["sh3dgs_eval_in_at_dirs"])
    close((k[:, 0] * sh_basis(d @ Q.float(), 4)).sum(-1), g["sh_rot_eval_in_at_dirs"])
    turned, by_e3nn = rotate_harmonics(k[..., :9], R)[:, 0], e3nn_rule(k, R)[:, 0]
    close(turned, g["sh3dgs_coeffs_conjugated_rotation_l_le_2"])
    close((turned * sh_basis(there, 2)).sum(-1), g["sh3dgs_eval_conjugated_at_Rdirs"])
    close((turned * sh_basis(there, 2)).sum(-1), g["sh3dgs_eval_in_at_dirs"])
    close(by_e3nn, g["sh_rot_out"])
    close((by_e3nn * sh_basis(there @ Q.float(), 4)).sum(-1), g["sh_rot_eval_out_at_R_dirs"])
    close((by_e3nn[:, :9] * sh_basis(there, 2)).sum(-1), g["sh3dgs_eval_refrotated_at_Rdirs"])


def test_colours_equal_gsplat():
    "Golden gaussian_splatting: max(0, 1/2 + sum), degree 3, directions from the camera to the mean."
    g = golden("gaussian_splatting")
    centers = torch.linalg.inv(g["viewmats_w2c"])[:, None, :3, 3]
    values = sh_basis(F.normalize(g["means"] - centers, dim=-1), 3)
    close((torch.einsum("vnk,nkc->vnc", values, g["sh_coeffs"]) + 0.5).clamp(min=0), g["colors_from_sh"])
    close(covariance_matrices(g["scales"], rotation_from_xyzw(g["quats_wxyz"].roll(-1, -1))), g["covars"])


# ------------------------------------------------------------------------------------------------ the basis


def test_basis_is_orthonormal():
    "Gauss's nodes in z and equal steps in azimuth integrate polynomials of degree 8 exactly."
    z, weight = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(8))
    azimuth = torch.arange(16, dtype=torch.float64) * math.pi / 8 + 0.3
    z, azimuth = torch.meshgrid(z, azimuth, indexing="ij")
    r = (1 - z.square()).sqrt()
    Y = sh_basis(torch.stack([r * azimuth.cos(), r * azimuth.sin(), z], -1), 4)
    gram = torch.einsum("zai,zaj,z->ij", Y, Y, weight * math.pi / 8)
    assert (gram - torch.eye(25)).abs().max() < 1e-13


def test_basis_has_its_closed_forms():
    x, y, z = (d := directions_of(100)).unbind(-1)
    r = math.pi**-0.5
    closed = [r / 2 + 0 * x, -(3**0.5) / 2 * r * y, 3**0.5 / 2 * r * z, -(3**0.5) / 2 * r * x,
              15**0.5 / 2 * r * x * y, -(15**0.5) / 2 * r * y * z, 5**0.5 / 4 * r * (3 * z * z - 1), -(15**0.5) / 2 * r * x * z,
              15**0.5 / 4 * r * (x * x - y * y)]  # fmt: skip
    assert (sh_basis(d, 2) - torch.stack(closed, -1)).abs().max() < 1e-14
    assert (sh_basis(d, 4)[:, 16] - 0.75 * 35**0.5 * r * x * y * (x * x - y * y)).abs().max() < 1e-13
    assert (sh_basis(d, 4)[:, 20] - 3 / 16 * r * (35 * z**4 - 30 * z**2 + 3)).abs().max() < 1e-13


@pytest.mark.parametrize("degree", range(5))
def test_bands_have_their_parity_and_their_sum(degree):
    d = directions_of(50, seed=1)
    Y = sh_basis(d, degree)
    bands = torch.arange(degree + 1).repeat_interleave(2 * torch.arange(degree + 1) + 1)
    assert Y.shape == (50, (degree + 1) ** 2) and torch.allclose(sh_basis(-d, degree), Y * (-1.0) ** bands, atol=1e-14)
    for band in range(degree + 1):
        assert torch.allclose(Y[:, bands == band].square().sum(-1) * 4 * math.pi, torch.tensor(2 * band + 1.0).double())


def test_basis_takes_any_shape():
    d = directions_of(2, 3, 4)
    assert sh_basis(d, 3).shape == (2, 3, 4, 16) and sh_basis(d[0, 0, 0], 3).shape == (16,)
    assert sh_basis(d[:0], 1).shape == (0, 3, 4, 4)
    assert torch.equal(sh_basis(d, 3)[1, 2], sh_basis(d[1, 2], 3))


# ------------------------------------------------------------------------------------------------ turning


@draws
@given(seed=seeds, degree=degrees)
def test_turned_function_is_the_old_one_elsewhere(seed, degree):
    R, d, k = rotations(4, seed=seed), directions_of(4, 30, seed=seed), numbers(4, 3, (degree + 1) ** 2, seed=seed)
    before = k @ sh_basis(d, degree).mT
    assert (rotate_harmonics(k, R) @ sh_basis(d @ R.mT, degree).mT - before).abs().max() < 1e-12
    if degree:
        assert (rotate_harmonics(k, R.mT) @ sh_basis(d @ R.mT, degree).mT - before).abs().max() > 1e-3
        assert (e3nn_rule(k, R) @ sh_basis(d @ R.mT, degree).mT - before).abs().max() > 1e-3


@draws
@given(seed=seeds, degree=degrees)
def test_turns_form_a_group_and_keep_each_band(seed, degree):
    A, B = rotations(2, seed=seed)
    k = numbers(3, (degree + 1) ** 2, seed=seed)
    assert (rotate_harmonics(rotate_harmonics(k, A), B) - rotate_harmonics(k, B @ A)).abs().max() < 1e-12
    assert (rotate_harmonics(rotate_harmonics(k, A), A.T) - k).abs().max() < 1e-12
    assert (rotate_harmonics(k, torch.eye(3, dtype=torch.float64)) - k).abs().max() < 1e-14
    for band in range(degree + 1):
        part = slice(band**2, (band + 1) ** 2)
        assert torch.allclose(rotate_harmonics(k, A)[:, part].norm(dim=-1), k[:, part].norm(dim=-1))
        only = torch.zeros_like(k)
        only[:, part] = k[:, part]
        assert torch.equal(rotate_harmonics(only, A).nonzero()[:, 1].unique(), torch.arange(band**2, (band + 1) ** 2))


def test_band_one_by_hand_and_conditions():
    R = rotations(20)
    assert (band_matrix(1, R) - Q @ R @ Q.T).abs().max() < 1e-14
    for band in range(5):
        D = band_matrix(band, R)
        assert (D @ D.mT - torch.eye(2 * band + 1)).abs().max() < 1e-13
        B = sh_basis(circle_directions(band, R), band)[:, band**2 :]
        assert torch.linalg.cond(B) < 3
        assert torch.allclose(B.T @ B, (B.T @ B).diagonal().diag(), atol=1e-14)  # the columns are orthogonal


@BATCHES
def test_leading_dimensions_of_turns(batch):
    k, R = numbers(*batch, 6, 16), rotations(*batch)
    turned = rotate_harmonics(k, R)
    assert turned.shape == k.shape
    for index in np.ndindex(*batch):
        assert torch.allclose(turned[index], rotate_harmonics(k[index], R[index]))
    one = rotations(seed=9)
    assert torch.allclose(rotate_harmonics(k, one)[(0,) * len(batch)], rotate_harmonics(k[(0,) * len(batch)], one))
    assert rotate_harmonics(k[..., :0, :], R).shape == (*batch, 0, 16)
    assert rotate_harmonics(numbers(6, 16), rotations(7)).shape == (7, 6, 16)


def test_autocast_leaves_geometry_alone():
    features, camera, xy, t, opacities = some_inputs(2, dtype=torch.float32)
    plain = gaussians_from_features(features, camera, xy, t, opacities)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gaussians_from_features(features, camera, xy, t, opacities)
        turned = rotate_harmonics(plain.harmonics[0], camera.c2w[0, :3, :3])
    assert all(torch.equal(getattr(plain, name), getattr(inside, name)) for name in FIELDS)
    assert torch.equal(turned, rotate_harmonics(plain.harmonics[0], camera.c2w[0, :3, :3]))


# ------------------------------------------------------------------------------------------------ Gaussians


def test_one_gaussian_by_hand():
    features = torch.zeros(1, 19)
    features[:, 6], features[:, 7], features[:, 8], features[:, 13] = 2.0, 3.0, 1.0, 5.0  # w; red's first two; green's third
    camera = Camera(intrinsics(100.0, 50.0, 20.0, 10.0), torch.eye(4), 20, 40)
    made = gaussians_from_features(features, camera, torch.tensor([[20.0, 10.0]]), torch.tensor([3.0]), torch.tensor([0.25]))
    s = 7.75 * 3.0 * 0.1 * (1 / 100 + 1 / 50)
    torch.testing.assert_close(made.means, torch.tensor([[0.0, 0.0, 3.0]]))
    torch.testing.assert_close(made.covariances[0], s * s * torch.eye(3))
    torch.testing.assert_close(made.harmonics[0], torch.tensor([[3.0, 0.025, 0, 0], [0, 0, 0.125, 0], [0, 0, 0, 0]]))
    assert made.opacities.item() == 0.25


@BATCHES
def test_leading_dimensions_of_gaussians(batch):
    features, camera, xy, t, opacities = some_inputs(*batch)
    made = gaussians_from_features(features, camera, xy, t, opacities)
    assert made.means.shape == (*batch, 5, 3) and made.covariances.shape == (*batch, 5, 3, 3)
    assert made.harmonics.shape == (*batch, 5, 3, 9) and made.opacities.shape == (*batch, 5)
    for index in np.ndindex(*batch):
        one = camera[index] if batch else camera
        alone = gaussians_from_features(features[index], one, xy[index], t[index], opacities[index])
        assert all(torch.allclose(getattr(made, name)[index], getattr(alone, name)) for name in FIELDS)
    empty = gaussians_from_features(features[..., :0, :], camera, xy[..., :0, :], t[..., :0], opacities[..., :0])
    assert empty.harmonics.shape == (*batch, 0, 3, 9) and empty.covariances.shape == (*batch, 0, 3, 3)


def test_pixels_and_cameras_broadcast():
    features, camera, _, t, opacities = some_inputs(2)
    _, _, xy, _, _ = some_inputs()
    shared = gaussians_from_features(features, camera, xy, t, opacities)
    spread = gaussians_from_features(features, camera, xy.expand(2, 5, 2), t, opacities)
    assert all(torch.equal(getattr(shared, name), getattr(spread, name)) for name in FIELDS)
    wide = gaussians_from_features(features.expand(3, 2, 5, 34), camera, xy, t, opacities)
    assert all(torch.allclose(getattr(wide, name)[2], getattr(shared, name)) for name in FIELDS)
    assert wide.opacities.shape == (3, 2, 5)
    single = gaussians_from_features(features, camera[1], xy, t, opacities)
    assert torch.allclose(single.means[1], shared.means[1]) and not torch.allclose(single.means[0], shared.means[0])


@draws
@given(seed=seeds, degree=degrees)
def test_gaussians_move_with_the_world(seed, degree):
    features, camera, xy, t, opacities = some_inputs(degree=degree, seed=seed)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = A, shift = rotations(seed=seed + 5), numbers(3, seed=seed + 5)
    here, moved = (gaussians_from_features(features, Camera(camera.K, c2w, 240, 320), xy, t, opacities)
                   for c2w in (camera.c2w, motion @ camera.c2w))
    close(moved.means, here.means @ A.T + shift, 1e-12)
    close(moved.covariances, A @ here.covariances @ A.T, 1e-12)
    d = directions_of(40, seed=seed)
    close(moved.harmonics @ sh_basis(d @ A.T, degree).T, here.harmonics @ sh_basis(d, degree).T, 1e-12)
    assert torch.equal(moved.opacities, here.opacities)


@draws
@given(seed=seeds, size=st.floats(0.01, 30))
def test_covariances_are_positive_definite_and_as_large_as_asked(seed, size):
    features, camera, xy, t, opacities = some_inputs(seed=seed)
    features = torch.cat([features[..., :7] * size, features[..., 7:]], -1)
    made = gaussians_from_features(features, camera, xy, t, opacities, 0.5, 15.0)
    assert torch.equal(made.covariances, made.covariances.mT)
    lengths = torch.linalg.eigvalsh(made.covariances).clamp(min=0).sqrt()
    expected = scales_from_features(features[..., :3], t, camera.K).sort(-1).values
    assert torch.allclose(lengths, expected, rtol=1e-6)
    unit = (t * 0.1 * (1 / 300 + 1 / 280))[:, None]
    assert (lengths > 0.499 * unit).all() and (lengths < 15.001 * unit).all()


@draws
@given(seed=seeds, factor=st.floats(0.1, 10))
def test_size_in_the_picture_does_not_depend_on_distance(seed, factor):
    features, camera, xy, t, opacities = some_inputs(seed=seed)
    near, far = (gaussians_from_features(features, camera, xy, distance, opacities) for distance in (t, t * factor))
    assert torch.allclose(far.covariances, near.covariances * factor**2)
    assert torch.allclose(far.means - camera.center, (near.means - camera.center) * factor)
    assert torch.allclose((near.means - camera.center).norm(dim=-1), t)
    seen, z = camera.project(near.means)
    assert torch.allclose(seen, xy) and torch.allclose(t, z * backproject(camera.K, xy).norm(dim=-1))


def test_the_length_and_sign_of_a_quaternion_do_not_matter():
    features, *others = some_inputs()
    other = features.clone()
    other[:, 3:7] *= torch.tensor([-1.0, 2.0, -30.0, 1e-3, 1e3]).double()[:, None]
    one, two = (gaussians_from_features(f, *others) for f in (features, other))
    assert torch.allclose(one.covariances, two.covariances)


def test_turning_the_harmonics_needs_no_copy_for_each_gaussian():
    "No tensor is larger than the harmonics themselves: the matrix of a camera is not repeated for its Gaussians."
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            self.numel = max([self.numel, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
            return out

    inputs = some_inputs(2, r=500, degree=4)
    with Largest() as seen:
        gaussians_from_features(*inputs)
    assert seen.numel <= inputs[0].numel()


def test_to_device_and_dtype(device, dtype):
    features, camera, xy, t, opacities = some_inputs(2, dtype=torch.float32)
    made = gaussians_from_features(*(x.to(device, dtype) for x in (features, camera, xy, t, opacities)))
    back = made.to("cpu", torch.float64)
    plain = gaussians_from_features(features, camera, xy, t, opacities)
    assert isinstance(back, Gaussians)
    for name in FIELDS:
        assert getattr(made, name).dtype == dtype and getattr(made, name).device.type == device.type
        assert getattr(back, name).dtype == torch.float64
        assert torch.allclose(getattr(back, name), getattr(plain, name).double(), atol=1e-5)


# ------------------------------------------------------------------------------------------------ calculus


@pytest.mark.parametrize("degree", [0, 2, 4])
def test_gradients_of_gaussians(degree):
    features, camera, xy, t, opacities = some_inputs(2, r=2, degree=degree, seed=3)
    inputs = [x.requires_grad_() for x in (features, xy, t, 0.1 + 0.8 * opacities.detach(), camera.c2w.clone())]

    def run(features, xy, t, opacities, c2w):
        made = gaussians_from_features(features, Camera(camera.K, c2w, 240, 320), xy, t, opacities)
        return tuple(getattr(made, name) for name in FIELDS)

    assert gradcheck(run, inputs, fast_mode=True)


def test_gradients_of_turns():
    k, R = numbers(2, 2, 25).requires_grad_(), rotations(2).requires_grad_()
    assert gradcheck(rotate_harmonics, (k, R))
    assert gradgradcheck(rotate_harmonics, (k[:, :1, :9].detach().requires_grad_(), R), fast_mode=True)


def test_gradients_in_float32_are_those_of_float64():
    inputs = some_inputs(2, degree=4)
    grads = []
    for dtype in (torch.float64, torch.float32):
        features, camera, xy, t, opacities = (x.to(dtype) for x in inputs)
        features, t = features.detach(), t.detach()
        made = gaussians_from_features(features.requires_grad_(), camera, xy, t.requires_grad_(), opacities)
        loss = made.means.square().sum() + made.covariances.square().sum() * 1e4 + made.harmonics.pow(3).sum()
        grads.append(torch.autograd.grad(loss, (features, t)))
    for narrow, wide in zip(grads[1], grads[0]):
        close(narrow.double(), wide, 1e-4)


# ------------------------------------------------------------------------------------------------ bad input

FEATURES, CAMERA, XY, T, OPACITIES = some_inputs(dtype=torch.float32)
GIVEN = dict(features=FEATURES, camera=CAMERA, xy=XY, t=T, opacities=OPACITIES)
NO_TURN = FEATURES.index_fill(1, torch.tensor([3, 4, 5, 6]), 0.0)
K9, EYE = torch.ones(3, 9), torch.eye(3)


def spoilt(value, number):
    return value.flatten().index_fill(0, torch.tensor([1]), number).view_as(value)


def made_from(**changes):
    return lambda: gaussians_from_features(**(GIVEN | changes))


BAD = {
    "channels": (made_from(features=FEATURES[:, :30]), ValueError,
                 r"features: .*34 \(degree 2\), 55 \(degree 3\).*got 30 in \(5, 30\)"),
    "no channels of colour": (made_from(features=FEATURES[:, :7]), ValueError, r"features: .*10 \(degree 0\).*got 7"),
    "whole features": (made_from(features=FEATURES.long()), TypeError, r"features: .*floating-point tensor, got torch.int64"),
    "features of one pixel": (made_from(features=FEATURES[0]), ValueError,
                              r"features: expected shape \(\.\.\., r, c\), got \(34,\)"),
    "features NaN": (made_from(features=spoilt(FEATURES, math.nan)), ValueError, r"features: expected finite numbers, got 1 NaN"),
    "zero quaternion": (made_from(features=NO_TURN), ValueError,
                        r"features: expected quaternions \(channels 3 to 6\).*got 5 of 5"),
    "one zero quaternion": (made_from(features=torch.cat([FEATURES[:4], NO_TURN[4:]])), ValueError, r"features: .*got 1 of 5"),
    "no camera": (made_from(camera=CAMERA.K), TypeError, r"camera: expected a Camera, got Tensor"),
    "xy: other r": (made_from(xy=XY[:4]), ValueError, r"xy: expected shape \(\.\.\., r=5, 2\), got \(4, 2\)"),
    "xy: points": (made_from(xy=torch.ones(5, 3)), ValueError, r"xy: expected shape .*got \(5, 3\)"),
    "xy infinite": (made_from(xy=spoilt(XY, math.inf)), ValueError, r"xy: expected finite"),
    "t: other r": (made_from(t=T[:4]), ValueError, r"t: expected shape \(\.\.\., r=5\), got \(4,\)"),
    "t: a number": (made_from(t=2.0), TypeError, r"t: expected a torch tensor, got float"),
    "t zero": (made_from(t=spoilt(T, 0.0)), ValueError, r"t: expected distances > 0, got 1 of 5 that are not"),
    "t negative": (made_from(t=-T), ValueError, r"t: expected distances > 0, got 5 of 5"),
    "t NaN": (made_from(t=spoilt(T, math.nan)), ValueError, r"t: expected finite numbers, got 1 NaN"),
    "opacity above 1": (made_from(opacities=spoilt(OPACITIES, 1.01)), ValueError,
                        r"opacities: expected numbers in \[0, 1\], got 1 of 5"),
    "opacity below 0": (made_from(opacities=spoilt(OPACITIES, -0.1)), ValueError, r"opacities: .*got 1 of 5 outside"),
    "opacity NaN": (made_from(opacities=spoilt(OPACITIES, math.nan)), ValueError, r"opacities: expected finite"),
    "opacities of another batch": (made_from(opacities=torch.rand(2, 5), t=T.expand(3, 5)), ValueError,
                                   r"opacities: .*broadcast"),
    "dtypes": (made_from(t=T.double()), ValueError, r"t.*: expected one dtype"),
    "devices": (made_from(xy=XY.to("meta")), ValueError, r"xy.*: expected one device"),
    "scale_min": (made_from(scale_min=0.0), ValueError, r"scale_min: .*> 0"),
    "scale_max": (made_from(scale_max=0.1), ValueError, r"scale_max: .*>= 0.5"),
    "harmonics: count": (lambda: rotate_harmonics(torch.ones(3, 8), EYE), ValueError,
                         r"harmonics: .*1, 4, 9, 16 or 25.*got 8 in \(3, 8\)"),
    "harmonics: degree 5": (lambda: rotate_harmonics(torch.ones(3, 36), EYE), ValueError, r"harmonics: .*degree 0 to 4.*got 36"),
    "harmonics: one function": (lambda: rotate_harmonics(torch.ones(9), EYE), ValueError,
                                r"harmonics: .*\(\.\.\., n, k\), got \(9,\)"),
    "harmonics NaN": (lambda: rotate_harmonics(spoilt(K9, math.nan), EYE), ValueError, r"harmonics: expected finite"),
    "rotation: scaled": (lambda: rotate_harmonics(K9, 2 * EYE), ValueError, r"rotation: .*off orthonormal by 3; is a scale"),
    "rotation: a mirror": (lambda: rotate_harmonics(K9, EYE * torch.tensor([1.0, 1, -1])), ValueError, r"rotation: .*reflection"),
    "rotation: a pose": (lambda: rotate_harmonics(K9, torch.eye(4)), ValueError, r"rotation: expected shape \(\.\.\., 3, 3\)"),
    "rotation NaN": (lambda: rotate_harmonics(K9, spoilt(EYE, math.nan)), ValueError, r"rotation: expected finite"),
    "rotation: dtype": (lambda: rotate_harmonics(K9, EYE.double()), ValueError, r"harmonics, rotation: expected one dtype"),
    "rotation: batch": (lambda: rotate_harmonics(K9.expand(2, 3, 9), EYE.expand(3, 3, 3)), ValueError, r"rotation: .*broadcast"),
    "degree negative": (lambda: sh_basis(directions_of(3), -1), ValueError, r"degree: .*>= 0 and <= 4, got -1"),
    "degree 5": (lambda: sh_basis(directions_of(3), 5), ValueError, r"degree: .*got 5"),
    "degree 2.5": (lambda: sh_basis(directions_of(3), 2.5), ValueError, r"degree: expected a whole number"),
    "directions not unit": (lambda: sh_basis(2 * directions_of(3), 2), ValueError,
                            r"directions: expected unit vectors, .*off 1 by 1"),
    "directions of a plane": (lambda: sh_basis(torch.ones(5, 2), 2), ValueError, r"directions: expected shape .*got \(5, 2\)"),
}


@pytest.mark.parametrize("call, error, words", BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
