from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from equimodal.encoders._checks import Norm, check_norm, check_positive, check_shape, check_share, check_widths
from equimodal.encoders._encoder import Encoder


class MLP(Encoder):
    r"""Layers of :math:`\mathrm{dropout}(\mathrm{ReLU}(\mathrm{norm}(W x + b)))` for vectors.

    Every layer, also the last, has this form, so features are non-negative like those of the convolutional encoders.

    Args:
        in_features: width F of the input.
        hidden: widths of the hidden layers; ``()`` for a single layer.
        out_features: width d of the feature vector.
        dropout: share of units dropped after each layer but the last.
        norm: ``"batch"``, ``"layer"`` or ``"none"`` after each linear map.
        input_dropout: share of input numbers dropped; against overfitting of pre-extracted features.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is not (B, F).

    Shapes: (B, F) to (B, d).

    Example:
        >>> MLP(35, hidden=(128,), out_features=64)(torch.zeros(4, 35)).shape
        torch.Size([4, 64])
    """

    out_features: int

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (128,),
        out_features: int = 64,
        dropout: float = 0.0,
        norm: Norm = "batch",
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(in_features=in_features, out_features=out_features)
        check_norm(norm)
        widths = (in_features, *check_widths("hidden", hidden, allow_empty=True), out_features)
        rate, input_rate = check_share("dropout", dropout), check_share("input_dropout", input_dropout)
        self.in_features = in_features
        self.out_features = out_features
        layers: list[nn.Module] = [nn.Dropout(input_rate)] if input_rate else []
        for position, (before, after) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(before, after, bias=norm != "batch"))
            if norm == "batch":
                layers.append(nn.BatchNorm1d(after))
            elif norm == "layer":
                layers.append(nn.LayerNorm(after))
            layers.append(nn.ReLU())
            if rate and position < len(widths) - 2:
                layers.append(nn.Dropout(rate))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) to (B, d)."""
        check_shape(
            x.shape,
            x.ndim == 2 and x.shape[1] == self.in_features,
            f"(B, {self.in_features})",
            "Correct `in_features`, or flatten each sample to a vector.",
        )
        features: Tensor = self.layers(x)
        return features
