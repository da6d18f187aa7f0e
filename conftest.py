"""Shared set-up of tests and doctests: one thread per process, fixed seeds, an empty working folder for every test."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, when torch is first imported

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def _clean_slate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start every test from seed 0 in its own folder, and refuse settings of torch that outlive it."""
    monkeypatch.chdir(tmp_path)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (third-party code may still use it)
    torch.manual_seed(0)
    before = _torch_settings()
    yield
    after = _torch_settings()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    assert after == before, f"the test left torch's global settings changed: {before} -> {after}"


def _torch_settings() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "gradients enabled": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real datasets; the test is skipped where there is none."""
    folder = os.environ.get("EQUIMODAL_DATA")
    if not folder:
        pytest.skip("set EQUIMODAL_DATA to a folder with the real datasets (avdigits.npz, ravdess.npz, ...)")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"EQUIMODAL_DATA names {folder!r}, which is no folder")
    return path


# Where `make test` counts lines (see [tool.coverage.run]): in the tests of the rooms themselves. Before Python 3.12
# counting makes a test half as long again, and a line that only another room's test happens to run is not tested by it.
MEASURED = ("tests/methods/", "tests/functional/", "tests/features/", "tests/unimodal/", "tests/test_engine.py",
            "tests/test_sharpness.py", "tests/test_operators.py", "tests/test_registry_properties.py")  # fmt: skip
DEAR = ("tests/features/test_compile.py", "tests/features/test_resume.py")  # mostly the time of torch and Lightning


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Count no lines during the other tests."""
    coverage: Any = sys.modules.get("coverage")
    current = None if coverage is None else coverage.Coverage.current()
    if current is None or (item.nodeid.startswith(MEASURED) and not item.nodeid.startswith(DEAR)):
        return (yield)
    current.stop()
    try:
        return (yield)
    finally:
        current.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an accelerator where there is none."""
    if torch.accelerator.is_available():
        return
    reason = pytest.mark.skip(reason="needs an accelerator; this machine has none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(reason)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, object]) -> None:
    """Examples may use torch without importing it, as their modules do."""
    doctest_namespace.setdefault("torch", torch)
