"""Entries and runs that use the finished runs of others: order, sharing, failures, continuing, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml

from equimodal.data import loader
from equimodal.errors import CheckpointError, DataError, EquimodalWarning, MethodError, UnknownNameError
from equimodal.methods.parts import Companions
from equimodal.studies import (
    Entry,
    RunConfig,
    StudyError,
    build_data,
    compare,
    export_run,
    load_run,
    measure_cost,
    method_options,
    predict_run,
    run,
)
from equimodal.studies.runs import load_companions
from equimodal.studies.setup import companion_options
from tests.cli.helpers import CLI, TINY
from tests.studies.helpers import as_of_the_first_version, assert_same_run, config, weights
from tests.studies.test_compare import counted
from tests.studies.uses import EACH, SINGLE, study, taught, uninterrupted


@pytest.fixture(autouse=True)
def _taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield from taught(tmp_path_factory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of :func:`study`, uninterrupted; only read."""
    return uninterrupted(tmp_path_factory)


def cell(folder: Path, label: str, seed: int = 0) -> Path:
    return folder / "cells" / label / f"seed{seed}"


# ---- order and sharing ---------------------------------------------------------------------------------------------


def test_what_is_used_is_trained_first_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "grandchild": Entry("Taught", {}, {"teachers": "student"}),
        "student": Entry("Taught", {}, EACH),
        "sibling": Entry("Taught", {"weight": 2.0}, EACH),
        **SINGLE,
    }
    started = counted(monkeypatch)
    found = compare(study(entries, seeds=[0, 1], epochs=1), tmp_path / "s", cost=False)
    order = [f"{label}/seed{s}" for label in ("first", "second", "student", "sibling", "grandchild") for s in (0, 1)]
    assert started == order
    assert [row["method"] for row in found["rows"]] == list(entries)  # as they were given
    assert {row["method"]: row["uses"] for row in found["rows"]}["sibling"] == EACH
    assert yaml.safe_load((tmp_path / "s/study.yaml").read_text())["entries"]["student"]["uses"] == EACH


def test_the_teachers_are_the_methods_of_the_cells_with_the_same_seed(tmp_path: Path) -> None:
    """The recorded content is that of the cell, and the run is the one that names the cells' folders by hand."""
    compare(study(seeds=[0, 1]), tmp_path / "s", cost=False)
    for seed in (0, 1):
        stored = torch.load(cell(tmp_path / "s", "student", seed) / "checkpoints/last.ckpt", weights_only=True)
        reference = stored["state_dict"]["method.teachers._extra_state"]
        for m, label in (("m1", "first"), ("m2", "second")):
            _, _, teacher = load_run(cell(tmp_path / "s", label, seed))
            assert reference[m]["sha256"] == Companions({m: teacher}).get_extra_state()[m]["sha256"]
            assert reference[m]["file"] == f"../../{label}/seed{seed}/weights.safetensors"
        by_hand = config("Taught", {"weight": 0.3}, seed, epochs=2, probe=True)
        by_hand.uses = {"teachers": {"m1": f"s/cells/first/seed{seed}", "m2": f"s/cells/second/seed{seed}"}}
        run(by_hand, tmp_path / f"hand{seed}", loggers=False)
        theirs = weights(tmp_path / f"hand{seed}")
        for name, tensor in weights(cell(tmp_path / "s", "student", seed)).items():
            assert torch.equal(tensor, theirs[name]), name
    _, data, method = load_run(cell(tmp_path / "s", "student"))
    assert not any("teacher" in name for name in weights(cell(tmp_path / "s", "student")))
    batch = next(iter(loader(data.test, 8)))
    with pytest.raises(MethodError, match=r"Companion 'm1'.*first/seed0/weights\.safetensors"):
        method.teachers.features(batch)  # type: ignore[operator, union-attr]


def test_one_entry_can_teach_every_modality(tmp_path: Path) -> None:
    entries = {"student": Entry("Taught", {}, {"teachers": "all"}), "all": Entry("Ensemble")}
    compare(study(entries, epochs=1), tmp_path / "s", cost=False)
    settings = study(entries, epochs=1)
    data = build_data(settings.data)
    student = settings.cells(data)["student/seed0"]
    companions = load_companions(student, data, cell(tmp_path / "s", "student"))["teachers"]
    assert companions.names == ("m1", "m2")
    assert companions["m1"] is companions["m2"]


def test_a_study_can_be_moved(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole, tmp_path / "elsewhere/renamed")
    (cell(tmp_path / "elsewhere/renamed", "student") / "metrics.json").unlink()
    started = counted(monkeypatch)
    compare(study(), tmp_path / "elsewhere/renamed", cost=False)
    assert started == ["student/seed0"]
    assert_same_run(cell(whole, "student"), cell(tmp_path / "elsewhere/renamed", "student"))


@pytest.mark.slow
def test_two_workers_give_what_one_gives(tmp_path: Path, root: Path, whole: Path) -> None:
    """Spawned processes: each imports the script, which makes the method known there too."""
    script = tmp_path / "compare.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.studies.uses import install, study\n"
        f"install(Path({str(tmp_path / 'package')!r}))\n"
        "if __name__ == '__main__':\n"
        "    from equimodal.studies import compare\n"
        f"    compare(study(), {str(tmp_path / 's')!r}, workers=2, cost=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    subprocess.run([sys.executable, str(script)], env=environment, check=True)
    for label in ("first", "second", "student"):
        assert_same_run(cell(whole, label), cell(tmp_path / "s", label))


# ---- failures and continuing ---------------------------------------------------------------------------------------


def broken() -> dict[str, Entry]:
    return {
        "grandchild": Entry("Taught", {}, {"teachers": "student"}),
        "student": Entry("Taught", {}, {"teachers": {"m1": "first", "m2": "bad"}}),
        "bad": Entry("MLA", {"alpha": -1.0}),
        "first": SINGLE["first"],
    }


EXPECTED = [
    "failed: bad/seed0: `alpha`",
    "failed: student/seed0: it uses 'bad/seed0', which failed",
    "failed: grandchild/seed0: it uses 'student/seed0', which failed",
]


def test_a_failure_is_reported_for_all_that_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = counted(monkeypatch)
    told = r"3 of 4 cells failed, the other one is finished.*student/seed0: it uses"
    with pytest.raises(StudyError, match=told) as e:
        compare(study(broken(), epochs=1), tmp_path / "s", cost=False)
    assert started == ["first/seed0"]
    assert [row["method"] for row in e.value.study["rows"]] == ["first"]
    said = sorted(json.loads((tmp_path / "s/study.json").read_text())["incomplete"])
    assert len(said) == 3
    assert all(a.startswith(b) for a, b in zip(said, sorted(EXPECTED), strict=True))
    repaired = {**broken(), "bad": Entry("MLA")}
    repaired["student"] = Entry("Taught", {}, {"teachers": {"m1": "first", "m2": "bad"}})
    compare(study(repaired, epochs=1), tmp_path / "s", cost=False)
    assert started == [f"{label}/seed0" for label in ("first", "bad", "student", "grandchild")]


@pytest.mark.slow
def test_a_failure_in_a_worker_is_reported_too(tmp_path: Path) -> None:
    """The student never reaches a worker, which would not know it."""
    with pytest.raises(StudyError, match="3 of 4 cells failed"):
        compare(study(broken(), epochs=1), tmp_path / "s", cost=False, workers=2)
    said = sorted(json.loads((tmp_path / "s/study.json").read_text())["incomplete"])
    assert all(a.startswith(b) for a, b in zip(said, sorted(EXPECTED), strict=True))


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_half_finished_study_continues_exactly(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Stopped in a teacher, after a teacher's epoch, and in the student."""

    def stop(done: int, total: int, what: str) -> None:
        assert total == 6
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(study(), tmp_path / "s", cost=False, progress=stop)
    started = counted(monkeypatch)
    compare(study(), tmp_path / "s", cost=False)
    assert started == [f"{label}/seed0" for label in ("first", "second", "student")[stop_at // 2 :]]
    for label in ("first", "second", "student"):
        assert_same_run(cell(whole, label), cell(tmp_path / "s", label))


def unfinished(whole: Path, folder: Path) -> Path:
    """A copy in which the student stopped in its last epoch."""
    shutil.copytree(whole, folder)
    for name in ("metrics.json", "weights.safetensors"):
        (cell(folder, "student") / name).unlink()
    return folder


def test_a_student_does_not_continue_with_another_teacher(tmp_path: Path, whole: Path) -> None:
    folder = unfinished(whole, tmp_path / "s")
    as_of_the_first_version(folder)
    shutil.copy(cell(folder, "second") / "weights.safetensors", tmp_path / "kept")
    from equimodal.studies import load_weights, save_weights

    _, data, teacher = load_run(cell(folder, "second"))
    next(iter(teacher.model.parameters())).data.add_(1e-3)
    save_weights(teacher, cell(folder, "second") / "weights.safetensors")
    with pytest.raises(StudyError, match=r"second/seed0/weights\.safetensors`: expected the weights that the comp"):
        compare(study(), folder, cost=False)
    settings = RunConfig.from_dict(yaml.safe_load((cell(folder, "student") / "config.yaml").read_text()))
    with pytest.raises(CheckpointError, match="Restore the file"):
        run(settings, cell(folder, "student"), resume=True, loggers=False)
    shutil.rmtree(cell(folder, "first"))
    with pytest.raises(DataError, match=r"`uses\.teachers\.m1`: expected the folder of a finished run at `\.\./"):
        run(settings, cell(folder, "student"), resume=True, loggers=False)
    shutil.copytree(cell(whole, "first"), cell(folder, "first"))
    shutil.copy(tmp_path / "kept", cell(folder, "second") / "weights.safetensors")
    load_weights(teacher, cell(folder, "second") / "weights.safetensors")
    compare(study(), folder, cost=False)
    assert_same_run(cell(whole, "student"), cell(folder, "student"))
    assert data.name == "synthetic"


def test_predictions_and_exports_need_no_teacher(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(cell(whole, "student"), folder)
    found, expected = predict_run(folder), predict_run(cell(whole, "student"))
    assert (found["probabilities"] == expected["probabilities"]).all()
    assert export_run(folder, tmp_path / "model.pt2").exists()
    metrics = json.loads((folder / "metrics.json").read_text())
    settings = RunConfig.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))
    assert run(settings, folder, resume=True) == metrics  # finished: nothing is trained


# ---- cost ----------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_student_is_measured_when_its_teachers_are_there(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    found = compare(study(), tmp_path / "s")
    stored = json.loads((tmp_path / "s/cost.json").read_text())
    assert set(stored) == {"student", "first", "second"}
    assert {row["method"]: row["cost"] for row in found["rows"]} == stored
    settings = study()
    one = settings.cells(build_data(settings.data))["student/seed0"]
    one.uses = {"teachers": {"m1": "s/cells/first/seed0", "m2": "s/cells/second/seed0"}}
    assert measure_cost(build_data(settings.data), {"x": one}, rounds=1)["x"] > 0
    with pytest.warns(EquimodalWarning, match="Cost of 'bad': not measured"), pytest.raises(StudyError):
        compare(study({**broken(), **SINGLE}), tmp_path / "t")
    assert set(json.loads((tmp_path / "t/cost.json").read_text())) == {"first", "second"}


# ---- what is refused before anything is trained --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "error", "said"),
    [
        ({"a": Entry("Taught", {}, {"teachers": "a"})}, MethodError, "do not wait for each other. Found 'a' -> 'a'"),
        (
            {"a": Entry("Taught", {}, {"teachers": "b"}), "b": Entry("Taught", {}, {"teachers": {"m1": "a"}})},
            MethodError,
            "Found 'a' -> 'b' -> 'a'",
        ),
        (
            {**SINGLE, "a": Entry("Taught", {}, {"teachers": "frist"})},
            UnknownNameError,
            "that 'a' uses, 'frist'.*'first'",
        ),
        ({"a": Entry("Taught", {}, {"teacher": "a"})}, UnknownNameError, "Did you mean 'teachers'"),
        (
            {**SINGLE, "a": Entry("Taught", {}, {"weight": "first"})},
            MethodError,
            r"`uses\.weight`.*Taught has teachers",
        ),
        ({**SINGLE, "a": Entry("MLA", {}, {"alpha": "first"})}, MethodError, r"`uses\.alpha`.*MLA has none"),
        ({"a": Entry("Taught")}, MethodError, r"entry 'a': `uses\.teachers`: Taught needs finished runs there"),
        ({"a": Entry("Taught", {}, {"teachers": {}})}, MethodError, r"`uses\.teachers`: expected a name, or companion"),
        ({"a": Entry("Taught", {}, {"teachers": 3})}, MethodError, r"`uses\.teachers`: expected a name.*Found 3"),
        ({"a": Entry("Taught", {}, cast(Any, "first"))}, MethodError, "`uses`: expected option -> name. Found 'first'"),
    ],
)
def test_entries_that_cannot_be_are_refused(tmp_path: Path, entries: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        compare(study(entries), tmp_path / "s", cost=False)
    assert not (tmp_path / "s").exists()


def test_a_run_is_told_what_is_wrong_with_what_it_uses(tmp_path: Path, whole: Path) -> None:
    def using(**uses: Any) -> RunConfig:
        settings = config("Taught")
        settings.uses = uses
        return settings

    first = str(cell(whole, "first"))
    for settings, error, said in (
        (using(teachers=str(tmp_path / "none")), DataError, r"`uses\.teachers`: expected the folder of a finished run"),
        (using(teachers=str(whole)), DataError, "Found a comparison. Its page"),
        (using(teachers={"m2": first}), MethodError, r"`uses\.teachers\.m2`: expected a run that trained.*'m1'"),
        (using(), MethodError, r"`uses\.teachers`: Taught needs finished runs"),
    ):
        with pytest.raises(error, match=said):
            run(settings, tmp_path / "r", loggers=False)
    other = using(teachers={"m1": first})
    other.data.options = {**other.data.options, "seed": 1}
    with pytest.raises(DataError, match=r"`uses\.teachers\.m1`: expected a run on the same data \(fingerprint"):
        run(other, tmp_path / "r", loggers=False)
    assert not (tmp_path / "r").exists()


def test_which_options_take_companions() -> None:
    assert companion_options("Taught") == ["teachers"]
    assert companion_options("MLA") == []
    assert "teachers" in method_options("Taught")


# ---- the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_says_it_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cli = CLI(capsys)
    Path("c.yaml").write_text(
        "controls: false\nseeds: [0]\ncost: false\nentries:\n"
        "  taught: {method: Taught, options: {weight: 0.2}, uses: {teachers: {m1: only m1, m2: only m2}}}\n"
        "  only m1: {method: Unimodal, options: {modality: m1}}\n"
        "  only m2: {method: Unimodal, options: {modality: m2}}\n"
    )
    small = [*TINY, "--training.epochs", "1"]
    started = counted(monkeypatch)
    cli(["compare", "--config", "c.yaml", *small, "--out", "s"])
    assert started == ["only_m1/seed0", "only_m2/seed0", "taught/seed0"]
    cli(["compare", "--out", "s", "--quiet"])  # everything comes from the folder
    assert len(started) == 3
    with_runs = ["--uses.teachers.m1", "s/cells/only_m1/seed0", "--uses.teachers.m2", "s/cells/only_m2/seed0"]
    cli(["train", "--method", "Taught", *small, "--options.weight", "0.2", *with_runs, "--out", "a"])
    stored = yaml.safe_load(Path("a/config.yaml").read_text())
    assert stored["uses"] == {"teachers": {"m1": "s/cells/only_m1/seed0", "m2": "s/cells/only_m2/seed0"}}
    for name, tensor in weights(Path("a")).items():
        assert torch.equal(tensor, weights(Path("s/cells/taught/seed0"))[name])
    cli(["train", "--resume", "--out", "a", "--quiet"])
    cli(
        [
            "train",
            "--config",
            "s/cells/taught/seed0/config.yaml",
            "--uses",
            yaml.safe_dump(stored["uses"]),
            "--out",
            "b",
        ]
    )
    assert "teachers (or finished runs, under `uses`)" in cli(["describe", "Taught"])
    assert "needs finished runs there" in cli.error(["train", "--method", "Taught", *small, "--quiet"], 1)
    Path("d.yaml").write_text(
        "entries:\n  a: {method: Taught, uses: {teachers: b}}\n  b: {method: Taught, uses: {teachers: a}}\n"
    )
    assert "'a' -> 'b' -> 'a'" in cli.error(["compare", "--config", "d.yaml", *small, "--out", "t"], 1)
    assert not Path("t").exists()
