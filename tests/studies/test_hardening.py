"""Comparisons and runs that meet odd labels, failing cells, absent modalities and bad folders."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from equimodal.errors import DataError, EquimodalWarning, MethodError, StorageError
from equimodal.methods import available
from equimodal.report import markdown_table, render_report, text_table
from equimodal.studies import (
    Entry,
    StudyConfig,
    StudyError,
    build_data,
    compare,
    load_run,
    method_options,
    predict_run,
    run,
    summarise,
)
from equimodal.studies.comparisons import _executor as module
from equimodal.studies.runs import Terminated
from equimodal.studies.setup import cell_folder, check_labels, companion_options, resolved_options
from tests.studies.helpers import Whole, as_of_the_first_version, config


def study(entries: dict[str, Entry], controls: bool = False) -> StudyConfig:
    one = config(epochs=1)
    return StudyConfig(entries, [0], one.data, one.model, one.training, controls)


# ---- labels --------------------------------------------------------------------------------------------------------


def test_every_label_has_a_folder_of_its_own_inside_the_study() -> None:
    labels = [
        "a?",
        "a*",
        "a_",
        "a/b",
        "a%2Fb",
        "..",
        ".",
        "%2E%2E",
        "../../../esc",
        "a\\b",
        "a\nb",
        "é",
        "Unimodal[m1]",
    ]
    folders = [cell_folder(Path("s"), label, 0) for label in labels]
    assert len(set(folders)) == len(labels)
    for folder in folders:
        assert folder.parts[:2] == ("s", "cells")
        assert len(folder.parts) == 4
        assert ".." not in folder.parts


@pytest.mark.parametrize(
    ("label", "name"),
    [("MLA", "MLA"), ("no projector", "no_projector"), ("MLA, alpha=0.1", "MLA,_alpha=0.1"), ("a_b-c", "a_b-c"),
     ("Unimodal[m1]", "Unimodal[m1]"), ("a?", "a%3F")],
)  # fmt: skip
def test_ordinary_labels_keep_their_folders(label: str, name: str) -> None:
    assert cell_folder(Path("s"), label, 3) == Path("s/cells") / name / "seed3"


def test_labels_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"Found 'a b' and 'a_b', which would share cells/a_b\. Rename"):
        compare(study({"a b": Entry("Joint"), "a_b": Entry("MLA")}), tmp_path / "s", cost=False)
    with pytest.raises(MethodError, match="at least one character"):
        check_labels([""])
    assert not (tmp_path / "s").exists()


def test_odd_labels_have_their_own_results(tmp_path: Path) -> None:
    found = compare(study({"a?": Entry("Joint"), "a*": Entry("MLA"), "../../esc": Entry("Joint")}), tmp_path / "x/s",
                    cost=False)  # fmt: skip
    assert [(r["method"], r["class"]) for r in found["rows"]] == [
        ("a?", "Joint"), ("a*", "MLA"), ("../../esc", "Joint")
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.rglob("*") if (p / "seed0").exists()) == ["..%2F..%2Fesc", "a%2A", "a%3F"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_row_shows_no_numbers_of_another_run(tmp_path: Path) -> None:
    both = {"one": Entry("Joint"), "two": Entry("MLA")}
    compare(study(both), tmp_path / "s", cost=False)
    shutil.rmtree(tmp_path / "s/cells/two")
    shutil.copytree(tmp_path / "s/cells/one", tmp_path / "s/cells/two")
    data = build_data(config().data)
    found = summarise(study(both), tmp_path / "s", data, {}, {})
    assert [row["method"] for row in found["rows"]] == ["one"]
    assert "left out: two/seed0" in found["incomplete"][0]
    assert "method (expected 'Joint', found 'MLA')" in found["incomplete"][0]
    assert summarise(study(both), tmp_path / "s", data, {}, {"one/seed0": "why"})["rows"] == []


# ---- cells that fail -----------------------------------------------------------------------------------------------


def test_an_unforeseen_error_in_a_cell_does_not_stop_the_others(tmp_path: Path) -> None:
    entries = {"boom": Entry("MLA", {"seed": 10**23}), "good": Entry("Joint")}
    with (
        pytest.warns(EquimodalWarning, match="Cost of 'boom': not measured"),
        pytest.raises(StudyError, match=r"1 of 2 cells failed.*boom/seed0: ") as caught,
    ):
        compare(study(entries), tmp_path / "s")
    rows = caught.value.study["rows"]
    assert [row["method"] for row in rows] == ["good"]
    assert rows[0]["cost"] > 0
    assert "failed: boom/seed0: " in json.loads((tmp_path / "s/study.json").read_text())["incomplete"][0]


@pytest.mark.parametrize("error", [RuntimeError("no such luck"), MemoryError("full")])
def test_unforeseen_errors_are_named_and_kept_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    original = run

    def fail(settings: Any, *rest: Any, **more: Any) -> Any:
        if settings.method == "MLA":
            raise error
        return original(settings, *rest, **more)

    monkeypatch.setattr(module, "run", fail)
    with pytest.raises(StudyError, match=f"bad/seed0: {type(error).__name__}: {error}") as caught:
        compare(study({"bad": Entry("MLA"), "good": Entry("Joint")}), tmp_path / "s", cost=False)
    assert caught.value.__cause__ is error
    assert [row["method"] for row in caught.value.study["rows"]] == ["good"]


@pytest.mark.slow
def test_unforeseen_errors_in_workers_are_recorded_too(tmp_path: Path) -> None:
    entries = {"boom": Entry("MLA", {"seed": 10**23}), "good": Entry("Joint")}
    with pytest.raises(StudyError, match=r"1 of 2 cells failed.*boom/seed0: ") as caught:
        compare(study(entries), tmp_path / "s", cost=False, workers=2)
    assert [row["method"] for row in caught.value.study["rows"]] == ["good"]


# ---- modalities that a part lacks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_modality_that_a_part_lacks_is_not_probed(tmp_path: Path, part: str) -> None:
    settings = config(epochs=1, probe=True)
    settings.data.missing = f"{part}:m2=1"
    metrics = run(settings, tmp_path / "a", loggers=False)
    assert list(metrics["probe"]) == ["m1"]
    assert (tmp_path / "a/weights.safetensors").exists()


def test_a_comparison_without_a_modality_in_the_test_data_has_tables(tmp_path: Path) -> None:
    settings = study({"MLA": Entry("MLA")})
    settings.entries["Ensemble"] = Entry("Ensemble")
    settings.data.missing = "test:m2=1"
    found = compare(settings, tmp_path / "s", cost=False)
    for row in found["rows"]:
        assert list(row["per_modality"]) == list(row["under_trained"]) == ["m1"]
    assert "m1" in text_table(found)
    assert "m1" in markdown_table(found)
    render_report(found, tmp_path / "report.html")


# ---- the configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", available())
def test_resolved_options_are_plain_and_complete(name: str) -> None:
    resolved = resolved_options(name, {})
    assert yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(resolved)))) == json.loads(json.dumps(resolved))
    left_out = set(method_options(name)) - set(resolved)
    assert left_out <= {"sharpness", "unimodal", "heads", "head", "classifiers", "models", *companion_options(name)}
    assert resolved
    sharp = resolved_options(name, {"sharpness": {"mode": "full", "radius": 0.1}})["sharpness"]
    assert sharp == {"mode": "full", "radius": 0.1, "ratio": 1.0, "every": 5}


def test_a_run_and_a_cell_record_every_option(tmp_path: Path) -> None:
    metrics = run(config("MLA", {"alpha": 0.2}, epochs=1), tmp_path / "a", loggers=False)
    found = compare(study({"MLA": Entry("MLA", {"alpha": 0.2})}), tmp_path / "s", cost=False)
    own = resolved_options("MLA", {"alpha": 0.2})
    for folder in (tmp_path / "a", tmp_path / "s/cells/MLA/seed0"):
        stored = yaml.safe_load((folder / "config.yaml").read_text())["options"]
        assert stored == own
        assert stored["alpha"] == 0.2
        assert stored["projector"] == "orthogonal"
    assert metrics["options"] == found["rows"][0]["options"] == own


def test_options_that_were_stored_without_defaults_are_the_same_run(whole: Whole, tmp_path: Path) -> None:
    as_of_the_first_version(shutil.copytree(whole(config("MLA", epochs=1)), tmp_path / "a"))
    known = tmp_path / "a/config.yaml"
    known.write_text(yaml.safe_dump({**yaml.safe_load(known.read_text()), "options": {}}))
    run(config("MLA", {"alpha": 0.1}, epochs=1), tmp_path / "a", resume=True)
    with pytest.raises(DataError, match=r"other values of options\.alpha \(expected 0\.1, found 0\.3\)\. Compare"):
        run(config("MLA", {"alpha": 0.3}, epochs=1), tmp_path / "a", resume=True)


def test_each_field_that_differs_is_named_with_both_values(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole(config(epochs=1)), tmp_path / "a")
    other = config(epochs=5, seed=2)
    other.model.encoders = {"m1": {"dropout": 0.2}, "m2": {"dropout": 0.5}}
    with pytest.raises(DataError) as caught:
        run(other, tmp_path / "a", resume=True)
    text = str(caught.value)
    assert "training.epochs (expected 1, found 5)" in text
    assert "seed (expected 0, found 2)" in text
    assert "model.encoders.m2 (expected None, found {'dropout': 0.5})" in text
    assert "batch_size" not in text


# ---- being asked to end --------------------------------------------------------------------------------------------


def test_sigterm_in_a_cell_names_the_comparison_once(tmp_path: Path) -> None:
    settings = study({"MLA": Entry("MLA")})
    settings.training.epochs = 3

    def stop(done: int, total: int, what: str) -> None:
        if done == 1:
            signal.raise_signal(signal.SIGTERM)

    with pytest.warns(EquimodalWarning) as told, pytest.raises(Terminated) as caught:
        compare(settings, tmp_path / "s", cost=False, progress=stop)
    assert [str(w.message) for w in told if issubclass(w.category, EquimodalWarning)] == [
        f"SIGTERM: saved and stopped, exit code 75. Continue with: equimodal compare --out {tmp_path / 's'} "
        "--cost false"
    ]
    assert caught.value.folder == str(tmp_path / "s")


def test_a_run_that_was_asked_to_end_names_itself_and_lightning_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from equimodal.lightning import MethodModule

    original, steps = MethodModule.training_step, [0]

    def step(self: MethodModule, batch: Any, batch_idx: int) -> None:
        steps[0] += 1
        if steps[0] == 2:
            signal.raise_signal(signal.SIGTERM)
        original(self, batch, batch_idx)

    monkeypatch.setattr(MethodModule, "training_step", step)
    noisy = logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector")
    monkeypatch.setattr(noisy, "handlers", [caplog.handler])
    with (
        pytest.warns(EquimodalWarning, match="Continue with: equimodal train --resume --out "),
        pytest.raises(Terminated),
    ):
        run(config(epochs=1), tmp_path / "a", loggers=False)
    assert (tmp_path / "a/checkpoints/last.ckpt").exists()
    assert "weights_only" not in caplog.text


# ---- folders and devices -------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "sub", Path("/proc/none/such")):
        with pytest.raises(StorageError, match=r"expected a folder that can be made and written to.*another folder"):
            run(config(epochs=1), folder, loggers=False)
        with pytest.raises(StorageError, match="expected a folder that can be made"):
            compare(study({"Joint": Entry("Joint")}), folder, cost=False)


@pytest.mark.parametrize("device", ["cuda", "gpu", "cuda:"], ids=["named", "any", "unknown"])
def test_a_device_that_is_not_there_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(MethodError, match=rf"`training\.device`: expected.*of auto, cpu\. Found '{device}'"):
        run(config(epochs=1, device=device), tmp_path / "a", loggers=False)
    settings = study({"Joint": Entry("Joint")})
    settings.training.device = device
    with pytest.raises(MethodError, match=r"`training\.device`"):
        compare(settings, tmp_path / "s", cost=False)
    assert not list(tmp_path.iterdir())


def test_load_run_tells_what_a_folder_is(whole: Whole, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"finished run\. Found no such folder"):
        load_run(tmp_path / "none")
    with pytest.raises(DataError, match=r"Found a folder without a run \(no config\.yaml\)"):
        load_run(tmp_path)
    shutil.copytree(whole(config(epochs=1)), tmp_path / "a")
    (tmp_path / "a/weights.safetensors").unlink()
    with pytest.raises(DataError, match=r"Found an unfinished run.*Finish it: equimodal train --resume --out .*a\."):
        load_run(tmp_path / "a")


def test_a_prediction_needs_a_modality_and_a_part(whole: Whole) -> None:
    with pytest.raises(DataError, match=r"`modalities`: expected at least one name\. Found none"):
        predict_run(whole(config(epochs=1)), modalities=[])
    with pytest.raises(DataError, match=r"`parts`: expected at least one name\. Found none"):
        predict_run(whole(config(epochs=1)), parts=())


def test_a_mapping_is_compared_key_by_key() -> None:
    from equimodal.studies.runs._identity import _differences

    stored: Mapping[str, Any] = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert list(_differences(stored, {"a": {"b": 1, "c": [1, 2]}})) == []
    assert list(_differences(stored, {"a": {"b": 2, "c": [1, 2]}, "d": 0})) == [
        "a.b (expected 1, found 2)", "d (expected None, found 0)"
    ]  # fmt: skip
