"""Presets: what a paper says about training on a dataset, as a configuration for ``equimodal train --config``."""

from __future__ import annotations

from importlib.resources import files

from equimodal.errors import unknown_name


def presets(dataset: str = "") -> list[str]:
    """Names of the presets, ``DATASET-PAPER``; of one dataset, or of all.

    Example:
        >>> presets("crema-d")
        ['crema-d-mie', 'crema-d-mla']
    """
    folder = files("equimodal.data") / "presets"
    names = sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))
    return [name for name in names if dataset in ("", name.rpartition("-")[0])]


def preset(name: str) -> str:
    """The preset as YAML text, in which every value has its source as a comment.

    Raises:
        UnknownNameError: no such preset.

    Example:
        >>> preset("crema-d-mla").splitlines()[-1]
        'data: {protocol: shared}  # the lists of OGM-GE, which MLA also took'
    """
    if name not in presets():
        raise unknown_name("preset", name, presets())
    return (files("equimodal.data") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
