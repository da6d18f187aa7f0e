"""Comparisons: every cell once, workers change nothing, what is missing is said."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from equimodal.errors import DataError, MethodError, UnknownNameError
from equimodal.report import markdown_table, missing_controls, text_table
from equimodal.studies import Entry, StudyConfig, StudyError, build_data, compare
from equimodal.studies.comparisons import _compare, _summary
from tests.studies.helpers import as_of_the_first_version, assert_same_run, config, history


def study(entries: dict[str, Entry] | None = None, seeds: list[int] | None = None, **changes: Any) -> StudyConfig:
    one = config(epochs=2)
    named = {"MLA": Entry("MLA")} if entries is None else entries
    options = {"controls": False, **changes}
    return StudyConfig(named, [0, 1] if seeds is None else seeds, one.data, one.model, one.training, **options)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells that are trained from here on."""
    from equimodal.studies.runs import _run

    started: list[str] = []
    original = _run.fit

    def fit(method: Any, train: Any, validation: Any, settings: Any, folder: Path, **rest: Any) -> Any:
        started.append(f"{folder.parent.name}/{folder.name}")
        return original(method, train, validation, settings, folder, **rest)

    monkeypatch.setattr(_run, "fit", fit)
    return started


def test_a_study_has_every_control_and_entry(tmp_path: Path) -> None:
    settings = study({"MLA": Entry("MLA"), "no projector": Entry("MLA", {"projector": None})}, controls=True, seeds=[0])
    settings.training.epochs = 1
    found = compare(settings, tmp_path / "s", cost=False)
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == [
        "Joint", "MultiLoss", "Ensemble", "Unimodal[m1]", "Unimodal[m2]", "MLA", "no projector"
    ]  # fmt: skip
    for label, row in rows.items():
        assert row["control"] == (row["class"] in ("Joint", "MultiLoss", "Ensemble", "Unimodal"))
        assert list(row["per_modality"]) == ([label[9:-1]] if label.startswith("Unimodal") else ["m1", "m2"])
    assert found["incomplete"] == []
    assert missing_controls(found) == []
    assert found["protocol"]["name"] == "independent"


def test_frozen_pretraining_is_a_row_of_its_own() -> None:
    """Of a study with controls, where the method is there with its defaults; and named by nobody but the method."""
    data = build_data(study().data)
    entries = {"PretrainFinetune": Entry("PretrainFinetune"), "MLA": Entry("MLA")}
    rows = study(entries, controls=True).rows(data)
    assert rows["PretrainFinetune, frozen"] == Entry("PretrainFinetune", {"freeze": True})
    assert list(rows)[-3:] == ["PretrainFinetune, frozen", "PretrainFinetune", "MLA"]
    assert "PretrainFinetune, frozen" not in study(entries).rows(data)
    longer = {"PretrainFinetune": Entry("PretrainFinetune", {"pretrain": 0.7})}
    assert "PretrainFinetune, frozen" not in study(longer, controls=True).rows(data)
    own = {"PretrainFinetune": Entry("PretrainFinetune"), "PretrainFinetune, frozen": Entry("Joint")}
    assert study(own, controls=True).rows(data)["PretrainFinetune, frozen"] == Entry("Joint")


def test_numbers_are_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    found = compare(study({"MLA": Entry("MLA"), "Ensemble": Entry("Ensemble")}), tmp_path / "s", cost=False)
    rows = {row["method"]: row for row in found["rows"]}
    metrics = {
        label: [json.loads((tmp_path / f"s/cells/{label}/seed{s}/metrics.json").read_text()) for s in (0, 1)]
        for label in rows
    }
    for label, row in rows.items():
        scores = [m["test"]["score"] for m in metrics[label]]
        assert row["seeds"] == 2
        assert row["scores"] == scores
        assert row["score_mean"] == pytest.approx(statistics.fmean(scores))
        assert row["score_std"] == pytest.approx(statistics.stdev(scores))
    gaps = [e["probe"]["m2"] - m["probe"]["m2"] for e, m in zip(metrics["Ensemble"], metrics["MLA"], strict=True)]
    assert rows["MLA"]["under_trained"]["m2"] == pytest.approx([statistics.fmean(gaps), statistics.stdev(gaps)])
    assert rows["Ensemble"]["under_trained"]["m2"] == [0.0, 0.0]
    assert [(h["method"], h["seed"], len(h["epochs"])) for h in found["histories"]] == [
        (m, s, 2) for m in rows for s in (0, 1)
    ]
    assert json.loads((tmp_path / "s" / "study.json").read_text()) == found


def test_differences_are_paired_with_every_control_and_the_best_single_modality(tmp_path: Path) -> None:
    entries = {"MLA": Entry("MLA"), "Joint": Entry("Joint"), "Ensemble": Entry("Ensemble")}
    found = compare(study(entries), tmp_path / "s", cost=False)
    differences, rows = found["differences"], {row["method"]: row for row in found["rows"]}
    assert set(differences) == set(rows)
    assert list(differences["MLA"]) == ["Joint", "Ensemble", "best single modality"]
    assert list(differences["Joint"]) == ["Ensemble", "best single modality"]
    own = rows["Ensemble"]["own_outputs"]
    rivals = {label: rows[label]["score_mean"] for label in ("Joint", "Ensemble")}
    rivals["best single modality"] = max(mean for mean, _ in own.values())
    for rival, difference in differences["MLA"].items():
        assert difference["mean"] == pytest.approx(rows["MLA"]["score_mean"] - rivals[rival], abs=1e-6)
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert difference["p"] <= difference["p_holm"] <= 1
        assert difference["seeds"] == 2
    damaged = tmp_path / "s/cells/MLA/seed0/outcomes.npz"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match="outcomes"):
        compare(study(entries), tmp_path / "s", cost=False)
    as_of_the_first_version(tmp_path / "s")
    damaged.unlink()  # as in a run of a version that wrote none
    again = compare(study(entries), tmp_path / "s", cost=False)
    assert {d["seeds"] for d in again["differences"]["MLA"].values()} == {1}


def test_a_study_without_controls_is_marked(tmp_path: Path) -> None:
    found = compare(study(seeds=[0]), tmp_path / "s", cost=False)
    for control in ("Joint", "MultiLoss", "Unimodal", "Ensemble"):
        assert any(control in missing for missing in missing_controls(found))
        assert control in text_table(found)
        assert control in markdown_table(found)


def counted_summaries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each summary that is made from here on."""
    made: list[str] = []
    original = _summary.summarise

    def summarise(*arguments: Any) -> Any:
        made.append("made")
        return original(*arguments)

    monkeypatch.setattr(_compare, "summarise", summarise)
    return made


@pytest.mark.slow
def test_two_workers_give_what_one_gives(tmp_path: Path) -> None:
    settings = study({"Joint": Entry("Joint"), "MIE": Entry("MIE")}, seeds=[0])
    one = compare(settings, tmp_path / "one", cost=False)
    two = compare(settings, tmp_path / "two", workers=2, cost=False)
    for label in ("Joint", "MIE"):
        assert_same_run(tmp_path / f"one/cells/{label}/seed0", tmp_path / f"two/cells/{label}/seed0")
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_finished_cells_are_not_run_again_and_new_ones_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare(study(seeds=[0]), tmp_path / "s", cost=False)
    started = counted(monkeypatch)
    again = compare(study(seeds=[0]), tmp_path / "s", cost=False)
    assert started == []
    assert again["rows"] == first["rows"]
    compare(study({"MLA": Entry("MLA"), "Joint": Entry("Joint")}, seeds=[0, 1]), tmp_path / "s", cost=False)
    assert started == ["MLA/seed1", "Joint/seed0", "Joint/seed1"]


def test_a_finished_comparison_is_summed_up_again_only_where_something_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    first = compare(study(), folder, cost=False)
    made = counted_summaries(monkeypatch)
    assert compare(study(), folder, cost=False) == first
    assert made == []
    (folder / "study.json").unlink()  # what is missing is made again
    assert compare(study(), folder, cost=False)["rows"] == first["rows"]
    assert len(made) == 1
    fewer = compare(study(seeds=[1]), folder, cost=False)
    assert fewer["rows"][0]["seeds"] == 1
    assert len(made) == 2
    with pytest.raises(DataError, match="other values of options.alpha"):  # known cells are asked for their options too
        compare(study({"MLA": Entry("MLA", {"alpha": 0.5})}, seeds=[1]), folder, cost=False)
    cell = folder / "cells" / "MLA" / "seed1"
    content = (cell / "metrics.json").read_text()
    (cell / "metrics.json").write_text(content.replace('"seed": 1', '"seed":  1'))
    with pytest.raises(DataError, match="the file was changed"):  # and for their content
        compare(study(seeds=[1]), folder, cost=False)


def test_a_comparison_that_was_stopped_continues_in_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study({"Joint": Entry("Joint"), "MLA": Entry("MLA")}, seeds=[0])
    compare(settings, tmp_path / "whole", cost=False)

    def stop(done: int, total: int, what: str) -> None:
        assert total == 4
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(settings, tmp_path / "s", cost=False, progress=stop)
    started = counted(monkeypatch)
    compare(settings, tmp_path / "s", cost=False)
    assert started == ["MLA/seed0"]
    for label in ("Joint", "MLA"):
        assert_same_run(tmp_path / f"whole/cells/{label}/seed0", tmp_path / f"s/cells/{label}/seed0")


@pytest.mark.parametrize(
    ("good", "match"),
    [
        ([], "^both cells failed. bad/seed0, bad/seed1: `alpha`"),
        (["one"], "^2 of 4 cells failed, the others are finished. bad/seed0, bad/seed1: `alpha`"),
    ],
)
def test_all_that_failed_is_told_as_all(good: list[str], match: str, tmp_path: Path) -> None:
    entries = {"bad": Entry("MLA", {"alpha": -1.0}), **{name: Entry("Joint") for name in good}}
    with pytest.raises(StudyError, match=match):
        compare(study(entries, seeds=[0, 1]), tmp_path / "s", cost=False)


def test_a_cell_that_fails_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    bad = Entry("MLA", {"alpha": -1.0})
    settings = study({"bad": bad, "Joint": Entry("Joint"), "worse": bad}, seeds=[0])
    once = r"2 of 3 cells failed, the other one is finished. bad/seed0, worse/seed0: (`alpha`(?!.*`alpha`).*)$"
    with pytest.raises(StudyError, match=once) as caught:
        compare(settings, tmp_path / "s", cost=False)
    assert [row["method"] for row in caught.value.study["rows"]] == ["Joint"]
    assert caught.value.study["incomplete"] == json.loads((tmp_path / "s/study.json").read_text())["incomplete"]
    assert "bad/seed0" in caught.value.study["incomplete"][0]


def test_other_data_budgets_or_options_cannot_take_over_a_study(tmp_path: Path) -> None:
    compare(study(seeds=[0]), tmp_path / "s", cost=False)
    before = (tmp_path / "s" / "study.json").read_bytes()
    other = study(seeds=[0])
    other.training.lr = 0.5
    with pytest.raises(DataError, match="other training"):
        compare(other, tmp_path / "s", cost=False)
    noisy = study(seeds=[0])
    noisy.data.options = {**noisy.data.options, "seed": 1}
    with pytest.raises(DataError, match="other data, fingerprint"):
        compare(noisy, tmp_path / "s", cost=False)
    with pytest.raises(DataError, match="other values of options"):
        compare(study({"MLA": Entry("MLA", {"alpha": 0.9})}, seeds=[0]), tmp_path / "s", cost=False)
    assert (tmp_path / "s" / "study.json").read_bytes() == before


def test_wrong_arguments_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'MLA'"):
        compare(study({"x": Entry("MLAA")}), tmp_path / "s")
    for seeds in ([], [1, 1]):
        with pytest.raises(MethodError, match="seeds"):
            compare(study(seeds=seeds), tmp_path / "s")
    with pytest.raises(MethodError, match="workers"):
        compare(study(), tmp_path / "s", workers=0)
    assert not (tmp_path / "s").exists()


def test_costs_are_measured_once_per_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def measure(data: Any, configs: Any) -> dict[str, float]:
        asked.append(list(configs))
        return dict.fromkeys(configs, 2.0)

    monkeypatch.setattr(_compare, "measure_cost", measure)
    compare(study(seeds=[0]), tmp_path / "s")
    found = compare(study({"MLA": Entry("MLA"), "Joint": Entry("Joint")}, seeds=[0]), tmp_path / "s")
    assert asked == [["MLA"], ["Joint"]]
    assert [row["cost"] for row in found["rows"]] == [2.0, 2.0]


def test_the_cells_of_a_study_share_everything_but_method_and_seed() -> None:
    settings = study({"MLA": Entry("mla", {"alpha": 0.2})}, controls=True)
    cells = settings.cells(build_data(settings.data))
    assert len(cells) == 12
    assert cells["MLA/seed1"].method == "MLA"
    assert cells["MLA/seed1"].options == {"alpha": 0.2}
    assert {(c.data.name, c.training.epochs, c.model.feature_size) for c in cells.values()} == {("synthetic", 2, 6)}


_KILLED = """
if __name__ == "__main__":  # the workers import this file too, and need nothing of it
    import sys
    from pathlib import Path
    from tests.studies.test_compare import long_study
    from equimodal.studies import compare
    compare(long_study(), Path(sys.argv[1]), workers=2, cost=False)
"""


def long_study() -> StudyConfig:
    settings = study({"Joint": Entry("Joint"), "Ensemble": Entry("Ensemble")}, seeds=[0, 1])
    settings.training.epochs = 25
    return settings


@pytest.mark.slow
def test_a_killed_comparison_leaves_no_workers_and_runs_no_cell_twice(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "s")], env=environment)
    cells = tmp_path / "s" / "cells"
    deadline = time.monotonic() + 900  # only a run that hangs comes near it
    while time.monotonic() < deadline and not list(cells.glob("*/*/metrics.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {p.parent: p.read_bytes() for p in cells.glob("*/*/metrics.json")}
    assert finished
    previous, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < 2:  # no worker goes on writing
        now = sum(p.stat().st_size for p in cells.rglob("history.jsonl"))
        if now != previous:
            previous, quiet_since = now, time.monotonic()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    finished = {p.parent: p.read_bytes() for p in cells.glob("*/*/metrics.json")}
    assert len(finished) < 4
    started = counted(monkeypatch)
    compare(long_study(), tmp_path / "s", cost=False)
    assert len(started) == 4 - len(finished)
    for cell, content in finished.items():
        assert (cell / "metrics.json").read_bytes() == content
    for cell in cells.glob("*/*"):
        assert [r["epoch"] for r in history(cell)] == list(range(25))
