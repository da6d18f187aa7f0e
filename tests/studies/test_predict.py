"""Predictions of a finished run, for its own and for other data."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimodal.data import write_bundle
from equimodal.errors import CheckpointError, DataError, UnknownNameError
from equimodal.studies import (
    DataConfig,
    ModelConfig,
    build_model,
    export_run,
    load,
    load_model_weights,
    load_run,
    predict_run,
    run,
    write_predictions,
)
from tests.studies.helpers import TINY, config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "a"
    run(config("MLA"), place, loggers=False)
    return place


def test_predictions_are_those_of_the_method(folder: Path) -> None:
    table = predict_run(folder)
    _, data, method = load_run(folder)
    whole = data.test.batch()
    expected = method.predict(whole.inputs)
    assert np.array_equal(table["index"], data.test.rows.numpy())
    assert np.allclose(table["probabilities"], expected.probabilities.numpy(), atol=1e-6)
    assert np.allclose(table["probabilities"].sum(1), 1, atol=1e-5)
    assert np.array_equal(table["prediction"], table["probabilities"].argmax(1))
    assert np.array_equal(table["target"], data.test.target.numpy())
    assert set(table["part"]) == {"test"}
    assert np.allclose(table["weight_m1"] + table["weight_m2"], 1, atol=1e-6)


def test_a_subset_of_the_modalities_and_several_parts(folder: Path) -> None:
    table = predict_run(folder, None, ["validation", "test"], ["m2"])
    _, data, method = load_run(folder)
    assert list(dict.fromkeys(table["part"])) == ["validation", "test"]
    expected = method.predict({"m2": data.test.batch().inputs["m2"]})
    assert np.allclose(table["probabilities"][-len(data.test) :], expected.probabilities.numpy(), atol=1e-6)
    with pytest.raises(UnknownNameError, match="modality 'm3'"):
        predict_run(folder, None, ["test"], ["m3"])
    with pytest.raises(UnknownNameError, match="split 'tset'"):
        predict_run(folder, None, ["tset"])


def bundle(path: Path, change: Any = None, **options: Any) -> DataConfig:
    """The raw test samples of the run's data, with other statistics of the training part."""
    from equimodal.data import load

    raw = load("synthetic", **TINY)
    split = np.repeat([0, 1, 2], [80, 24, 24])
    inputs = {m: raw._store.sources[m]._raw.copy() for m in raw.modalities}
    for m in inputs:
        inputs[m][split == 0] = inputs[m][split == 0] * 3 + 5
    write_bundle(path, inputs=inputs, target=raw._store.target.numpy(), split=split, **options)
    return DataConfig(str(path))


def test_other_data_are_prepared_with_the_statistics_of_the_run(folder: Path, tmp_path: Path) -> None:
    """The same test samples, standardised differently by their own bundle, get the same predictions."""
    same = predict_run(folder, bundle(tmp_path / "other.npz"))
    assert np.allclose(same["probabilities"], predict_run(folder)["probabilities"], atol=1e-4)


def test_other_data_must_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="classes of the run"):
        predict_run(folder, bundle(tmp_path / "other.npz", classes=["a", "b", "c"]))
    with pytest.raises(DataError, match=r"modality 'm1' of shape \(7,\).*Found \(8,\)"):
        predict_run(folder, DataConfig("synthetic", options={**TINY, "features": 8}))


def test_other_rows_are_read_as_those_of_the_run(tmp_path: Path) -> None:
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    own: dict[str, Any] = {"wide": list(rng.normal(size=(90, 4)) + label[:, None]), "a": rng.normal(size=90) + label}
    own |= {"b": label / 7, "kind": np.array(["lamp", "lens", "bulb"])[label]}
    own |= {"part": np.arange(90) // 3 % 3, "shop": np.arange(90)}
    parquet.write_table(pa.table(own), tmp_path / "a.parquet")
    options = {"inputs": {"wide": "vector", "numbers": {"kind": "vector", "column": ["a", "b"]}}, "split": "part",
               "groups": "shop"}  # fmt: skip
    data = DataConfig(str(tmp_path / "a.parquet"), target="kind", options=options)
    run(replace(config(epochs=1), data=data, model=ModelConfig(feature_size=6)), tmp_path / "run", loggers=False)
    kept = np.arange(20, 80)  # neither parts nor groups are known of them
    parquet.write_table(
        pa.table({n: [v[i] for i in kept] for n, v in own.items() if n not in ("part", "shop")}), tmp_path / "b.parquet"
    )
    parts = ("train", "validation", "test")
    expected = predict_run(tmp_path / "run", None, parts)
    found = predict_run(tmp_path / "run", DataConfig(str(tmp_path / "b.parquet")), parts)
    place = np.argsort(expected["index"])[kept[found["index"]]]
    assert np.allclose(found["probabilities"], expected["probabilities"][place], atol=1e-5)
    assert np.array_equal(found["target"], expected["target"][place])
    with pytest.raises(DataError, match=r"--data NEW --split train,validation,test"):
        load(tmp_path / "run")


def test_absent_samples_are_left_out_where_nothing_remains(folder: Path, tmp_path: Path) -> None:
    present = np.arange(128) % 2 == 0
    data = bundle(tmp_path / "half.npz", present={"m2": present})
    alone = predict_run(folder, data, ["test"], ["m2"])
    assert np.array_equal(alone["index"], np.arange(104, 128)[present[104:]])
    assert len(predict_run(folder, data)["index"]) == 24


def test_files(folder: Path, tmp_path: Path) -> None:
    table = predict_run(folder)
    with np.load(write_predictions(table, tmp_path / "p.npz"), allow_pickle=False) as stored:
        assert all(np.array_equal(stored[name], value) for name, value in table.items())
    with write_predictions(table, tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert list(rows[0]) == ["index", "part", "target", "prediction", "weight_m1", "weight_m2", "p_0", "p_1", "p_2"]
    assert float(rows[3]["p_1"]) == pytest.approx(float(table["probabilities"][3, 1]), abs=1e-5)
    assert rows[3]["target"] == str(table["classes"][table["target"][3]])


def test_predictions_of_other_tasks(tmp_path: Path) -> None:
    """Numbers, labels and maps are read off by the kind of the task; maps have no place in a table."""
    from equimodal.studies.outputs._predict import _read
    from equimodal.tasks import MultiLabel, Regression, Segmentation

    output = torch.tensor([[2.0, -1.0], [-3.0, 0.5]])
    assert _read(MultiLabel(2), output)["prediction"].tolist() == [[1, 0], [0, 1]]
    assert _read(Regression(2), output)["prediction"].tolist() == output.tolist()
    gaussian = _read(Regression(loss="gaussian_nll"), torch.tensor([[2.0, 0.0], [-3.0, 2.0]]))
    assert gaussian["prediction"].tolist() == [2, -3]
    assert gaussian["deviation"].tolist() == pytest.approx([1, np.e])
    maps = _read(Segmentation(2), output[:, :, None, None].expand(2, 2, 3, 3))
    assert maps["prediction"].shape == (2, 3, 3)
    table = {"index": np.arange(2), "target": np.array([1.5, 2.5]), "prediction": np.array([[1.0, 2.0], [3.0, 4.0]])}
    with write_predictions(table, tmp_path / "p.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["index", "target", "prediction_0", "prediction_1"], ["0", "1.5", "1", "2"], ["1", "2.5", "3", "4"]
        ]  # fmt: skip
    with pytest.raises(DataError, match=r"expected a name\.npz"):
        write_predictions({"prediction": np.zeros((2, 3, 3))}, tmp_path / "m.csv")


def test_weights_load_without_the_method(folder: Path) -> None:
    configuration, data, method = load_run(folder)
    model = build_model(data, configuration.model)
    header = load_model_weights(model, folder / "weights.safetensors")
    assert header["config"]["method"] == "MLA"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), method.model.parameters(), strict=True))
    smaller = build_model(data, ModelConfig(feature_size=3))
    before = [p.clone() for p in smaller.parameters()]
    with pytest.raises(CheckpointError, match="expected the weights of this model"):
        load_model_weights(smaller, folder / "weights.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(before, smaller.parameters(), strict=True))


def test_export_of_a_run_takes_the_numbers_of_the_bundle(folder: Path, tmp_path: Path) -> None:
    """Standardisation is part of the exported model."""
    path = export_run(folder, tmp_path / "model.pt2")
    _, data, method = load_run(folder)
    model = torch.export.load(path).module()
    split = data.test.batch()
    raw = {}
    for m, x in split.inputs.items():
        mean, scale = data.standardisation(m)
        raw[m] = x / torch.from_numpy(scale) + torch.from_numpy(mean)
    found = model(raw)["probabilities"]
    assert torch.allclose(found, method.predict(split.inputs).probabilities, atol=1e-4)
    with pytest.raises(UnknownNameError, match="modality 'm3'"):
        export_run(folder, tmp_path / "other.pt2", modalities=["m3"])
