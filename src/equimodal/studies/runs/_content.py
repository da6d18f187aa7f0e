"""What a folder holds, for those who expect something else in it."""

from __future__ import annotations

import shlex
from pathlib import Path

from equimodal.data.tables import FORMATS
from equimodal.errors import DataError
from equimodal.studies.runs._stored import stored_config

RUN, COMPARISON, TUNING = "config.yaml", "study.yaml", "tune.yaml"
"""What each kind of folder has from its first moment on."""

_KINDS = {RUN: "run", COMPARISON: "comparison", TUNING: "tuning"}


def content_of(folder: Path) -> tuple[str, str]:
    """What a folder holds, with whether it is finished, and what to do about it, in words.

    Example:
        >>> content_of(Path("no/such/folder"))
        ('no such folder', 'Check the path')
    """
    out = shlex.quote(str(folder))
    if not folder.is_dir():
        return ("a file" if folder.exists() else "no such folder"), "Check the path"
    if (folder / TUNING).exists():
        if (folder / "tune.json").exists():
            return "a finished tuning", f"Its page is {folder / 'report.html'}; its runs are in {folder / 'trials'}"
        return "an unfinished tuning (no tune.json)", f"Finish it: equimodal tune --out {out}"
    if (folder / COMPARISON).exists():
        if (folder / "study.json").exists():
            return "a comparison", f"Its page: equimodal report {out}; its runs are in {folder / 'cells'}"
        return "an unfinished comparison (no study.json)", f"Finish it: equimodal compare --out {out}"
    if not (folder / RUN).exists():
        return f"a folder without a run (no {RUN})", "Check the path"
    if (folder / "weights.safetensors").exists():
        return "a finished run", f"Its page: equimodal report {out}"
    unfinished = "an unfinished run (no weights.safetensors)"
    data = stored_config(folder).data
    if Path(data.name).suffix in FORMATS and "inputs" not in data.options:
        return f"{unfinished} of equimodal fit", f"Finish it: the same equimodal fit, with --out {out}"
    return unfinished, f"Finish it: equimodal train --resume --out {out}"


def check_content(folder: Path, own: str) -> None:
    """Refuse to write one kind of folder into another kind.

    Raises:
        DataError: the folder holds what is named; ``own`` is the kind that is to be written.
    """
    for name, kind in _KINDS.items():
        if name != own and (folder / name).exists():
            raise DataError(
                f"`{folder}`: expected an empty folder, or the {_KINDS[own]} that is to go on. Found a {kind} "
                f"({folder / name}). Choose another folder."
            )
