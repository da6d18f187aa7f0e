"""From a table to a run, and from the run folder alone to predictions of new rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import equimodal
from equimodal.cli import main
from equimodal.data import from_dataframe
from equimodal.errors import DataError, DataWarning, UnknownNameError
from equimodal.studies import ModelConfig, Predictor, TrainingConfig, build_model, fit_table
from tests.data.tables.helpers import film, foreign_tokenizer, frame, pd, with_images
from tests.faults.calls import Calls

for library in ("tokenizers", "lightning", "safetensors", "yaml"):
    pytest.importorskip(library)
SMALL = ModelConfig(feature_size=16, size="small")
SHORT = TrainingConfig(epochs=8, batch_size=16, lr=5e-3, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "one"
    fit_table(frame(150), "label", path, model=SMALL, training=SHORT)
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> Predictor:
    return equimodal.load(folder)


def test_the_run_learns_and_says_how_good_it_is(made: Predictor) -> None:
    assert made.test["accuracy"] > made.test["constant"] + 0.2
    assert "classes of label" in made.report


def test_columns_of_the_output(made: Predictor) -> None:
    new = frame(30, seed=5).drop(columns="label").set_index(np.arange(100, 130))
    found = made.predict(new)
    assert list(found.index) == list(range(100, 130))
    assert list(found.columns) == [
        "prediction", "p_p", "p_q", "p_r", "prediction_table", "prediction_title", "weight_joint", "weight_table",
        "weight_title", "present_table", "present_title",
    ]  # fmt: skip
    probabilities = found[["p_p", "p_q", "p_r"]].to_numpy(dtype=float)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (np.array(["p", "q", "r"])[probabilities.argmax(1)] == found["prediction"]).all()
    assert (found["present_title"] == (new["title"] != "")).all()
    assert found.loc[~found["present_title"], "prediction_title"].isna().all()
    weights = found[["weight_joint", "weight_table", "weight_title"]].to_numpy(dtype=float)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_rows_do_not_depend_on_their_neighbours_order_of_columns_or_types(made: Predictor, tmp_path: Path) -> None:
    new = frame(40, seed=6)
    whole = made.predict(new)
    for row in (0, 5, 39):
        alone = made.predict(new.iloc[[row]])
        np.testing.assert_allclose(alone["p_q"].to_numpy(float), whole["p_q"].iloc[[row]].to_numpy(float), atol=1e-5)
    turned = new[new.columns[::-1]].astype({"size": object, "colour": "category"})
    pd.testing.assert_frame_equal(made.predict(turned), whole)
    as_text = new.assign(size=[None if v != v else repr(v) for v in new["size"]], when=pd.to_datetime(new["when"]))
    pd.testing.assert_frame_equal(made.predict(as_text), whole)


def test_any_subset_of_modalities(made: Predictor) -> None:
    new = frame(20, seed=7)
    with pytest.warns(DataWarning, match="no column of \\['title'\\]"):
        without = made.predict(new.drop(columns="title"))
    chosen = made.predict(new, modalities=["table"])
    pd.testing.assert_frame_equal(without, chosen)
    assert not chosen["present_title"].any()
    with pytest.raises(DataError, match="at least one modality"):
        made.predict(new[["label"]])
    with pytest.raises(DataError, match=r"modality 'table'.* Found no \['size'\]"):
        made.predict(new.drop(columns="size"))
    with pytest.raises(UnknownNameError, match="modality 'tilte'"):
        made.predict(new, modalities=["tilte"])


def test_new_categories_are_legal_and_rows_of_nothing_are_empty(made: Predictor) -> None:
    new = frame(6, seed=8).assign(colour="violet")
    new.loc[2, ["size", "colour", "when", "title"]] = None
    with pytest.warns(DataWarning, match="1 row\\(s\\) have no modality"):
        found = made.predict(new)
    assert found["prediction"].isna().tolist() == [False, False, True, False, False, False]
    assert not found.loc[2, ["present_table", "present_title"]].any()
    with pytest.raises(DataError, match="column 'size', row 3: expected a finite number. Found 'big'"):
        made.predict(
            frame(6, seed=8).astype({"size": object}).replace({"size": {}}).assign(size=[1, 2, 3, "big", 5, 6])
        )
    with pytest.raises(DataError, match="expected rows to predict"):
        made.predict(frame().head(0))


@pytest.mark.slow
def test_a_file_is_predicted_in_pieces_in_a_fresh_process(made: Predictor, folder: Path, tmp_path: Path) -> None:
    new = frame(1300, seed=9).drop(columns="label")
    new.loc[:511, ["size", "colour", "when", "title"]] = None  # a whole piece without anything
    new.to_csv(tmp_path / "new.csv", index=False)
    script = f"import equimodal; equimodal.load({str(folder)!r}).predict_file('new.csv', 'out.csv')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=tmp_path)
    found = pd.read_csv(tmp_path / "out.csv")
    with pytest.warns(DataWarning):
        expected = made.predict(new)
    assert list(found.columns) == list(expected.columns)
    assert (found["prediction"].fillna("") == expected["prediction"].fillna("")).all()
    np.testing.assert_allclose(found["p_p"], expected["p_p"], rtol=1e-4)


def test_a_table_that_cannot_be_used_leaves_no_folder(tmp_path: Path) -> None:
    for table in (frame().assign(label="p"), frame().head(0), tmp_path / "none.csv"):
        with pytest.raises(DataError):
            fit_table(table, "label", tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_large_file_is_read_and_predicted_piece_by_piece(
    made: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call sees more rows than a piece has, whatever the length of the file; progress counts them all."""
    new = pd.concat([frame(700, seed=9)] * 3)
    new.to_csv(tmp_path / "new.csv", index=False)
    new.to_parquet(tmp_path / "new.parquet")
    sizes: list[int] = []
    predict = made.method.predict

    def watched(inputs: Any, present: Any = None) -> Any:
        sizes.append(len(inputs["table"]))
        return predict(inputs, present)

    monkeypatch.setattr(made.method, "predict", watched)
    for name in ("new.csv", "new.parquet"):
        sizes.clear()
        done: list[int] = []
        out = made.predict_file(tmp_path / name, tmp_path / f"{name}.out.csv", progress=done.append)
        assert max(sizes) <= 512
        assert done == [512, 1024, 1536, 2048, 2100]
        assert len(pd.read_csv(out)) == 2100


def test_nothing_half_written(made: Predictor, tmp_path: Path) -> None:
    new = frame(700, seed=9).astype({"size": object})
    new.loc[650, "size"] = "big"
    new.to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(DataError, match="new.csv: column 'size', row 650: .* Found 'big'"):
        made.predict_file(tmp_path / "new.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.csv", "out.csv"]


def test_the_folder_holds_plain_files_and_notices_changes(folder: Path, tmp_path: Path) -> None:
    kept = json.loads((folder / "preparation.json").read_text())
    assert [m["name"] for m in kept["modalities"]] == ["table", "title"]
    assert kept["versions"]["equimodal"] == equimodal.__version__
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "preparation.json").write_text(json.dumps(kept | {"versions": {}}))
    with pytest.raises(DataError, match="preparation.json"):
        equimodal.load(copy)
    with pytest.raises(DataError, match="finished run of `equimodal fit`"):
        equimodal.load(tmp_path / "none")
    with pytest.raises(DataError, match="expected an empty folder"):
        fit_table(frame(), "label", folder)


@pytest.mark.parametrize("at", [1, 5, 30, 60, -8, -2])
def test_a_fit_that_a_full_disk_ended_is_continued_by_the_same_call(
    at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any of its writes: one line, and afterwards the predictions of a fit that nothing ended."""
    frame(60).to_csv(tmp_path / "t.csv", index=False)
    new = frame(10, seed=5).drop(columns="label")
    small = ["--model.size", "small", "--model.feature_size", "8", "--training.epochs", "2", "--training.device", "cpu"]
    command = ["fit", str(tmp_path / "t.csv"), "--target", "label", *small, "--quiet", "--out"]
    with Calls()() as calls:
        assert main([*command, str(tmp_path / "whole")]) == 0
    with Calls(at if at > 0 else calls.count + at)():
        code = main([*command, str(tmp_path / "run")])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert (code, len(said)) in ((1, 1), (0, 0))
    assert not code or "No space left" in said[0]
    again = main([*command, str(tmp_path / "run")])  # refused where the run is whole already, up to its last write
    assert again == 0 if code and at not in (-1, -2) else again in (0, 1)
    expected, found = (equimodal.load(tmp_path / name).predict(new) for name in ("whole", "run"))
    pd.testing.assert_frame_equal(found, expected)


def test_pictures_and_a_number_in_its_unit(tmp_path: Path) -> None:
    table = with_images(tmp_path, rows=60).drop(columns="label")
    table["price"] = 1000 + 50 * (np.arange(60) % 2) + table["weight"]
    run = tmp_path / "run"
    made = fit_table(
        table, "price", run, model=SMALL, training=SHORT, root=tmp_path, image_size=16, columns={"weight": "number"}
    )
    found = equimodal.load(run).predict(table, root=tmp_path)
    assert float(found["prediction"].min()) > 990
    assert float(found["prediction"].max()) < 1070
    assert set(made.test) == {"mae", "constant"}
    assert made.test["mae"] < 60
    kept = json.loads((run / "metrics.json").read_text())
    rows = from_dataframe(table, "price", root=tmp_path, image_size=16, columns={"weight": "number"}).test.rows.numpy()
    error = (found["prediction"] - table["price"]).abs().iloc[rows].mean()
    assert kept["test"]["mae"] == pytest.approx(error, rel=1e-4)
    assert made.test["mae"] == pytest.approx(-kept["test"]["score"])
    assert made.test["constant"] > 10
    assert "'price'" in json.loads((run / "table.json").read_text())["unit"]
    table.loc[1, "photo"] = "none.png"
    with pytest.raises(DataError, match="column 'photo', row 1"):
        made.predict(table, root=tmp_path)
    made.predict(table, root=tmp_path, modalities=["table"])  # a picture that is not used is not opened


def test_a_log_target_comes_back(tmp_path: Path) -> None:
    size = np.random.default_rng(0).normal(size=120)
    table = pd.DataFrame({"size": size, "price": np.exp(3 * size + 5)})
    made = fit_table(table, "price", tmp_path / "run", model=SMALL, training=SHORT, log_target=True)
    found = equimodal.load(tmp_path / "run").predict(table)["prediction"].to_numpy(float)
    rows = from_dataframe(table, "price", log_target=True).test.rows.numpy()
    error = np.abs(found - table["price"].to_numpy())[rows].mean()
    assert found.min() > 0
    assert made.test["mae"] == pytest.approx(error, rel=1e-4)
    assert np.corrcoef(np.log(found), size)[0, 1] > 0.9


@pytest.mark.slow
def test_videos_lists_and_a_foreign_tokenizer_from_training_to_prediction(tmp_path: Path) -> None:
    pytest.importorskip("av")
    film(tmp_path / "dark.mp4", [20, 40])
    film(tmp_path / "light.mp4", [200, 240])
    label = np.arange(40) % 2
    table = pd.DataFrame(
        {
            "clip": [None if i % 5 == 0 else ("dark.mp4", "light.mp4")[k] for i, k in enumerate(label)],
            "walk": [None if i % 5 == 1 else [float(k)] * (2 + i % 4) for i, k in enumerate(label)],
            "say": [None if i % 5 == 2 else ("red apple", "green sea")[k] for i, k in enumerate(label)],
            "label": np.array(["no", "yes"])[label],
        }
    )
    folder = foreign_tokenizer(tmp_path / "tokenizer", "<pad>", 3)
    run = tmp_path / "run"
    fit_table(table, "label", run, root=tmp_path, image_size=8, video_frames=2, tokenizer=folder, model=SMALL,
              training=SHORT, columns={"say": "text"})  # fmt: skip
    made = equimodal.load(run)
    found = made.predict(table, root=tmp_path)
    assert (found["prediction"] == table["label"]).mean() > 0.8
    for name, rest in (("clip", 0), ("walk", 1), ("say", 2)):
        assert (found[f"present_{name}"] == (np.arange(40) % 5 != rest)).all()
    made.predict(table.assign(clip="none.mp4"), root=tmp_path, modalities=["walk", "say"])  # is not opened


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame(90).to_csv(tmp_path / "t.csv", index=False)
    run, out = str(tmp_path / "run"), str(tmp_path / "p.csv")
    table = str(tmp_path / "t.csv")
    small = ["--model.size", "small", "--training.epochs", "2", "--training.device", "cpu"]
    assert main(["fit", table, "--target", "label", "--dry"]) == 0
    assert "title: text of title" in capsys.readouterr().out
    assert main(["fit", table, "--target", "label", "--out", run, "--columns", "{when: ignore}", *small]) == 0
    text = capsys.readouterr().out
    assert "left out: when, as said" in text
    assert "test accuracy" in text
    assert main(["predict", run, table, "--out", out]) == 0
    assert len(pd.read_csv(out)) == 90
    assert main(["evaluate", run]) == 0
    capsys.readouterr()
    assert main(["fit", table]) == 2
    assert "--target" in capsys.readouterr().err
    assert main(["predict", run, str(tmp_path / "none.csv"), "--out", out]) == 1
    assert "no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_flat(made: Predictor, tmp_path: Path) -> None:
    import tracemalloc

    peaks: list[Any] = []
    for rows in (8_000, 24_000):
        pd.concat([frame(1000)] * (rows // 1000)).to_csv(tmp_path / "new.csv", index=False)
        tracemalloc.start()
        made.predict_file(tmp_path / "new.csv", tmp_path / "out.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("encoder", [None, "conv1d", "transformer"])
def test_any_command_reads_the_ids_of_a_text_without_being_told_how_many(encoder: str | None) -> None:
    data = from_dataframe(frame(60), "label")
    options = {} if encoder is None else {"title": {"encoder": encoder}}
    model = build_model(data, ModelConfig(feature_size=16, size="small", encoders=options))
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    assert data.preparation.modalities["title"]["state"]["vocabulary"] in sizes
