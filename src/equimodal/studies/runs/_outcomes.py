"""What a run's prediction and unimodal outputs earned on every test sample, as a file."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from equimodal._utils.arrays import check_npz
from equimodal._utils.outside import read_bytes
from equimodal.diagnostics import Outcomes
from equimodal.errors import DataError
from equimodal.studies.runs._records import write_bytes

OUTCOMES = "outcomes.npz"
_HINT = "What was written before still is; free space and call again (train: with --resume)."


def write_outcomes(path: Path, outcomes: Mapping[str, Outcomes]) -> Path:
    """Write outcomes: ``numerator/NAME`` and ``denominator/NAME``, (N, K) float32 each."""
    packed = io.BytesIO()
    parts = {
        f"{part}/{name}": getattr(o, part) for name, o in outcomes.items() for part in ("numerator", "denominator")
    }
    np.savez_compressed(packed, **parts)
    return write_bytes(path, packed.getvalue(), _HINT)


def read_outcomes(path: Path) -> dict[str, Outcomes]:
    """The outcomes that :func:`write_outcomes` wrote; empty where the run is of a version that wrote none.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return {}
    check_npz(path)
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as stored:
            for name in stored.files:
                check_npz(path, name)
            arrays = {name: stored[name] for name in stored.files}
            names = [n.removeprefix("numerator/") for n in arrays if n.startswith("numerator/")]
            return {n: Outcomes(arrays[f"numerator/{n}"], arrays[f"denominator/{n}"]) for n in names}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"`{path}`: expected outcomes written by equimodal. Found {type(error).__name__}: {error}. Delete the "
            "run's folder to run it again."
        ) from error
