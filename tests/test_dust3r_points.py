"""Pointmaps at work: laying clouds onto each other, matching, focal length, pose; parity, exactness, robustness, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from torch.autograd import gradcheck

from nvs_book.cameras import Camera, intrinsics, invert_pose, look_at, perspective, pixel_grid, transform_points
from nvs_book.checks import golden
from nvs_book.pointmaps import (
    FOCAL_METHODS,
    PairPrediction,
    align_similarity,
    camera_equations,
    cross_matrix,
    estimate_focal,
    estimate_pose,
    localize,
    match_reciprocal,
    pointmap,
    product,
    roots,
    simulate_pair,
    spoiled,
    three_point_poses,
    turned,
)
from nvs_book.scenes import ProceduralWorld, View, motorcycle

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**20)
F64 = torch.float64


def randn(g, *shape, dtype=F64):
    return torch.randn(*shape, generator=g, dtype=dtype)


def rotation(g, *batch):
    return turned(torch.eye(3, dtype=F64), randn(g, *batch, 3))


def degrees(a, b):
    "Angle between two rotations."
    gap = (a[..., :3, :3].double().mT @ b[..., :3, :3].double() - torch.eye(3, dtype=F64)).norm(dim=(-2, -1))
    return torch.rad2deg(2 * torch.asin((gap / 8**0.5).clamp(max=1)))


# --- similarity ----------------------------------------------------------------------------------------------


def test_similarity_equals_roma():
    "Golden dust3r_pnp: roma's weighted rigid registration, float64."
    g = golden("dust3r_pnp")
    scale, R, t = align_similarity(g["registration_src"], g["registration_tgt"], g["registration_weights"])
    assert abs(scale - g["registration_scale"]) <= 1e-12
    assert (R - g["registration_R"]).abs().max() <= 1e-12 and (t - g["registration_T"]).abs().max() <= 1e-12


def test_similarity_and_pytorch3d():
    """Golden p3d_similarity_alignment (rows: dst = s * src @ R + T).

    PyTorch3D multiplies both centred clouds by the weights, which so count squared in its covariance, and plainly in its means.
    Its numbers are reproduced so; ours have a smaller weighted sum of squares, which is what both are meant to make smallest.
    """
    g = {name: value.double() for name, value in golden("p3d_similarity_alignment").items()}
    w = g["weights"] / g["weights"].sum(-1, keepdim=True)
    centred = [g[name] - (w[..., None] * g[name]).sum(-2, keepdim=True) for name in ("src", "dst")]
    U, S, Vh = torch.linalg.svd((w[..., None].square() * centred[1]).mT @ centred[0])
    assert (U @ Vh - g["R_row_convention"].mT).abs().max() <= 1e-5
    assert (S.sum(-1) / (w[..., None] * centred[0]).square().sum((-2, -1)) - g["s"]).abs().max() <= 1e-5

    def cost(scale, R, t):
        return (w * (scale[:, None, None] * g["src"] @ R.mT + t[:, None] - g["dst"]).square().sum(-1)).sum(-1)

    ours = align_similarity(g["src"], g["dst"], g["weights"])
    assert (cost(*ours) < cost(g["s"], g["R_row_convention"].mT, g["T"])).all()


@quick
@given(seed=seeds, batch=st.sampled_from([(), (2,), (1, 2)]), robust=st.booleans())
def test_similarity_finds_what_moved_the_points(seed, batch, robust):
    g = torch.Generator().manual_seed(seed)
    src, R, t, scale = randn(g, *batch, 9, 3), rotation(g, *batch), randn(g, *batch, 3), randn(g, *batch, 1)[..., 0].exp()
    dst = scale[..., None, None] * src @ R.mT + t[..., None, :]
    weights = torch.rand(*batch, 9, generator=g, dtype=F64) + 0.1
    found = align_similarity(src, dst, weights, robust=robust)
    for got, true in zip(found, (scale, R, t)):
        assert torch.allclose(got, true, atol=1e-8)
    assert torch.allclose(found.apply(src), dst, atol=1e-8)


def test_similarity_is_a_rotation_where_a_mirror_would_fit_better():
    g = torch.Generator().manual_seed(0)
    src = randn(g, 20, 3)
    R = align_similarity(src, src * torch.tensor([-1.0, 1, 1], dtype=F64)).R
    assert torch.isclose(torch.linalg.det(R), torch.tensor(1.0, dtype=F64))
    flat = randn(g, 8, 3) * torch.tensor([1.0, 1, 0], dtype=F64)  # a plane fixes a rotation
    turn = rotation(g)
    assert torch.allclose(align_similarity(flat, flat @ turn.mT).R, turn, atol=1e-9)


def test_robust_similarity_shrugs_off_outliers():
    g = torch.Generator().manual_seed(1)
    src, R = randn(g, 400, 3), rotation(g)
    dst = 2 * src @ R.mT + 1
    dst[:120] = 5 * randn(g, 120, 3)
    assert degrees(align_similarity(src, dst, robust=True).R, R) < 0.01 < 1 < degrees(align_similarity(src, dst).R, R)


def test_similarity_has_gradients():
    g = torch.Generator().manual_seed(2)
    src, dst, weights = randn(g, 6, 3), randn(g, 6, 3), torch.rand(6, generator=g, dtype=F64)
    leaves = [x.requires_grad_() for x in (src, dst, weights)]
    fixed = src.detach().clone()  # gradcheck moves the leaves in place
    assert gradcheck(lambda *x: align_similarity(*x).apply(fixed), leaves)


def test_similarity_refuses_what_fixes_no_rotation():
    g = torch.Generator().manual_seed(3)
    src, dst = randn(g, 5, 3), randn(g, 5, 3)
    line = torch.arange(5.0, dtype=F64)[:, None] * torch.ones(3, dtype=F64)
    few = torch.tensor([1.0, 1, 0, 0, 0], dtype=F64)
    one = torch.ones(5, 3, dtype=F64)
    for args in ((line, dst), (one, dst), (src, dst, few), (src[:2], dst[:2]), (line.float(), dst.float())):
        with pytest.raises(ValueError, match="src: expected three or more points with weight that are not all on one line"):
            align_similarity(*args)
    for args, said in (((src, dst[:4]), "dst: expected shape"), ((src / 0, dst), "src: expected finite"),
                       ((src, dst, -few), "weights: expected none below 0"), ((src, dst.float()), "expected one dtype")):
        with pytest.raises(ValueError, match=said):
            align_similarity(*args)


# --- matching ------------------------------------------------------------------------------------------------


def two_trees(points_1, points_2):
    "The published way: both trees answer for every point."
    a, b = points_1.numpy(), points_2.numpy()
    nn_1, nn_2 = cKDTree(b).query(a)[1], cKDTree(a).query(b)[1]
    idx_2 = np.flatnonzero(nn_1[nn_2] == np.arange(len(b)))
    return torch.from_numpy(nn_2[idx_2]), torch.from_numpy(idx_2)


def test_matches_equal_the_original():
    g = golden("dust3r_matches")
    idx_1, idx_2 = match_reciprocal(g["P1"], g["P2"])
    assert torch.equal(idx_1, g["matched_idx_P1"]) and torch.equal(idx_2, g["matched_idx_P2"])
    assert torch.equal(g["reciprocal_in_P2"].nonzero()[:, 0], idx_2) and len(idx_1) == int(g["num_matches"])


@quick
@given(seed=seeds, n=st.integers(1, 60), m=st.integers(1, 60))
def test_matches_are_those_of_two_trees(seed, n, m):
    g = torch.Generator().manual_seed(seed)
    clouds = randn(g, n, 3, dtype=torch.float32), randn(g, m, 3, dtype=torch.float32)
    for got, true in zip(match_reciprocal(*clouds), two_trees(*clouds)):
        assert torch.equal(got, true)


@pytest.mark.slow
def test_fifty_thousand_points_equal_two_trees():
    "The exact work of the timings: 50,176 x 50,176 points, 48,418 matches."
    g = torch.Generator().manual_seed(0)
    points_1 = torch.randn(50176, 3, generator=g)
    points_2 = (points_1 + 0.01 * torch.randn(50176, 3, generator=g))[torch.randperm(50176, generator=g)]
    found, true = match_reciprocal(points_1, points_2), two_trees(points_1, points_2)
    assert len(found[0]) == 48418
    assert torch.equal(found[0], true[0]) and torch.equal(found[1], true[1])


def test_matches_on_a_device_are_the_same(device):
    g = torch.Generator().manual_seed(4)
    clouds = randn(g, 3000, 3, dtype=torch.float32), randn(g, 2500, 3, dtype=torch.float32)
    for got, true in zip(match_reciprocal(*(c.to(device) for c in clouds)), two_trees(*clouds)):
        assert got.device.type == device.type and torch.equal(got.cpu(), true)


def test_matching_refuses_what_cannot_be_matched():
    points = torch.rand(4, 3)
    for args, said in (((points[:0], points), "points_1: expected at least one"),
                       ((points, points[:0]), "points_2: expected at least one"),
                       ((points / 0, points), "points_1: expected finite"), ((points, points.double()), "expected one dtype"),
                       ((points, torch.rand(2, 2, 3)), "points_2: expected shape")):
        with pytest.raises(ValueError, match=said):
            match_reciprocal(*args)


# --- focal length --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["weiszfeld", "median"])
def test_focal_equals_the_original(method):
    "Golden dust3r_focal: whole pixels are centres there, so that its principal point (W/2, H/2) is half a pixel further here."
    g = golden("dust3r_focal")
    for points, name in (("pts3d", ""), ("pts3d_noise_free", "_noise_free")):
        focal = estimate_focal(g[points], g["pp_pixels"] + 0.5, method)
        assert (focal / g[f"focal_{method}{name}"] - 1).abs().max() <= 1e-4


@quick
@given(seed=seeds, focal=st.floats(5, 500), batch=st.sampled_from([(), (2,), (1, 2)]), method=st.sampled_from(FOCAL_METHODS))
def test_focal_of_exact_pointmaps_is_exact(seed, focal, batch, method):
    g = torch.Generator().manual_seed(seed)
    K = intrinsics(focal, focal, 7.5, 3.0, dtype=F64)  # the column and row of the principal point are there: x = 0, y = 0
    depth = torch.rand(*batch, 8, 12, generator=g, dtype=F64) + 0.5
    points = Camera(K, torch.eye(4, dtype=F64), 8, 12).unproject(depth)
    found = estimate_focal(points, (7.5, 3.0), method)
    assert found.shape == batch and torch.allclose(found, torch.tensor(focal, dtype=F64), rtol=1e-9)
    assert torch.allclose(estimate_focal(7 * points, (7.5, 3.0), method), found)


@pytest.mark.parametrize("method", FOCAL_METHODS)
def test_unknown_points_have_no_say(method):
    g = torch.Generator().manual_seed(5)
    points = Camera(intrinsics(40, 40, 16, 12), torch.eye(4), 24, 32).unproject(torch.rand(24, 32, generator=g) + 1)
    spoiled = points.clone()
    spoiled[:4], spoiled[4:8], spoiled[8, :, 2], spoiled[9] = torch.nan, torch.inf, 0, -spoiled[9]
    assert torch.isclose(estimate_focal(spoiled, method=method), torch.tensor(40.0), rtol=1e-5)
    assert torch.equal(estimate_focal(points, method=method), estimate_focal(points, (16, 12), method))  # the default: the centre


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sides", ["along the ray", "to all sides"])
def test_motorcycle_s_focal_length(sides, seed):
    "The bar: within 0.5 % of 994.978 px, with 1 % of noise and 10 % of the points anywhere in the room."
    g = torch.Generator().manual_seed(seed)
    for view in motorcycle():
        points = pointmap(view, view.camera)
        if sides == "along the ray":
            points = spoiled(points * (1 + 0.01 * torch.randn(*points.shape[:2], 1, generator=g)), 0.0, 0.1, g)
        else:
            points = spoiled(points, 0.01, 0.1, g)
        assert abs(estimate_focal(points, view.camera.K[:2, 2], "angle") / 994.978 - 1) < 0.002  # the bar is 0.005


def test_the_focal_length_by_angle_comes_in_batches_and_has_a_gradient():
    left, _ = motorcycle()
    points = pointmap(left, left.camera)[::10, ::10].nan_to_num(1.0).double()
    both = torch.stack([points, points * 2 + 0.01]).requires_grad_()
    found = estimate_focal(both, method="angle")
    torch.testing.assert_close(found[0], estimate_focal(points, method="angle"))
    assert torch.autograd.grad(found.sum(), both)[0].isfinite().all()


def test_points_beside_the_camera_do_not_carry_the_focal_length_away():
    "A tenth of the points anywhere in a box that reaches to the camera: the published formula then ends at 2 px."
    left, _ = motorcycle()
    g = torch.Generator().manual_seed(0)
    points = pointmap(left, left.camera)
    wrong = torch.rand(points.shape[:2], generator=g) < 0.1
    points[wrong] = torch.rand(int(wrong.sum()), 3, generator=g) * 8 - torch.tensor([4.0, 4.0, 0.0])
    centre = left.camera.K[:2, 2]
    assert abs(estimate_focal(points, centre, "median") / 994.978 - 1) < 1e-4
    assert abs(estimate_focal(points, centre) / 994.978 - 1) < 0.005


def test_focal_refuses_what_has_none():
    points = Camera(intrinsics(40, 40, 16, 12), torch.eye(4), 24, 32).unproject(torch.ones(24, 32))
    ahead = torch.zeros(24, 32, 3) + torch.tensor([0.0, 0, 1])
    for bad, said in ((torch.full_like(points, torch.nan), "points_cam: expected two or more finite points before the camera"),
                      (-points, "points_cam: expected two or more"), (ahead, "points_cam: expected two or more"),
                      (points * torch.tensor([-1.0, -1, 1]), "x right, y down, z forward"),
                      (points[..., :2], "points_cam: expected shape")):
        for method in FOCAL_METHODS:
            with pytest.raises(ValueError, match=said):
                estimate_focal(bad, method=method)
    with pytest.raises(ValueError, match="method: expected one of 'weiszfeld', 'median'"):
        estimate_focal(points, method="mean")
    with pytest.raises(ValueError, match="principal_point: expected shape"):
        estimate_focal(points, (1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="principal_point: expected finite"):
        estimate_focal(points, (math.nan, 2.0))


def test_focal_has_gradients():
    g = torch.Generator().manual_seed(6)
    camera = Camera(intrinsics(9, 9, 3, 2, F64), torch.eye(4, dtype=F64), 4, 6)
    points = camera.unproject(torch.rand(4, 6, generator=g, dtype=F64) + 1)
    points = (points + 0.05 * randn(g, 4, 6, 3)).requires_grad_()
    for method in FOCAL_METHODS:
        assert gradcheck(lambda p, m=method: estimate_focal(p, method=m), (points,))


# --- pose ----------------------------------------------------------------------------------------------------


def scene(seed, n=200, flat=False):
    "Points before a camera, where it sees them, and the camera."
    g = torch.Generator().manual_seed(seed)
    c2w = look_at(torch.tensor([3.0, -2.0, 1.5], dtype=F64) + 0.3 * randn(g, 3), 0.2 * randn(g, 3)).to(F64)
    K = intrinsics(300, 310, 160, 118, F64)
    points = randn(g, n, 3) * (torch.tensor([1.0, 1, 0], dtype=F64) if flat else 1) * 0.7
    return points, perspective(K, transform_points(invert_pose(c2w), points))[0], K, c2w, g


@quick
@given(seed=seeds, flat=st.booleans())
def test_three_points_allow_up_to_four_cameras_and_one_is_right(seed, flat):
    points, pixels, K, c2w, _ = scene(seed, 3, flat)
    rays = torch.linalg.solve(K, torch.cat([pixels, torch.ones_like(pixels[:, :1])], -1).T).T
    poses = three_point_poses(points[None], torch.nn.functional.normalize(rays, dim=-1)[None])
    w2c = invert_pose(c2w)
    off = (poses.R - w2c[:3, :3]).abs().amax((-2, -1)) + (poses.t - w2c[:3, 3]).abs().amax(-1)
    assert off.nan_to_num(9).min() < 1e-4  # the roots lose half the digits where two of them meet


def test_roots_and_products_of_polynomials():
    g = torch.Generator().manual_seed(7)
    zeros = randn(g, 5, 4)
    p = torch.ones(5, 1, dtype=F64)
    for k in range(4):
        p = product(p, torch.stack([-zeros[:, k], torch.ones(5, dtype=F64)], -1))
    assert torch.allclose(roots(p).sort(-1).values, zeros.sort(-1).values, atol=1e-6)
    assert roots(torch.zeros(1, 5, dtype=F64)).isfinite().all()  # three equal points give no quartic


def test_camera_equations_are_the_derivative_of_the_distances():
    "Half the gradient of the weighted squared distances to the rays, by automatic differentiation; and Gauss-Newton's matrix."
    points, pixels, K, c2w, g = scene(8, 12)
    rays = torch.cat([(pixels - K[:2, 2]) / 305, torch.ones(12, 1, dtype=F64)], -1)
    weight, R, t = torch.rand(12, generator=g, dtype=F64), c2w[:3, :3], c2w[:3, 3]

    def across(step):
        a = rays * torch.stack([(-step[6]).exp(), (-step[6]).exp(), torch.ones_like(step[6])])
        y = (points - (t + R @ step[3:6])) @ turned(R, step[:3])
        return y - (y * a).sum(-1, keepdim=True) / a.square().sum(-1, keepdim=True) * a

    zero = torch.zeros(7, dtype=F64)
    r = across(zero)
    J = torch.autograd.functional.jacobian(across, zero)
    A, b = camera_equations(points, weight, rays, R, t)
    assert torch.allclose(b, torch.einsum("p,pik,pi->k", weight, J, r), atol=1e-10)
    unit = torch.nn.functional.normalize(rays, dim=-1)
    J = J - torch.einsum("pi,pj,pjk->pik", unit, unit, J)  # along the ray the depth takes it up
    assert torch.allclose(A, torch.einsum("p,pik,pil->kl", weight, J, J), atol=1e-9)
    assert torch.allclose(cross_matrix(r[0]) @ r[1], torch.linalg.cross(r[0], r[1]))


@quick
@given(seed=seeds, flat=st.booleans(), dtype=st.sampled_from([torch.float32, F64]))
def test_pose_of_exact_matches_is_exact(seed, flat, dtype):
    points, pixels, K, c2w, _ = scene(seed, 30, flat)
    found = estimate_pose(points.to(dtype), pixels.to(dtype), K.to(dtype))
    assert found.dtype == dtype and (found - c2w).abs().max() < (1e-4 if dtype == torch.float32 else 1e-8)


@quick
@given(seed=seeds, share=st.floats(0, 0.6))
def test_pose_stands_outliers(seed, share):
    points, pixels, K, c2w, g = scene(seed)
    pixels = pixels + 0.3 * randn(g, 200, 2)
    wrong = torch.rand(200, generator=g) < share
    pixels[wrong] = torch.rand(int(wrong.sum()), 2, generator=g, dtype=F64) * 300
    found = estimate_pose(points, pixels, K)
    assert degrees(found, c2w) < 0.5 and (found[:3, 3] - c2w[:3, 3]).norm() < 0.03
    assert torch.allclose(found, estimate_pose(points, pixels, K, seed=0), atol=1e-12, rtol=0)


def test_pose_is_nearer_the_truth_than_the_original_s():
    "Golden dust3r_pnp, known focal length, 20 % of outliers; whole pixels are centres there: half a pixel more here."
    g = golden("dust3r_pnp")
    known, size = g["fastpnp_mask"], g["fastpnp_mask"].shape
    focal = float(g["fastpnp_known_focal_focal"])
    K = intrinsics(focal, focal, size[1] / 2 + 0.5, size[0] / 2 + 0.5)
    true = g["fastpnp_c2w_true"]
    for seed in range(5):
        found = estimate_pose(g["fastpnp_pts3d"][known], pixel_grid(*size)[known], K, seed=seed)
        assert degrees(found, true) <= g["fastpnp_known_focal_rot_err_deg"]
        assert (found[:3, 3] - true[:3, 3]).norm() <= g["fastpnp_known_focal_center_err"]


def test_pose_from_a_pair_is_nearer_the_truth_than_the_pair_viewer_s():
    "Golden dust3r_pnp: camera 0 from edge (1, 0), in camera 1's frame, as the pair viewer keeps it."
    g = golden("dust3r_pnp")
    centre = torch.tensor([16.5, 12.5])
    focals = estimate_focal(g["edge_pred1_pts3d"], centre)  # edge e is (e, 1 - e)
    assert (focals / g["pairviewer_focals"] - 1).abs().max() <= 1e-4
    assert torch.equal(g["pairviewer_c2w"][1], torch.eye(4))
    relative = invert_pose(g["gt_c2w"][1]) @ g["gt_c2w"][0]
    sure = g["pairviewer_masks_conf_gt_3"][0]
    K = intrinsics(float(focals[0]), float(focals[0]), *centre.tolist())
    found = estimate_pose(g["edge_pred2_pts3d_in_view1"][1][sure], pixel_grid(24, 32)[sure], K)
    assert degrees(found, relative) <= degrees(g["pairviewer_c2w"][0], relative)


def test_motorcycle_s_baseline():
    "The bar: baseline within 1 % of 193.001 mm, rotation within 0.1 degrees; 1 % of noise, 10 % of gross outliers."
    views = motorcycle()
    pair = simulate_pair(views, 0, 1, noise=0.01, outliers=0.1)
    unit = (pair.points_i.norm(dim=-1) / pointmap(views[0], views[0].camera).norm(dim=-1)).nanmedian()
    seen = pair.conf_j > 1
    found = estimate_pose(pair.points_j[seen] / unit, pixel_grid(*seen.shape)[seen], views[1].camera.K)
    assert abs(found[:3, 3].norm() / 0.193001 - 1) < 0.01
    assert degrees(found, views[1].camera.c2w) < 0.1


def test_localize_finds_a_new_view_in_a_scene():
    world, size = ProceduralWorld(3), (48, 64)
    K = intrinsics(60, 60, 32, 24)
    eyes = torch.tensor([[3.0, -1.0, 1.4], [2.8, -1.6, 1.3]])
    views = [world.render(Camera(K, look_at(eye, torch.zeros(3)), *size)) for eye in eyes]
    pair = simulate_pair(views, 0, 1, noise=0.003, outliers=0.05)
    found = localize(pair, pointmap(views[0], Camera(K, torch.eye(4), *size)), K)
    assert degrees(found, views[1].camera.c2w) < 0.3 and (found[:3, 3] - eyes[1]).norm() < 0.03
    with pytest.raises(ValueError, match="pair: expected pixels of both views with a confidence above 20"):
        localize(pair, pair.points_i, K, min_conf=20)
    with pytest.raises(ValueError, match="pair.points_i: expected shape"):
        localize(pair, pair.points_i[:40], K)


def test_pose_refuses_what_gives_none():
    points, pixels, K, _, g = scene(9)
    wild = torch.rand(200, 2, generator=g, dtype=F64) * 1e5
    for args, said in (((points[:5], pixels[:5], K), "points_world: expected six or more matches, got 5"),
                       ((points, pixels[:9], K), "pixels: expected shape"),
                       ((points / 0, pixels, K), "points_world: expected finite"),
                       ((points, pixels, K[:2]), "K: expected shape"), ((points, pixels.float(), K), "expected one dtype"),
                       ((points, wild, K), "no pose puts six of the 200 points within 5 px"),
                       ((torch.ones(200, 3, dtype=F64), pixels, K), "points_world: expected places that are not all on one line"),
                       ((points, pixels * 0 + 3, K), "pixels: expected places that are not all on one line"),
                       ((points, pixels, torch.zeros(3, 3, dtype=F64)), "K: expected")):
        with pytest.raises(ValueError, match=said):
            estimate_pose(*args)
    for name, bad in (("threshold", 0.0), ("samples", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            estimate_pose(points, pixels, K, **{name: bad})


# --- what stands for a network -------------------------------------------------------------------------------


def test_simulated_pairs_are_the_truth_with_errors():
    views = motorcycle()
    exact = simulate_pair(views, 1, 0, noise=0.0)
    true = pointmap(views[0], views[1].camera)
    known = true.isfinite().all(-1)
    ratio = exact.points_j[known] / true[known]
    assert isinstance(exact, PairPrediction) and torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3)
    assert torch.equal(exact.conf_j > 1, known) and not exact.points_j[~known].any()
    noisy = simulate_pair(views, 1, 0, noise=0.02, outliers=0.2, generator=torch.Generator().manual_seed(3))
    lengths, exact_lengths = (pair.points_j[known].norm(dim=-1) for pair in (noisy, exact))
    off = noisy.points_j[known] - exact.points_j[known] * lengths.median() / exact_lengths.median()
    share = (off.norm(dim=-1) > 0.1 * exact_lengths).double().mean()
    assert 0.15 < share < 0.2
    with pytest.raises(ValueError, match="view: expected one with depth"):
        pointmap(View(views[0].image, views[0].camera), views[0].camera)
