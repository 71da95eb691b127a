"""What each position code is indifferent to, cell by cell of the chapter's table; cameras on features against eq. 12."""

import math
from functools import cache
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from nvs_book.cameras import Camera, look_at, plucker
from nvs_book.rotary import (
    RotaryCrossAttention,
    act,
    attend,
    axial_angles,
    camera_attention,
    camera_matrices,
    grid_positions,
    plucker_tokens,
    rope_1d,
    rope_2d,
    rope_3d,
    rope_frequencies,
    rotate,
    sincos_2d,
    sincos_axial,
    spatial_frequencies,
    token_points,
)

DIM, ROWS, COLUMNS = 48, 2, 3
TOKENS = ROWS * COLUMNS


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ------------------------------------------------------------------------------------------------ scenes, and what befalls them
class Scene(NamedTuple):
    exo: Camera
    ego: Camera
    depth_exo: torch.Tensor
    depth_ego: torch.Tensor
    first: torch.Tensor  # row and column of the first token


def scene(seed):
    g = torch.Generator().manual_seed(seed)
    K = torch.tensor([[30.0, 0, 12], [0, 30, 8], [0, 0, 1]])
    eyes = torch.tensor([1.0, -1.5, 0.0]) + torch.tensor([1.0, 3.0, 1.5]) * torch.rand(2, 3, generator=g)
    cameras = [Camera(K, look_at(eye, torch.rand(3, generator=g) - 0.5), 8 * ROWS, 8 * COLUMNS) for eye in eyes]
    return Scene(*cameras, *(1 + 2 * torch.rand(2, ROWS, COLUMNS, generator=g)), torch.zeros(2))


def with_pose(camera, c2w):
    return Camera(camera.K, c2w.to(camera.dtype), camera.height, camera.width)


def world_moved(scene, motion):
    return scene._replace(**{name: with_pose(c, motion @ c.c2w.double()) for name, c in (("exo", scene.exo), ("ego", scene.ego))})


def world_scaled(scene, factor):
    stretch = torch.ones(4, 4)
    stretch[:3, 3] = factor
    return Scene(*(with_pose(c, c.c2w * stretch) for c in scene[:2]), *(depth * factor for depth in scene[2:4]), scene.first)


def ego_zoomed(scene, factor):
    K = scene.ego.K * torch.tensor([[factor, 1, 1], [1, factor, 1], [1, 1, 1]])
    return scene._replace(ego=Camera(K, scene.ego.c2w, scene.ego.height, scene.ego.width))


def motion(turn, shift):  # turn: axis times angle (radians)
    x, y, z = turn
    out = torch.eye(4, dtype=torch.float64)
    out[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    out[:3, 3] = torch.tensor(shift, dtype=torch.float64)
    return out


three = st.lists(st.floats(-2, 2), min_size=3, max_size=3)
changes = {
    "pixels renumbered": st.tuples(st.integers(-50, 50), st.integers(-50, 50)).map(
        lambda n: lambda s: s._replace(first=s.first + torch.tensor(n))),
    "world shifted": three.map(lambda t: lambda s: world_moved(s, motion((0, 0, 0), t))),
    "world moved": st.tuples(three, three).map(lambda m: lambda s: world_moved(s, motion(*m))),
    "world scaled": st.floats(0.2, 5).map(lambda f: lambda s: world_scaled(s, f)),
    "ego zooms": st.floats(0.3, 3).map(lambda f: lambda s: ego_zoomed(s, f)),
}


# ------------------------------------------------------------------------------------------------ the codes
@cache
def features():
    return numbers(2, TOKENS, DIM)


LIFT = numbers(6, DIM, seed=1)


def pixels(s):
    return s.first + grid_positions(ROWS, COLUMNS)


def in_space(s, frame):
    return [token_points(camera, depth, frame=frame) for camera, depth in ((s.ego, s.depth_ego), (s.exo, s.depth_exo))]


def scores(q, k):
    return q @ k.mT / DIM**0.5


def added(codes):
    return scores(*(f + c for f, c in zip(features(), codes)))


def turned(by, *places):
    return scores(*(by(f, p) for f, p in zip(features(), places if len(places) == 2 else places * 2)))


def acted(s, kind, with_pixels=True):
    ego, exo = (camera_matrices(camera, kind, unit=2.0)[None] for camera in (s.ego, s.exo))
    angles = -axial_angles(pixels(s), rope_frequencies(DIM // 4, 100.0)) if with_pixels else None
    q, k = features()[:, None]
    return scores(act(ego.mT, angles, q), act(torch.linalg.inv(exo), angles, k))[0]


codes = {
    "none": lambda s: scores(*features()),
    "sin-cos": lambda s: added([sincos_2d(pixels(s), DIM)] * 2),
    "Plücker, world": lambda s: added([plucker_tokens(c, 8) @ LIFT for c in (s.ego, s.exo)]),
    "Plücker, exo": lambda s: added([plucker_tokens(c, 8, frame=s.exo) @ LIFT for c in (s.ego, s.exo)]),
    "sin-cos of points, ego": lambda s: added([sincos_axial(p, spatial_frequencies(DIM // 6)) for p in in_space(s, s.ego)]),
    "RoPE 1D": lambda s: turned(rope_1d, s.first[0] * COLUMNS + s.first[1] + torch.arange(TOKENS)),
    "RoPE2D": lambda s: turned(rope_2d, pixels(s)),
    "rope_3d, world": lambda s: turned(rope_3d, *in_space(s, None)),
    "4Diff": lambda s: turned(rope_3d, *in_space(s, s.ego)),
    "CaPE": lambda s: acted(s, "pose", with_pixels=False),
    "GTA": lambda s: acted(s, "pose"),
    "PRoPE": lambda s: acted(s, "projection"),
}
indifferent = {
    "pixels renumbered": {*codes} - {"sin-cos"},
    "world shifted": {*codes} - {"Plücker, world"},
    "world moved": {*codes} - {"Plücker, world", "rope_3d, world"},
    "world scaled": {"none", "sin-cos", "RoPE 1D", "RoPE2D"},
    "ego zooms": {"none", "sin-cos", "RoPE 1D", "RoPE2D", "CaPE", "GTA"},
}


@pytest.mark.parametrize("change", changes)
def test_what_a_code_claims_to_be_indifferent_to_it_is(change):
    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 10**6), changes[change])
    def holds(seed, apply):
        before, after = scene(seed), apply(scene(seed))
        for name in indifferent[change]:
            was, now = codes[name](before), codes[name](after)
            error = ((now - was).abs().max() / was.abs().max()).item()  # relative to the largest score, float32
            assert error <= 1e-5, (name, error)

    holds()


@pytest.mark.parametrize("change, name", [(c, n) for c in changes for n in codes if n not in indifferent[c]])
def test_what_a_code_does_not_claim_has_counter_examples(change, name):
    apply = {"pixels renumbered": lambda s: s._replace(first=s.first + torch.tensor([3, -2])),
             "world shifted": lambda s: world_moved(s, motion((0, 0, 0), (1.0, -0.5, 0.7))),
             "world moved": lambda s: world_moved(s, motion((0.4, 0.3, -0.6), (1.0, -0.5, 0.7))),
             "world scaled": lambda s: world_scaled(s, 1.3), "ego zooms": lambda s: ego_zoomed(s, 1.3)}[change]
    for seed in range(20):
        before, after = codes[name](scene(seed)), codes[name](apply(scene(seed)))
        assert (after - before).abs().max() > 1e-2 * before.abs().max()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), three, three)
def test_what_attention_returns_is_as_indifferent_as_its_scores(seed, turn, shift):
    before = scene(seed)
    after = world_moved(before, motion(turn, shift))
    q, k, v = numbers(3, 1, TOKENS, DIM, seed=2)
    angles = axial_angles(pixels(before), rope_frequencies(DIM // 4, 100.0))
    layer = rotary_layer()
    for kind in ("pose", "projection"):
        a, b = (camera_attention(q, k, v, *(camera_matrices(c, kind, unit=2.0)[None] for c in (s.ego, s.exo)), angles, angles)
                for s in (before, after))
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()
    with torch.no_grad():
        a, b = (layer(q[0], k[0], *in_space(s, s.ego)) for s in (before, after))
    assert (a - b).abs().max() <= 1e-5


@cache
def rotary_layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RotaryCrossAttention(DIM, 2)


def test_values_left_alone_are_what_cape_does_and_not_what_gta_does():
    s, (q, k, v) = scene(0), numbers(3, 1, TOKENS, DIM)
    matrices = [camera_matrices(c)[None] for c in (s.ego, s.exo)]
    same = v[:, :1].expand_as(v)  # one value for all: the weights do not matter
    torch.testing.assert_close(camera_attention(q, k, same, *matrices, act_on_values=False), same)
    relative = matrices[0] @ torch.linalg.inv(matrices[1])
    torch.testing.assert_close(camera_attention(q, k, same, *matrices), act(relative, None, same), atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ against the definition
def camera_attention_spec(q, k, v, matrices_q, matrices_k, angles_q, angles_k, act_on_values):
    "Eq. 12 for one head, with the (d, d) matrix of every pair of tokens written out."
    def rho(matrix, angles):
        if angles is None:
            return torch.block_diag(*[matrix] * (q.shape[-1] // 4))
        c, s = torch.diag(angles.cos()), torch.diag(angles.sin())
        return torch.block_diag(*[matrix] * (q.shape[-1] // 8), torch.cat([torch.cat([c, -s], 1), torch.cat([s, c], 1)]))

    def pick(angles, i):
        return None if angles is None else angles[i]

    out = []
    for i in range(len(q)):
        mine = rho(matrices_q[i], pick(angles_q, i))
        between = [mine @ torch.linalg.inv(rho(matrices_k[j], pick(angles_k, j))) for j in range(len(k))]
        weights = torch.stack([q[i] @ M @ k[j] for j, M in enumerate(between)]).div(q.shape[-1] ** 0.5).softmax(0)
        out.append(sum(w * (M @ x if act_on_values else x) for w, M, x in zip(weights, between, v)))
    return torch.stack(out)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans(),
       st.sampled_from(["pose", "projection"]))
def test_camera_attention_equals_the_definition(seed, n, m, with_angles, act_on_values, kind):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(size, 16, generator=g, dtype=torch.float64) for size in (n, m, m))
    angles = [torch.randn(size, 4, generator=g, dtype=torch.float64) if with_angles else None for size in (n, m)]
    views = [camera_matrices(scene(seed + i).ego.to(torch.float64), kind, unit=2.0) for i in range(n + m)]
    matrices = torch.stack(views[:n]), torch.stack(views[n:])
    made = camera_attention(q[None], k[None], v[None], *matrices, *angles, act_on_values)[0]
    torch.testing.assert_close(made, camera_attention_spec(q, k, v, *matrices, *angles, act_on_values))


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
def test_leading_dimensions_heads_and_one_matrix_for_all(batch):
    q, k, v = (numbers(*batch, 3, size, 16, seed=size) for size in (4, 5, 5))
    s = scene(0)
    one_q, one_k = (camera_matrices(c, "projection").expand(*batch, 1, 4, 4) for c in (s.ego, s.exo))
    angles_q, angles_k = numbers(4, 4), numbers(5, 4)
    made = camera_attention(q, k, v, one_q, one_k, angles_q, angles_k)
    many = one_q.expand(*batch, 4, 4, 4), one_k.expand(*batch, 5, 4, 4)
    torch.testing.assert_close(made, camera_attention(q, k, v, *many, angles_q, angles_k))
    flat = [x.reshape(-1, *x.shape[-3:])[-1] for x in (q, k, v)]
    alone = camera_attention(*flat, one_q.reshape(-1, 1, 4, 4)[0], one_k.reshape(-1, 1, 4, 4)[0], angles_q, angles_k)
    torch.testing.assert_close(made.reshape(-1, 3, 4, 16)[-1], alone)
    head = camera_attention(q[..., :1, :, :], k[..., :1, :, :], v[..., :1, :, :], one_q, one_k, angles_q, angles_k)
    torch.testing.assert_close(made[..., :1, :, :], head)  # heads do not mix


def test_one_mask_and_many_matrices_without_a_batch_of_their_own():
    q, k, v = (numbers(2, 3, size, 16, seed=size) for size in (4, 5, 5))
    s, mask = scene(0), torch.arange(5) < 3
    ego, exo = (camera_matrices(c)[None] for c in (s.ego, s.exo))
    made = camera_attention(q, k, v, ego, exo, act_on_values=True, mask=mask)
    torch.testing.assert_close(made, camera_attention(q, k[..., :3, :], v[..., :3, :], ego, exo))
    torch.testing.assert_close(camera_attention(q[0], k[0], v[0], ego.expand(2, 1, 4, 4), exo).shape, torch.Size([2, 3, 4, 16]))


def test_within_one_camera_gta_and_prope_are_rope2d_on_half_of_the_features():
    q, k, v = numbers(3, 1, 6, 16)
    angles = axial_angles(grid_positions(2, 3), rope_frequencies(4, 100.0))
    matrix = camera_matrices(scene(0).ego, "projection")[None]
    made = camera_attention(q, k, v, matrix, matrix, angles, angles)
    turn = [torch.cat([x[..., :8], rotate(x[..., 8:], -angles)], -1) for x in (q, k, v)]
    found = attend(*turn)
    torch.testing.assert_close(made, torch.cat([found[..., :8], rotate(found[..., 8:], angles)], -1), atol=1e-5, rtol=1e-5)


def test_the_key_is_brought_into_the_querys_camera():
    "One block of four: the point that the key's camera sees at X is seen by the query's at T X."
    s = scene(1)
    X = torch.tensor([0.2, -0.3, 2.0, 1.0])
    eye = torch.eye(4)
    matrices = [camera_matrices(c)[None] for c in (s.ego, s.exo)]
    made = camera_attention(numbers(1, 1, 4), numbers(1, 1, 4), X[None, None], *matrices)
    torch.testing.assert_close(made[0, 0], s.ego.w2c @ s.exo.c2w @ X)
    torch.testing.assert_close(act(eye[None], None, X[None, None])[0, 0], X)


def test_matrices_of_a_camera():
    camera = scene(2).ego
    torch.testing.assert_close(camera_matrices(camera), camera.w2c)
    half = camera_matrices(camera, unit=2.0)
    torch.testing.assert_close(half[:3, 3], camera.w2c[:3, 3] / 2)
    P, X = camera_matrices(camera, "projection"), torch.tensor([0.1, 0.2, -0.3])
    x, y, z, one = P @ F.pad(X, (0, 1), value=1.0)
    xy, depth = camera.project(X)
    size = torch.tensor([camera.width, camera.height])
    torch.testing.assert_close(torch.stack([x, y]) / z, xy / size - 0.5)
    assert math.isclose(z, depth, rel_tol=1e-5) and one == 1
    torch.testing.assert_close(camera_matrices(camera.resized(32, 48), "projection"), P)
    pair = Camera(camera.K, torch.stack([camera.c2w, torch.eye(4)]), camera.height, camera.width)
    assert camera_matrices(pair, "projection").shape == (2, 4, 4)


def test_plucker_tokens_are_the_rays_through_the_tokens_centres():
    s = scene(3)
    torch.testing.assert_close(plucker_tokens(s.ego, 1), plucker(s.ego).flatten(0, 1))
    rays = plucker_tokens(s.ego, 8, frame=s.exo)
    points = token_points(s.ego, s.depth_ego, frame=s.exo)
    torch.testing.assert_close(torch.linalg.cross(points, rays[:, :3]), rays[:, 3:], atol=1e-5, rtol=1e-5)


def test_a_low_precision_keeps_its_dtype_and_the_pose_its_precision():
    s, x = scene(0), numbers(1, TOKENS, 16).bfloat16()
    matrix = camera_matrices(s.ego)[None]
    assert act(matrix, None, x).dtype == torch.bfloat16
    torch.testing.assert_close(act(matrix, None, x), act(matrix, None, x.float()).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(act(matrix, None, x.float()), act(matrix, None, x.float()), atol=0, rtol=0)
        inside = act(matrix, None, x.float())
    torch.testing.assert_close(inside, act(matrix, None, x.float()), atol=0, rtol=0)


def test_gradients():
    q, k, v = (numbers(1, 2, 8, seed=seed, dtype=torch.float64).requires_grad_() for seed in range(3))
    angles = [numbers(2, 2, seed=seed, dtype=torch.float64).requires_grad_() for seed in range(2)]
    matrices = [camera_matrices(c.to(torch.float64), "projection", unit=2.0)[None].requires_grad_() for c in scene(0)[:2]]
    assert gradcheck(camera_attention, (q, k, v, *matrices, *angles))


# ------------------------------------------------------------------------------------------------ bad input
X, M, A = torch.zeros(2, 3, 16), torch.eye(4)[None], torch.zeros(3, 4)


@pytest.mark.parametrize("change, words", [
    ({"q": X[..., :12]}, ["q", "divisible by 8", "12"]),
    ({"q": X[..., :6], "k": X[..., :6], "v": X[..., :6], "angles_q": None, "angles_k": None}, ["q", "divisible by 4", "6"]),
    ({"k": X[..., :8]}, ["k", "d=16", "(2, 3, 8)"]),
    ({"v": X[:, :2]}, ["v", "m=3", "(2, 2, 16)"]),
    ({"angles_q": None}, ["angles_q, angles_k", "both or neither"]),
    ({"angles_q": A[:, :3]}, ["angles_q", "p=4", "(3, 3)"]),
    ({"angles_k": A / 0}, ["angles_k", "finite"]),
    ({"matrices_q": M.expand(2, 4, 4)}, ["matrices_q", "1 or 3", "2"]),
    ({"matrices_k": M[0]}, ["matrices_k", "n, 4, 4", "(4, 4)"]),
    ({"matrices_k": M * torch.nan}, ["matrices_k", "finite"]),
    ({"matrices_k": M[..., :3, :]}, ["matrices_k", "(1, 3, 4)"]),
    ({"mask": torch.ones(2, dtype=torch.bool)}, ["mask", "m=3", "(2,)"]),
])
def test_camera_attention_names_what_does_not_fit(change, words):
    given = {"q": X, "k": X, "v": X, "matrices_q": M, "matrices_k": M, "angles_q": A, "angles_k": A, **change}
    if change.keys() == {"q"}:
        given |= {"k": change["q"], "v": change["q"]}
    with pytest.raises(ValueError) as error:
        camera_attention(**given)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("make, words", [
    (lambda: camera_matrices(scene(0).ego, "inverse"), ["kind", "'pose'", "'inverse'"]),
    (lambda: camera_matrices(scene(0).ego, unit=0.0), ["unit", "> 0", "0.0"]),
    (lambda: plucker_tokens(scene(0).ego, 5), ["camera", "patches of 5", "16 x 24"]),
    (lambda: plucker_tokens(scene(0).ego, 0), ["patch", ">= 1"]),
])
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value
