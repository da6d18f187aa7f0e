"""A module as a file that runs without this library: traced, freed of what is not used, checked, written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.files import write_bytes
from equimodal.batch import Tree, tree_map, tree_tensors
from equimodal.errors import ModelError, UnsupportedError, missing_extra

Format = Literal["torch", "onnx"]
_SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


def check_format(path: Path | str, format: str) -> None:  # noqa: A002 (the word users look for)
    """Refuse what cannot be written, before anything is computed.

    Raises:
        ModelError: an unknown format, or a name that does not end as the format's do.
        MissingExtraError: ONNX without the packages of the ``export`` extra.
    """
    if format not in get_args(Format):
        raise ModelError(f"`format`: expected 'torch' or 'onnx'. Found {format!r}.")
    suffix = _SUFFIXES[format]
    if Path(path).suffix != suffix:
        raise ModelError(f"`path`: expected a name that ends in {suffix}, from which loaders know it. Found {path}.")
    if format == "onnx":
        _require_onnx()


def write_program(
    model: nn.Module,
    arguments: tuple[Any, ...],
    path: Path | str,
    format: Format,  # noqa: A002 (the word users look for)
    *,
    outputs: Sequence[str],
    expected: Mapping[str, Tensor],
    name: str,
    about: Mapping[str, Any],
    dynamic_batch: bool = True,
) -> Path:
    """Write a module that takes mappings of tensors and returns one.

    Args:
        model: on the CPU and in evaluation mode. Parameters that nothing reads are dropped from it.
        arguments: examples of its mappings, of two samples or more; in ONNX the entries of the second are named
            ``present.NAME``.
        path: file to write, whole or not at all.
        format: ``"torch"`` or ``"onnx"``.
        outputs: names of what it returns, in order.
        expected: some of them, as they have to be for ``arguments``.
        name: of the model, for messages.
        about: plain values to keep in the file.
        dynamic_batch: any number of samples.

    Raises:
        ModelError, MissingExtraError: see :func:`check_format`.
        UnsupportedError: it cannot be traced, or gives other numbers then.
        StorageError: the file could not be written.
    """
    check_format(path, format)
    program = _traced(model, arguments, dynamic_batch)
    unused, used = _unused_and_used(program)
    if unused:
        _drop(model, unused, used)
        program = _traced(model, arguments, dynamic_batch)
    found = program.module()(*arguments)
    for output, values in expected.items():
        _compare(found[output], values, name)
    content = (
        _torch_bytes(program, about) if format == "torch" else _onnx_bytes(program, arguments, outputs, about, expected)
    )
    hint = "What was there before still is; free space or choose another folder."
    return write_bytes(Path(path), content, hint)


def _traced(model: nn.Module, arguments: tuple[Any, ...], dynamic_batch: bool) -> torch.export.ExportedProgram:
    axis = {0: torch.export.Dim("batch")} if dynamic_batch else None
    shapes = tree_map(lambda _: axis, arguments) if dynamic_batch else None
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(model, arguments, dynamic_shapes=shapes, strict=False)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedError(
            f"The inference model could not be exported: {reason[:300]} Usual causes are encoders whose steps depend "
            "on the values of their input, and a batch size that is written down (`len(x)` instead of `x.shape[0]`; or "
            "use dynamic_batch=False)."
        ) from error


def _unused_and_used(program: torch.export.ExportedProgram) -> tuple[set[str], set[str]]:
    """Names of parameters and buffers that nothing in the program reads, and of the others."""
    signature = program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    idle = {n.name for n in program.graph.nodes if n.op == "placeholder" and not n.users}
    return {v for k, v in named.items() if k in idle}, {v for k, v in named.items() if k not in idle}


def _drop(model: nn.Module, unused: set[str], used: set[str]) -> None:
    """Forget parameters and buffers, unless a module that is known by two names is used under the other."""

    def place(name: str) -> tuple[nn.Module, str]:
        owner, _, last = name.rpartition(".")
        return model.get_submodule(owner), last

    needed = [(id(module), last) for module, last in map(place, used)]
    for module, last in map(place, unused):
        if (id(module), last) not in needed:
            table: dict[str, Any] = module._parameters if last in module._parameters else module._buffers
            table[last] = None


def _compare(found: Tensor, expected: Tensor, name: str) -> None:
    scale = float(expected.abs().max().clamp_min(1.0))
    gap = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    if not gap <= 1e-3 * scale:
        raise UnsupportedError(
            f"The exported model gives other numbers than {name}.predict (largest difference "
            f"{gap:.3g}). Nothing was written. Export after the training has finished, and only methods whose "
            "prediction for a sample does not depend on its batch."
        )


def _torch_bytes(program: torch.export.ExportedProgram, about: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    program._example_inputs = None  # else the samples themselves would be in the file
    with _quiet():
        torch.export.save(program, buffer, extra_files={"equimodal.json": json.dumps(about)})
    return buffer.getvalue()


def _require_onnx() -> None:
    for package in ("onnx", "onnxscript"):
        try:
            import_module(package)
        except ImportError as error:
            raise missing_extra(package, "export", "Exporting to ONNX") from error


def _onnx_bytes(
    program: torch.export.ExportedProgram,
    arguments: tuple[Any, ...],
    outputs: Sequence[str],
    about: Mapping[str, Any],
    expected: Mapping[str, Tensor],
) -> bytes:
    names = [n for prefix, tree in zip(("", "present."), arguments, strict=False) for n in _names(tree, prefix)]
    try:
        with _quiet():
            made = torch.onnx.export(program, input_names=names, output_names=list(outputs), dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UnsupportedError(
            f"The inference model could not be exported to ONNX: {str(cause).splitlines()[0][:300]} Use "
            "format='torch', or another encoder for the modality."
        ) from error
    if made is None:
        raise UnsupportedError("The inference model could not be exported to ONNX: the exporter returned nothing.")
    model = made.model_proto
    _name_batch_axis(model.graph)
    for key, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = f"equimodal.{key}", json.dumps(value)
    content: bytes = model.SerializeToString()
    with contextlib.suppress(ImportError):
        onnxruntime: Any = import_module("onnxruntime")
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        used = {i.name for i in session.get_inputs()}
        feed = {n: t.numpy() for n, t in zip(names, tree_tensors(arguments), strict=True) if n in used}
        for found, values in zip(session.run(list(expected), feed), expected.values(), strict=True):
            near = 1e-3 * float(values.abs().max().clamp_min(1.0))
            if not torch.allclose(torch.from_numpy(found), values, rtol=1e-3, atol=near):
                raise UnsupportedError(
                    "The ONNX model gives other numbers than the method. Nothing was written. Use format='torch'."
                )
    return content


def _name_batch_axis(graph: Any) -> None:
    """The exporter calls the free size by a symbol; users look for a name."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if symbol and axis.dim_param == symbol:
                axis.dim_param = "batch"


def _names(tree: Tree, prefix: str) -> list[str]:
    """A name for every tensor, in the order of :func:`tree_tensors`."""
    if isinstance(tree, Tensor):
        return [prefix.removesuffix(".")]
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return [name for key, value in entries for name in _names(value, f"{prefix}{key}.")]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn, log and print about their own internals; what matters is in the error they raise."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
