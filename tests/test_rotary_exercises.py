"""The checks of rotary attention's exercises that look at what an answer does: the slip, the free answers, the kernel."""
import dataclasses
import importlib.util
import os
import re
import subprocess
import sys

import nbformat
import pytest
import torch
import torch.nn.functional as F

from nvs_book.cameras import invert_pose, relative_pose, transform_points
from nvs_book.exercises import check, judge, load_exercises
from nvs_book.rotary import camera_attention, rope_1d, rope_3d, sincos_axial, spatial_frequencies

EXERCISES = load_exercises("rotary")


@pytest.fixture
def sources(request):
    "The chapter's code cells."
    chapter = request.config.rootpath / "nbs" / "methods" / "11_rotary_attention.ipynb"
    return [cell.source for cell in nbformat.read(chapter, 4).cells if cell.cell_type == "code"]


def cell_of(sources, name):
    return next(source for source in sources if f"def {name}(" in source and "#| export" not in source)


# The slip.


@pytest.fixture
def slip(sources):
    "What the chapter's cells define: the rotation with its slip, and the test that finds it."
    import itertools

    scope = {"torch": torch, "itertools": itertools, "rope_1d": rope_1d}
    for name in ("rotate_tidied", "counter_example"):
        exec(cell_of(sources, name), scope)
    return scope


def test_the_property_finds_the_slip_and_nothing_in_right_rotations(slip):
    found = slip["counter_example"](slip["rotate_tidied"])
    assert re.fullmatch(r"query at 0, key at 0: score -?[\d.]+;  both moved by 1: -?[\d.]+", found)
    for right in (rope_1d, lambda x, p: rope_1d(x, p, layout="half"), lambda x, p: rope_1d(x, p, base=100.0), lambda x, p: x):
        assert slip["counter_example"](right) is None
    assert slip["counter_example"](lambda x, p: rope_1d(x, p**2)) and slip["counter_example"](lambda x, p: x + p[:, None])


def test_the_slip_is_subtle_and_the_check_knows_it(slip):
    x, p = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)), torch.arange(5)
    tidied = slip["rotate_tidied"](x, p)
    assert tidied.shape == x.shape and torch.equal(tidied[:, 0], x[:, 0])  # right at position 0
    assert not torch.allclose(tidied.norm(dim=-1)[:, 1:], x.norm(dim=-1)[:, 1:], atol=1e-2)  # no rotation anywhere else
    assert "The slip is still there" in check("rotary.5", slip["rotate_tidied"], seed=0).message
    free = dataclasses.replace(EXERCISES["rotary.5"], forbidden=())
    passed, message = judge(free, lambda x, p, base: rope_1d(x, p, base, "half"), 0)
    assert not passed and "the pairs are half-split now" in message  # the property holds, the weights don't fit


# Attention without an origin: any answer that has the properties is right.


def seen_from(c2w, *points):
    return (transform_points(invert_pose(c2w), p) for p in points)


def in_exo_frame(q, k, v, points_q, points_k, c2w_q, c2w_k):
    here, there = seen_from(c2w_k, points_q, points_k)
    return F.scaled_dot_product_attention(rope_3d(q, here), rope_3d(k, there), v)


def in_double(*arguments):
    return in_exo_frame(*(a.double() for a in arguments))


def by_squared_distances(q, k, v, points_q, points_k, c2w_q, c2w_k):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=-torch.cdist(points_q, points_k) ** 2)


def added_by_the_relative_pose(q, k, v, points_q, points_k, c2w_q, c2w_k):
    here, own = next(seen_from(c2w_q, points_q)), next(seen_from(c2w_k, points_k))
    there, waves = transform_points(relative_pose(c2w_k, c2w_q), own), spatial_frequencies(4)
    return F.scaled_dot_product_attention(q + sincos_axial(here, waves), k + sincos_axial(there, waves), v)


def by_differences(q, k, v, points_q, points_k, c2w_q, c2w_k):
    apart = ((points_k - points_q[:, None]) @ c2w_q[:3, :3]).sin().sum(-1)
    return (q @ k.mT + apart).softmax(-1) @ v


def gta(q, k, v, points_q, points_k, c2w_q, c2w_k):
    matrices = (torch.linalg.inv(c2w)[None] for c2w in (c2w_q, c2w_k))
    return camera_attention(q, k, v, *matrices)


def cape(q, k, v, points_q, points_k, c2w_q, c2w_k):
    matrices = (torch.linalg.inv(c2w)[None] for c2w in (c2w_q, c2w_k))
    return camera_attention(q, k, v, *matrices, act_on_values=False)


FREE = (in_exo_frame, in_double, by_squared_distances, added_by_the_relative_pose, by_differences)


@pytest.mark.parametrize("answer", FREE)
@pytest.mark.parametrize("seed", range(4))
def test_any_attention_without_an_origin_is_right(answer, seed):
    assert judge(EXERCISES["rotary.4"], answer, seed) == (True, "Right.")


@pytest.mark.parametrize("answer", (gta, cape))
def test_the_library_s_own_would_be_right_and_is_refused(answer):
    free = dataclasses.replace(EXERCISES["rotary.4"], forbidden=())
    assert judge(free, answer, 0) == (True, "Right.")
    assert "library's own `camera_attention`" in judge(EXERCISES["rotary.4"], answer, 0)[1]


WAVES = spatial_frequencies(4)
TIED = {
    "own camera's frame": lambda q, k, v, pq, pk, cq, ck: F.scaled_dot_product_attention(
        *(x + sincos_axial(next(seen_from(c, p)), WAVES) for x, p, c in ((q, pq, cq), (k, pk, ck))), v),
    "still the world's": lambda q, k, v, pq, pk, cq, ck: in_exo_frame(q, k, v, pq, pk, cq, torch.eye(4)),
    "geometry is gone": lambda q, k, v, *places: F.scaled_dot_product_attention(q, k, v),
    "another result each time": lambda q, *rest: in_exo_frame(q, *rest) + torch.randn(1),
    r"shape \(5, 24\)": lambda q, *rest: in_exo_frame(q, *rest)[0],
    "of the type list": lambda q, *rest: in_exo_frame(q, *rest).tolist(),
    "NaN or infinite": lambda q, *rest: in_exo_frame(q, *rest) / 0,
    "every score changes": lambda q, k, v, pq, pk, *cameras: F.scaled_dot_product_attention(
        q + sincos_axial(pq / 5, WAVES), k + sincos_axial(pk / 5, WAVES), v),
    "stays as it is when the context and its camera are shifted alone": lambda q, k, v, pq, pk, cq, ck: (
        F.scaled_dot_product_attention(q, k, v) * (pq - cq[:3, 3]).norm(dim=-1)[:, None]),
    "changes when the context is listed in another order": lambda q, k, v, *rest: in_exo_frame(q, k, v.roll(1, -2), *rest)
    + v[..., :1, :],
}


@pytest.mark.parametrize("idea", TIED)
def test_what_is_wrong_is_said_in_words(idea):
    passed, message = judge(EXERCISES["rotary.4"], TIED[idea], 1)
    assert not passed and re.search(idea, message), message


def test_the_picture_shows_the_drift():
    verdict = check("rotary.4", TIED["every score changes"], seed=0)
    assert verdict.figure[:8] == b"\x89PNG\r\n\x1a\n"


# The kernel.

KERNEL = '''
import math, torch, triton, triton.language as tl
from nvs_book.exercises import check
{cells}

def twice(q, k, positions, base):
    return rotate_on_gpu(q, q, positions, base)[0], rotate_on_gpu(k, k, positions, base)[0]

def partly(q, k, positions, base):
    return rotate_on_gpu(q, k, positions, base)[0], -(-rotate_on_gpu(q, k, positions, base)[1])

def as_list(*arguments):
    return list(rotate_on_gpu(*arguments))

for answer in (rotate_on_gpu, as_list, twice, partly):
    print(check("rotary.6", answer, seed=0).message)
'''


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs triton")
def test_one_kernel_is_right_two_are_not_and_torch_is_none(sources, tmp_path):
    cells = [next(s for s in sources if "def rotate_kernel(" in s), cell_of(sources, "rotate_on_gpu")]
    script = tmp_path / "kernel.py"  # triton reads its kernels from a file
    script.write_text(KERNEL.format(cells="\n\n".join(cells)))
    env = {**os.environ, **({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})}
    run = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    said = run.stdout.splitlines()
    assert said[:2] == ["Right.", "Right."] and "two kernels were launched" in said[2] and "torch computed it" in said[3], said
