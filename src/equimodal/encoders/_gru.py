from __future__ import annotations

import torch
from torch import Tensor, nn

from equimodal.encoders._checks import check_positive, check_shape, check_share


class GRU(nn.Module):
    r"""A gated recurrent network for sequences; its feature vector is the mean and the maximum of all states.

    The means and maxima over time are joined and mapped by a linear map and ReLU. Unlike the last state, they do not
    depend on how much padding follows the signal.

    Args:
        in_features: features F per time step.
        hidden: width of the state, per direction.
        out_features: width d of the feature vector.
        bidirectional: also read the sequence backwards.
        layers: recurrent layers.
        dropout: share of pooled features dropped before the last map.
        input_dropout: share of input numbers dropped; against overfitting of small sets.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is not (B, T, F).

    Shapes: (B, T, F) to (B, d).

    Example:
        >>> GRU(6, hidden=16)(torch.zeros(4, 50, 6)).shape
        torch.Size([4, 64])
    """

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        out_features: int = 64,
        bidirectional: bool = True,
        layers: int = 1,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(in_features=in_features, hidden=hidden, out_features=out_features, layers=layers)
        rate, input_rate = check_share("dropout", dropout), check_share("input_dropout", input_dropout)
        self.in_features = in_features
        self.out_features = out_features
        self.input_dropout = nn.Dropout(input_rate)
        self.recurrent = nn.GRU(in_features, hidden, layers, batch_first=True, bidirectional=bidirectional)
        pooled = 2 * hidden * (2 if bidirectional else 1)
        self.out = nn.Sequential(nn.Dropout(rate), nn.Linear(pooled, out_features), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) to (B, d)."""
        check_shape(
            x.shape,
            x.ndim == 3 and x.shape[2] == self.in_features and x.shape[1] > 0,
            f"(B, T, {self.in_features}) with T >= 1",
            "Correct `in_features`, or flatten what belongs to one time step.",
        )
        states: Tensor = self.recurrent(self.input_dropout(x))[0]
        features: Tensor = self.out(torch.cat([states.mean(dim=1), states.amax(dim=1)], dim=1))
        return features
