from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Tokens, Tree
from equimodal.encoders._checks import check_choice, check_positive, check_share
from equimodal.encoders._encoder import Encoder
from equimodal.encoders._masks import as_before, real_first, reverse, sequence, within


class GRU(Encoder):
    r"""A gated recurrent network for sequences (Cho et al. 2014); its features are mean and maximum of all states.

    The means and maxima over time are joined and mapped by a linear map and ReLU. Unlike the last state, they do not
    depend on how much padding follows the signal.

    Args:
        in_features: features F per time step.
        hidden: width of the state, per direction.
        out_features: width d of the feature vector.
        bidirectional: also read the sequence backwards.
        layers: recurrent layers.
        dropout: share of (pooled) states dropped before the last map.
        input_dropout: share of input numbers dropped; against overfitting of small sets.
        pool: ``"mean_max"`` for one vector; ``"tokens"`` for one per step, the linear map then reads each step's state.

    Raises:
        ModelError: an argument is out of range.
        BatchError: (when called) the input is not (B, T, F), or its mask does not fit.

    Shapes: (B, T, F), or :class:`~equimodal.batch.Tokens` of it, to (B, d), or to Tokens of (B, T, d). With a mask only
        the real steps are read, in their order, whatever stands between or after them: a padded sequence gives what
        it gives alone. A sample without a real step gives what the last map makes of zeros.

    References:
        Learning phrase representations using RNN encoder-decoder, arXiv 1406.1078.

    Example:
        >>> GRU(6, hidden=16)(torch.zeros(4, 50, 6)).shape
        torch.Size([4, 64])
    """

    out_features: int

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        out_features: int = 64,
        bidirectional: bool = True,
        layers: int = 1,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        pool: Literal["mean_max", "tokens"] = "mean_max",
    ) -> None:
        super().__init__()
        check_positive(in_features=in_features, hidden=hidden, out_features=out_features, layers=layers)
        check_choice("pool", pool, ("mean_max", "tokens"))
        rate, input_rate = check_share("dropout", dropout), check_share("input_dropout", input_dropout)
        self.in_features = in_features
        self.out_features = out_features
        self.pool = pool
        self.input_dropout = nn.Dropout(input_rate)
        directions = 2 if bidirectional else 1
        widths = [in_features] + [hidden * directions] * (layers - 1)
        # one network per layer and direction, so that the way back can start at each sample's last real step
        self.recurrent = nn.ModuleList(
            nn.ModuleList(nn.GRU(width, hidden, batch_first=True) for _ in range(directions)) for width in widths
        )
        read = hidden * directions * (2 if pool == "mean_max" else 1)
        self.out = nn.Sequential(nn.Dropout(rate), nn.Linear(read, out_features), nn.ReLU())

    def forward(self, x: Tensor | Tokens) -> Tree:
        """(B, T, F) to (B, d), or to Tokens (B, T, d)."""
        hint = "Correct `in_features`, or flatten what belongs to one time step."
        values = sequence(x, self.in_features, 1, hint)
        if not isinstance(x, Tokens):
            states = self._states(values, None)
            return Tokens.full(self.out(states)) if self.pool == "tokens" else self._pooled(states, None)
        values, lengths, order = real_first(x)
        states = self._states(values, lengths)
        if self.pool == "tokens":
            return Tokens(as_before(self.out(states), order).masked_fill(~x.mask[..., None], 0.0), x.mask)
        return self._pooled(states, lengths)

    def _states(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        x = self.input_dropout(x)
        for layer in self.recurrent:
            ways = list(layer.children())
            states = [ways[0](x)[0]]
            if len(ways) == 2:
                states.append(reverse(ways[1](reverse(x, lengths))[0], lengths))
            x = torch.cat(states, dim=2)
        return x

    def _pooled(self, states: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            pooled = [states.mean(dim=1), states.amax(dim=1)]
        else:
            real = within(lengths, states.shape[1])[..., None]
            total = (states * real).sum(1) / lengths.clamp_min(1)[:, None]
            largest = states.masked_fill(~real, float("-inf")).amax(dim=1)
            pooled = [total, largest.masked_fill(lengths[:, None] == 0, 0.0)]
        features: Tensor = self.out(torch.cat(pooled, dim=1))
        return features
