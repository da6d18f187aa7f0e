# ruff: noqa: E402 - the libraries are looked for first
"""A table's run as one graph: ONNX Runtime, without this library and without torch, gives what `predict` gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

for library in ("tokenizers", "lightning", "safetensors", "yaml", "onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library)

import equimodal
from equimodal.cli import main
from equimodal.data.tables import as_table, column_vector, raw_inputs
from equimodal.errors import DataWarning, ModelError, UnknownNameError
from equimodal.studies import ModelConfig, Predictor, TrainingConfig, fit_table
from equimodal.studies.tables import TableColumns, TableModel
from tests.data.tables.helpers import WORDS, pd, with_images

SMALL = ModelConfig(feature_size=8, size="small")
SHORT = TrainingConfig(epochs=1, batch_size=16, lr=5e-3, device="cpu")


def mixed(folder: Path, rows: int = 48) -> Any:
    """Every kind of column that a graph treats in a way of its own, all with gaps."""
    random = np.random.default_rng(3)
    table = with_images(folder, rows)
    table["label"] = np.array(["cat", "dog", "hen"])[random.integers(0, 3, rows)]
    table["weight"] = 1e6 + random.normal(size=rows)  # float32 would round it
    table["colour"] = random.choice(["x", "y", "z", "rare"], rows, p=[0.4, 0.3, 0.28, 0.02])
    table["when"] = pd.date_range("1999-11-30 05:17:43", periods=rows, freq="901h").astype(str)
    table["title"] = [f"{WORDS[i % 3]} with number {i} in it" for i in range(rows)]
    table["walk"] = [random.normal(size=(2 + i % 4, 2)).tolist() for i in range(rows)]
    for place, column in enumerate(["weight", "colour", "when", "title", "walk"]):
        table[column] = [None if i % 5 == place else v for i, v in enumerate(table[column])]
    return table


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def table(home: Path) -> Any:
    return mixed(home)


@pytest.fixture(scope="module")
def made(home: Path, table: Any) -> Predictor:
    fit_table(table, "label", home / "run", root=home, image_size=16, model=SMALL, training=SHORT)
    return equimodal.load(home / "run")


@pytest.fixture(scope="module")
def graph(home: Path, made: Predictor) -> Path:
    return made.export(home / "model.onnx")


def fresh(home: Path) -> Any:
    """New rows: an unknown category, rows without each modality, and one without any."""
    new = mixed(home, 24).drop(columns="label")
    new.loc[3, "colour"] = "violet"
    new.loc[5, ["weight", "colour", "when"]] = None
    new.loc[7, ["weight", "colour", "when", "title", "walk", "photo"]] = None
    new.loc[9, ["title", "walk", "photo"]] = None
    return new


def computed(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {i.name: raw[i.name] for i in session.get_inputs()}), strict=True))


@pytest.mark.filterwarnings("ignore::equimodal.errors.DataWarning")
def test_the_module_gives_what_predict_gives(home: Path, made: Predictor) -> None:
    new = fresh(home)
    raw = raw_inputs(made.preparation, as_table(new), home)
    tensors = {name: torch.from_numpy(x) for name, x in raw.items()}
    model = TableModel(made.method, made.preparation, made.modalities, {n: x[:7] for n, x in tensors.items()}).eval()
    with torch.no_grad():
        found = model(tensors)
    expected = made.predict(new, root=home)
    probabilities = expected[[f"p_{c}" for c in made.classes]].to_numpy(float)
    np.testing.assert_allclose(found["probabilities"].numpy(), probabilities, atol=1e-5)
    assert found["prediction"][7] == -1
    assert np.isnan(probabilities[7]).all()
    poison = raw_inputs(made.preparation, as_table(new.assign(photo="none.png")), home, {"table", "title"})
    assert np.isnan(poison["photo"]).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::equimodal.errors.DataWarning")
def test_the_graph_gives_what_predict_gives(home: Path, made: Predictor, graph: Path) -> None:
    new = fresh(home)
    raw = raw_inputs(made.preparation, as_table(new), home)
    found, expected = computed(graph, raw), made.predict(new, root=home)
    assert set(raw) == {"table", "photo", "title", "walk"}
    probabilities = expected[[f"p_{c}" for c in made.classes]].to_numpy(float)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    assert np.isnan(found["probabilities"][7]).all()
    named = [None if c < 0 else made.classes[c] for c in found["prediction"]]
    assert named == [None if p != p else p for p in expected["prediction"]]
    alone = computed(graph, {name: x[4:5] for name, x in raw.items()})  # any number of rows
    np.testing.assert_allclose(alone["probabilities"], found["probabilities"][4:5], atol=1e-6)
    with_less = raw_inputs(made.preparation, as_table(new.drop(columns=["photo", "walk"])), home)
    less = made.predict(new, root=home, modalities=["table", "title"])
    found = computed(graph, with_less)
    np.testing.assert_allclose(
        found["probabilities"], less[[f"p_{c}" for c in made.classes]].to_numpy(float), atol=1e-5
    )


STANDALONE = """
import sys
sys.modules["equimodal"] = sys.modules["torch"] = sys.modules["pandas"] = None
import datetime, json, numpy, onnxruntime, tokenizers
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["equimodal.preparation"])
made = {m["name"]: m for m in about["modalities"]}

def number(cell, column):
    if cell is None:
        return float("nan")
    if column["kind"] == "category":
        return column["values"].index(cell) if cell in column["values"] else len(column["values"])
    if column["kind"] == "date":
        return (datetime.datetime.fromisoformat(cell) - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
    return float(cell)

def ids(text, own):
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(own["state"]["tokenizer"]))
    length = own["shape"][0]
    found = [] if text is None else tokenizer.encode(text).ids[:length]
    return found + [own["state"]["padding"]] * (length - len(found))

rows = json.load(open("rows.json"))
raw = {
    "table": numpy.array([[number(row[c["column"]], c) for c in made["table"]["state"]] for row in rows]),
    "title": numpy.array([ids(row["title"], made["title"]) for row in rows]),
}
for name in ("photo", "walk"):
    raw[name] = numpy.full((len(rows), *made[name]["shape"]), numpy.nan, numpy.float32)
numpy.save("found.npy", session.run(["probabilities"], raw)[0])
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::equimodal.errors.DataWarning")
def test_a_few_lines_prepare_rows_without_this_library(home: Path, made: Predictor, graph: Path) -> None:
    new = fresh(home)[["weight", "colour", "when", "title"]]
    rows = [{k: None if v != v else v for k, v in row.items()} for row in new.to_dict("records")]
    (graph.parent / "rows.json").write_text(json.dumps(rows))
    done = subprocess.run([sys.executable, "-c", STANDALONE], cwd=graph.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = made.predict(new)[[f"p_{c}" for c in made.classes]].to_numpy(float)
    np.testing.assert_allclose(np.load(graph.parent / "found.npy"), expected, atol=1e-5)


@pytest.mark.slow
def test_command_line_and_refusals(
    home: Path, made: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnknownNameError, match="modality 'tilte'"):
        made.export(tmp_path / "m.onnx", modalities=["tilte"])
    with pytest.raises(ModelError, match=r"ends in \.onnx"):
        made.export(tmp_path / "m.pt2")
    with pytest.raises(ModelError, match="`modalities`"):
        made.export(tmp_path / "m.onnx", modalities=[])
    assert main(["export", str(home / "run"), "--out", str(tmp_path / "m.onnx"), "--modalities", "table"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm.onnx'}\n"
    raw = {"table": raw_inputs(made.preparation, as_table(fresh(home)), home)["table"]}
    found = computed(tmp_path / "m.onnx", raw)
    with pytest.warns(DataWarning):
        expected = made.predict(fresh(home), modalities=["table"])[[f"p_{c}" for c in made.classes]].to_numpy(float)
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.filterwarnings("ignore::equimodal.errors.DataWarning")
def test_numbers_come_out_in_their_unit(tmp_path: Path, log: bool) -> None:
    size = np.random.default_rng(0).normal(size=60)
    table = pd.DataFrame({"size": size, "price": np.exp(size + 5)})
    made = fit_table(table, "price", tmp_path / "run", model=SMALL, training=SHORT, log_target=log)
    table.loc[::6, "size"] = np.nan
    raw = raw_inputs(made.preparation, as_table(table), tmp_path)
    expected = made.predict(table)["prediction"].to_numpy(float)
    assert np.isnan(expected[0])
    if log:
        found = computed(made.export(tmp_path / "m.onnx"), raw)["prediction"]
    else:
        program = torch.export.load(made.export(tmp_path / "m.pt2", "torch")).module()
        found = program({name: torch.from_numpy(x) for name, x in raw.items()})["prediction"].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dates_in_the_graph_are_those_of_pandas() -> None:
    """Every 85 hours over two centuries, leap years of all kinds among them."""
    when = pd.date_range("1890-01-01", "2110-01-01", freq="85h")
    state = {"column": "when", "kind": "date", "mean": 1000.0, "scale": 1e-3, "clock": True, "indicator": True}
    vector, _ = column_vector(state, as_table(pd.DataFrame({"when": [*when, None]})))
    days = (when - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    found = TableColumns([state])(torch.tensor([*days, float("nan")], dtype=torch.float64)[:, None])
    np.testing.assert_allclose(found.numpy(), vector, atol=2e-6)
