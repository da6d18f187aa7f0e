"""``manifest.json``: what a prepared bundle was made from, and with what."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.files import content_hash
from equimodal.data.prepare._interface import Preparation
from equimodal.errors import DataError, missing_extra

FORMAT = 1
FILE = "manifest.json"
_INSTALL = {"av": "av", "PIL": "pillow", "cv2": "opencv-python-headless", "skimage": "scikit-image"}


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of what decodes.

    Raises:
        MissingExtraError: a package is not installed.
    """
    found = {"numpy": importlib.import_module("numpy").__version__}
    for name in packages:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise missing_extra(_INSTALL.get(name, name), "data", "Preparing this dataset") from error
        found[name] = str(getattr(module, "__version__", "unknown"))
        if hasattr(module, "library_versions"):  # PyAV carries its own FFmpeg
            found |= {key: ".".join(map(str, value)) for key, value in sorted(module.library_versions.items())}
    return found


def parameters_of(preparation: Preparation[Any]) -> dict[str, Any]:
    """The parameters as plain values; files of the user's by the hash of their content."""
    parameters: dict[str, Any] = {}
    for field in dataclasses.fields(preparation.parameters):
        value = getattr(preparation.parameters, field.name)
        if field.metadata.get("path") and value:
            value = {"sha256": parameter_hash(Path(value), field.name)}
        parameters[field.name] = list(value) if isinstance(value, tuple) else value
    return parameters


def parameter_hash(path: Path, name: str) -> str:
    """SHA-256 of a file, or of the names and contents of a folder."""
    if path.is_file():
        return content_hash(path)
    if not path.is_dir():
        raise DataError(f"`{name}`: expected a file or a folder. Found nothing at {path}.")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}|{content_hash(file)}|".encode())
    return digest.hexdigest()


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> size and SHA-256 of the files of a bundle."""
    return {
        path.name: {"size": path.stat().st_size, "sha256": content_hash(path)}
        for path in sorted(folder.iterdir())
        if path.name != FILE
    }


def fingerprint(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One SHA-256 for the whole bundle: names and contents of its files."""
    text = "".join(f"{name}|{files[name]['sha256']}|" for name in sorted(files))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared bundle.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    path = folder / FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: expected the manifest of a prepared bundle. Found no such file.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected a readable manifest. Found: {error}.") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{path}: field `format`: expected {FORMAT}. Found {found!r}.")
    return value
