from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import ClassVar

import torch
from torch import nn

from equimodal.batch import Tree
from equimodal.features import Width, pool
from equimodal.fusion._base import Fill, Fusion, check_positive


class LowRank(Fusion):
    r"""Low-rank multimodal (tensor) fusion, LMF ([Liu2018]_, equations 5 to 8).

    The tensor product of all :math:`[h_m; 1]`, which holds the products of features of every subset of modalities,
    times a weight tensor of rank r, without ever forming either:

    .. math:: u = \sum_{i=1}^{r} \; \bigodot_{m=1}^{M} W_m^{(i)} \begin{bmatrix} h_m \\ 1 \end{bmatrix} + b

    Tokens and maps are pooled to vectors first.

    Args:
        feature_sizes: modality -> width, two or more.
        out_features: width of u; default the largest of the widths.
        rank: r; 4 is among the values of the paper.
        fill: ``"zeros"`` or ``"learnt"`` vectors stand for absent modalities; the appended 1 keeps the products of the
            others.

    Raises:
        ModelError: ``rank`` or ``out_features`` is no positive integer.
        UnsupportedError: ``fill="renormalise"``.

    Not additive: unimodal outputs cannot be split from it.
    Deviations: the bias b stands in the authors' code, not in the paper's equation.

    References:
        .. [Liu2018] Efficient Low-rank Multimodal Fusion with Modality-Specific Factors, ACL 2018, arXiv 1806.00064.

    Example:
        >>> fusion = LowRank({"audio": 3, "video": 5, "text": 2}, out_features=4)
        >>> fusion({"audio": torch.zeros(7, 3), "text": torch.zeros(7, 2)}).shape
        torch.Size([7, 4])
    """

    pooled: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {
        "renormalise": "a product of modalities has no weights to share out. Use fill='zeros' or 'learnt'."
    }

    def __init__(
        self,
        feature_sizes: Mapping[str, Width],
        out_features: int | None = None,
        rank: int = 4,
        fill: Fill = "zeros",
    ) -> None:
        super().__init__(feature_sizes, fill, count=2)
        sizes = self.single_widths()
        self._width = max(sizes.values()) if out_features is None else out_features
        check_positive(rank=rank, out_features=self._width)
        self.rank = rank
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(rank, d + 1, self._width)) for d in sizes.values())
        self.bias = nn.Parameter(torch.empty(self._width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the factors, and no bias."""
        for factor in self.factors:
            nn.init.xavier_normal_(factor)
        nn.init.zeros_(self.bias)

    @property
    def out_features(self) -> int:
        """Width of u."""
        return self._width

    def combine(self, filled: list[Tree]) -> Tree:
        terms = []
        for factor, feature in zip(self.factors, filled, strict=True):
            vector = pool(feature)
            # [h; 1] W as h W[:-1] + W[-1], for every rank: (r, B, D)
            terms.append(torch.einsum("bd,rdo->rbo", vector, factor[:, :-1].to(vector.dtype)) + factor[:, -1:])
        return reduce(torch.mul, terms).sum(0) + self.bias
