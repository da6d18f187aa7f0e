"""A multimodal model: encoders, fusion, head. Users with another structure implement :class:`Multimodal`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from equimodal.batch import Presence, Tree, tree_map, tree_tensors
from equimodal.errors import BatchError, ModelError


@runtime_checkable
class Multimodal(Protocol):
    """What a method asks of a model. An ``nn.Module`` with these members needs no base class of ours."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""

    @property
    def feature_sizes(self) -> Mapping[str, int]:
        """Width of each modality's feature vector."""

    @property
    def head(self) -> nn.Module:
        """Maps what :meth:`fuse` returns to the output."""

    def encode(
        self,
        inputs: Mapping[str, Tree],
        present: Mapping[str, Tensor] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Features (B, d_m) of the modalities asked for (default: all in ``inputs``); absent rows are not encoded."""

    def fuse(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The head's input."""

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The parameters of the modality's encoder."""


class MultimodalModel(nn.Module):
    """Encoders, fusion and head, each a plain module.

    Args:
        encoders: modality -> module that maps its input to a feature vector (B, d_m). Modality names are free text.
        fusion: module called with (features, present), for example :class:`equimodal.fusion.Concat`.
        head: module that maps the fused features to the output.
        feature_sizes: modality -> d_m. Default: ``fusion.feature_sizes``, else each encoder's ``out_features``.

    Raises:
        ModelError: no encoder, an encoder without parameters, an encoder shared between two modalities, or unknown
            feature sizes.
        BatchError: (when called) an unknown modality.

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

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        head: nn.Module,
        feature_sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if not encoders:
            raise ModelError("`encoders`: expected modality -> module with at least one entry. Found none.")
        self._names = tuple(encoders)
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

    def _resolve_feature_sizes(
        self, encoders: Mapping[str, nn.Module], given: Mapping[str, int] | None
    ) -> dict[str, int]:
        sizes: Mapping[str, int] = given if given is not None else getattr(self.fusion, "feature_sizes", None) or {}
        found = {}
        for modality, encoder in encoders.items():
            size = sizes.get(modality, getattr(encoder, "out_features", None))
            if not isinstance(size, int):
                raise ModelError(
                    f"`feature_sizes`: the width of {modality!r}'s features is unknown. Give it as "
                    f"MultimodalModel(..., feature_sizes={{{modality!r}: 128, ...}}) or to the fusion."
                )
            found[modality] = size
        unknown = sorted(set(sizes) - set(found))
        if unknown:
            raise ModelError(f"`feature_sizes`: expected the modalities {list(found)}. Found unknown {unknown}.")
        return found

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of ``encoders``."""
        return self._names

    @property
    def feature_sizes(self) -> Mapping[str, int]:
        """modality -> width of its feature vector."""
        return self._feature_sizes

    def encoder(self, modality: str) -> nn.Module:
        """The encoder of ``modality``."""
        if modality not in self._names:
            raise BatchError(f"`modality`: expected one of {list(self._names)}. Found {modality!r}.")
        return self.encoders[self._names.index(modality)]

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The parameters of the modality's encoder, found by object."""
        return list(self.encoder(modality).parameters())

    def encode(
        self,
        inputs: Mapping[str, Tree],
        present: Mapping[str, Tensor] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """modality -> features (B, d_m); rows of absent samples are zero and their encoder does not see them."""
        unknown = sorted(set(inputs) - set(self._names))
        if unknown:
            raise BatchError(f"`inputs`: expected the modalities {list(self._names)}. Found unknown {unknown}.")
        presence = Presence.of(present)
        wanted = [m for m in self._names if m in inputs] if modalities is None else list(modalities)
        missing = [m for m in wanted if m not in inputs]
        if missing:
            raise BatchError(f"`inputs`: expected an entry for {missing}. Found {sorted(inputs)}.")
        return {m: self._encode_one(m, inputs[m], None if presence is None else presence.rows(m)) for m in wanted}

    def _encode_one(self, modality: str, inputs: Tree, rows: Tensor | None) -> Tensor:
        if rows is None:
            return self._call_encoder(modality, inputs)
        first = tree_tensors(inputs)[0]
        size = first.shape[0]
        if rows.shape[0] == 0:
            dtype = first.dtype if first.is_floating_point() else torch.get_default_dtype()
            return torch.zeros(size, self._feature_sizes[modality], device=first.device, dtype=dtype)
        feature = self._call_encoder(modality, tree_map(lambda t: t.index_select(0, rows), inputs))
        return feature.new_zeros(size, *feature.shape[1:]).index_copy(0, rows, feature)

    def _call_encoder(self, modality: str, inputs: Tree) -> Tensor:
        encoder = self.encoder(modality)
        try:
            feature = encoder(inputs)
        except ValueError as error:
            if self.training and tree_tensors(inputs)[0].shape[0] == 1 and _has_batch_norm(encoder):
                raise BatchError(
                    f"`inputs[{modality!r}]`: expected at least 2 samples, because its encoder has batch "
                    "normalisation. "
                    "Found 1. Use a larger batch, drop the last batch, or another normalisation."
                ) from error
            raise
        if not isinstance(feature, Tensor):
            raise ModelError(
                f"`encoders[{modality!r}]`: expected a tensor (B, d). Found {type(feature).__name__}. "
                "Wrap the encoder so that it returns one pooled feature vector per sample."
            )
        expected = (tree_tensors(inputs)[0].shape[0], self._feature_sizes[modality])
        if feature.shape != expected:
            raise ModelError(
                f"`encoders[{modality!r}]`: expected features of shape {expected}. Found {tuple(feature.shape)}. "
                "Correct `feature_sizes` or the encoder."
            )
        return feature

    def fuse(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The fusion's output for these features."""
        fused: Tensor = self.fusion(features, present)
        return fused

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The fused output (B, C). A modality missing from ``inputs`` counts as absent for every sample."""
        presence = Presence.of(present)
        output: Tensor = self.head(self.fuse(self.encode(inputs, presence), presence))
        return output


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
