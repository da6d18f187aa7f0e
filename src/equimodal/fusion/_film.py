from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from equimodal.batch import Tokens, Tree
from equimodal.errors import ModelError, UnsupportedError, unknown_name
from equimodal.features import Width, clean, kind_of, pool
from equimodal.fusion._base import Fill, Fusion, check_positive

_PRODUCT = "a product of modalities has no weights to share out. Use fill='zeros' or 'learnt'."


def main_modality(main: str | None, sizes: Mapping[str, int]) -> tuple[str, list[str]]:
    """The modality that is conditioned (default the first) and all others, in order."""
    if main is not None and not isinstance(main, str):
        raise ModelError(f"`main`: expected a modality of {list(sizes)}, or None. Found {main!r}.")
    if main is not None and main not in sizes:
        raise unknown_name("modality for `main`", main, sizes)
    name = next(iter(sizes)) if main is None else main
    return name, [m for m in sizes if m != name]


class FiLM(Fusion):
    r"""Feature-wise linear modulation ([Perez2018]_, equations 1 and 2): one modality is scaled and shifted by others.

    .. math:: (\gamma, \beta) = A\,[h_k]_{k \ne m} + a, \qquad u = \gamma \odot h_m + \beta

    Each feature (channel) of the main modality m has its own :math:`\gamma` and :math:`\beta`, computed from the pooled
    features of all others. The result is of m's kind: a vector, tokens or a map; a head that reads all of them is
    :func:`equimodal.features.affine_head`. The bias a starts at :math:`\gamma = 1, \beta = 0`.

    Args:
        feature_sizes: modality -> width, two or more.
        main: m, the modality that is modulated; default the first.
        fill: ``"zeros"`` or ``"learnt"`` vectors stand for absent modalities.

    Raises:
        UnsupportedError: ``fill="renormalise"``, or multi-scale maps.
        UnknownNameError: ``main`` is no modality.

    Not additive: unimodal outputs cannot be split from it. Which modality is modulated matters.
    Deviations: for more than two modalities the condition is the concatenation of the others (ours).

    References:
        .. [Perez2018] FiLM: Visual Reasoning with a General Conditioning Layer, AAAI 2018, arXiv 1709.07871.

    Example:
        >>> FiLM({"image": 3, "text": 5})({"image": torch.zeros(2, 3, 8, 8), "text": torch.zeros(2, 5)}).shape
        torch.Size([2, 3, 8, 8])
    """

    refused: ClassVar[Mapping[str, str]] = {"renormalise": _PRODUCT}

    def __init__(self, feature_sizes: Mapping[str, Width], main: str | None = None, fill: Fill = "zeros") -> None:
        super().__init__(feature_sizes, fill, count=2)
        sizes = self.single_widths()
        self.main, self._others = main_modality(main, sizes)
        width = sizes[self.main]
        self.condition = nn.Linear(sum(sizes[m] for m in self._others), 2 * width)
        with torch.no_grad():
            self.condition.bias[:width] = 1.0
            self.condition.bias[width:] = 0.0

    @property
    def out_features(self) -> int:
        """Width of the main modality."""
        return self.single_widths()[self.main]

    def combine(self, filled: list[Tree]) -> Tree:
        named = dict(zip(self.feature_sizes, filled, strict=True))
        gamma, beta = self.condition(torch.cat([pool(named[m]) for m in self._others], dim=1)).chunk(2, dim=1)
        feature = named[self.main]
        kind = kind_of(feature)
        if kind == "vector":
            return gamma * feature + beta
        if kind == "tokens":
            return clean(Tokens(gamma[:, None] * feature.values + beta[:, None], feature.mask))
        if kind == "map":
            axes = [1] * (feature.ndim - 2)
            return gamma.reshape(*gamma.shape, *axes) * feature + beta.reshape(*beta.shape, *axes)
        raise UnsupportedError("`features`: FiLM modulates a vector, tokens or one map. Found multi-scale maps.")


class Gated(Fusion):
    r"""One modality, gated by the others ([Kiela2018]_): :math:`u = A_m h_m \odot \prod_{k \ne m} \sigma(A_k h_k)`.

    Tokens and maps are pooled to vectors first; each A has a bias.

    Args:
        feature_sizes: modality -> width, two or more.
        main: m, the modality that passes the gates; default the LAST, as in the published two-modality scripts where
            audio gates vision.
        out_features: width of the result; default the main modality's.
        fill: ``"zeros"`` or ``"learnt"`` vectors stand for absent modalities.

    Raises:
        ModelError: ``out_features`` is no positive integer.
        UnsupportedError: ``fill="renormalise"``.
        UnknownNameError: ``main`` is no modality.

    Not additive: unimodal outputs cannot be split from it.
    Deviations: for more than two modalities the gates of all others are multiplied (ours).

    References:
        .. [Kiela2018] Efficient Large-Scale Multi-Modal Classification, AAAI 2018, arXiv 1802.02892.

    Example:
        >>> fusion = Gated({"audio": 3, "video": 5}, out_features=4)
        >>> fusion({"audio": torch.zeros(2, 3), "video": torch.ones(2, 5)}).shape
        torch.Size([2, 4])
    """

    pooled: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {"renormalise": _PRODUCT}

    def __init__(
        self,
        feature_sizes: Mapping[str, Width],
        main: str | None = None,
        out_features: int | None = None,
        fill: Fill = "zeros",
    ) -> None:
        super().__init__(feature_sizes, fill, count=2)
        sizes = self.single_widths()
        self.main, self._others = main_modality(list(sizes)[-1] if main is None else main, sizes)
        self._width = sizes[self.main] if out_features is None else out_features
        check_positive(out_features=self._width)
        self.maps = nn.ModuleList(nn.Linear(d, self._width) for d in sizes.values())

    @property
    def out_features(self) -> int:
        """Width of the result."""
        return self._width

    def combine(self, filled: list[Tree]) -> Tree:
        named = {m: map_(pool(f)) for m, map_, f in zip(self.feature_sizes, self.maps, filled, strict=True)}
        out = named[self.main]
        for m in self._others:
            out = out * torch.sigmoid(named[m])
        return out
