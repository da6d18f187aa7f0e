"""Tuning: controls first, the budget is kept, what is interrupted continues, test data are read once, at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equimodal.data import TestSplit, loader
from equimodal.diagnostics import evaluate
from equimodal.errors import DataError, MethodError, UnknownNameError
from equimodal.methods import CGGM
from equimodal.studies import DataConfig, RunConfig, TrainingConfig, TuneConfig, build_data, load_run, run, tune
from equimodal.studies.runs import read_yaml
from equimodal.studies.tuning._candidates import Bench, Candidate
from equimodal.studies.tuning._outputs import Outputs, write_outputs
from equimodal.studies.tuning._record import finished_trials
from equimodal.studies.tuning._trial import OUTPUTS, advance, with_candidate
from equimodal.studies.tuning._verdict import Finished, finish, in_words, judge
from equimodal.tasks import Classification
from tests.features.killed import in_process
from tests.studies.helpers import config

pytest.importorskip("optuna")

CONTROLS = ("Joint", "MultiLoss", "Ensemble", "ExpertPool")
CHOSEN: dict[str, Any] = {"ensemble": 3, "methods": ["MIE", "CGGM"], "fusions": ["Sum"]}


def settings(budget: float = 23.0, **changes: Any) -> TuneConfig:
    one = config(epochs=3)
    return TuneConfig(budget, **{"data": one.data, "model": one.model, "training": one.training, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuning from begin to end; only read."""
    folder = tmp_path_factory.mktemp("tune") / "whole"
    tune(settings(**CHOSEN), folder)
    return folder


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tune.json").read_text())
    return found


def test_controls_come_first_then_their_rates_then_every_method(whole: Path) -> None:
    data = build_data(settings().data)
    trials = record(whole)["trials"]
    assert [t["plan"] for t in trials[:4]] == [f"control: {name}" for name in CONTROLS]
    assert all(t["state"] == "finished" and t["epochs"] == 3 and t["control"] for t in trials[:4])
    best = max(trials[:4], key=lambda t: t["score"])["method"]
    assert [t["plan"] for t in trials[4:6]] == [f"start: {best}, higher rate", f"start: {best}, lower rate"]
    assert trials[4]["lr"] == pytest.approx(1e-2 * 8**0.5)
    assert [t["plan"] for t in trials[6:8]] == ["start: MIE", "start: CGGM"]
    assert all(t["options"] == {} for t in trials[:6])
    assert trials[7]["options"] == {k: v for k, v in CGGM.recommended(data.task).items() if k != "inference"}


def test_the_budget_is_kept_and_a_method_that_costs_two_counts_twice(whole: Path) -> None:
    found = record(whole)
    parts = [t["cost"] * (t["epochs"] - t["start"]) for t in found["trials"] if t["cost"] is not None]
    assert sum(parts) == pytest.approx(found["budget"]["spent"])
    assert found["budget"]["spent"] <= 23
    assert found["budget"]["spent"] + 3 > 23  # no trial of cost 1 would fit any more
    assert found["budget"]["spent_joint_steps"] == 5 * found["budget"]["spent"]  # 80 samples in batches of 16
    assert next(t for t in found["trials"] if t["method"] == "MIE")["cost"] == 2.0


def test_a_stopped_trial_was_not_among_the_best_of_its_rung(whole: Path) -> None:
    trials = record(whole)["trials"]
    stopped = [t for t in trials if t["state"] == "stopped"]
    assert stopped
    for trial in stopped:
        earlier = [t["rungs"]["1"] for t in trials if t["number"] <= trial["number"] and "1" in t["rungs"]]
        assert trial["epochs"] == 1
        kept = max(1, len(earlier) // 3)
        assert sum(score > trial["rungs"]["1"] for score in earlier) >= kept


def test_winner_and_control_are_finished_runs_and_the_verdict_can_be_trained(whole: Path, tmp_path: Path) -> None:
    found = record(whole)
    verdict = found["verdict"]
    scores = {t["number"]: t["score"] for t in found["trials"] if t["state"] == "finished"}
    assert verdict["winner"]["score"] == max(scores.values())
    assert verdict["control"]["score"] == max(scores[n] for n in range(4))
    assert verdict["default"]["method"] == "ExpertPool"
    folders = {verdict[name]["trial"]: name for name in ("default", "winner", "control")}
    assert {p.parent.name for p in whole.glob("*/metrics.json")} == set(folders.values())  # each trial once
    for name in folders.values():
        _, data, method = load_run(whole / name)
        again = evaluate(method, loader(data.test, 256))
        assert again.score == found["test"][name]
        assert again.rule == verdict[name]["rule"]
    taken = RunConfig.from_dict(read_yaml(whole / "take.yaml"))
    chosen = verdict[folders[verdict["taken"]]]
    assert (taken.method, taken.training.epochs, taken.training.lr) == (chosen["method"], 3, chosen["lr"])
    metrics = run(taken, tmp_path / "taken", loggers=False)  # here a trial is as long as a whole training
    assert metrics["test"]["score"] == found["test"][folders[verdict["taken"]]]
    assert found["commands"][0] == f"equimodal train --config {whole / 'take.yaml'} --out RUN_DIR"


def test_the_default_predicts_as_it_does_by_itself(tmp_path: Path) -> None:
    """Even where another rule scored higher; another control has the rule that was chosen for it."""
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(direction="maximize")
    ways = [Candidate("last", "skill", False, 0.6, default=True).plain(), Candidate("last", "mean", False, 0.7).plain()]
    for name in ("Joint", "ExpertPool"):
        place = tmp_path / "trials" / name
        write_outputs(place / OUTPUTS, {"last": Outputs(torch.zeros(3, 2), {}, {"m": torch.ones(3, dtype=torch.bool)})})
        study.add_trial(optuna.trial.create_trial(value=0.7, user_attrs={
            "plan": f"control: {name}", "config": config(name).to_dict(), "folder": name, "cost": 1.0,
            "result": {"candidates": ways, "pick": 1},
        }))  # fmt: skip
    joint, default = finished_trials(study, tmp_path)
    assert (joint.pick.rule, joint.pick.score) == ("mean", 0.7)
    assert (default.pick.rule, default.pick.score) == ("skill", 0.6)


def test_the_ensemble_says_what_it_gains(whole: Path) -> None:
    ensemble = record(whole)["ensemble"]
    assert 1 <= ensemble["size"] <= sum(ensemble["members"].values()) <= 3
    assert ensemble["gain"]["mean"] == pytest.approx(ensemble["cross_validated"] - ensemble["single"], abs=1e-6)
    finished = {str(t["number"]) for t in record(whole)["trials"] if t["state"] == "finished"}
    assert set(ensemble["members"]) <= finished
    assert 0 <= ensemble["test"] <= 1


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often test samples are read, and trials trained."""
    calls: Counter[str] = Counter()
    original_batch, original_advance, original_judge = TestSplit.batch, advance, judge

    def batch(self: TestSplit, *arguments: Any, **options: Any) -> Any:
        calls["test"] += 1
        return original_batch(self, *arguments, **options)

    def counting(*arguments: Any, **options: Any) -> Any:
        calls["trained"] += 1
        return original_advance(*arguments, **options)

    def judging(*arguments: Any) -> Any:
        calls["before the verdict"] = calls["test"]
        return original_judge(*arguments)

    monkeypatch.setattr(TestSplit, "batch", batch)
    monkeypatch.setattr("equimodal.studies.tuning._search.advance", counting)
    monkeypatch.setattr("equimodal.studies.tuning._tune.judge", judging)
    return calls


def test_test_data_are_read_at_the_end_and_never_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    chosen = settings(12, methods=[], test=False, length=3)
    first = tune(chosen, tmp_path / "t")
    assert (calls["test"], first["test"], calls["trained"]) == (0, None, 8)  # two parts for each control
    assert not (tmp_path / "t" / "control").exists()
    second = tune(replace(chosen, budget=16.0), tmp_path / "t")  # goes on: the controls are not trained again
    assert second["trials"][:4] == first["trials"]
    assert len(second["trials"]) > 4
    assert calls["test"] == 0
    last = tune(replace(chosen, budget=16.0, test=True), tmp_path / "t")
    assert calls["before the verdict"] == 0
    assert calls["test"] > 0
    assert last["trials"] == second["trials"]
    seen = dict(calls)
    assert tune(replace(chosen, budget=16.0, test=True), tmp_path / "t") == last
    assert dict(calls) == seen
    with pytest.raises(DataError, match="as it was when its test data were read. Found other budget"):
        tune(replace(chosen, budget=40.0, test=True), tmp_path / "t")


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    return {k: found[k] for k in ("trials", "verdict", "test", "importance", "budget", "ensemble")}


def _killed(folder: str, at: int) -> None:
    """Tune, and be killed at the given training step."""
    from equimodal.lightning import MethodModule

    torch.set_num_threads(1)
    original, seen = MethodModule.training_step, [0]

    def step(self: MethodModule, batch: Any, batch_idx: int) -> None:
        original(self, batch, batch_idx)
        seen[0] += 1
        if seen[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)

    MethodModule.training_step = step  # type: ignore[method-assign]
    tune(settings(**CHOSEN), folder)


def test_a_killed_tuning_loses_the_running_trial_at_most(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    for at in (37, 22):  # in the third epoch of the second control, then in a later trial
        assert in_process(_killed, str(folder), at) == -signal.SIGKILL
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("trials/*/validation.safetensors")}
    assert len(kept) >= 2
    tune(settings(**CHOSEN), folder)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # no finished trial was trained again
    assert comparable(record(folder)) == comparable(record(whole))  # and nothing is different from one that ran through


def test_a_search_that_goes_on_draws_what_one_in_a_single_go_draws(tmp_path: Path) -> None:
    chosen = settings(9, length=1, methods=[], fusions=["Sum"], sharpness=False, test=False)
    found = tune(chosen, tmp_path / "whole")
    drawn = [t for t in found["trials"] if not t["plan"] and t["state"] == "finished"]
    assert len(drawn) >= 2  # beside four controls and two rates
    tune(replace(chosen, budget=6.0), tmp_path / "parts")
    tune(replace(chosen, budget=7.0), tmp_path / "parts")
    assert comparable(tune(chosen, tmp_path / "parts")) == comparable(found)
    other = tune(replace(chosen, seed=1), tmp_path / "other")
    assert [t["lr"] for t in other["trials"][6:]] != [t["lr"] for t in found["trials"][6:]]


def test_a_line_that_was_cut_is_taken_away_and_the_lock_of_a_dead_process(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "tune.json").unlink()
    journal = folder / "journal.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content + b'{"op_code": 4, "worker')
    (folder / "journal.jsonl.lock").touch()
    tune(settings(**CHOSEN), folder)
    assert journal.read_bytes() == content
    assert comparable(record(folder)) == comparable(record(whole))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("deleted", "expected the journal of this tuning. Found none"),
        ("corrupt", "line 4 is no record"),
        ("binary", "line 1 is no record"),
        ("empty", "expected the journal of a tuning"),
        ("configuration", "expected the configuration of the tuning whose trials are in"),
        ("outputs", "expected the outputs of trial 1"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(damage: str, message: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "tune.json").unlink()
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    if damage == "deleted":
        journal.unlink()
    elif damage == "corrupt":
        journal.write_text("".join([*lines[:3], "no record\n", *lines[4:]]))
    elif damage == "binary":
        journal.write_bytes(b"\x00\xff\n" * 3)
    elif damage == "empty":
        journal.write_text("")
    elif damage == "configuration":
        (folder / "tune.yaml").unlink()
    else:
        (folder / "trials" / "trial1" / OUTPUTS).unlink()
    with pytest.raises(DataError, match=message):
        tune(settings(**CHOSEN), folder)


def test_another_tuning_in_the_folder_is_refused_by_name(whole: Path) -> None:
    other = settings(**CHOSEN)
    other.data.options["seed"] = 5
    with pytest.raises(DataError, match="expected the tuning that it holds. Found other data, fingerprint"):
        tune(other, whole)
    with pytest.raises(DataError, match="Found other training, methods;"):
        tune(settings(**{**CHOSEN, "training": TrainingConfig(epochs=4), "methods": ["MLA"]}), whole)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"budget": 2.0}, MethodError, "`budget`: expected at least 3 joint epochs, which one control"),
        (
            {"budget": 8.0, "length": 3},
            MethodError,
            "expected at least 12 joint epochs, which the controls Joint, Multi",
        ),
        ({"methods": ["Unimodal"]}, MethodError, "`methods`: .*Found Unimodal"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        tune(settings(**{"budget": 20.0, **changes}), tmp_path / "t")
    assert not (tmp_path / "t" / "trials").exists()
    with pytest.raises(UnknownNameError, match="Unknown method 'Joit'"):
        settings(methods=["Joit"])
    with pytest.raises(MethodError, match="`workers`"):
        tune(settings(), tmp_path / "t", workers=0)


def test_a_failing_method_is_recorded_and_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(one: RunConfig, *arguments: Any, **options: Any) -> Any:
        if one.method == "MLA":
            raise RuntimeError("no such luck")
        return advance(one, *arguments, **options)

    monkeypatch.setattr("equimodal.studies.tuning._search.advance", failing)
    found = tune(settings(19, methods=["MLA"], fusions=[], test=False, length=3), tmp_path / "t")
    failed = [t for t in found["trials"] if t["method"] == "MLA"]
    assert failed[0]["why"] == "RuntimeError: no such luck"
    assert failed[0]["state"] == "failed"
    assert found["budget"]["spent"] <= 19
    assert found["verdict"]["control"]["method"] in CONTROLS


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("regression", {}),
        ("regression", {"loss": "gaussian_nll"}),
        ("multilabel", {}),
        pytest.param("segmentation", {}, marks=pytest.mark.slow),
    ],
)
def test_every_task_can_be_tuned(task: str, options: dict[str, Any], tmp_path: Path) -> None:
    sizes = {"train": 48, "validation": 24, "test": 24}
    data = DataConfig("synthetic", options={**sizes, "task": task}, task=options)
    chosen = settings(5, data=data, length=1, methods=[], fusions=[], ensemble=2)
    found = tune(chosen, tmp_path / "t")
    assert [t["state"] for t in found["trials"][:4]] == ["finished"] * 4
    assert all(t["score"] is not None for t in found["trials"][:4])
    assert found["verdict"]["words"].startswith("Take")
    compared = [found["test"][k] for k in ("difference", "default_difference")]
    assert ("points" in found["verdict"]["words"]) == (task != "regression" and compared != [None, None])


def test_without_any_control_there_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no such luck")

    monkeypatch.setattr("equimodal.studies.tuning._search.advance", failing)
    with pytest.raises(MethodError, match="expected at least one control that trains to its end"):
        tune(settings(9, methods=[]), tmp_path / "t")


# ---- the verdict -----------------------------------------------------------------------------------------------------


def trial(folder: Path, number: int, right: int, control: bool, count: int = 200, method: str = "Joint") -> Finished:
    """A trial that is right on the first samples of ``count``."""
    output = torch.zeros(count, 2)
    output[:right, 0], output[right:, 1] = 1.0, 1.0
    place = folder / str(number)
    write_outputs(place / OUTPUTS, {"last": Outputs(output, {}, {"m": torch.ones(count, dtype=torch.bool)})})
    pick = Candidate("last", "fused", False, right / count, default=True)
    return Finished(number, RunConfig(method), place, pick, control)


def bench(groups: Tensor | None = None) -> Bench:
    target, zeros = torch.zeros(200, dtype=torch.int64), torch.zeros(200, dtype=torch.int64)
    return Bench(Classification(2), target, zeros, groups)


def test_a_winner_is_taken_only_beyond_the_interval(tmp_path: Path) -> None:
    control = trial(tmp_path, 0, 150, control=True)
    weak = trial(tmp_path, 1, 120, control=True)
    clear, close = trial(tmp_path, 2, 170, control=False), trial(tmp_path, 3, 152, control=False)
    found = judge(bench(), [control, weak, close, clear])
    assert (found.winner, found.control, found.taken) == (clear, control, clear)
    assert found.validation is not None
    assert found.validation.mean == pytest.approx(0.1)
    assert in_words(found, None, percent=True).startswith("Take Joint (trial 2): on validation data it is 10.0 points")
    found = judge(bench(), [control, weak, close])
    assert (found.winner, found.taken) == (close, control)
    assert "Take the control Joint: the best composition, Joint (trial 3), is 1.0 points" in in_words(found, None, True)
    found = judge(bench(), [weak, control, trial(tmp_path, 4, 150, control=False)])
    assert (found.winner, found.taken, found.validation) == (control, control, None)  # a tie goes to the control
    difference = {"mean": -0.02, "low": -0.03, "high": -0.01, "p": 0.01, "seeds": 1, "samples": 9}
    said = in_words(judge(bench(), [control, clear]), {"difference": difference}, percent=True)
    assert said.endswith("On test data the composition is -2.0 points (95 % interval -3.0 to -1.0) above the best "
                         "control, Joint; the interval lies below zero.")  # fmt: skip


def test_the_default_is_taken_unless_something_is_clearly_better(tmp_path: Path) -> None:
    default = trial(tmp_path, 0, 150, control=True, method="ExpertPool")
    close, clear = trial(tmp_path, 1, 152, control=True), trial(tmp_path, 2, 170, control=True, method="MultiLoss")
    found = judge(bench(), [close, default])
    assert (found.winner, found.control, found.default, found.taken) == (close, close, default, default)
    assert found.over_default is not None
    assert found.over_default.mean == pytest.approx(0.01)
    said = in_words(found, None, percent=True)
    assert said.startswith("Take the default ExpertPool: the best control, Joint, is 1.0 points (95 % interval ")
    assert said.endswith("above it on validation data, which may be chance; no composition scored higher on validation "
                         "data.")  # fmt: skip
    found = judge(bench(), [close, default, clear])
    assert (found.winner, found.taken) == (clear, clear)
    assert in_words(found, None, True).startswith("Take the control MultiLoss: the best control, MultiLoss, is 10.0 po")
    composition = trial(tmp_path, 3, 171, control=False)
    found = judge(bench(), [close, default, clear, composition])
    assert (found.winner, found.taken) == (composition, clear)
    found = judge(bench(), [close, default, composition])
    assert (found.winner, found.taken) == (composition, composition)
    found = judge(bench(), [close, default, trial(tmp_path, 4, 153, control=False)])
    assert found.taken is default
    assert "above Joint on validation data, and the interval includes zero" in in_words(found, None, percent=True)
    equal = trial(tmp_path, 5, 150, control=True)
    found = judge(bench(), [equal, default])  # a tie goes to the default
    assert (found.control, found.taken, found.over_default) == (default, default, None)


def test_the_interval_is_corrected_for_the_number_of_compositions(tmp_path: Path) -> None:
    """What one composition would win by is not enough for the best of twenty."""
    control, winner = trial(tmp_path, 0, 150, control=True), trial(tmp_path, 1, 157, control=False)
    assert judge(bench(), [control, winner]).taken is winner
    others = [trial(tmp_path, 2 + i, 100, control=False) for i in range(19)]
    found = judge(bench(), [control, winner, *others])
    assert (found.winner, found.taken, found.compositions) == (winner, control, 20)
    assert ", corrected for 20 compositions) above it" in in_words(found, None, percent=True)


def test_groups_widen_the_interval_of_the_verdict(tmp_path: Path) -> None:
    control, clear = trial(tmp_path, 0, 150, control=True), trial(tmp_path, 1, 170, control=False)
    four = torch.arange(200) % 4  # all win alike: the bootstrap has no doubt, which four groups cannot settle
    found = judge(bench(four), [control, clear])
    assert found.validation is not None
    assert found.validation.better
    assert (found.taken, found.p) == (control, 1 / 16)
    assert "group by group gives as much too often (p = 0.062)" in in_words(found, None, percent=True)
    few = torch.arange(200) // 50  # all that is won is won in one of four groups
    assert judge(bench(), [control, clear]).taken is clear
    assert judge(bench(few), [control, clear]).taken is control


def test_a_chosen_rule_and_averaged_weights_become_a_run_that_can_be_repeated(tmp_path: Path) -> None:
    one = config("MultiLoss", epochs=4, selection="last")
    data = build_data(one.data)
    found = advance(one, tmp_path / "trial", 4, data)
    listed = [Candidate(**c) for c in found["candidates"]]
    assert {c.selection for c in listed} == {"best", "last", "average"}
    pick = next(c for c in listed if (c.selection, c.rule, c.calibrated) == ("average", "product", True))
    metrics = finish(Finished(0, one, tmp_path / "trial", pick, False), tmp_path / "winner", data)
    assert metrics["rule"] == "product"
    again = run(with_candidate(one, pick), tmp_path / "again", loggers=False)
    for part in ("test", "validation", "rules", "rule"):
        assert again[part] == metrics[part]
    _, _, method = load_run(tmp_path / "winner")
    assert (method.inference.rule, method.inference.calibrated) == ("product", True)
    assert not torch.equal(method.inference.temperature, torch.ones(2))


@pytest.mark.slow
def test_several_workers_keep_the_budget_and_another_number_continues(tmp_path: Path) -> None:
    found = tune(settings(5, test=False, length=1), tmp_path / "t", workers=2)
    assert [t["plan"] for t in found["trials"][:3]] == ["control: Joint", "control: MultiLoss", "control: Ensemble"]
    assert len(found["trials"]) == 5
    assert found["budget"]["spent"] == 5
    more = tune(settings(6, test=False, length=1), tmp_path / "t", workers=1)
    assert more["trials"][:5] == found["trials"]
