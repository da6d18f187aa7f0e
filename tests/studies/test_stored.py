"""Runs and weights that version 0.1.0 stored load, predict and continue today; what cannot is refused by name.

`stored/NAME` was written at commit e25cf13: a run of three epochs interrupted in its third (`checkpoints`), and the
weights of the same run when it was left to finish (`finished.safetensors`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from equimodal.errors import CheckpointError
from equimodal.methods import Method
from equimodal.studies import RunConfig, build_data, load_weights, run
from equimodal.studies.setup import seeded
from tests.helpers import assert_identical, make_method, train, weights
from tests.helpers import sgd as engine_of
from tests.studies.helpers import config

STORED = Path(__file__).parent / "stored"
names = pytest.mark.parametrize("name", sorted(p.name for p in STORED.iterdir()))


def settings_of(name: str) -> RunConfig:
    text = (STORED / name / "config.yaml").read_text(encoding="utf-8")
    return RunConfig.from_dict(yaml.safe_load(text))


@names
def test_an_interrupted_run_continues(name: str, tmp_path: Path) -> None:
    """It ends where the uninterrupted run of that version ended, up to the rounding of another processor."""
    folder = tmp_path / "run"
    shutil.copytree(STORED / name, folder)
    run(settings_of(name), folder, resume=True, loggers=False)
    ours, theirs = method_with(name, folder / "weights.safetensors"), method_with(name)
    for (n, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4, msg=n)


def method_with(name: str, path: Path | None = None) -> Method:
    method = seeded(settings_of(name), build_data(settings_of(name).data))
    load_weights(method, STORED / name / "finished.safetensors" if path is None else path)
    return method


@names
def test_stored_weights_are_all_loaded(name: str) -> None:
    method = method_with(name)
    stored = sorted(t.double().abs().sum().item() for t in load_file(STORED / name / "finished.safetensors").values())
    now = sorted(t.double().abs().sum().item() for t in method.state_dict().values() if isinstance(t, torch.Tensor))
    assert stored == now


@pytest.mark.parametrize(
    ("name", "options", "former"),
    [
        ("MLA", {}, {"projection.projectors.": "projectors."}),
        ("MLA", {"projector": "flat"}, {"projection.bank.": "flat."}),
        ("MIE", {}, {"projection.bank.": "flat."}),
        ("CGGM", {"window": 2}, {"progress.": ""}),
    ],
)
def test_former_names_in_a_state(name: str, options: dict[str, Any], former: dict[str, str]) -> None:
    """A state with the names of version 0.1.0, under a prefix too, as a checkpoint of the Trainer has it."""
    method, fresh = make_method(name, 3, **options), make_method(name, 3, seed=1, **options)
    engine = engine_of(method)
    from tests.helpers import make_batch

    train(method, engine, range(2), [make_batch(3)], total=2)
    state = {}
    for key, value in method.state_dict().items():
        for now, then in former.items():
            key = then + key[len(now) :] if key.startswith(now) else key
        state[f"inner.{key}"] = value
    holder = torch.nn.Module()
    holder.inner = fresh
    holder.load_state_dict(state)
    assert_identical(weights(method), weights(fresh))


def test_what_has_no_place_any_more_is_left_out() -> None:
    """MIE without projection kept unused covariances."""
    method = make_method("MIE", 2, projection=False)
    state = {**method.state_dict(), "flat.covariances.0.0.total": torch.zeros(2, 2)}
    method.load_state_dict(state)


def test_weights_of_another_method_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="finished.safetensors`: expected the weights of this method"):
        load_weights(seeded(config("CGGM"), build_data(config("CGGM").data)), STORED / "MLA" / "finished.safetensors")
