"""What a run leaves behind: files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import platform
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict

from equimodal._utils.files import append_line as append_whole_line
from equimodal._utils.files import write_bytes as write_whole
from equimodal._utils.outside import read_bytes, refuse_special
from equimodal._utils.outside import read_json as read_text_as_json
from equimodal._utils.outside import read_text as read_whole_text
from equimodal._utils.plain_yaml import read_yaml as read_text_as_yaml
from equimodal._utils.plain_yaml import text_of
from equimodal._utils.schema import check
from equimodal.errors import CheckpointError, DataError, StorageError

RESUME = "Nothing was lost; free space or choose another folder, then resume."
ELSEWHERE = "Free space or choose another file."


def write_text(path: Path, text: str, hint: str = RESUME) -> Path:
    """Write ``text`` to ``path`` at once: a full disk or an interruption leaves what was there before."""
    return write_bytes(path, text.encode(), hint)


def write_bytes(path: Path, content: bytes, hint: str = RESUME) -> Path:
    """As :func:`write_text`; ``hint`` ends the message if it fails."""
    return write_whole(path, content, hint)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON line to a history file."""
    try:
        append_whole_line(path, json.dumps(plain(record), sort_keys=True).encode())
    except OSError as error:
        raise StorageError(f"`{path}`: could not be written ({error.strerror or error}).") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a history file; an incomplete last line (an interrupted write) is left out.

    Raises:
        DataError: another line is no record, or cannot be read; the message names file and line.
    """
    if not path.exists():
        return []
    lines, records = read_bytes(path).split(b"\n"), []
    for number, line in enumerate(lines, 1):
        if number == len(lines):  # nothing after the last line end, or what an interrupted write left
            continue
        try:
            record = read_text_as_json(line, "")
        except DataError:
            record = None
        if not isinstance(record, dict):
            raise DataError(
                f"`{path}`: line {number}: expected a record written by equimodal. Found {line[:40]!r}. Restore the "
                "file, or run again in another folder."
            )
        records.append(record)
    return records


def epochs_done(folder: Path) -> int:
    """Whole lines in the history of a run, which may be going on: nothing else of them is looked at."""
    try:
        return (folder / "history.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def write_json(path: Path, value: Any, hint: str = RESUME) -> Path:
    """Write ``value`` as JSON, whole or not at all."""
    return write_text(path, text_of_json(value), hint)


def text_of_json(value: Any) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(plain(value), indent=2, sort_keys=True) + "\n"


def read_json(path: Path) -> Any:
    """The content of a JSON file; errors name the file."""
    return read_text_as_json(read_whole_text(path), f"`{path}`")


def write_yaml(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a configuration as YAML, whole or not at all.

    Raises:
        DataError: an option is an object that YAML cannot hold.
    """
    try:
        text = text_of(plain(value), "Writing a configuration")
    except DataError as error:
        name = path.name.removeprefix(".").removesuffix(".new")  # as it will be called
        raise DataError(
            f"`{name}`: {error} Give an inference rule of your own by name, from a package with the entry-point group "
            "'equimodal.rules'; leave modules out."
        ) from error
    return write_text(path, text)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; errors name the file."""
    value = read_text_as_yaml(read_whole_text(path), f"`{path}`", "Reading a configuration")
    if not isinstance(value, dict):
        raise DataError(f"`{path}`: expected a mapping. Found {type(value).__name__}.")
    return value


def plain(value: Any) -> Any:
    """``value`` with tuples as lists, tensors and numpy scalars as numbers, and no NaN (JSON has none)."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and callable(value.item):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    versions = {}
    for package in ("equimodal", "torch", "numpy", "lightning", "torchmetrics", "safetensors"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "accelerator": None if accelerator is None else accelerator.type,
        "accelerator_name": None if accelerator is None else _accelerator_name(accelerator.type),
        "versions": versions,
    }


def _processor() -> str:
    """As it calls itself; where the system does not tell, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()


def _accelerator_name(kind: str) -> str:
    """As the accelerator calls itself; where its part of torch does not tell, its kind."""
    import torch

    name = getattr(getattr(torch, kind, None), "get_device_name", None)
    return str(name()) if callable(name) else kind


class _Checkpoint(TypedDict, total=False):
    epoch: Required[int]
    global_step: Required[int]
    state_dict: Required[dict[str, Any]]
    callbacks: Required[dict[str, dict[str, Any]]]
    optimizer_states: Required[list[dict[str, Any]]]
    lr_schedulers: Required[list[dict[str, Any]]]
    loops: Required[dict[str, dict[str, Any]]]
    inside_epoch: Required[bool]
    random_state: Required[dict[str, Any]]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, without executing pickles.

    Raises:
        CheckpointError: truncated, corrupt, or holding anything but tensors and plain values.
    """
    import pickle
    import zipfile

    import torch

    refuse_special(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of foreign files
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        AttributeError,
        TypeError,
        IndexError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"`{path}`: expected a checkpoint of tensors and plain values. It is truncated, corrupt or holds "
            "code, and was "
            f"not loaded ({first}). Delete it to start anew, or point to another checkpoint."
        ) from error
    check(content, _Checkpoint, file=f"`{path}`", error=CheckpointError, step="Delete it to begin anew.")
    return dict(content)
