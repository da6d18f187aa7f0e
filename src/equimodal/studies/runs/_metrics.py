"""The results of a finished run, read back and compared with what the run is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.schema import check
from equimodal.errors import DataError
from equimodal.methods import get
from equimodal.studies.runs._companions import WEIGHTS
from equimodal.studies.runs._records import read_json
from equimodal.studies.runs._seal import SEAL, is_sealed
from equimodal.studies.runs._stored import AGAIN, Metrics
from equimodal.studies.setup import RunConfig

METRICS = "metrics.json"
_ROUNDING = 1e-6


def is_finished(folder: Path) -> bool:
    """Whether a run left everything: results, weights, and (since version 0.2) the hashes of both."""
    there = (folder / METRICS).exists() and (folder / WEIGHTS).exists()
    return there and (not (folder / SEAL).exists() or is_sealed(folder, METRICS))


def read_metrics(folder: Path, config: RunConfig) -> dict[str, Any]:
    """The results in ``metrics.json`` of the run ``config``.

    Raises:
        DataError: it is damaged, of another run, or holds scores that cannot be; the message names file and field.
    """
    path = folder / METRICS
    found = read_json(path)
    check(found, Metrics, file=f"`{path}`", step=AGAIN)
    others = {k: v for k, v in found["test"].items() if k not in ("unimodal", "unimodal_samples")}
    check(others, dict[str, float | None], "test", f"`{path}`", step=AGAIN)
    for field, expected in (("method", get(config.method).__name__), ("seed", config.seed)):
        if found.get(field) != expected:
            raise DataError(
                f"`{path}`: field `{field}`: expected {expected!r}, as in config.yaml. Found {found.get(field)!r}: "
                f"these are the results of another run. Delete `{folder}` to run it again."
            )
    metric = found.get("metric")
    better = bool(metric.get("higher_is_better")) if isinstance(metric, Mapping) else None
    for part in ("test", "validation"):
        values = found.get(part)
        if not isinstance(values, Mapping):
            raise DataError(f"`{path}`: field `{part}`: expected scores. Found {values!r}.")
        _check_score(path, f"{part}.score", values.get("score"), better)
        alone = values.get("unimodal", {})
        if not isinstance(alone, Mapping):
            raise DataError(f"`{path}`: field `{part}.unimodal`: expected scores by modality. Found {alone!r}.")
        for modality, value in alone.items():
            _check_score(path, f"{part}.unimodal.{modality}", value, better)
    _check_seconds(path, found.get("seconds"))
    return dict(found)


def _check_score(path: Path, field: str, value: Any, higher_is_better: bool | None) -> None:
    """Shares are between 0 and 1; errors are stored as their negative."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    low, high = (-_ROUNDING, 1 + _ROUNDING) if higher_is_better else (-math.inf, _ROUNDING)
    if number and (higher_is_better is None or low <= value <= high):
        return
    expected = {None: "a finite number", True: "a share, 0 to 1", False: "minus an error"}[higher_is_better]
    raise DataError(f"`{path}`: field `{field}`: expected {expected}. Found {value!r}. Run it again in another folder.")


def _check_seconds(path: Path, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        raise DataError(f"`{path}`: field `seconds`: expected a number of at least 0. Found {value!r}.")
