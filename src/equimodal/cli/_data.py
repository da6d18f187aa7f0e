"""``equimodal data``: bundle, describe, and what is needed for prepared datasets."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal._utils.arrays import check_npy, check_npz
from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list
from equimodal.cli._signature import options_of
from equimodal.data import describe, load, unpack_bundle, write_bundle
from equimodal.errors import DataError, did_you_mean

_BUNDLE = """Write own arrays as a bundle with its card, checked before anything is written. An array is FILE.npy, or
FILE.npz:NAME. Example: equimodal data bundle mine.npz --inputs.image images.npy --inputs.audio sound.npy --target
labels.npy --split split.npy"""
_FILES = ("target", "split")
_FILE_MAPS = ("inputs", "present", "groups")


def run(argv: Sequence[str], context: Context) -> int:
    """Dispatch to the action."""
    if argv and argv[0] in ("prepare", "check", "preset"):
        from equimodal.cli import _prepare

        action: Callable[[Sequence[str], Context], int] = getattr(_prepare, argv[0])
        return action(argv[1:], context)
    actions = {"bundle": _bundle, "describe": _describe, "unpack": _unpack}
    if argv and argv[0] in actions:
        return actions[argv[0]](argv[1:])
    every = ["prepare", "check", "preset", *actions]
    text = "usage: equimodal data prepare|check|preset|bundle|unpack|describe [options]; each has --help"
    if argv and argv[0] in ("-h", "--help"):
        print(text)
        return 0
    raise UsageError(
        "equimodal data: error: expected prepare, check, preset, bundle, unpack or describe. "
        f"Found {argv[0] if argv else 'nothing'!r}.{did_you_mean(argv[0], every) if argv else ''} {text}"
    )


def _describe(argv: Sequence[str]) -> int:
    parser = CommandParser("data describe", "What a dataset holds, and how it is split.", "NAME|PATH", config=False)
    parser.add("name", str, text="A built-in dataset, or the path of a bundle.")
    parser.add("--data.card", str | None, None, "Card of the bundle. [short: --card]")
    parser.add("--data.protocol", str | None, None, "Split protocol. [short: --protocol]")
    values = parser.parse(argv)
    print(describe(load(values["name"], card=values["data"]["card"], protocol=values["data"]["protocol"])))
    return 0


def _unpack(argv: Sequence[str]) -> int:
    parser = CommandParser("data unpack", "Write an .npz as a folder of .npy files, which is memory-mapped.", "NPZ DIR",
                           config=False)  # fmt: skip
    parser.add("path", str, text="NAME.npz")
    parser.add("out", str, text="The folder; it must not exist.")
    parser.add("--card", str | None, None, "Its card, where it is not beside it or shipped.")
    values = parser.parse(argv)
    print(unpack_bundle(values["path"], values["out"], values["card"]))
    return 0


def _bundle(argv: Sequence[str]) -> int:
    parser = CommandParser("data bundle", _BUNDLE, "PATH")
    parser.add("path", str, text="NAME.npz, or a folder for .npy files that are memory-mapped when loaded.")
    hints: dict[str, Any] = dict.fromkeys(_FILES, str) | dict.fromkeys(_FILE_MAPS, dict[str, str] | None)
    hints |= {"classes": comma_list, "kinds": dict[str, str] | None, "units": dict[str, str] | None}
    hints |= {"standardise": dict[str, str] | None, "validation": dict[str, Any] | None}
    hints |= {"provenance": dict[str, Any] | None}
    options = {
        name: replace(option, hint=hints.get(name, option.hint), default=None if option.required else option.default)
        for name, option in options_of(write_bundle).items()
        if name != "path"
    }
    parser.add_all("", options, "content")
    values = parser.parse(argv)
    path = values.pop("path")
    for name in ("inputs", *_FILES):
        if not values[name]:
            example = "--inputs.image images.npy" if name == "inputs" else f"--{name} {name}.npy"
            raise UsageError(f"equimodal data bundle: error: --{name} is missing. Give it as {example}")
    for name in _FILES:
        values[name] = read_array(values[name])
    for name in _FILE_MAPS:
        values[name] = {key: read_array(file) for key, file in values[name].items()} if values[name] else None
    print(write_bundle(path, **values))
    return 0


def read_array(source: str) -> npt.NDArray[Any]:
    """The array in ``FILE.npy``, or in ``FILE.npz:NAME``; pickles are refused.

    Raises:
        DataError: no such file or array, or no plain array.
    """
    file, _, name = source.partition(".npz:")
    path = Path(file + ".npz") if name else Path(source)
    try:
        if path.suffix != ".npz":
            check_npy(path)
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive.files)
            if (name or len(names) != 1) and name not in names:
                raise DataError(f"`{source}`: expected FILE.npz:NAME with a name of {names}. Found {name!r}.")
            check_npz(path, name or names[0])
            found: npt.NDArray[Any] = archive[name or names[0]]
            return found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"`{source}`: expected a plain array (.npy, or .npz:NAME). Found: {error}.") from error
