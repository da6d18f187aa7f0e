"""The journal of a tuning: every trial, in a file of lines that only grows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimodal.errors import DataError, EquimodalError, missing_extra
from equimodal.studies.runs import write_bytes
from equimodal.studies.tuning._space import Choice, Range

if TYPE_CHECKING:
    import optuna

JOURNAL, TRIALS = "journal.jsonl", "trials"
_NAME = "tuning"


def open_journal(folder: Path, *, new: bool) -> optuna.Study:
    """The study in the journal of a folder that no other process works in.

    What a process that was killed left behind is taken away: its lock, and a line that it had not written to the end.

    Args:
        folder: of the tuning.
        new: begin one; else the journal must be there.

    Raises:
        DataError: the journal is missing or damaged.
        MissingExtraError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise missing_extra("optuna", "tune", "Tuning") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL
    begun = (folder / TRIALS).exists()
    new = new or not (path.exists() or begun)  # killed before the journal was there
    if not new and not path.exists():
        raise DataError(
            f"`{path}`: expected the journal of this tuning. Found none, so what was tried is not known. Restore it, "
            "or start anew in another folder."
        )
    path.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    _check(path)
    storage = JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))
    try:
        if new or (not begun and not storage.get_all_studies()):
            study = optuna.create_study(storage=storage, study_name=_NAME, direction="maximize")
            (folder / TRIALS).mkdir(exist_ok=True)
            return study
        return optuna.load_study(storage=storage, study_name=_NAME)
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def ranges_of(study: optuna.Study) -> dict[str, Choice | Range]:
    """What each parameter was drawn from when it was first drawn, maybe in another version: Optuna allows no other."""
    found: dict[str, Choice | Range] = {}
    for trial in study.get_trials(deepcopy=False):
        for name, drawn in trial.distributions.items():
            if name not in found:
                found[name] = _entry(drawn)
    return found


def _entry(drawn: Any) -> Choice | Range:
    if hasattr(drawn, "choices"):
        return Choice(tuple(drawn.choices))
    return Range(drawn.low, drawn.high, drawn.log, isinstance(drawn.low, int))


def _check(path: Path) -> None:
    """Refuse lines that are no records; the last one may be cut, and is taken away."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole, _, cut = content.rpartition(b"\n")
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            good = isinstance(json.loads(line), dict)
        except ValueError:
            good = False
        if not good:
            raise _damaged(path, f"line {number} is no record")
    if cut:
        write_bytes(path, content[: len(content) - len(cut)])


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        f"`{path}`: expected the journal of a tuning, one record a line. Found: {found}. Restore it, or start anew in "
        "another folder."
    )


def spent(study: optuna.Study) -> float:
    """The joint epochs of all trials, as far as they were looked at; a part that failed counts as a whole one."""
    total = 0.0
    for trial in study.get_trials(deepcopy=False):
        if "cost" in trial.user_attrs:
            steps = [*trial.intermediate_values, trial.user_attrs["start"]]
            total += trial.user_attrs["cost"] * (max(steps) - trial.user_attrs["start"])
        total += trial.user_attrs.get("charged", 0.0)
    return total


def plan_of(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    """Why a trial was made; empty for those that the sampler suggested."""
    return str(trial.user_attrs.get("plan") or "")


def reason(error: BaseException) -> str:
    """Why a trial failed, on one line."""
    text = str(error) if isinstance(error, EquimodalError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
