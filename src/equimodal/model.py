"""A multimodal model: encoders, fusion, head. Users with another structure implement :class:`Multimodal`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equimodal._utils.modules import QuickParameters, parameters_in
from equimodal._utils.stacked import can_stack, check_alike, stacked_call
from equimodal.batch import Presence, Tokens, Tree, tree_map, tree_tensors
from equimodal.errors import BatchError, ModelError, did_you_mean
from equimodal.features import Kind, Width, check_feature, is_vector


@runtime_checkable
class Multimodal(Protocol):
    """What a method asks of a model. An ``nn.Module`` with these members needs no base class of ours."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""

    @property
    def feature_sizes(self) -> Mapping[str, Width]:
        """Width d_m of each modality's features; one number per scale for multi-scale maps."""

    @property
    def head(self) -> nn.Module:
        """Maps what :meth:`fuse` returns to the output."""

    def encode(
        self,
        inputs: Mapping[str, Tree],
        present: Mapping[str, Tensor] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> dict[str, Tree]:
        """Features of the modalities asked for (default: all in ``inputs``); absent rows are not encoded.

        A vector (B, d), :class:`~equimodal.batch.Tokens` (B, T, d), a map (B, d, *spatial) or a tuple of maps. Rows of
        absent samples are zero, and no token of theirs is real.
        """

    def fuse(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tree:
        """The head's input."""

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The parameters of the modality's encoder."""


class MultimodalModel(QuickParameters):
    """Encoders, fusion and head, each a plain module.

    Args:
        encoders: modality -> module that maps its input to features: a vector (B, d_m),
            :class:`~equimodal.batch.Tokens` (B, T, d_m), a map (B, d_m, *spatial) with 2 or 3 spatial axes, or a tuple
            of maps of several scales. Modality names are free text.
        fusion: module called with (features, present), for example :class:`equimodal.fusion.Concat`.
        head: module that maps what the fusion returns to the output, whose axis 1 is the task's outputs.
        feature_sizes: modality -> d_m, or one number per scale. Default: ``fusion.feature_sizes``, else each encoder's
            ``out_features``.
        stacked: all encoders are alike but for their weights, and run in one pass where several modalities are encoded
            at once, all samples have them, the inputs have one shape and nothing looks at layers; else one by one. The
            numbers are those of one by one up to rounding; dropout draws other ones. What is set in a layer later
            (``layer.p = 0.2``) is set in all; what a layer notes in itself is noted in the first. An encoder whose
            feature no loss uses has a gradient of zero instead of none. It pays with many modalities or on an
            accelerator.

    Raises:
        ModelError: no encoder, an encoder without parameters, an encoder shared between two modalities, unknown
            feature sizes, ``stacked`` encoders that differ or have running statistics or recurrent layers, or (when
            called) features of another kind or shape.
        BatchError: (when called) an unknown modality, inputs of a type or shape that the encoder does not take, or a
            batch of one sample with batch normalisation.

    Presence: rows without a modality are gathered out before its encoder, so their content, even NaN, influences
    nothing; their features are zero and the fusion fills them by its declared rule.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal.fusion import Concat
        >>> model = MultimodalModel(
        ...     encoders={"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)},
        ...     fusion=Concat({"audio": 4, "video": 4}),
        ...     head=nn.Linear(8, 2),
        ... )
        >>> model({"audio": torch.zeros(7, 5), "video": torch.zeros(7, 3)}).shape
        torch.Size([7, 2])
    """

    stacked = False  # of models that were saved whole before there was the option, too

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        head: nn.Module,
        feature_sizes: Mapping[str, Width] | None = None,
        stacked: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(encoders, Mapping) or not encoders:
            found = "none" if isinstance(encoders, Mapping) else type(encoders).__name__
            raise ModelError(f"`encoders`: expected modality -> module with at least one entry. Found {found}.")
        parts = {f"encoders[{m!r}]": encoder for m, encoder in encoders.items()}
        for name, module in {**parts, "fusion": fusion, "head": head}.items():
            if not isinstance(module, nn.Module):
                raise ModelError(f"`{name}`: expected a module. Found {type(module).__name__}.")
        self._names = tuple(encoders)
        self._positions = {m: str(i) for i, m in enumerate(self._names)}  # in a module list
        self.encoders = nn.ModuleList(encoders.values())  # by position: names may hold dots, spaces, "keys"
        self.fusion = fusion
        self.head = head
        owner: dict[int, str] = {}
        for modality, encoder in encoders.items():
            parameters = list(encoder.parameters())
            if not parameters:
                raise ModelError(
                    f"`encoders[{modality!r}]`: expected a module with parameters. Found {type(encoder).__name__} "
                    "without any. For features that are already extracted use a small trainable module such as "
                    "nn.Linear."
                )
            for parameter in parameters:
                if id(parameter) in owner:
                    raise ModelError(
                        f"`encoders[{modality!r}]`: expected parameters of its own. Found one shared with "
                        f"{owner[id(parameter)]!r}; a parameter belongs to one modality. Copy the module, or put the "
                        "shared part into the fusion or head."
                    )
                owner[id(parameter)] = modality
        self._feature_sizes = self._resolve_feature_sizes(encoders, feature_sizes)
        self._kinds: dict[str, Kind] = {}
        if stacked:
            self.stacked = True
            check_alike({f"encoders[{m!r}]": encoder for m, encoder in encoders.items()})

    def _resolve_feature_sizes(
        self, encoders: Mapping[str, nn.Module], given: Mapping[str, Width] | None
    ) -> dict[str, Width]:
        sizes: Mapping[str, Width] = given if given is not None else getattr(self.fusion, "feature_sizes", None) or {}
        found = {}
        for modality, encoder in encoders.items():
            size = sizes.get(modality, getattr(encoder, "out_features", None))
            size = tuple(size) if isinstance(size, list) else size
            if not isinstance(size, (int, tuple)):
                raise ModelError(
                    f"`feature_sizes`: the width of {modality!r}'s features is unknown. Give it as "
                    f"MultimodalModel(..., feature_sizes={{{modality!r}: 128, ...}}) or to the fusion."
                )
            found[modality] = size
        unknown = sorted(set(sizes) - set(found))
        if unknown:
            raise ModelError(
                f"`feature_sizes`: expected the modalities {list(found)}. Found unknown {unknown}."
                f"{did_you_mean(unknown, found)}"
            )
        return found

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of ``encoders``."""
        return self._names

    @property
    def feature_sizes(self) -> Mapping[str, Width]:
        """modality -> width of its features; one number per scale for multi-scale maps."""
        return self._feature_sizes

    def encoder(self, modality: str) -> nn.Module:
        """The encoder of ``modality``."""
        position = self._positions.get(modality)
        if position is None:
            raise BatchError(
                f"`modality`: expected one of {list(self._names)}. Found {modality!r}."
                f"{did_you_mean(modality, self._names)}"
            )
        encoder: nn.Module = self._modules["encoders"]._modules[position]  # type: ignore[union-attr, assignment]
        return encoder  # of self.encoders, without the search

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The parameters of the modality's encoder, found by object."""
        return list(parameters_in(self.encoder(modality)))

    def encode(
        self,
        inputs: Mapping[str, Tree],
        present: Mapping[str, Tensor] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> dict[str, Tree]:
        """modality -> features; rows of absent samples are zero and their encoder does not see them."""
        names = self._names
        for m in inputs:
            if m not in names:
                unknown = sorted(set(inputs) - set(names))
                raise BatchError(
                    f"`inputs`: expected the modalities {list(names)}. Found unknown {unknown}."
                    f"{did_you_mean(unknown, names)}"
                )
        wanted = modalities
        if wanted is None:
            wanted = names if len(inputs) == len(names) else [m for m in names if m in inputs]
        elif missing := [m for m in wanted if m not in inputs]:
            raise BatchError(f"`inputs`: expected an entry for {missing}. Found {sorted(inputs)}.")
        presence = None if present is None else Presence.of(present)
        if self.stacked and len(wanted) > 1 and (presence is None or all(presence.rows(m) is None for m in wanted)):
            encoders, given = [self.encoder(m) for m in wanted], [inputs[m] for m in wanted]
            if can_stack(encoders, given):
                return self._call_stacked(wanted, encoders, cast("list[Tensor]", given))
        features: dict[str, Tree] = {}
        for m in wanted:
            rows = None if presence is None else presence.rows(m)
            features[m] = self._call_encoder(m, inputs[m]) if rows is None else self._encode_rows(m, inputs[m], rows)
        return features

    def _encode_rows(self, modality: str, inputs: Tree, rows: Tensor) -> Tree:
        width, kind = self._feature_sizes[modality], self._kinds.get(modality)
        if rows.shape[0] == 0 and kind in ("vector", "tokens") and isinstance(width, int):
            first = tree_tensors(inputs)[0]
            dtype = first.dtype if first.is_floating_point() else torch.get_default_dtype()
            zeros = first.new_zeros((first.shape[0], width), dtype=dtype)
            return zeros if kind == "vector" else _no_tokens(zeros)
        return _scattered(self.encoder(modality), lambda x: self._call_encoder(modality, x), inputs, rows)

    def _call_stacked(
        self, wanted: Sequence[str], encoders: Sequence[nn.Module], inputs: Sequence[Tensor]
    ) -> dict[str, Tree]:
        try:
            features = stacked_call(encoders, inputs)
        except (RuntimeError, IndexError) as error:
            if type(error) not in (RuntimeError, IndexError):
                raise
            raise self._refused(wanted[0], inputs[0], error) from error
        return {m: self._checked(m, h, inputs[0].shape[0]) for m, h in zip(wanted, features, strict=True)}

    def _call_encoder(self, modality: str, inputs: Tree) -> Tree:
        samples = (inputs if isinstance(inputs, Tensor) else tree_tensors(inputs)[0]).shape[0]
        try:
            feature = self.encoder(modality)(inputs)
        except ValueError as error:
            if is_batch_of_one(error):
                raise one_sample_error(f"inputs[{modality!r}]", "its encoder") from error
            if type(error) is not ValueError:
                raise
            raise self._refused(modality, inputs, error) from error
        except (RuntimeError, IndexError) as error:
            if type(error) not in (RuntimeError, IndexError):  # memory, devices, what compiling says
                raise
            raise self._refused(modality, inputs, error) from error
        if is_vector(feature, samples, self._feature_sizes[modality]):  # the common case
            self._kinds[modality] = "vector"
            return feature
        return self._checked(modality, feature, samples)

    def _checked(self, modality: str, feature: Tree, samples: int) -> Tree:
        """The feature, if it is one; its kind is remembered."""
        width = self._feature_sizes[modality]
        self._kinds[modality] = check_feature(feature, samples, width, f"encoders[{modality!r}]")
        return feature

    def _refused(self, modality: str, inputs: Tree, error: Exception) -> BatchError:
        """The error of an encoder, with the modality and what it was given."""
        encoder, said = type(self.encoder(modality)).__name__, " ".join(str(error).split())[:300]
        found = ", ".join(f"{t.dtype} {tuple(t.shape)}" for t in tree_tensors(inputs))
        return BatchError(
            f"`inputs[{modality!r}]`: expected what its encoder ({encoder}) takes. Found {found}, of which it says: "
            f"{said}. Convert the inputs, or give the model an encoder for them."
        )

    def fuse(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tree:
        """The fusion's output for these features, if the head can read it.

        Raises:
            ModelError: the head starts with a linear layer, and the fusion returns a map or tokens.
        """
        fusion: nn.Module = self._modules["fusion"]  # type: ignore[assignment]  # self.fusion, without the search
        fused: Tree = fusion(features, present)
        if not isinstance(fused, Tensor) or fused.ndim != 2:
            check_pooled(self.head, fused)
        return fused

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The fused output (B, C, ...). A modality missing from ``inputs`` counts as absent for every sample."""
        presence = Presence.of(present)
        features = self.encode(inputs, presence)
        try:
            output: Tensor = self.head(self.fuse(features, presence))
        except ValueError as error:
            if is_batch_of_one(error):
                raise one_sample_error("inputs", "the fusion or head") from error
            raise
        return output


def check_pooled(head: nn.Module, fused: Tree) -> None:
    """Refuse a map or tokens before a linear layer, of which torch would only say that two matrices do not fit.

    Raises:
        ModelError: the head starts with ``nn.Linear``, which reads one vector per sample.
    """
    if isinstance(fused, Tensor) and fused.ndim == 2:
        return
    first = next((m for m in head.modules() if not isinstance(m, (nn.Sequential, nn.Dropout, nn.LayerNorm))), None)
    if not isinstance(first, nn.Linear) or (isinstance(fused, Tensor) and fused.shape[-1] == first.in_features):
        return
    found = f"a tensor {tuple(fused.shape)}" if isinstance(fused, Tensor) else type(fused).__name__
    raise ModelError(
        f"`head`: expected one that reads what the fusion returns, {found}. Found a linear layer, which reads one "
        "vector per sample. Pool the features: equimodal.features.on_rows(head, dense=False) puts the mean over tokens "
        "or positions before it, affine_head(d, outputs) is such a head; a segmentation takes dense=True."
    )


def check_parts(model: Multimodal) -> None:
    """Each modality has a feature size, and a parameter belongs to one encoder at most.

    Raises:
        ModelError: a method would fail later, or treat a shared parameter once per modality.
    """
    if set(model.feature_sizes) != set(model.modalities):
        raise ModelError(
            f"`feature_sizes`: expected one per modality {list(model.modalities)}. Found {sorted(model.feature_sizes)}."
        )
    owner: dict[int, str] = {}
    for m in model.modalities:
        for p in model.parameters_of(m):
            if is_lazy(p):
                raise ModelError(
                    f"`parameters_of({m!r})`: expected parameters that have their shapes. Found one of a lazy module. "
                    "Call the encoder once on a batch before the method is made."
                )
            if owner.setdefault(id(p), m) != m:
                raise ModelError(
                    f"`parameters_of({m!r})`: expected parameters of its own. Found one that is {owner[id(p)]!r}'s "
                    "too. Leave shared parameters out of both."
                )


def encode_rows(encoder: nn.Module, inputs: Tree, rows: Tensor | None) -> Tree:
    """Features of all samples from an encoder that only sees those that have the modality; the others' are zero.

    For models of another structure, whose ``encode`` it does.

    Args:
        encoder: module from inputs to features of any kind.
        inputs: tensor or nesting, samples on the first axis; what absent rows hold is not read.
        rows: row indices of the samples that have the modality (:meth:`Presence.rows`); ``None``: all have it.

    Where nobody has it, the shape is asked for with one sample of zeros, in evaluation mode.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [0.0, float("nan")]])
        >>> encode_rows(nn.Linear(2, 3), x, rows=torch.tensor([0]))[1].tolist()
        [0.0, 0.0, 0.0]
    """
    return _scattered(encoder, encoder, inputs, rows)


def _scattered(encoder: nn.Module, call: Callable[[Tree], Tree], inputs: Tree, rows: Tensor | None) -> Tree:
    if rows is None:
        return call(inputs)
    size = tree_tensors(inputs)[0].shape[0]
    if rows.shape[0]:
        feature = call(tree_map(lambda t: t.index_select(0, rows), inputs))
        return tree_map(lambda t: t.new_zeros(size, *t.shape[1:]).index_copy(0, rows, t), feature)
    training = [m for m in encoder.modules() if m.training]
    encoder.eval()
    try:
        with torch.no_grad():
            feature = call(tree_map(lambda t: torch.zeros_like(t[:1]), inputs))
    finally:
        for m in training:
            m.training = True
    if isinstance(feature, Tokens):
        return _no_tokens(feature.values.new_zeros(size, feature.values.shape[2]))
    return tree_map(lambda t: t.new_zeros(size, *t.shape[1:]), feature)


def _no_tokens(zeros: Tensor) -> Tokens:
    """One token of padding per sample, from zeros (B, d)."""
    return Tokens(zeros.unsqueeze(1), torch.zeros(zeros.shape[0], 1, dtype=torch.bool, device=zeros.device))


def is_batch_of_one(error: ValueError) -> bool:
    """Whether torch refused batch normalisation over a single value per channel."""
    return not isinstance(error, BatchError) and "Expected more than 1 value per channel" in str(error)


def one_sample_error(field: str, where: str) -> BatchError:
    """The error for batch normalisation over a single sample."""
    return BatchError(
        f"`{field}`: expected at least 2 samples, because {where} has batch normalisation. Found 1. "
        "Use a larger batch, drop the last batch, or another normalisation."
    )
