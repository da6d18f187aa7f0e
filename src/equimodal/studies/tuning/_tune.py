"""Tuning: the search, its verdict, and what it leaves."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimodal.data import Dataset, TestSplit, require
from equimodal.errors import DataError, MethodError
from equimodal.studies.comparisons import declared_cost, measure_cost
from equimodal.studies.runs import (
    TUNING,
    Termination,
    check_content,
    locked,
    plain,
    read_json,
    read_yaml,
    write_json,
    write_yaml,
)
from equimodal.studies.setup import RunConfig, build_data, check_device
from equimodal.studies.tuning._config import TuneConfig
from equimodal.studies.tuning._ensemble import select_ensemble
from equimodal.studies.tuning._journal import JOURNAL, TRIALS, open_journal
from equimodal.studies.tuning._plan import trial_length
from equimodal.studies.tuning._record import commands, finished_trials, record
from equimodal.studies.tuning._search import Progress, Search
from equimodal.studies.tuning._trial import bench_of, with_candidate
from equimodal.studies.tuning._verdict import (
    Finished,
    Verdict,
    difference_on_test,
    ensemble_on_test,
    finish,
    in_words,
    judge,
    plain_difference,
    validation_output,
)

if TYPE_CHECKING:
    import optuna

RECORD, CONFIG, TAKE = "tune.json", TUNING, "take.yaml"
_MAY_CHANGE = ("budget", "test", "ensemble")


def tune(
    config: TuneConfig,
    folder: Path | str,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search for the composition that is best on validation data, and say what to take.

    Controls are trained first, to the end, the default of the library among them. Then the best one's learning rate is
    moved, every other method is tried as it recommends itself, and a sampler (TPE) suggests method, fusion, learning
    rate, options and sharpness. A trial is looked at on rungs and stopped there if it is not among the best (successive
    halving [Li2020]_); it goes on from its checkpoint. Inference rules, temperatures and the choice of weights are
    compared on stored validation outputs. Calling it again with the same folder continues; a process that was killed
    loses at most what its running trials had not saved.

    Args:
        config: what is searched, with how much budget.
        folder: for journal, trials and record.
        workers: processes, each with one thread; 1 trains here. With 1 the result is the same for the same seed.
        progress: called with (joint epochs spent, budget, what is running).

    Returns:
        The content of ``tune.json``.

    Raises:
        DataError: the folder holds another tuning, or one that has read its test data; the journal is missing or
            damaged; another process works there.
        MethodError: the budget is below one control, or a method does not fit the data.
        MissingExtraError: Optuna is not installed.
        SystemExit: with the code 75, after SIGTERM: running trials are saved, the same call continues.

    References:
        .. [Li2020] A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, arXiv 1810.05934.
    """
    folder = Path(folder)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise MethodError(f"`workers`: expected a whole number >= 1. Found {workers!r}.")
    check_device(config.training.device)
    data = build_data(config.data)
    if config.test and "test" not in data.parts:
        require(data.test, TestSplit, "test")  # refused now, not after the search
    config.searched(data)
    with locked(folder), Termination(f"equimodal tune --out {shlex.quote(str(folder))}") as termination:
        known = _claim(config, folder, data)
        if known is not None:
            return known
        length, new = _length(config, folder, data)
        _announce(config, folder, data, length)
        study = open_journal(folder, new=new)
        Search(config, folder, data, study, length, termination, progress).run(workers)
        return _conclude(config, folder, data, study, length)


def _claim(config: TuneConfig, folder: Path, data: Dataset) -> dict[str, Any] | None:
    """Refuse another tuning's folder; the record of this one, if it has read its test data."""
    check_content(folder, CONFIG)
    path = folder / CONFIG
    if not path.exists():
        if (folder / JOURNAL).exists() or (folder / TRIALS).exists():
            raise DataError(
                f"`{path}`: expected the configuration of the tuning whose trials are in `{folder}`. Found none. "
                "Restore it, or choose another folder."
            )
        return None
    stored = read_yaml(path)
    own = plain({**asdict(config), "fingerprint": data.fingerprint})
    differing = [k for k in own if k not in _MAY_CHANGE and stored.get(k) != own[k]]
    if differing:
        raise DataError(
            f"`{folder}`: expected the tuning that it holds. Found other {', '.join(differing)}; "
            f"{', '.join(_MAY_CHANGE)} may change, these may not. Compare with {path}, or choose another folder."
        )
    done = read_json(folder / RECORD) if (folder / RECORD).exists() else None
    if done is None or done.get("test") is None:
        return None
    changed = [k for k in _MAY_CHANGE if stored.get(k) != own[k]]
    if changed:
        raise DataError(
            f"`{folder}`: expected the tuning as it was when its test data were read. Found other "
            f"{', '.join(changed)}: what is chosen after that is chosen with knowledge of the test data. Tune in "
            "another folder, with test=False until you are done."
        )
    known: dict[str, Any] = done
    return known


def _length(config: TuneConfig, folder: Path, data: Dataset) -> tuple[int, bool]:
    """Epochs of a trial, and whether the tuning is a new one."""
    path = folder / CONFIG
    if path.exists():
        return int(read_yaml(path)["epochs_of_a_trial"]), False
    costs = {}
    for name in config.controls(data):
        one = RunConfig(name, {}, config.data, config.model, config.training, config.seed)
        declared = declared_cost(one, len(data.modalities))
        measured = declared is None or config.cost == "measured"
        costs[name] = measure_cost(data, {"": one})[""] if measured or declared is None else declared
    return trial_length(config, costs), True


def _announce(config: TuneConfig, folder: Path, data: Dataset, length: int) -> None:
    write_yaml(
        folder / CONFIG,
        {**plain(asdict(config)), "fingerprint": data.fingerprint, "epochs_of_a_trial": length},
    )


def _conclude(config: TuneConfig, folder: Path, data: Dataset, study: optuna.Study, length: int) -> dict[str, Any]:
    """Verdict, ensemble, test data, record."""
    bench = bench_of(data)
    finished = finished_trials(study, folder)
    verdict = judge(bench, finished)
    ensemble = None
    by_name = {str(f.number): f for f in sorted(finished, key=lambda f: (-f.pick.score, f.number))}
    if config.ensemble:
        ensemble = select_ensemble(bench, {n: validation_output(bench, f) for n, f in by_name.items()}, config.ensemble)
    test = _on_test(verdict, folder, data) if config.test else None
    several = None if ensemble is None else ensemble.plain()
    if several is not None and ensemble is not None and test is not None:
        several["test"] = ensemble_on_test(by_name, ensemble, data)
    taken = with_candidate(verdict.taken.config, verdict.taken.pick)
    whole = replace(taken, training=replace(taken.training, epochs=config.training.epochs), probe=True)
    write_yaml(folder / TAKE, whole.to_dict())
    share = data.task.higher_is_better
    made = record(
        config, folder, data, study, length, _steps(config, data),
        verdict={
            "words": in_words(verdict, test, share),
            "taken": verdict.taken.number,
            "winner": _described(verdict.winner),
            "control": _described(verdict.control),
            "default": None if verdict.default is None else _described(verdict.default),
            "validation": plain_difference(verdict.validation),
            "over_default": plain_difference(verdict.over_default),
            "compared": len(finished),
        },
        test=test,
        ensemble=several,
        commands=commands(folder, _name_of(verdict), config.test),
    )  # fmt: skip
    write_json(folder / RECORD, made)
    return made


def _on_test(verdict: Verdict, folder: Path, data: Dataset) -> dict[str, Any]:
    """Scores of winner, best control and default on test data, read once, and differences to the best control."""
    control = finish(verdict.control, folder / "control", data)["test"]["score"]
    found: dict[str, Any] = {"control": control}
    others = (("winner", "difference", verdict.winner), ("default", "default_difference", verdict.default))
    for name, key, trial in others:
        found[name], found[key] = (control if trial is verdict.control else None), None
        if trial is not None and trial is not verdict.control:
            found[name] = finish(trial, folder / name, data)["test"]["score"]
            found[key] = plain_difference(difference_on_test(data, folder / name, folder / "control"))
    return found


def _name_of(verdict: Verdict) -> str:
    """Name of the folder of what is taken."""
    if verdict.taken is verdict.control:
        return "control"
    return "winner" if verdict.taken is verdict.winner else "default"


def _described(trial: Finished) -> dict[str, Any]:
    run = with_candidate(trial.config, trial.pick)
    return {
        "trial": trial.number, "method": run.method, "options": run.options, "fusion": run.model.fusion,
        "lr": run.training.lr, "selection": run.training.selection, "rule": trial.pick.rule,
        "calibrated": trial.pick.calibrated, "score": trial.pick.score,
    }  # fmt: skip


def _steps(config: TuneConfig, data: Dataset) -> int:
    """Updates of an epoch."""
    batches = max(1, len(data.train) // config.training.batch_size)
    return -(-batches // config.training.accumulate)
