"""The inference model of a finished run as one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from equimodal.batch import Tokens, Tree, keep_rows, tree_map
from equimodal.errors import unknown_name
from equimodal.export import Format, export
from equimodal.studies.runs import load_run


def export_run(
    folder: Path | str,
    path: Path | str,
    format: Format = "torch",  # noqa: A002 (the word users look for)
    modalities: Sequence[str] | None = None,
    presence: bool = False,
) -> Path:
    """Export the inference model of a finished run; see :func:`equimodal.export.export`.

    The model takes what the run's bundle holds, after the card's ``transforms``: standardisation with the statistics of
    the training data is part of it. Modalities, classes, rule and task are kept in the file.

    Args:
        folder: of the run.
        path: file to write: .pt2 for torch, .onnx for ONNX.
        format: ``"torch"`` or ``"onnx"``.
        modalities: the ones that the exported model takes; default all.
        presence: it also takes which samples have which modality.

    Raises:
        UnknownNameError: an unknown modality.
        ModelError, UnsupportedError, MissingExtraError, StorageError: see :func:`equimodal.export.export`.
    """
    _, data, method = load_run(folder)
    names = list(data.modalities) if modalities is None else list(modalities)
    for name in names:
        if name not in data.modalities:
            raise unknown_name("modality", name, data.modalities)
    statistics = {
        m: data.standardisation(m, np.float64)
        for m, spec in data.modalities.items()
        if m in names and spec.kind != "tokens"
    }
    batch = data.validation.batch(range(min(4, len(data.validation))))
    example = {}
    for m in names:
        rows = batch.rows(m)
        x = batch.inputs[m]
        if rows is not None:  # content of absent rows means nothing
            keep = torch.zeros(len(batch), dtype=torch.bool).index_fill(0, rows, True)
            x = keep_rows(x, keep)
        example[m] = _raw(x, *statistics[m]) if m in statistics else x
    about = {"classes": [str(c) for c in data.classes], "data": data.name, "target": data.target}
    return export(method, example, path, format, presence=presence, standardise=statistics, metadata=about)


def _raw(x: Tree, mean: object, scale: object) -> Tree:
    """Samples as they were before they were standardised."""
    centre, spread = torch.as_tensor(mean), torch.as_tensor(scale)
    raw = tree_map(lambda t: (t / spread + centre).to(t.dtype) if t.is_floating_point() else t, x)
    return Tokens(*raw) if isinstance(x, Tokens) else raw
