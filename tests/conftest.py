"""Options that every test file shares: `--device cuda`, `--dtype float64`, as fixtures of the same names."""

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of tests that take the `device` fixture: cpu, cuda, cuda:1, mps")
    parser.addoption("--dtype", default="float32", help="dtype of tests that take the `dtype` fixture: float32, float64")


def pytest_configure(config):
    torch.set_num_threads(1)  # two workers share the cores


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    device = torch.device(request.config.getoption("--device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("--device cuda: no CUDA device here")
    return device


@pytest.fixture(scope="session")
def dtype(request) -> torch.dtype:
    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


def pytest_collection_modifyitems(config, items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
