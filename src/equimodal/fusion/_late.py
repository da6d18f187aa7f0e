from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from equimodal._utils.shapes import line_up
from equimodal.batch import Tree
from equimodal.errors import ModelError, did_you_mean
from equimodal.features import Width, on_rows, single_width
from equimodal.fusion._base import Fill, Fusion, check_positive


class Late(Fusion):
    r"""Late fusion: the fused output is the mean of unimodal outputs, :math:`u = \frac1M \sum_m g_m(h_m)`.

    The modalities meet only in the mean, but one loss trains all of them. The model's head is ``nn.Identity()``.

    Args:
        feature_sizes: modality -> width, or one width per scale.
        out_features: C, the task's outputs.
        heads: modality -> module g_m from its features to (B, C, ...); default an affine map of the pooled features, or
            of each position of a map with ``dense=True``.
        dense: the task has one output per position (segmentation).
        fill: ``"renormalise"`` (default): the mean is over the modalities that a sample has. ``"zeros"``, ``"learnt"``:
            absent features are replaced and go through their head.

    Raises:
        ModelError: ``heads`` are of other modalities, or multi-scale features without a head of their own.

    Example:
        >>> fusion = Late({"audio": 3, "video": 5}, out_features=2)
        >>> fusion({"audio": torch.zeros(4, 3), "video": torch.zeros(4, 5)}).shape
        torch.Size([4, 2])
    """

    additive: ClassVar[bool] = True

    def __init__(
        self,
        feature_sizes: Mapping[str, Width],
        out_features: int,
        heads: Mapping[str, nn.Module] | None = None,
        dense: bool = False,
        fill: Fill = "renormalise",
    ) -> None:
        super().__init__(feature_sizes, fill)
        check_positive(out_features=out_features)
        if heads is not None and not isinstance(heads, Mapping):
            raise ModelError(f"`heads`: expected modality -> module, or None. Found {type(heads).__name__}.")
        if heads is not None and set(heads) != set(self.feature_sizes):
            raise ModelError(f"`heads`: expected one per modality {list(self.feature_sizes)}. Found {sorted(heads)}.")
        self._outputs = out_features
        self.heads = nn.ModuleList(
            heads[m]
            if heads is not None
            else on_rows(nn.Linear(single_width(d, f"feature_sizes[{m!r}]"), out_features), dense)
            for m, d in self.feature_sizes.items()
        )

    @property
    def out_features(self) -> int:
        """C: what comes out are outputs already."""
        return self._outputs

    def outputs(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Each modality's own output, before the mean."""
        names = list(self.feature_sizes)
        unknown = sorted(set(features) - set(names))
        if unknown:
            raise ModelError(
                f"`features`: expected the modalities {names}. Found unknown {unknown}.{did_you_mean(unknown, names)}"
            )
        return {m: self.heads[names.index(m)](f) for m, f in features.items()}

    def forward(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The mean of the unimodal outputs."""
        return torch.stack(list(self.parts(features, present).values())).sum(dim=0)

    def parts(self, features: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Each modality's share of the mean."""
        own = self.outputs(dict(zip(self.feature_sizes, self.prepare(features, present), strict=True)))
        share = super()._share(self._masks(features, present, next(iter(own.values())).shape[0]))
        if self.fill != "renormalise" or share is None:
            return {m: z / len(own) for m, z in own.items()}
        samples = next(iter(own.values())).shape[0]
        parts = {}
        for (m, z), mask in zip(own.items(), self._masks(features, present, samples), strict=True):
            part = z * line_up(share.to(z.dtype), z) / len(own)
            parts[m] = part if mask is None else torch.where(line_up(mask, z), part, torch.zeros_like(part))
        return parts

    def _share(self, masks: list[Tensor | None]) -> Tensor | None:
        """None: it is the outputs that are averaged, not the features."""
        return None
