"""Checks of the data, on splits that are counted by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from equimodal.data import load_avdigits
from equimodal.diagnostics.checks import NotMeasured, Records, Subject
from equimodal.diagnostics.checks._formulas import newcombe
from tests.diagnostics.checks.constructed import batches, data, labels, logits, run, subject, told


def test_groups_on_both_sides_are_counted() -> None:
    groups = {"train": {"speaker": ["x", "y"] * 96}, "test": {"speaker": ["x", "z", "z", "z"] * 48},
              "validation": {"speaker": ["w"] * 192}}  # fmt: skip
    (found,) = run("EQ004", subject(told(), groups=groups))
    assert (found.number, found.where, found.severity) == (0.25, "speaker, test", "error")
    groups["test"] = {"speaker": ["z"] * 192}
    assert run("EQ004", subject(told(), groups=groups)) == []
    with pytest.raises(NotMeasured, match="groups="):
        run("EQ004", subject(told()))


def test_groups_of_the_embedded_data_are_known_and_disjoint() -> None:
    pytest.importorskip("yaml")
    digits = load_avdigits()
    parts: dict[str, Any] = {"train": digits.train, "validation": digits.validation, "test": digits.test}
    assert run("EQ004", Subject("digits", data=parts)) == []
    parts["test"] = digits.train
    assert {f.number for f in run("EQ004", Subject("digits", data=parts))} == {1.0}


def test_few_validation_samples_are_told_with_wilsons_interval() -> None:
    records = Records(validation=[(0.5, 40)], share=True)
    (found,) = run("EQ005", Subject("run", records=records))
    z = 1.959963984540054
    assert found.number == pytest.approx(z * math.sqrt(0.25 / 40 + z * z / 6400) / (1 + z * z / 40))
    assert "40 samples" in found.reason
    assert run("EQ005", Subject("run", records=Records(validation=[(0.5, 4000)], share=True))) == []


def test_the_validation_score_of_a_model_is_measured() -> None:
    target = labels(24)
    wrong = torch.where(torch.arange(24) % 2 == 0, target, (target + 1) % 3)
    part = batches(target, {"a": logits(wrong), "b": logits(wrong)})
    (found,) = run("EQ005", Subject("model", told(), {"validation": part}))
    assert "50.0 % is of 24 samples" in found.reason


def test_presence_that_differs_between_parts_is_told() -> None:
    target = labels(200)
    half = torch.arange(200) % 2 == 0
    parts = data() | {"test": batches(target, {"a": logits(target), "b": logits(target)}, b=half)}
    (found,) = run("EQ008", subject(told(), parts))
    assert (found.number, found.where) == (0.5, "b")
    assert found.interval == pytest.approx(newcombe((1.0, 192), (0.5, 200)))
    assert run("EQ008", subject(told())) == []
    few = {p: {"a": (1.0, 20), "b": (s, 20)} for p, s in (("train", 1.0), ("test", 0.9))}
    assert run("EQ008", Subject("run", records=Records(presence=few, modalities=("a", "b")))) == []  # 2 of 20: chance


def test_copies_of_training_samples_are_counted() -> None:
    parts = data()
    test = parts["test"]
    assert run("EQ016", subject(told(), parts)) == []
    train = {m: torch.cat([b.inputs[m] for b in parts["train"]]) for m in "ab"}
    mixed = {m: torch.cat([b.inputs[m] for b in test]) for m in "ab"}
    target = labels(192)
    for m in "ab":
        mixed[m][:48] = train[m][10:58]
    (found,) = run("EQ016", subject(told(), parts | {"test": batches(target, mixed)}))
    assert (found.number, found.where, found.severity) == (0.25, "the whole sample", "error")
    assert "48 of 192" in found.reason


def test_copies_of_one_modality_count_where_samples_differ_in_it() -> None:
    parts, target = data(), labels(192)
    train = {m: torch.cat([b.inputs[m] for b in parts["train"]]) for m in "ab"}
    test = {m: torch.cat([b.inputs[m] for b in parts["test"]]) for m in "ab"}
    test["a"][:19] = train["a"][:19]
    (found,) = run("EQ016", subject(told(), parts | {"test": batches(target, test)}))
    assert found.where == "a"
    assert found.number == pytest.approx(19 / 192)
    rounded = {m: x.round() for m, x in train.items()}
    assert run("EQ016", subject(told(), {p: batches(target, rounded) for p in ("train", "test")})) == []
    few = {m: x.round() for m, x in train.items()}  # three different inputs: equal ones are no copies
    some = {"a": logits(target, seed=9), "b": test["b"].round()}
    assert run("EQ016", subject(told(), {"train": batches(target, few), "test": batches(target, some)})) == []
