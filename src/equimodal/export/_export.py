"""The inference model of a method as a file that runs without this library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from equimodal.batch import Tokens, Tree, batch_size_of, tree_map, tree_tensors
from equimodal.export._model import InferenceModel, Statistics
from equimodal.export._program import Format, check_format, write_program
from equimodal.features import clean
from equimodal.methods import Method


def export(
    method: Method,
    example_inputs: Mapping[str, Tree],
    path: Path | str,
    format: Format = "torch",  # noqa: A002 (the word users look for)
    *,
    presence: bool = False,
    dynamic_batch: bool = True,
    standardise: Statistics | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write the inference model of a trained method to one file that runs without this library.

    The method's inference rule is part of it; parameters that the rule does not use (auxiliary heads, encoders of
    modalities that are left out) are not. The file is checked: it must give the numbers of :meth:`Method.predict`.

    Args:
        method: trained.
        example_inputs: modality -> input of a few samples. The modalities given are the ones that the exported model
            takes; others are absent for good. All sizes but the batch are fixed to those of the example.
        path: file to write, whole or not at all: ``.pt2`` for torch, ``.onnx`` for ONNX.
        format: ``"torch"``: load with ``torch.export.load(path).module()`` and call it with a dictionary modality ->
            input (tokens as {"values", "mask"}). ``"onnx"``: inputs are named by modality (nested ones ``name.key``).
        presence: the model also takes which samples have which modality: a second dictionary modality -> boolean (B,);
            in ONNX inputs ``present.NAME``.
        dynamic_batch: any number of samples; ``False`` fixes it to that of the example.
        standardise: modality -> (mean, scale), made part of the model: inputs become (x - mean) * scale first. For runs
            of the command line, ``Dataset.standardisation`` has them.
        metadata: plain values kept in the file beside ours (modalities, rule, task).

    Returns:
        ``path``. Outputs are ``probabilities`` and ``output`` (logits, or what the task makes probabilities of).

    Raises:
        ModelError, BatchError: see :class:`InferenceModel`.
        UnsupportedError: the model cannot be traced (values decide what is computed), or gives other numbers then.
        MissingExtraError: ONNX without the packages of the ``export`` extra.
        StorageError: the file could not be written.
    """
    check_format(path, format)
    samples = batch_size_of(list(example_inputs.values()), "example_inputs") if example_inputs else 0
    example = {m: tree_map(lambda t: t.detach().cpu(), x) for m, x in example_inputs.items()}
    if samples == 1:  # a batch of one would be taken for a constant
        example = {m: tree_map(lambda t: torch.cat([t, t]), x) for m, x in example.items()}
    wrapped = InferenceModel(method, example, standardise)
    example = {m: example[m] for m in wrapped.modalities}
    plain = {m: {"values": x.values, "mask": x.mask} if isinstance(x, Tokens) else x for m, x in example.items()}
    arguments: tuple[Any, ...] = (plain,)
    if presence:
        first = tree_tensors(plain)[0]
        masks = {m: torch.ones(first.shape[0], dtype=torch.bool) for m in wrapped.modalities}
        if len(masks) > 1:  # something absent, so that the check sees both ways
            next(iter(masks.values()))[0] = False
        arguments = (plain, masks)
    expected = method.predict(
        {m: _moved(_standardised(x, (standardise or {}).get(m)), method) for m, x in example.items()},
        _moved(arguments[1], method) if presence else None,
    ).output.cpu()
    about = {
        "modalities": list(wrapped.modalities),
        "presence": presence,
        "rule": wrapped.rule,
        "task": method.task.name,
        "method": type(method).__name__,
        **dict(metadata or {}),
    }
    return write_program(
        wrapped, arguments, path, format, outputs=("probabilities", "output"), expected={"output": expected},
        name=type(method).__name__, about=about, dynamic_batch=dynamic_batch,
    )  # fmt: skip


def _moved(tree: Tree, method: Method) -> Tree:
    device = next(method.parameters()).device
    return tree_map(lambda t: t.to(device), tree)


def _standardised(x: Tree, statistics: tuple[Any, Any] | None) -> Tree:
    if statistics is None:
        return x
    mean, scale = (torch.as_tensor(v, dtype=torch.float32) for v in statistics)
    x = tree_map(lambda t: (t - mean) * scale if t.is_floating_point() else t, x)
    return clean(x) if isinstance(x, Tokens) else x
