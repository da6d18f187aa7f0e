"""What the records of a run may hold, and their reading: one schema for all that read them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Required, TypedDict

from equimodal._utils.outside import shortened
from equimodal._utils.schema import check
from equimodal.errors import DataError, EquimodalError
from equimodal.studies.runs._records import read_json, read_lines, read_yaml
from equimodal.studies.setup import RunConfig

AGAIN = "Restore the file, or run again in another folder."


class _Data(TypedDict, total=False):
    name: str
    protocol: str
    validation: str | None
    fingerprint: Required[str]
    samples: dict[str, int]
    classes: list[str]
    present: Any


class Environment(TypedDict, total=False):
    """``environment.json``; runs of version 0.1 lack some fields."""

    versions: dict[str, str]
    format: int
    directory: str | None
    data: Required[_Data]


class _Measured(TypedDict, total=False):
    score: Required[float | None]
    loss: float | None
    unimodal: Required[dict[str, float | None]]


class Epoch(TypedDict, total=False):
    """A line of ``history.jsonl``."""

    epoch: Required[int]
    seconds: Required[float]
    loss: float | None
    losses: Required[dict[str, float | None]]
    coefficients: Required[dict[str, float | None]]
    extras: Required[dict[str, float | None]]
    phases: list[str]
    training_scores: dict[str, float | None]
    validation: Required[_Measured]


class _Scores(TypedDict, total=False):
    score: Required[float]
    loss: float | None
    unimodal: Required[dict[str, float]]
    samples: int
    unimodal_samples: dict[str, int]


class _Rule(TypedDict):
    validation: float
    test: float


class _Metric(TypedDict):
    name: str
    higher_is_better: bool


class _Selection(TypedDict, total=False):
    by: Required[str]
    epoch: Required[int]
    score: Required[float | None]
    trained: int
    planned: int


class _Inference(TypedDict, total=False):
    scores: dict[str, dict[str, Any]]


class Metrics(TypedDict, total=False):
    """``metrics.json``."""

    method: Required[str]
    seed: Required[int]
    options: dict[str, Any]
    parameters: int
    data: Required[str]
    protocol: Required[str]
    target: str | None
    metric: Required[_Metric]
    selection: Required[_Selection]
    rule: Required[str]
    test: Required[_Scores]
    validation: Required[_Scores]
    rules: Required[dict[str, _Rule]]
    inference: _Inference
    probe: dict[str, float]
    trained_modalities: list[str] | None
    seconds: Required[float]


def read_environment(folder: Path) -> dict[str, Any]:
    """``environment.json`` of a run, its fields checked; empty where there is none.

    Raises:
        DataError: a field is of another type; the message names it.
    """
    path = folder / "environment.json"
    if not path.exists():
        return {}
    found: dict[str, Any] = read_json(path)
    check(found, Environment, file=f"`{path}`", step=AGAIN)
    return found


def read_history(path: Path) -> list[dict[str, Any]]:
    """The epochs in ``history.jsonl`` of a run, their fields checked; see :func:`read_lines`.

    Raises:
        DataError: a line is no record, or a field of another type; the message names line and field.
    """
    records = read_lines(path)
    for number, record in enumerate(records, 1):
        check(record, Epoch, file=f"`{path}`: line {number}", step=AGAIN)
    return records


def stored_config(folder: Path) -> RunConfig:
    """The configuration of the run in a folder.

    Raises:
        DataError: a field is unknown, of another type or out of range; the message names file and field.
    """
    path = folder / "config.yaml"
    with named(path):
        return RunConfig.from_dict(read_yaml(path))


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Refusals of the block begin with the file that they are about.

    What data and model are made of is known to them only, so that anything that they raise on values of a file is a
    refusal of that file.
    """
    try:
        yield
    except EquimodalError as error:
        if path.name in str(error) or str(path.parent) in str(error):
            raise
        raise DataError(f"`{path}`: {error} {AGAIN}") from error
    except Exception as error:
        said = shortened(" ".join(str(error).split()), 200)
        raise DataError(
            f"`{path}`: expected values from which data and model can be made. Found some that give "
            f"{type(error).__name__}: {said}. {AGAIN}"
        ) from error
