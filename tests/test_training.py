"""The training loop: closed forms, resuming after a kill, several processes, bad input."""

import hashlib
import json
import math
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from nvs_book import training as T
from nvs_book.training import TrainConfig, fit

# One script for one process, for several, and for the process that is killed.
SCRIPT = """
import os, sys, time, torch
from torch import nn
from nvs_book.training import TrainConfig, fit, seeded

folder, pause, through_accelerate = sys.argv[1], float(sys.argv[2]), sys.argv[3:] == ["accelerate"]
if through_accelerate:
    from accelerate import PartialState
    assert PartialState(cpu=True).num_processes == 2

def batches(step):
    x = torch.rand(step.batch_size, 2, generator=step.generator)[step.mine]
    return x, x.prod(-1, keepdim=True)

def loss(net, batch):
    time.sleep(pause)
    error = net(batch[0]) - batch[1]
    return error.square().mean(), {"mae": error.abs().mean()}

with seeded(int(os.environ.get("RANK", 0))):  # the processes begin with different weights: rank 0's must win
    net = nn.Sequential(nn.Linear(2, 32), nn.GELU(), nn.Dropout(0.0 if "WORLD_SIZE" in os.environ else DROPOUT), nn.Linear(32, 1))
fit(net, loss, batches, TrainConfig(steps=60, batch_size=32, lr=1e-2, checkpoint_every=10), folder)
"""


def script(tmp_path, dropout):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.replace("DROPOUT", str(dropout)))
    return str(path)


def run_here(tmp_path, *args, dropout=0.0):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script.py", *map(str, args)])
        runpy.run_path(script(tmp_path, dropout))
    torch.set_num_threads(threads)


def start(tmp_path, *args, dropout=0.0, launcher=()):
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(T.__file__).parents[1])}
    command = [sys.executable, *launcher, script(tmp_path, dropout), *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(job):
    _, said = job.communicate(timeout=300)
    assert job.returncode == 0, said


def quadratic(net, batch):
    return (net(batch) - 1).square().mean()


def normal(step):
    return torch.randn(step.batch_size, 3, generator=step.generator)[step.mine]


def linear(seed=0, dtype=torch.float32):
    with T.seeded(seed):
        return nn.Linear(3, 2, dtype=dtype)


def config(**more):
    return TrainConfig(**(dict(steps=20, batch_size=4, lr=1e-2, checkpoint_every=5) | more))


def stop_at(number, batches=normal):
    def stopping(step):
        if step.number == number:
            raise KeyboardInterrupt
        return batches(step)

    return stopping


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- closed forms -------------------------------------------------------------------------------------------------------


def test_learning_rate_is_linear_then_half_a_cosine():
    c = TrainConfig(steps=110, warmup=10, lr=0.5)
    assert [T.lr_at(s, c) for s in range(10)] == pytest.approx([0.05 * (s + 1) for s in range(10)])
    assert T.lr_at(10, c) == 0.5 and T.lr_at(60, c) == pytest.approx(0.25) and T.lr_at(110, c) == pytest.approx(0, abs=1e-12)
    assert T.lr_at(35, c) == pytest.approx(0.25 * (1 + math.sqrt(0.5)))


def test_learning_rate_that_fit_used_is_the_formula():
    c = config(steps=15, warmup=4)
    record = fit(linear(), quadratic, normal, c).record
    assert record["curve"]["lr"] == pytest.approx([T.lr_at(s, c) for s in range(15)], rel=1e-6)


def test_first_step_of_adamw_is_the_rate_times_the_sign():
    net = linear(dtype=torch.float64)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    c = config(steps=1, warmup=0, lr=0.1, weight_decay=0.3, clip=0, ema=0)
    batch = normal(T.Step(0, 4, 0)).double()
    fit(net, quadratic, lambda step: batch, c)
    grads = dict(zip(before, torch.autograd.grad(quadratic(with_weights(before), batch), list(before.values()))))
    for n, p in net.named_parameters():
        decayed = before[n] * (1 - 0.1 * (0.3 if p.ndim == 2 else 0))  # biases are not decayed
        assert torch.allclose(p, decayed - 0.1 * grads[n].sign(), atol=1e-6)


def with_weights(values):
    for v in values.values():
        v.requires_grad_(True)
    return lambda x: x @ values["weight"].T + values["bias"]


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.999), st.integers(1, 30), st.integers(0, 1000))
def test_average_is_the_weighted_mean_of_all_weights(decay, steps, seed):
    weights = torch.randn(steps, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ema, module = nn.Linear(3, 2, bias=False, dtype=torch.float64), nn.Linear(3, 2, bias=False, dtype=torch.float64)
    for s, w in enumerate(weights):
        module.weight.data.copy_(w)
        T.update_ema(ema, module, T.ema_rate(s, decay))
    share = torch.tensor([decay ** (steps - 1 - s) for s in range(steps)], dtype=torch.float64)
    assert torch.allclose(ema.weight, torch.einsum("s,soi->oi", share / share.sum(), weights), atol=1e-10)


def test_average_of_fit_is_the_weighted_mean_of_its_weights():
    seen = []

    def loss(net, batch):
        seen.append(net.weight.detach().clone())
        return quadratic(net, batch)

    net = linear()
    out = fit(net, loss, normal, config(steps=12, ema=0.7))
    weights = torch.stack([*seen[1:], net.weight.detach()])
    share = 0.7 ** torch.arange(11, -1, -1.0)
    assert torch.allclose(out.ema.weight, torch.einsum("s,soi->oi", share / share.sum(), weights), atol=1e-6)
    assert out.module is net and not same_weights(out.ema, net)


def test_without_average_the_module_itself_comes_back():
    out = fit(linear(), quadratic, normal, config(ema=0))
    assert out.ema is out.module


def test_buffers_follow_and_frozen_parameters_stay():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    out = fit(net, quadratic, normal, config(ema=0.9))
    assert torch.equal(net[0].weight, frozen) and torch.equal(out.ema[0].weight, frozen)
    assert torch.equal(out.ema[1].running_mean, net[1].running_mean) and net[1].running_mean.abs().sum() > 0


def test_gradient_is_clipped_to_its_largest_norm(monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def watched(self, *args):
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups for p in g["params"])))
        return step(self, *args)

    def loss(net, batch):
        return 1000 * quadratic(net, batch)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    clipped = fit(linear(), loss, normal, config(steps=1, clip=0.5)).record
    fit(linear(), loss, normal, config(steps=1, clip=0))
    fit(linear(), loss, normal, config(steps=1, clip=1e9))
    assert norms[0] == pytest.approx(0.5, rel=1e-4) and norms[1] == norms[2] > 100
    assert clipped["curve"]["grad_norm"][0] == pytest.approx(norms[1], rel=1e-6)  # the record holds what it was before


# ---- random numbers and batches --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_slices_of_all_processes_are_the_global_batch(number, part, world, seed):
    whole = T.Step(number, part * world, seed)
    parts = [T.Step(number, part * world, seed, rank, world) for rank in range(world)]
    assert [i for p in parts for i in p.samples] == list(whole.samples)
    assert list(T.Step(number + 1, part * world, seed).samples)[0] == whole.samples[-1] + 1
    draw = torch.rand(part * world, generator=whole.generator)
    assert torch.equal(torch.cat([torch.rand(part * world, generator=p.generator)[p.mine] for p in parts]), draw)
    assert not torch.equal(draw, torch.rand(part * world, generator=T.Step(number, part * world, seed + 1).generator))


def test_generator_of_a_step_goes_on_when_used_twice():
    step = T.Step(3, 4, 0)
    assert not torch.equal(torch.rand(4, generator=step.generator), torch.rand(4, generator=step.generator))


def test_seeds_do_not_run_together():
    assert len({T.seed_of(*p) for p in [(1, 23), (12, 3), (123,), ("1", 23), (1, 24)]}) == 5
    assert T.seed_of("a", 1) == T.seed_of("a", 1) and 0 <= T.seed_of("a", 1) < 2**63


def test_global_generators_are_left_as_found():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with T.seeded(1):
        torch.rand(7)
    fit(linear(), quadratic, normal, config(steps=3))
    assert torch.equal(torch.rand(3), expected)


def test_dropout_is_drawn_from_the_seed():
    def train(seed):
        torch.manual_seed(time.time_ns() % 1000)  # whatever the state was
        net = nn.Sequential(linear(), nn.Dropout(0.5))
        return fit(net, quadratic, normal, config(seed=seed)).module

    assert same_weights(train(1), train(1)) and not same_weights(train(1), train(2))


def test_batches_prepared_by_workers_are_the_same():
    a, b = (fit(linear(), quadratic, normal, config(), workers=n).module for n in (0, 2))
    assert same_weights(a, b)


def test_nested_batches_are_moved_whole():
    from collections import namedtuple

    pair = namedtuple("pair", "a b")
    moved = T.to_device({"x": [torch.ones(2), (pair(torch.ones(1), "name"), 3)]}, torch.device("meta"))
    assert moved["x"][0].device.type == "meta" and moved["x"][1][0].a.device.type == "meta"
    assert moved["x"][1][0].b == "name" and moved["x"][1][1] == 3


def test_dtype_is_the_modules():
    net = linear(dtype=torch.float64)
    out = fit(net, quadratic, lambda step: normal(step).double(), config())
    assert out.ema.weight.dtype == torch.float64 and net.weight.dtype == torch.float64


# ---- killed, resumed ----------------------------------------------------------------------------------------------------


def test_killed_run_ends_with_the_same_bits(tmp_path):
    dropout = 0.1  # so that torch's own random numbers count too
    job = start(tmp_path, tmp_path / "killed", 0.02, dropout=dropout)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("checkpoint-*20.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL and not (tmp_path / "killed" / "weights.safetensors").exists()
    finish(start(tmp_path, tmp_path / "killed", 0, dropout=dropout))
    run_here(tmp_path, tmp_path / "whole", 0, dropout=dropout)
    a, b = ((tmp_path / n / "weights.safetensors").read_bytes() for n in ("killed", "whole"))
    assert a == b
    a, b = (T.load_record(tmp_path / n / "weights.safetensors") for n in ("killed", "whole"))
    assert a["curve"] == b["curve"] and a["weights_sha256"] == b["weights_sha256"]


def checkpoints(folder):
    return sorted(p.name for p in Path(folder).glob("checkpoint-*"))


@pytest.mark.parametrize("number", [3, 5, 12, 19])
def test_interrupted_anywhere_ends_with_the_same_bits(tmp_path, number):
    whole = fit(linear(), quadratic, normal, config(ema=0.8))
    with pytest.raises(KeyboardInterrupt):
        fit(linear(), quadratic, stop_at(number), config(ema=0.8), tmp_path)
    again = fit(linear(7), quadratic, normal, config(ema=0.8), tmp_path)  # other initial weights: the checkpoint's count
    if number > 5:
        assert same_weights(again.module, whole.module) and same_weights(again.ema, whole.ema)
        assert again.record["curve"] == whole.record["curve"]


def test_two_checkpoints_are_kept(tmp_path):
    fit(linear(), quadratic, normal, config(), tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-00000015.safetensors", "checkpoint-00000020.safetensors"]


def test_ended_run_comes_back_at_once(tmp_path):
    first = fit(linear(), quadratic, normal, config(), tmp_path)
    again = fit(linear(7), quadratic, stop_at(0), config(), tmp_path)
    assert same_weights(first.ema, again.ema) and again.record["weights_sha256"] == first.record["weights_sha256"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, damage):
    whole = fit(linear(), quadratic, normal, config())
    with pytest.raises(KeyboardInterrupt):
        fit(linear(), quadratic, stop_at(12), config(), tmp_path)
    path, data = tmp_path / "checkpoint-00000010.safetensors", (tmp_path / "checkpoint-00000010.safetensors").read_bytes()
    flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    path.write_bytes({"truncate": data[:-100], "flip": flipped, "empty": b"", "text": b"hello world, no tensors"}[damage])
    with pytest.warns(UserWarning, match="checkpoint-00000010.safetensors: not a whole checkpoint"):
        again = fit(linear(), quadratic, normal, config(), tmp_path)
    assert same_weights(again.module, whole.module)


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    (tmp_path / "checkpoint-00000005.safetensors").write_bytes(b"nothing")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"folder: no whole checkpoint among .*checkpoint-00000005"):
        fit(linear(), quadratic, normal, config(), tmp_path)


def test_folder_of_another_config_is_refused_with_what_differs(tmp_path):
    fit(linear(), quadratic, normal, config(), tmp_path)
    with pytest.raises(ValueError, match=r"folder: .*lr 0.01 there, 0.02 here; seed 0 there, 3 here"):
        fit(linear(), quadratic, normal, config(lr=0.02, seed=3), tmp_path)
    fit(linear(), quadratic, normal, config(checkpoint_every=7), tmp_path)  # how often to write changes no number


def test_folder_of_another_module_is_refused(tmp_path):
    fit(linear(), quadratic, normal, config(), tmp_path)
    with pytest.raises(ValueError, match=r"weight is \(2, 3\) in the file, \(5, 3\) in the module"):
        fit(nn.Linear(3, 5), quadratic, normal, config(), tmp_path)


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = T.write_atomic(tmp_path / "new" / "file", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        T.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


# ---- several processes ---------------------------------------------------------------------------------------------


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_two_processes_learn_the_curve_of_one(tmp_path):
    run_here(tmp_path, tmp_path / "one", 0)
    finish(start(tmp_path, tmp_path / "two", 0, launcher=TORCHRUN))
    one, two = (T.load_record(tmp_path / n / "weights.json") for n in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for name in ("loss", "mae", "grad_norm"):
        assert one["curve"][name] == pytest.approx(two["curve"][name], abs=1e-5)
    assert one["curve"]["loss"][-1] < 0.5 * one["curve"]["loss"][0]
    a, b = (load_file(tmp_path / n / "weights.safetensors") for n in ("one", "two"))
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)
    assert checkpoints(tmp_path / "two") == checkpoints(tmp_path / "one")


def test_processes_started_through_accelerate(tmp_path):
    pytest.importorskip("accelerate")
    finish(start(tmp_path, tmp_path / "two", 0, "accelerate", launcher=TORCHRUN))
    assert T.load_record(tmp_path / "two" / "weights.json")["processes"] == 2


def test_batch_that_processes_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(T, "join_processes", lambda device: (0, 3))
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes, got 4"):
        fit(linear(), quadratic, normal, config())


# ---- what is said, what is written ---------------------------------------------------------------------------------


def test_quiet_when_nobody_looks(capfd, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    fit(linear(), quadratic, normal, config())
    assert capfd.readouterr() == ("", "")


def test_live_loss_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    record = fit(linear(), quadratic, normal, config()).record
    shown = capsys.readouterr().err
    assert "20/20" in shown and f"loss={record['curve']['loss'][-1]:.4g}" in shown


def test_record_says_how_the_weights_were_made(tmp_path):
    steps = []

    def validate(net, step):
        assert not torch.is_grad_enabled() and not net.training
        steps.append(step)
        return {"bias": net.bias[0], "odd": float("nan")}

    def loss(net, batch):
        return quadratic(net, batch), {"first": batch[0, 0]}

    out = fit(linear(), loss, normal, config(validate_every=8, seed=4), tmp_path, validate, notes={"data": "normal"})
    r = json.loads((tmp_path / "weights.json").read_text())
    assert r == json.loads(json.dumps(out.record))
    assert TrainConfig(**r["config"]) == config(validate_every=8, seed=4) and r["seed"] == 4 and r["scale"] == "tiny"
    assert r["parameters"] == 8 and r["processes"] == 1 and r["torch"] == torch.__version__ and r["device"].startswith("cpu")
    assert r["seconds"] > 0 and r["peak_memory_bytes"] > 10e6 and r["commit"] and r["notes"] == {"data": "normal"}
    assert set(r["curve"]) == {"step", "loss", "grad_norm", "lr", "first"} and len(r["curve"]["loss"]) == 20
    assert steps == [8, 16, 20] and [v["step"] for v in r["validation"]] == steps
    assert r["metrics"]["bias"] == pytest.approx(float(out.ema.bias[0])) and r["metrics"]["odd"] is None
    assert r["metrics"]["loss"] == r["curve"]["loss"][-1]
    assert r["weights_sha256"] == hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    assert out.module.training, "the module's mode is left as it was"


def test_commit_is_of_our_own_files(tmp_path):
    def git(*args):
        run = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
        return subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    ours = tmp_path / "site" / "ours.py"
    ours.parent.mkdir()
    ours.write_text("1")
    (tmp_path / ".gitignore").write_text("site/\n")
    git("init", "-q"), git("add", ".gitignore"), git("commit", "-qm", "theirs")
    assert T.code_version(ours).startswith("nvs_book "), "a package installed below somebody else's checkout"
    git("add", "-f", "site/ours.py"), git("commit", "-qm", "ours")
    assert T.code_version(ours) == git("rev-parse", "HEAD")
    ours.write_text("2")
    assert T.code_version(ours) == git("rev-parse", "HEAD") + "-dirty"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 250))
def test_thinned_curve_keeps_means(steps, points):
    values = torch.arange(steps, dtype=torch.float32)
    curve = T.thin({"a": values}, points)
    assert len(curve["step"]) == min(points, steps) and curve["step"][-1] == steps - 1
    assert curve["step"] == sorted(set(curve["step"]))
    lengths = torch.tensor([-1, *curve["step"]]).diff()
    assert float((torch.tensor(curve["a"]) * lengths).sum()) == pytest.approx(float(values.sum()), rel=1e-4)


# ---- weights --------------------------------------------------------------------------------------------------------


def test_weights_come_back(tmp_path):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    record = T.save_weights(net, tmp_path / "w.safetensors", {"seed": 3})
    other = T.load_weights(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), tmp_path / "w.safetensors")
    assert same_weights(net, other) and T.load_record(tmp_path / "w.safetensors") == record and record["seed"] == 3
    assert os.stat(tmp_path / "w.safetensors").st_mode & 0o444 == 0o444 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_half_weights_take_half_the_space(tmp_path):
    net = nn.Linear(200, 200)
    full, half = (T.save_weights(net, tmp_path / f"{h}.safetensors", half=h)["weights_bytes"] for h in (False, True))
    other = T.load_weights(nn.Linear(200, 200), tmp_path / "True.safetensors")
    assert half < 0.51 * full and other.weight.dtype == torch.float32
    assert torch.allclose(net.weight, other.weight, rtol=1e-3, atol=1e-6) and not torch.equal(net.weight, other.weight)
    net.weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"module: expected finite weights below 65504 \(float16\), got others in weight"):
        T.save_weights(net, tmp_path / "big.safetensors", half=True)


def test_tied_weights_are_stored(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    T.save_weights(net, tmp_path / "w.safetensors")
    assert same_weights(T.load_weights(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), tmp_path / "w.safetensors"), net)


def test_weights_that_do_not_fit_name_the_file_and_the_keys(tmp_path):
    path = tmp_path / "w.safetensors"
    T.save_weights(nn.Linear(3, 2), path)
    with pytest.raises(ValueError, match=r"w.safetensors: .*weight is \(2, 3\) in the file, \(2, 4\) in the module"):
        T.load_weights(nn.Linear(4, 2), path)
    with pytest.raises(ValueError, match=r"w.safetensors: .*missing 0.weight, 0.bias; unknown weight, bias|unknown bias, weight"):
        T.load_weights(nn.Sequential(nn.Linear(3, 2)), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="w.safetensors: not the weights that its record was written for"):
        T.load_weights(nn.Linear(3, 2), path)
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="w.safetensors: not a whole safetensors file"):
        T.load_weights(nn.Linear(3, 2), path)
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        T.load_weights(nn.Linear(3, 2), tmp_path / "nowhere.safetensors")


def test_broken_record_is_named(tmp_path):
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(ValueError, match="w.json: not a record"):
        T.load_record(tmp_path / "w.safetensors")


def test_shipped_weights_are_found_or_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    T.save_weights(nn.Linear(3, 2), tmp_path / "weights" / "net.safetensors")
    assert T.shipped("net") == tmp_path / "weights" / "net.safetensors"
    with pytest.raises(ValueError, match="name: expected one of 'net', got 'nothing'"):
        T.shipped("nothing")


# ---- scales ---------------------------------------------------------------------------------------------------------

TABLE = {"tiny": dict(steps=5, size=8), "small": dict(steps=50, size=16), "full": dict(steps=500, size=32)}


def test_scale_follows_the_environment(monkeypatch):
    monkeypatch.delenv("NVS_BOOK_SCALE", raising=False)
    assert T.current_scale() == "tiny" and T.scale(TABLE).steps == 5
    monkeypatch.setenv("NVS_BOOK_SCALE", "full")
    row = T.scale(TABLE)
    assert (row.name, row.steps, row.size) == ("full", 500, 32) and T.scale(TABLE, "small").size == 16
    c = row.config(lr=0.5)
    assert (c.steps, c.lr, c.scale) == (500, 0.5, "full")


def test_unknown_scale_is_named(monkeypatch):
    monkeypatch.setenv("NVS_BOOK_SCALE", "huge")
    with pytest.raises(ValueError, match="NVS_BOOK_SCALE: expected one of 'tiny', 'small', 'full', got 'huge'"):
        T.scale(TABLE)


def test_lopsided_tables_are_refused():
    with pytest.raises(ValueError, match="table: expected the rows tiny, small, full, got tiny"):
        T.scale({"tiny": {}})
    with pytest.raises(ValueError, match="table: .*'small': \\['size'\\]"):
        T.scale(TABLE | {"small": dict(steps=50)})


def test_widget_chooses_the_scale(monkeypatch):
    monkeypatch.setenv("NVS_BOOK_SCALE", "small")
    choice = T.choose_scale(TABLE)
    assert choice.value == "small"
    choice.value = "full"
    assert T.scale(TABLE).steps == 500


def test_defaults_follow_the_length_of_the_run():
    c = TrainConfig(steps=1000)
    assert c.warmup == 50 and c.ema == pytest.approx(0.99)
    assert TrainConfig(steps=1).warmup == 0 and TrainConfig(steps=5).ema == 0


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", -1), ("steps", 0), ("steps", 1.5), ("batch_size", 0), ("lr", 0), ("lr", math.nan), ("warmup", -1),
        ("warmup", 20), ("weight_decay", -0.1), ("ema", 1.0), ("ema", -0.1), ("betas", (0.9, 1.0)), ("clip", -1),
        ("clip", math.inf), ("seed", -1), ("checkpoint_every", 0), ("validate_every", -1),
    ],
)  # fmt: skip
def test_bad_numbers_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        config(**{name: value})


@pytest.mark.parametrize("empty", [torch.empty(0, 3), [], {}, None, {"a": torch.empty(0)}, (torch.empty(0, 3), [])])
def test_empty_batch_is_named_with_its_step(empty):
    with pytest.raises(ValueError, match="batches: expected samples, got an empty batch at step 2"):
        fit(linear(), quadratic, lambda step: normal(step) if step.number < 2 else empty, config())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, bad):
    def batches(step):
        return normal(step) * (bad if step.number == 13 else 1)

    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step 13; the last .*checkpoint-00000010"):
        fit(linear(), quadratic, batches, config(), tmp_path)
    assert checkpoints(tmp_path)[-1] == "checkpoint-00000010.safetensors"
    good = fit(linear(), quadratic, normal, config(), tmp_path)  # the checkpoint was written before the damage
    assert same_weights(good.module, fit(linear(), quadratic, normal, config()).module)


def test_gradient_that_is_no_number_stops():
    def loss(net, batch):
        return (net(batch).sum() * 0).sqrt() + quadratic(net, batch)

    with pytest.raises(FloatingPointError, match="grad_norm is nan at step 0; no checkpoint was written before"):
        fit(linear(), loss, normal, config())


@pytest.mark.parametrize("out", [0.5, torch.tensor(1.0), torch.ones(2, requires_grad=True), None])
def test_loss_that_cannot_be_learnt_from_is_named(out):
    with pytest.raises(ValueError, match="loss: expected a scalar tensor that depends on the weights"):
        fit(linear(), lambda net, batch: out, normal, config())


def test_wrong_kinds_are_named():
    for args, name in [
        ((None, quadratic, normal, config()), "module"),
        ((linear(), None, normal, config()), "loss"),
        ((linear(), quadratic, [1, 2], config()), "batches"),
        ((linear(), quadratic, normal, {"steps": 3}), "config"),
    ]:
        with pytest.raises(TypeError, match=f"^{name}: expected"):
            fit(*args)
    with pytest.raises(ValueError, match="module: expected at least one parameter"):
        fit(linear().requires_grad_(False), quadratic, normal, config())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: bfloat16 autocast")
def test_bfloat16_on_a_gpu(tmp_path):
    seen = []

    def loss(net, batch):
        out = net(batch)
        seen.append(out.dtype)
        return (out.float() - 1).square().mean()

    for bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        out = fit(linear().cuda(), loss, normal, config(bf16=bf16), tmp_path / str(bf16))
        assert seen[-1] == dtype and out.module.weight.dtype == torch.float32
        assert out.record["peak_memory_bytes"] > 0 and out.record["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize(("error", "name", "value"), [
    (TypeError, "betas", 0.9),
    (TypeError, "betas", (0.9,)),
    (TypeError, "betas", (0.9, 0.99, 0.5)),
    (TypeError, "betas", "ab"),
    (TypeError, "betas", ("a", "b")),
    (ValueError, "betas", (0.9, 1.0)),
    (ValueError, "betas", (-0.1, 0.9)),
    (TypeError, "bf16", 1),
    (TypeError, "bf16", "no"),
    (TypeError, "scale", None),
    (TypeError, "scale", 3),
    ((TypeError, ValueError), "steps", 20.0),
])
def test_configs_of_the_wrong_type_name_the_number(error, name, value):
    with pytest.raises(error, match=f"^{name}: expected"):
        config(**{name: value})


def test_betas_may_come_as_a_records_list():
    assert config(betas=[0.8, 0.9]) == config(betas=(0.8, 0.9))
