"""DUSt3R's loss and heads: parity with the original, the definition by pixel, invariances, gradients, no truth, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from nvs_book.cameras import transform_points
from nvs_book.checks import golden
from nvs_book.dust3r import (
    LinearHead,
    activate_head,
    confidence_loss,
    mean_distance,
    normalize_pointmaps,
    pointmap_errors,
    regression_loss,
)

BAR = 1e-5
quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**20)
batches = st.sampled_from([(), (2,), (1, 2)])


def randn(g, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=g, dtype=dtype)


def draw(seed, *batch, size_1=(3, 4), size_2=(3, 4), dtype=torch.float64):
    "Predictions, confidences, truth and masks of both views, every pair with a known pixel in either view."
    g = torch.Generator().manual_seed(seed)
    sizes = size_1, size_2
    pred, true = ([randn(g, *batch, *size, 3, dtype=dtype) for size in sizes] for _ in range(2))
    conf = [1 + torch.rand(*batch, *size, generator=g, dtype=dtype) for size in sizes]
    valid = [torch.rand(*batch, *size, generator=g) < 0.6 for size in sizes]
    for mask in valid:
        mask[..., 0, 0] = True
    return pred, conf, true, valid


# --- parity --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original():
    "Golden dust3r_loss: float64 from float32 inputs; truth in the world's frame, with camera 1's pose."
    g = golden("dust3r_loss")
    w2c = torch.linalg.inv(g["camera_pose_view1_c2w"].double())
    true = [transform_points(w2c, g[f"gt_pts3d_view{view}_world"].double()) for view in (1, 2)]
    pred = [g[f"pred_pts3d_view{name}"].double().requires_grad_() for name in ("1", "2_in_view1")]
    conf = [g[f"pred_conf_view{view}"].double().requires_grad_() for view in (1, 2)]
    return g, pred, conf, true, [g[f"valid_mask_view{view}"] for view in (1, 2)]


def test_normalisation_equals_the_original(original):
    g, pred, _, true, valid = original
    for name, pair in (("gt", true), ("pred", pred)):
        *points, scale = normalize_pointmaps(*pair, *valid)
        assert (scale / g[f"{name}_norm_factor_avg_dis"] - 1).abs().max() <= BAR
        for view in (1, 2):
            assert (points[view - 1] - g[f"{name}_norm_pts{view}"]).abs().max() <= BAR
    for view in (1, 2):
        assert (true[view - 1] - g[f"gt_pts3d_view{view}_in_cam1"]).abs().max() <= BAR


def test_losses_and_gradients_equal_the_original(original):
    g, pred, conf, true, valid = original
    for name, loss, leaves in (("regr3d", regression_loss(*pred, *true, *valid), pred),
                               ("confloss", confidence_loss(*pred, *conf, *true, *valid), pred + conf)):
        assert abs(loss / g[f"{name}_loss"] - 1) <= BAR
        keys = ("pred_pts3d_view1", "pred_pts3d_view2", "conf1", "conf2")
        for key, grad in zip(keys, torch.autograd.grad(loss, leaves)):
            assert (grad - g[f"{name}_grad_{key}"]).abs().max() <= BAR * g[f"{name}_grad_{key}"].abs().max()


def test_each_view_s_term_equals_the_original(original):
    g, pred, conf, true, valid = original
    for view, error in enumerate(pointmap_errors(*pred, *true, *valid)):
        known, c = valid[view], conf[view][valid[view]]
        assert abs(error[known].mean() - g[f"regr3d_detail_Regr3D_pts3d_{view + 1}"]) <= BAR
        term = (c * error[known] - 0.2 * c.log()).mean()
        assert abs(term - g["confloss_detail_" + ("conf_loss_1", "conf_loss2")[view]]) <= BAR


def test_heads_equal_the_original():
    "Golden dust3r_heads: depth mode exp, confidence mode exp from 1 on; a linear head with patches of 4."
    g = golden("dust3r_heads")
    points, conf = activate_head(g["raw_head_output_B4HW"].double())
    for made, name in ((points, "pts3d_depthmode_exp"), (conf, "conf_mode_exp_1_inf")):
        assert ((made - g[name]).abs() <= BAR * g[name].abs().clamp(min=1)).all()
    head = LinearHead(24, int(g["linear_head_patch"]))
    head.load_state_dict({"proj.weight": g["linear_head_weight"], "proj.bias": g["linear_head_bias"]})
    height, width = g["linear_head_img_hw"].tolist()
    points, conf = head(g["linear_head_tokens"], height // head.patch)
    assert points.shape == (2, height, width, 3)
    for made, name in ((points, "linear_head_pts3d"), (conf, "linear_head_conf")):
        assert ((made - g[name]).abs() <= BAR * g[name].abs().clamp(min=1)).all()


# --- the definition ------------------------------------------------------------------------------------------


def by_hand(pred, conf, true, valid, alpha):
    "Eqs. 2 to 4 pixel by pixel, the batch flattened."
    def size(pair, b):
        lengths = [math.hypot(*p[b, y, x].tolist()) for p, v in zip(pair, valid) for y, x in v[b].nonzero().tolist()]
        return sum(lengths) / len(lengths)

    total, plain = 0.0, 0.0
    for view in (0, 1):
        terms, errors = [], []
        for b, y, x in valid[view].nonzero().tolist():
            a, t = pred[view][b, y, x] / size(pred, b), true[view][b, y, x] / size(true, b)
            error, c = math.dist(a.tolist(), t.tolist()), conf[view][b, y, x].item()
            errors.append(error), terms.append(c * error - alpha * math.log(c))
        total, plain = total + sum(terms) / len(terms), plain + sum(errors) / len(errors)
    return plain, total


@quick
@given(seed=seeds, batch=batches, alpha=st.floats(0, 2))
def test_losses_are_their_definition(seed, batch, alpha):
    pred, conf, true, valid = draw(seed, *batch, size_2=(2, 5))
    flat = [[x.reshape(-1, *x.shape[len(batch):]) for x in pair] for pair in (pred, conf, true, valid)]
    plain, total = by_hand(*flat, alpha)
    assert regression_loss(*pred, *true, *valid).item() == pytest.approx(plain, rel=1e-9)
    assert confidence_loss(*pred, *conf, *true, *valid, alpha=alpha).item() == pytest.approx(total, rel=1e-9, abs=1e-9)


def test_alpha_s_default():
    pred, conf, true, valid = draw(0, 2)
    assert confidence_loss(*pred, *conf, *true, *valid) == confidence_loss(*pred, *conf, *true, *valid, alpha=0.2)
    ones = [torch.ones_like(c) for c in conf]
    assert torch.isclose(confidence_loss(*pred, *ones, *true, *valid), regression_loss(*pred, *true, *valid))


@quick
@given(seed=seeds, factor=st.floats(1e-3, 1e3), batch=batches)
def test_scale_of_either_pair_is_not_seen(seed, factor, batch):
    pred, conf, true, valid = draw(seed, *batch)
    loss = confidence_loss(*pred, *conf, *true, *valid)
    assert torch.isclose(confidence_loss(*(factor * p for p in pred), *conf, *true, *valid), loss)
    assert torch.isclose(confidence_loss(*pred, *conf, *(factor * t for t in true), *valid), loss)
    assert not torch.isclose(confidence_loss(pred[0], 2 * pred[1], *conf, *true, *valid), loss)
    scaled = normalize_pointmaps(*(factor * p for p in pred), *valid)
    assert torch.allclose(scaled[2], factor * mean_distance(*pred, *valid)[..., 0, 0, 0])
    assert torch.allclose(mean_distance(*scaled[:2], *valid), torch.ones((), dtype=torch.float64))


def test_a_perfect_prediction_costs_nothing_and_has_a_finite_gradient():
    _, _, true, valid = draw(3, 2)
    pred = [t.clone().requires_grad_() for t in true]
    loss = regression_loss(*(3 * p for p in pred), *true, *valid)
    assert loss < 1e-12
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, pred))


# --- gradients -----------------------------------------------------------------------------------------------


@quick
@given(seed=seeds, batch=batches)
def test_gradient_has_no_part_along_the_prediction(seed, batch):
    "The loss does not change with the prediction's scale (Euler), for every pair on its own."
    pred, conf, true, valid = draw(seed, *batch)
    leaves = [p.requires_grad_() for p in pred]
    grads = torch.autograd.grad(confidence_loss(*leaves, *conf, *true, *valid), leaves)
    along = sum((g * p).sum((-3, -2, -1)) for g, p in zip(grads, pred))
    assert along.abs().max() < 1e-12
    assert all(not grad[~mask].any() for grad, mask in zip(grads, valid))


def test_gradients_are_those_of_finite_differences():
    pred, conf, true, valid = draw(5, 2)
    leaves = [x.requires_grad_() for x in pred + conf]
    assert gradcheck(lambda *a: confidence_loss(*a, *true, *valid), leaves)
    assert gradcheck(lambda *a: regression_loss(*a, *true, *valid), leaves[:2])
    assert gradcheck(lambda a, b: normalize_pointmaps(a, b, *valid)[2], leaves[:2])
    raw = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw[0, :3] *= 1e-4  # where the series takes over
    assert gradcheck(activate_head, (raw.requires_grad_(),))


def test_best_confidence_is_alpha_over_the_error():
    pred, conf, true, valid = draw(7)
    errors = pointmap_errors(*pred, *true, *valid)
    alpha = 3.0 * max(e.max().item() for e in errors)  # so that no best confidence is below 1
    best = [(alpha / e.clamp(min=1e-3)).requires_grad_() for e in errors]
    grads = torch.autograd.grad(confidence_loss(*pred, *best, *true, *valid, alpha=alpha), best)
    assert all(grad.abs().max() < 1e-12 for grad in grads)


# --- what is not known ---------------------------------------------------------------------------------------


@quick
@given(seed=seeds, value=st.sampled_from([math.nan, math.inf, 0.0, 1e30]))
def test_pixels_without_truth_may_hold_anything(seed, value):
    pred, conf, true, valid = draw(seed, 2)
    spoiled = [torch.where(v[..., None], t, value) for t, v in zip(true, valid)]
    guesses = [torch.where(v[..., None], p, value) for p, v in zip(pred, valid)]
    sure = [torch.where(v, c, value) for c, v in zip(conf, valid)]
    leaves, plain = [g.requires_grad_() for g in guesses + sure], [x.requires_grad_() for x in pred + conf]
    loss, expected = confidence_loss(*leaves, *spoiled, *valid), confidence_loss(*plain, *true, *valid)
    assert torch.equal(loss, expected)
    for grad, wanted in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, plain)):
        assert torch.equal(grad, wanted)


def test_a_view_without_a_known_pixel_counts_for_nothing():
    pred, conf, true, valid = draw(11, 2)
    nothing = torch.zeros_like(valid[1])
    leaves = [x.requires_grad_() for x in pred + conf]
    loss = confidence_loss(*leaves, *true, valid[0], nothing)
    grads = torch.autograd.grad(loss, leaves)
    assert loss.isfinite() and all(grad.isfinite().all() for grad in grads)
    assert not grads[1].any() and not grads[3].any() and grads[0].any()
    alone = [x[:, :0, :0] for x in (pred[1], conf[1], true[1], nothing)]
    assert torch.equal(loss, confidence_loss(pred[0], alone[0], conf[0], alone[1], true[0], alone[2], valid[0], alone[3]))


def test_a_pair_without_a_known_pixel_counts_for_nothing():
    pred, conf, true, valid = draw(12, 3)
    for mask in valid:
        mask[1] = False
    leaves = [x.requires_grad_() for x in pred]
    loss = confidence_loss(*leaves, *conf, *true, *valid)
    kept = [[x[[0, 2]] for x in pair] for pair in (pred, conf, true, valid)]
    assert torch.isclose(loss, confidence_loss(*kept[0], *kept[1], *kept[2], *kept[3]))
    assert all(grad.isfinite().all() and not grad[1].any() for grad in torch.autograd.grad(loss, leaves))
    *points, scale = normalize_pointmaps(*pred, *valid)
    assert scale[1] == 1 and torch.equal(points[0][1], pred[0][1])


def test_points_at_the_camera_s_centre_have_a_size():
    zeros, valid = torch.zeros(1, 2, 2, 3, requires_grad=True), torch.ones(1, 2, 2, dtype=torch.bool)
    true = torch.ones(1, 2, 2, 3)
    loss = regression_loss(zeros, zeros, true, true, valid, valid)
    assert loss.isfinite() and torch.autograd.grad(loss, zeros)[0].isfinite().all()


# --- bad input, other dtypes ---------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_by_name():
    pred, conf, true, valid = draw(13, 2, dtype=torch.float32)
    names = [f"{name}_{view}" for name in ("pred", "conf", "true", "valid") for view in (1, 2)]
    good = dict(zip(names, pred + conf + true + valid))
    confidence_loss(**good)
    none = torch.zeros_like(valid[0])
    for name, bad, kind, said in (
        ("pred_1", pred[0][:1], ValueError, "pred_1: expected shape"),
        ("pred_2", pred[1][:, :2], ValueError, "pred_2: expected shape"),
        ("true_1", true[0] / 0, ValueError, "true_1: expected finite numbers where valid_1"),
        ("true_2", true[1][..., :2], ValueError, "true_2: expected shape"),
        ("conf_1", conf[0] - 1, ValueError, "conf_1: expected 1 . exp"),
        ("conf_2", conf[1][..., None], ValueError, "conf_2: expected shape"),
        ("valid_1", valid[0].float(), TypeError, "valid_1: expected a boolean tensor"),
        ("valid_2", valid[1][0], ValueError, "valid_2: expected valid_1's leading dimensions"),
        ("pred_1", pred[0].tolist(), TypeError, "pred_1: expected a torch tensor"),
        ("alpha", -1.0, ValueError, "alpha: expected"),
    ):
        with pytest.raises(kind, match=said):
            confidence_loss(**good | {name: bad})
    for maps in (pred, pred + true):
        with pytest.raises(ValueError, match="expected at least one known pixel"):
            (normalize_pointmaps if maps is pred else regression_loss)(*maps, none, none)


def test_heads_refuse_what_does_not_fit():
    for bad, said in ((torch.zeros(3, 2, 2), "raw: expected shape"), (torch.zeros(4), "raw: expected shape")):
        with pytest.raises(ValueError, match=said):
            activate_head(bad)
    head = LinearHead(8, 2)
    with pytest.raises(ValueError, match="rows: expected a number that divides the 6 tokens, got 4"):
        head(torch.zeros(6, 8), 4)
    with pytest.raises(ValueError, match="tokens: expected shape"):
        head(torch.zeros(6, 7), 2)
    with pytest.raises(ValueError, match="patch: expected"):
        LinearHead(8, 0)


def test_half_precision_is_computed_in_float32():
    pred, conf, true, valid = draw(14, 2, dtype=torch.float32)
    half = confidence_loss(*(p.bfloat16() for p in pred), *conf, *true, *valid)
    rounded = confidence_loss(*(p.bfloat16().float() for p in pred), *conf, *true, *valid)
    assert half.dtype == torch.float32 and torch.equal(half, rounded)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(confidence_loss(*pred, *conf, *true, *valid), confidence_loss(*pred, *conf, *true, *valid))
    points, c = activate_head(torch.randn(4, 2, 2).bfloat16())
    assert points.dtype == c.dtype == torch.float32


def test_head_near_zero_is_the_identity():
    raw = torch.zeros(4, 1, 1, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda r: activate_head(r)[0].flatten(), raw)[:, :3, 0, 0]
    assert torch.equal(jacobian, torch.eye(3, dtype=torch.float64))
    assert torch.equal(activate_head(raw)[1], torch.full((1, 1), 2.0, dtype=torch.float64))
    d = torch.linspace(9e-4, 1.1e-3, 50, dtype=torch.float64)  # across the switch to the series
    raw = torch.zeros(4, 1, 50, dtype=torch.float64)
    raw[1] = d
    assert torch.allclose(activate_head(raw)[0][0, :, 1], d.expm1(), rtol=1e-10)
