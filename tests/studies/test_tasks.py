"""Runs on other targets than classes, from bundle to table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal import MultiLabel, Regression, Segmentation
from equimodal.data import load
from equimodal.errors import DataError, TargetError, UnknownNameError
from equimodal.report import text_table
from equimodal.studies import (
    DataConfig,
    Entry,
    ModelConfig,
    RunConfig,
    StudyConfig,
    TrainingConfig,
    build_data,
    compare,
    predict_run,
    recipe,
    run,
    task_options,
)

TARGETS: dict[str, Any] = {
    "class": {"array": "y", "task": "classification", "classes": ["no", "yes"]},
    "score": {"array": "score", "task": "regression"},
    "tags": {"array": "tags", "task": "multilabel", "classes": ["red", "green", "blue"]},
    "outline": {"array": "mask", "task": "segmentation", "classes": ["nothing", "edge", "core"],
                "regions": {"whole": ["edge", "core"]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 + 16 + 16 samples of two images of 8 x 8 pixels; one image is absent in some samples."""
    folder = tmp_path_factory.mktemp("bundle")
    rng = np.random.default_rng(0)
    count = 80
    mask = np.zeros((count, 8, 8), np.uint8)
    for i in range(count):
        r, c = rng.integers(1, 4, 2)
        mask[i, r : r + 4, c : c + 4] = 1
        mask[i, r + 1 : r + 3, c + 1 : c + 3] = 2
    score = np.clip(rng.normal(0, 1.5, count), -3, 3).astype(np.float32)
    images = {}
    for number, name in enumerate("ab"):
        noise = rng.normal(0, 0.4 + 0.3 * number, (count, 1, 8, 8))
        images[name] = (noise + mask[:, None] + score[:, None, None, None]).astype(np.float32)
    arrays: dict[str, Any] = {
        **images, "score": score, "mask": mask, "y": (score > 0).astype(np.uint8),
        "tags": np.stack([score > 0, score > 1, score < 0], 1).astype(np.uint8),
        "split": np.repeat([0, 1, 2], [48, 16, 16]), "present": np.stack([np.arange(count) % 5 != 0, np.ones(count)], 1)
        .astype(np.uint8),
    }  # fmt: skip
    modality = {"kind": "image", "standardise": "global"}
    card = {
        "name": "shapes",
        "modalities": {n: {"array": n, **modality} for n in "ab"},
        "targets": TARGETS,
        "present": {"array": "present", "columns": ["a", "b"]},
        "protocols": {"one": {"array": "split", "train": 0, "validation": 1, "test": 2}},
    }
    np.savez(folder / "shapes.npz", **arrays)
    (folder / "shapes.yaml").write_text(json.dumps(card), encoding="utf-8")  # JSON is YAML
    return folder / "shapes.npz"


def config(bundle: Path, target: str, method: str = "MultiLoss", task: dict[str, Any] | None = None) -> RunConfig:
    training = TrainingConfig(epochs=2, batch_size=16, lr=1e-2, device="cpu")
    model = ModelConfig(feature_size=6, size="small")
    return RunConfig(method, {}, DataConfig(str(bundle), target=target, task=task or {}), model, training)


METRICS = {
    "class": ("accuracy", True), "score": ("mae", False), "tags": ("micro_f1", True), "outline": ("dice", True),
}  # fmt: skip


@pytest.mark.parametrize("target", list(TARGETS))
def test_a_run_on_every_kind_of_target(bundle: Path, tmp_path: Path, target: str) -> None:
    found = run(config(bundle, target), tmp_path / "run", loggers=False)
    name, higher = METRICS[target]
    assert found["metric"] == {"name": name, "higher_is_better": higher}
    assert found["target"] == target
    assert found["test"][name] == pytest.approx(found["test"]["score"] * (1 if higher else -1), abs=1e-5)
    assert set(found["probe"]) == set(found["test"]["unimodal"]) == {"a", "b"}
    assert set(found["rules"]) >= {"fused", "mean"}
    table = predict_run(tmp_path / "run")
    shape = {"class": (16,), "score": (16,), "tags": (16, 3), "outline": (16, 8, 8)}[target]
    assert table["prediction"].shape == shape
    assert run(config(bundle, target), tmp_path / "run", resume=True) == found


@pytest.mark.parametrize("method", ["MLA", "CGGM", "MIE"])
def test_the_three_methods_segment(bundle: Path, tmp_path: Path, method: str) -> None:
    found = run(config(bundle, "outline", method), tmp_path / "run", loggers=False)
    assert 0 <= found["test"]["dice_whole" if "dice_whole" in found["test"] else "dice"] <= 1


def test_options_of_the_task(bundle: Path, tmp_path: Path) -> None:
    found = run(config(bundle, "score", "MLA", {"loss": "gaussian_nll", "sentiment": True}), tmp_path / "run",
                loggers=False)  # fmt: skip
    assert found["rule"] == "uncertainty"
    assert {"accuracy7", "pearson", "f1_without_zero"} <= set(found["test"])
    assert set(found["rules"]) >= {"precision", "precision+temperature"}
    assert "deviation" in predict_run(tmp_path / "run")
    data = load(bundle, target="outline")
    assert isinstance(data.choose_task(class_weight=[1.0, 2.0, 3.0], dice_weight=0.2), Segmentation)
    assert isinstance(data.task, Segmentation)
    assert data.task.dice_weight == 0.2
    assert data.task.regions == {"whole": (1, 2)}
    with pytest.raises(UnknownNameError, match="Did you mean 'dice_weight'"):
        data.choose_task(dice_wieght=0.2)
    with pytest.raises(TargetError, match="`class_weight`"):
        build_data(DataConfig(str(bundle), target="outline", task={"class_weight": [1.0]}))


def test_tasks_of_the_targets(bundle: Path) -> None:
    labels, numbers = load(bundle, target="tags").task, load(bundle, target="score").task
    assert isinstance(labels, MultiLabel)
    assert labels.num_labels == 3
    assert isinstance(numbers, Regression)
    assert (numbers.size, numbers.kind) == (1, "l1")
    with pytest.raises(UnknownNameError, match="target of shapes"):
        build_data(DataConfig(str(bundle), target="scores"))


def test_labels_must_be_zero_or_one(bundle: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(bundle))
    arrays["tags"] = arrays["tags"] * 2
    np.savez(tmp_path / "shapes.npz", **arrays)
    with pytest.raises(DataError, match=r"0 or 1 per sample and label, shape \(N, 3\)"):
        load(tmp_path / "shapes.npz", card=bundle.with_suffix(".yaml"), target="tags")


def test_the_table_of_a_regression(bundle: Path, tmp_path: Path) -> None:
    own = config(bundle, "score")
    study = StudyConfig({"Joint": Entry("Joint"), "Ensemble": Entry("Ensemble")}, [0], own.data, own.model,
                        own.training, controls=False)  # fmt: skip
    record = compare(study, tmp_path / "study", cost=False)
    table = text_table(record)
    assert table.splitlines()[0].split()[:2] == ["method", "MAE"]
    assert "less is better" in table
    errors = [float(line.split()[2]) for line in table.splitlines()[1:3]]
    assert errors == sorted(errors)  # best first
    assert all(e > 0 for e in errors)


def test_recipes() -> None:
    assert recipe("mosi", "score")[1].batch_size == 64
    assert recipe("folder/lggmri.npz")[0].feature_size == 16
    assert recipe("folder/avdigits.npz")[1] == recipe("avdigits-real")[1] != recipe("avdigits")[1]
    assert task_options("some/mosi.npz", "score") == {"sentiment": True}
    assert task_options("mosi") == {}
