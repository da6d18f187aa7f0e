"""The inference model alone, as a file that runs without this library: ``torch.export`` or ONNX."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.files import write_bytes
from equimodal.batch import Presence, Tokens, Tree, batch_size_of, keep_rows, tree_map, tree_tensors
from equimodal.errors import BatchError, ModelError, UnsupportedError, missing_extra
from equimodal.features import clean
from equimodal.methods import Method

Format = Literal["torch", "onnx"]
Statistics = Mapping[str, tuple[Any, Any]]


class InferenceModel(nn.Module):
    """What a trained method does at prediction time and nothing else: encoders, what its rule needs, probabilities.

    Every sample goes through every encoder (rows of absent modalities as zeros), so that nothing depends on the data:
    this is what can be exported. The numbers are those of :meth:`Method.predict`.

    Args:
        method: trained. It is copied; the copy is on the CPU and in evaluation mode.
        example_inputs: modality -> example input; the modalities that are left out are absent for good.
        standardise: modality -> (mean, scale): inputs become (x - mean) * scale first.

    Shapes: called with ``inputs`` (modality -> tensor or nesting; tokens as {"values", "mask"}) and optionally
    ``present`` (modality -> boolean (B,)); returns {"probabilities": (B, C, ...), "output": (B, C, ...)}.

    Raises:
        ModelError: no method, or statistics of an unknown modality.
        BatchError: an unknown modality, or none.

    Example:
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = Joint(model, Classification(2))
        >>> x = {"audio": torch.zeros(3, 5), "video": torch.zeros(3, 3)}
        >>> bool((InferenceModel(method, x)(x)["output"] == method.predict(x).output).all())
        True
    """

    def __init__(
        self, method: Method, example_inputs: Mapping[str, Tree], standardise: Statistics | None = None
    ) -> None:
        super().__init__()
        if not isinstance(method, Method):
            raise ModelError(
                f"`method`: expected a trained method, whose inference rule is exported. Found "
                f"{type(method).__name__}. For a bare model wrap it: Joint(model, task)."
            )
        unknown = sorted(set(example_inputs) - set(method.modalities))
        if unknown or not example_inputs:
            raise BatchError(
                f"`example_inputs`: expected some of the modalities {list(method.modalities)}. Found "
                f"{list(example_inputs)}."
            )
        foreign = sorted(set(standardise or {}) - set(example_inputs))
        if foreign:
            raise ModelError(f"`standardise`: expected modalities of `example_inputs`. Found {foreign}.")
        self.method = copy.deepcopy(method).cpu().eval().requires_grad_(False)
        self.modalities = tuple(m for m in method.modalities if m in example_inputs)
        self._tokens = {m: isinstance(example_inputs[m], Tokens) for m in self.modalities}
        with torch.no_grad():
            on_cpu = {m: tree_map(lambda t: t.cpu(), example_inputs[m]) for m in self.modalities}
            self._has_fused = self.method.outputs(on_cpu)[0] is not None
        self._standardised: dict[str, int] = {}
        for position, (m, (mean, scale)) in enumerate((standardise or {}).items()):
            self._standardised[m] = position
            _refuse_rounding(m, torch.as_tensor(mean).double(), torch.as_tensor(scale).double())
            self.register_buffer(f"mean_{position}", torch.as_tensor(mean, dtype=torch.float32))
            self.register_buffer(f"scale_{position}", torch.as_tensor(scale, dtype=torch.float32))

    @property
    def rule(self) -> str:
        """The inference rule in force."""
        return self.method.inference.resolve(self._has_fused, has_unimodal=True)

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Probabilities and outputs."""
        features = {}
        for m in self.modalities:
            mask = None if present is None else present.get(m)
            x = self._prepared(m, inputs[m])
            if mask is not None:
                x = keep_rows(x, mask)
            feature = self.method.multimodal.encode({m: x}, None, [m])[m]
            features[m] = feature if mask is None else keep_rows(feature, mask)
        masks = cast("Presence | None", present)
        fused, alone = None, dict[str, Tensor]()
        needs = self.method.inference.needs(self._has_fused)
        if "fused" in needs:
            fused = self.method.fused_output(features, masks)
        if "unimodal" in needs:
            own = self.method.unimodal
            alone = self.method.unimodal_outputs(features) if own is None else own(features, masks)
        if fused is None and len(alone) == 1 and present is not None:  # with nobody else to ask, no opinion is uniform
            m, z = next(iter(alone.items()))
            alone, present = {m: keep_rows(z, present[m]) if m in present else z}, None
        output = self.method.combine(fused, alone, self._presence(present, features)).output
        return {"probabilities": self.method.task.probabilities(output), "output": output}

    def _presence(
        self, present: Mapping[str, Tensor] | None, features: Mapping[str, Tree]
    ) -> Mapping[str, Tensor] | None:
        """Presence in which modalities that were left out for good are absent, as in :meth:`Method.predict`."""
        left_out = [m for m in self.method.modalities if m not in self.modalities]
        if not left_out or "fused" not in self.method.inference.needs(self._has_fused):
            return present
        first = tree_tensors(features[self.modalities[0]])[0]
        nobody = torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)
        return {**(present or {}), **dict.fromkeys(left_out, nobody)}

    def _prepared(self, modality: str, x: Tree) -> Tree:
        if self._tokens[modality] and not isinstance(x, Tokens):
            x = Tokens(x["values"], x["mask"])
        position = self._standardised.get(modality)
        if position is not None:
            mean, scale = getattr(self, f"mean_{position}"), getattr(self, f"scale_{position}")
            x = tree_map(lambda t: (t - mean) * scale if t.is_floating_point() else t, x)
        return clean(x) if isinstance(x, Tokens) else x


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
    if format not in get_args(Format):
        raise ModelError(f"`format`: expected 'torch' or 'onnx'. Found {format!r}.")
    suffix = {"torch": ".pt2", "onnx": ".onnx"}[format]
    if Path(path).suffix != suffix:
        raise ModelError(f"`path`: expected a name that ends in {suffix}, from which loaders know it. Found {path}.")
    if format == "onnx":
        _require_onnx()
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
    program = _traced(wrapped, arguments, dynamic_batch)
    unused, used = _unused_and_used(program)
    if unused:
        _drop(wrapped, unused, used)
        program = _traced(wrapped, arguments, dynamic_batch)
    expected = method.predict(
        {m: _moved(_standardised(x, (standardise or {}).get(m)), method) for m, x in example.items()},
        _moved(arguments[1], method) if presence else None,
    ).output.cpu()
    _compare(program.module()(*arguments)["output"], expected, method)
    about = {
        "modalities": list(wrapped.modalities),
        "presence": presence,
        "rule": wrapped.rule,
        "task": method.task.name,
        "method": type(method).__name__,
        **dict(metadata or {}),
    }
    content = _torch_bytes(program, about) if format == "torch" else _onnx_bytes(program, arguments, about, expected)
    hint = "What was there before still is; free space or choose another folder."
    return write_bytes(Path(path), content, hint)


def _moved(tree: Tree, method: Method) -> Tree:
    device = next(method.parameters()).device
    return tree_map(lambda t: t.to(device), tree)


def _standardised(x: Tree, statistics: tuple[Any, Any] | None) -> Tree:
    if statistics is None:
        return x
    mean, scale = (torch.as_tensor(v, dtype=torch.float32) for v in statistics)
    x = tree_map(lambda t: (t - mean) * scale if t.is_floating_point() else t, x)
    return clean(x) if isinstance(x, Tokens) else x


def _refuse_rounding(modality: str, mean: Tensor, scale: Tensor) -> None:
    """Refuse inputs that the exported model would be given in float32, where their differences are lost."""
    rounding = torch.finfo(torch.float32).eps / 2 * (mean * scale).abs().max()
    if rounding > 1e-3:
        raise ModelError(
            f"`standardise`: expected inputs {modality!r} that float32 can tell apart. Found a mean of "
            f"{float(mean.abs().max()):g}, where it rounds by {float(rounding):.2g} deviations. Subtract a constant "
            "from the data before training."
        )


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


def _compare(found: Tensor, expected: Tensor, method: Method) -> None:
    scale = float(expected.abs().max().clamp_min(1.0))
    gap = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    if not gap <= 1e-3 * scale:
        raise UnsupportedError(
            f"The exported model gives other numbers than {type(method).__name__}.predict (largest difference "
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
    program: torch.export.ExportedProgram, arguments: tuple[Any, ...], about: Mapping[str, Any], expected: Tensor
) -> bytes:
    names = [n for prefix, tree in zip(("", "present."), arguments, strict=False) for n in _names(tree, prefix)]
    with _quiet():
        made = torch.onnx.export(
            program, input_names=names, output_names=["probabilities", "output"], dynamo=True, verbose=False
        )
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
        found = torch.from_numpy(session.run(["output"], feed)[0])
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max().clamp_min(1.0))):
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
