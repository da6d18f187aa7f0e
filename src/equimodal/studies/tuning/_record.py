"""What a tuning leaves: every trial, importance, curves, the verdict, commands; plain data for JSON and the page."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from equimodal.data import Dataset
from equimodal.errors import DataError
from equimodal.methods import default_method
from equimodal.studies.comparisons import epochs_of
from equimodal.studies.runs import environment, plain
from equimodal.studies.setup import RunConfig, fixed_rate
from equimodal.studies.tuning._candidates import Candidate
from equimodal.studies.tuning._config import TuneConfig
from equimodal.studies.tuning._importance import importance
from equimodal.studies.tuning._journal import TRIALS, plan_of, spent
from equimodal.studies.tuning._plan import rungs
from equimodal.studies.tuning._search import CONTROL, FINISH
from equimodal.studies.tuning._trial import OUTPUTS
from equimodal.studies.tuning._verdict import Finished

if TYPE_CHECKING:
    import optuna

STATES = {"COMPLETE": "finished", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running", "WAITING": "running"}


def _pick(trial: optuna.trial.FrozenTrial) -> dict[str, Any] | None:
    """How a trial predicts: as it was chosen for it; the default of the library, among the controls, as it is."""
    result = trial.user_attrs.get("result") or {}
    if result.get("pick") is None:
        return None
    candidates: list[dict[str, Any]] = result["candidates"]
    as_it_is = plan_of(trial) == CONTROL + default_method()
    own = [c for c in candidates if c["default"]] if as_it_is else []
    return own[0] if own else candidates[result["pick"]]


def finished_trials(study: optuna.Study, folder: Path) -> list[Finished]:
    """The trials that were trained to their end.

    Raises:
        DataError: the folder of one is gone.
    """
    import optuna

    found = []
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)):
        attrs = trial.user_attrs
        place = folder / TRIALS / attrs["folder"]
        if not (place / OUTPUTS).exists():
            raise DataError(
                f"`{place}`: expected the outputs of trial {trial.number}, which the journal names. Found no "
                f"{OUTPUTS}. Restore the folder, or start anew in another one."
            )
        pick = Candidate(**cast(dict[str, Any], _pick(trial)))
        control = plan_of(trial).startswith(CONTROL)
        found.append(Finished(trial.number, RunConfig.from_dict(attrs["config"]), place, pick, control))
    return found


def trial_rows(study: optuna.Study) -> list[dict[str, Any]]:
    """One row per trial, in the order in which they were made."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        attrs = trial.user_attrs
        config, result, pick = attrs.get("config") or {}, attrs.get("result") or {}, _pick(trial)
        refused = str(attrs.get("why") or "").startswith("refused")
        rows.append({
            "number": trial.number,
            "plan": plan_of(trial),
            "method": trial.params.get("method"),
            "control": plan_of(trial).startswith(CONTROL),
            "state": "refused" if refused else STATES[trial.state.name],
            "why": attrs.get("why"),
            "fusion": config.get("model", {}).get("fusion"),
            "lr": trial.params.get("lr"),
            "options": config.get("options", {}),
            "cost": attrs.get("cost"),
            "start": attrs.get("start", 0),
            "epochs": max(trial.intermediate_values, default=attrs.get("start", 0)),
            "rungs": {str(k): v for k, v in sorted(trial.intermediate_values.items())},
            "score": pick["score"] if pick else None,
            "candidate": pick,
            "candidates": result.get("candidates", []),
            "folder": attrs.get("folder"),
        })  # fmt: skip
    return rows


def choices(study: optuna.Study, first: int) -> dict[str, float]:
    """Importance of each choice for the score at the first rung, which all trials reach."""
    points, scores = [], []
    for trial in study.get_trials(deepcopy=False):
        if first in trial.intermediate_values and not plan_of(trial).startswith(FINISH):
            points.append(dict(trial.params))
            scores.append(trial.intermediate_values[first])
    return importance(points, scores)


def record(
    config: TuneConfig, folder: Path, data: Dataset, study: optuna.Study, length: int, steps: int, **said: Any
) -> dict[str, Any]:
    """The content of ``tune.json``.

    Args:
        config: of the tuning.
        folder: of the tuning.
        data: that was trained on.
        study: the journal.
        length: epochs of a trial.
        steps: updates of an epoch.
        **said: verdict and what belongs to it.
    """
    rows, levels = trial_rows(study), rungs(length, config.reduction)
    histories = []
    for row in rows:
        path = folder / TRIALS / str(row["folder"]) / "history.jsonl"
        if row["folder"] and path.exists() and not row["plan"].startswith(FINISH):
            histories.append({"trial": row["number"], "epochs": epochs_of(path)})
    used, rate = spent(study), fixed_rate(config.training)
    made: dict[str, Any] = plain({
        "title": f"{data.name}: tuning, {sum(r['state'] != 'refused' for r in rows)} trials",
        "created": time.strftime("%Y-%m-%d %H:%M"),
        "metric": {"name": data.task.main_metric, "higher_is_better": data.task.higher_is_better},
        "dataset": {"name": data.name, "target": data.target, "fingerprint": data.fingerprint, "samples": data.parts,
                    "modalities": list(data.modalities), "classes": len(data.classes)},
        "protocol": {"name": data.protocol.name, "description": data.protocol.description,
                     "validation": data.protocol.validation},
        "budget": {
            "joint_epochs": config.budget, "spent": used, "joint_steps": round(config.budget * steps),
            "spent_joint_steps": round(used * steps), "epochs_of_a_trial": length,
            "epochs_of_a_training": config.training.epochs, "rungs": levels, "cost": config.cost,
        },
        "training": vars(config.training),
        "model": vars(config.model),
        "searched": {"methods": config.searched(data), "fusions": config.usable_fusions(data),
                     "sharpness": config.sharpness,
                     "lr": [rate / config.lr_span, rate * config.lr_span]},
        "selection": "every choice on validation data: rule, temperatures and weights of a trial are the simplest "
        "within one standard error of the best, what is fitted being cross-validated; the test split is read "
        "once, at the end, for winner and best control",
        "seed": config.seed,
        "trials": rows,
        "importance": choices(study, levels[0]),
        "histories": histories,
        "environment": environment(),
        **said,
    })  # fmt: skip
    return made


def commands(folder: Path, taken: str, test: bool) -> list[str]:
    """What to call next with the composition that is to be taken."""
    shown = [f"equimodal train --config {shlex.quote(str(folder / 'take.yaml'))} --out RUN_DIR"]
    if test:
        shown.append(f"equimodal predict {shlex.quote(str(folder / taken))} --out predictions.csv")
    return shown
