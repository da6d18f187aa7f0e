"""From a frame to a dataset: what is inferred, learnt from training rows, and kept as plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimodal.data import from_dataframe, load
from equimodal.data.tables import Preparation, as_table
from tests.data.tables.helpers import frame, pd, with_images

pytest.importorskip("tokenizers")
pytest.importorskip("pyarrow")


def test_kinds_are_inferred_and_can_be_overridden_in_one_line() -> None:
    data = from_dataframe(frame(), "label")
    assert {n: m.kind for n, m in data.modalities.items()} == {"table": "vector", "title": "tokens"}
    text = str(data.report)
    assert "size (number), colour (category), when (date)" in text
    assert "title: text of title" in text
    own = from_dataframe(frame(), "label", columns={"look": ["colour"], "when": "ignore", "colour": "text"})
    assert list(own.modalities) == ["look", "table", "title"]
    assert own.modalities["look"].kind == "tokens"
    assert dict(own.report.left_out) == {"when": "as said"}


def test_numbers_and_categories_agree_with_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.preprocessing")
    impute = pytest.importorskip("sklearn.impute")
    table = frame()
    data = from_dataframe(table[["size", "colour", "label"]], "label")
    rows, every = data.train.rows.numpy(), data.train.batch().inputs["table"].numpy()
    size, colour = table[["size"]].iloc[rows].to_numpy(), table[["colour"]].iloc[rows]
    filled = impute.SimpleImputer(add_indicator=True).fit_transform(size)
    scaled = sklearn.StandardScaler().fit(size).transform(filled[:, :1])
    onehot = sklearn.OneHotEncoder(sparse_output=False).fit_transform(colour)
    np.testing.assert_allclose(every, np.column_stack([scaled, filled[:, 1], onehot]), atol=1e-6)


def test_statistics_and_tokenizer_come_from_the_training_rows_alone() -> None:
    table = frame().assign(part=["train"] * 60 + ["validation"] * 15 + ["test"] * 15)
    other = table.copy()
    other.loc[60:, "size"] *= 1000
    other.loc[60:, "title"] = "zebra quagga okapi " * 5
    other.loc[60:, "colour"] = "new"
    first, second = (from_dataframe(t, "label", split="part") for t in (table, other))
    assert first.preparation.to_dict() == second.preparation.to_dict()
    assert first.parts == {"train": 60, "validation": 15, "test": 15}


def test_preparation_survives_json_and_gives_the_same_numbers(tmp_path: Path) -> None:
    table = with_images(tmp_path)
    table["text"] = [f"some words about {i}" for i in range(len(table))]
    data = from_dataframe(table, "label", root=tmp_path, image_size=16)
    kept = json.loads(json.dumps(data.preparation.to_dict(), sort_keys=True))
    inputs, present = Preparation.from_dict(kept).inputs(as_table(table), tmp_path)
    assert list(inputs) == list(data.modalities)
    batch, rows = data.train.batch(), data.train.rows.numpy()
    assert batch.present is not None
    have = batch.present["photo"].numpy()
    assert (present["photo"][rows] == have).all()
    assert not have.all()
    for name, values in inputs.items():
        kept_rows = have if name == "photo" else slice(None)
        np.testing.assert_allclose(batch.inputs[name].numpy()[kept_rows], values[rows][kept_rows], atol=1e-5)


def test_absent_files_are_never_opened(tmp_path: Path) -> None:
    table = with_images(tmp_path)
    (tmp_path / "NA").write_bytes(b"poison")
    table.loc[table["photo"] == "", "photo"] = "NA"
    data = from_dataframe(table, "label", root=tmp_path, image_size=16)
    assert data.report.modalities["photo"]["absent"] == 0.25


def test_groups_stay_in_one_part_and_classes_have_their_share() -> None:
    table = frame(300).assign(person=np.arange(300) // 5)
    data = from_dataframe(table, "label", group="person", seed=3)
    parts = {part: set((getattr(data, part).rows.numpy() // 5).tolist()) for part in ("train", "validation", "test")}
    assert not parts["train"] & parts["validation"]
    assert not parts["train"] & parts["test"]
    assert not parts["validation"] & parts["test"]
    plain = from_dataframe(frame(300), "label", seed=3)
    whole = {c: n / 300 for c, n in plain.report.classes.items()}
    for part in ("train", "validation", "test"):
        counts = getattr(plain, part).class_counts
        for name, count in counts.items():
            assert abs(count / sum(counts.values()) - whole[name]) < 0.05
    again = from_dataframe(frame(300), "label", seed=3)
    assert (again.train.rows == plain.train.rows).all()
    assert len(from_dataframe(frame(300), "label", seed=4).train.rows) == len(plain.train.rows)


def test_report_names_identifiers_leaks_and_duplicates() -> None:
    table = frame(120)
    table["sample_id"] = range(120)
    table["verdict"] = "is " + table["label"]
    table = pd.concat([table, table], ignore_index=True)
    report = from_dataframe(table, "label").report
    assert "identifier" in report.left_out["sample_id"]
    assert report.leaks == ("verdict",)
    assert report.duplicates > 0
    assert "suspected leaks: verdict" in str(report)
    json.dumps(report.to_dict())


def test_the_task_of_numbers_standardises_by_training_rows() -> None:
    table = frame(100).drop(columns="label").assign(price=np.exp(np.linspace(1, 9, 100)))
    data = from_dataframe(table, "price", log_target=True)
    task: Any = data.task
    values = task.in_deviations(data.train.target).numpy()
    assert abs(values.mean()) < 1e-5
    assert abs(values.std() - 1) < 1e-5
    assert data.preparation.target["log"] is True


def test_class_weights_balance() -> None:
    data = from_dataframe(frame().assign(label=["a"] * 60 + ["b"] * 30), "label", class_weight="balanced")
    counts = list(data.train.class_counts.values())
    weight = data.task.class_weight  # type: ignore[attr-defined]
    assert [float(w) * n for w, n in zip(weight, counts, strict=True)] == pytest.approx([sum(counts) / 2] * 2)


def test_files_and_polars_are_read_alike(tmp_path: Path) -> None:
    table = frame()
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    found = [load(tmp_path / name, target="label") for name in ("t.csv", "t.parquet")]
    polars = pytest.importorskip("polars")
    found.append(from_dataframe(polars.DataFrame(table.to_dict("list")), "label"))
    expected = from_dataframe(table, "label").train.batch()
    for data in found:
        batch = data.train.batch()
        for name, values in expected.inputs.items():
            np.testing.assert_allclose(batch.inputs[name].numpy(), values.numpy(), atol=1e-5)


def test_arrays_in_cells_and_files(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, 6, 2)).astype(np.float32)
    for i, array in enumerate(values):
        np.save(tmp_path / f"{i}.npy", array)
    label = ["a", "b"] * 20
    files = from_dataframe({"x": [f"{i}.npy" for i in range(40)], "label": label}, "label", root=tmp_path)
    cells = from_dataframe({"x": list(values), "label": label}, "label")
    assert files.modalities["x"].kind == "sequence"
    np.testing.assert_allclose(files.train.batch().inputs["x"].numpy(), cells.train.batch().inputs["x"].numpy())
