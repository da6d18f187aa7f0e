"""Checks of how training went, on histories that are written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from equimodal import Classification, MultimodalModel
from equimodal.diagnostics.checks import NotApplicable, NotMeasured, Records, Subject
from equimodal.fusion import Concat
from equimodal.methods import MLA
from equimodal.projection import OrthogonalProjector
from tests.diagnostics.checks.constructed import run, subject, told


def history(a: list[float | None], extras: dict[str, float] | None = None) -> list[dict[str, Any]]:
    return [
        {"epoch": e, "validation": {"unimodal": {"a": value, "b": 0.5}}, "extras": extras or {}}
        for e, value in enumerate(a)
    ]


def of(epochs: list[dict[str, Any]], **more: Any) -> Subject:
    records = Records(history=[epochs], modalities=("a", "b"), trained=("a", "b"), share=True, **more)
    return Subject("run", records=records)


def test_a_modality_that_was_better_before_was_forgotten() -> None:
    (found,) = run("EQ013", of(history([0.5, 0.9, 0.7, 0.5]), validation=[(0.5, 200)]))
    assert found.where == "a"
    assert found.number == pytest.approx(0.4)
    assert "epoch 1" in found.reason
    assert found.interval is not None
    assert found.interval[0] > 0


def test_the_chosen_epoch_counts_not_the_last() -> None:
    assert run("EQ013", of(history([0.5, 0.9, 0.7, 0.5]), validation=[(0.5, 200)], selected=[1])) == []


def test_what_grows_or_falls_by_chance_is_not_forgotten() -> None:
    assert run("EQ013", of(history([0.5, 0.6, 0.9]), validation=[(0.5, 200)])) == []
    assert run("EQ013", of(history([0.5, 0.7, 0.6]), validation=[(0.5, 30)])) == []  # three of thirty
    assert run("EQ013", of(history([0.5, None, 0.6]), validation=[(0.5, 200)])) == []


def test_a_history_without_own_outputs_says_nothing() -> None:
    with pytest.raises(NotApplicable):
        run("EQ013", of([{"epoch": 0, "validation": {"unimodal": {}}}]))
    with pytest.raises(NotMeasured, match="history="):
        run("EQ013", Subject("run", records=Records(modalities=("a", "b"))))


def test_a_projector_without_directions_is_exhausted() -> None:
    (found,) = run("EQ014", of(history([0.5, 0.5], {"plasticity/0": 0.03, "plasticity/1": 0.8})))
    assert (found.number, found.where, found.threshold) == (0.03, "0", 0.1)
    assert run("EQ014", of(history([0.5, 0.5], {"plasticity/0": 0.3}))) == []


def test_the_projectors_of_a_model_are_read() -> None:
    model = MultimodalModel({m: nn.Linear(3, 4) for m in "ab"}, Concat({"a": 4, "b": 4}), nn.Linear(8, 3))
    method = MLA(model, Classification(3))
    assert run("EQ014", subject(method)) == []
    with torch.no_grad():
        next(m for m in method.modules() if isinstance(m, OrthogonalProjector)).matrix.mul_(0.01)
    (found,) = run("EQ014", subject(method))
    assert found.number == pytest.approx(0.01)
    with pytest.raises(NotApplicable):
        run("EQ014", subject(told()))
