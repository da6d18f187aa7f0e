"""What a run's prediction and unimodal outputs earned on every test sample, as a file."""

from __future__ import annotations

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from equimodal._utils.arrays import check_npz
from equimodal._utils.outside import read_bytes
from equimodal.diagnostics import Outcomes, SamplePredictions
from equimodal.errors import DataError
from equimodal.studies.runs._records import write_bytes
from equimodal.tasks import Distribution

OUTCOMES = "outcomes.npz"
_HINT = "What was written before still is; free space and call again (train: with --resume)."


def write_outcomes(path: Path, outcomes: Mapping[str, Outcomes], predictions: SamplePredictions | None = None) -> Path:
    """Write outcomes, ``numerator/NAME`` and ``denominator/NAME``, (N, K) float32 each, and the predictions.

    Predictions are ``sample/index``, ``sample/target``, ``sample/kind``, ``value/NAME`` and ``confidence/NAME``.
    """
    packed = io.BytesIO()
    parts = {
        f"{part}/{name}": getattr(o, part) for name, o in outcomes.items() for part in ("numerator", "denominator")
    }
    if predictions is not None:
        parts |= {f"value/{name}": value for name, value in predictions.value.items()}
        parts |= {f"confidence/{name}": value for name, value in predictions.confidence.items()}
        parts |= {"sample/index": predictions.index, "sample/target": predictions.target}
        parts["sample/kind"] = np.array(predictions.kind)
    np.savez_compressed(packed, **parts)
    return write_bytes(path, packed.getvalue(), _HINT)


def read_outcomes(path: Path) -> dict[str, Outcomes]:
    """The outcomes that :func:`write_outcomes` wrote; empty where the run is of a version that wrote none.

    Raises:
        DataError: the file is damaged.
    """
    return read_samples(path)[0]


def read_samples(path: Path) -> tuple[dict[str, Outcomes], SamplePredictions | None]:
    """All that :func:`write_outcomes` wrote: outcomes, and predictions; ``None`` where there are none (maps, 0.1).

    Raises:
        DataError: the file is damaged.
    """
    arrays = _arrays(path)
    names = [n.removeprefix("numerator/") for n in arrays if n.startswith("numerator/")]
    with _readable(path):
        outcomes = {n: Outcomes(arrays[f"numerator/{n}"], arrays[f"denominator/{n}"]) for n in names}
        return outcomes, _predictions(arrays) if "sample/target" in arrays else None


def _predictions(arrays: Mapping[str, NDArray[Any]]) -> SamplePredictions:
    target, index = arrays["sample/target"], arrays["sample/index"]
    value, confidence = (
        {n.removeprefix(f"{part}/"): a for n, a in arrays.items() if n.startswith(f"{part}/")}
        for part in ("value", "confidence")
    )
    kind = str(arrays["sample/kind"])
    whole = kind in get_args(Distribution) and index.shape == target.shape[:1]
    same = all(a.shape == target.shape for a in value.values())
    if not whole or not same or any(a.shape != index.shape for a in confidence.values()):
        raise ValueError("targets and predictions of different samples")
    return SamplePredictions(kind, index, target, value, confidence)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.exists():
        return {}
    check_npz(path, every=True)
    with _readable(path), np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"`{path}`: expected outcomes written by equimodal. Found {type(error).__name__}: {error}. Delete the "
            "run's folder to run it again."
        ) from error
