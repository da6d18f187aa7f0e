"""Weights of several losses: from the inner products of their gradients by TorchJD, or from how fast they fall."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.precision import Float32Buffers
from equimodal.errors import MethodError, missing_extra
from equimodal.functional import rate_gradient, rate_weights

AggregatorName = Literal["FAMO", "MGDA", "PCGrad", "UPGrad"]
Weighting = Callable[[Tensor], Tensor]
"""From the Gram matrix (K, K) of the gradients of K losses to their weights (K,)."""


def gram_weighting(aggregator: str | object) -> Weighting:
    """What an aggregator of TorchJD makes of a Gram matrix.

    Args:
        aggregator: its name, or an object: one with ``gramian_weighting``, or a weighting itself.

    Raises:
        MissingExtraError: TorchJD, or the solver that its UPGrad needs, is not installed.
        MethodError: the object has parameters or a state of its own, or reads more than a Gram matrix.
    """
    made: Any = aggregator
    if isinstance(aggregator, str):
        try:
            import torchjd.aggregation as torchjd
        except ImportError as error:
            raise missing_extra("torchjd", "torchjd", f"`aggregator`: {aggregator!r}") from error
        try:
            made = getattr(torchjd, aggregator)()
        except ImportError as error:  # the solver of the dual cone
            raise missing_extra("quadprog", "torchjd", f"`aggregator`: {aggregator!r}") from error
    weighting = getattr(made, "gramian_weighting", made)
    names = {part.__name__ for part in type(weighting).__mro__} | {part.__name__ for part in type(made).__mro__}
    if not callable(weighting) or (weighting is made and "Aggregator" in names):
        raise MethodError(
            f"`aggregator`: expected one of {', '.join(get_args(AggregatorName))}, or an object that weighs gradients "
            f"by their Gram matrix, as those of TorchJD with `gramian_weighting`. Found {type(made).__name__}."
        )
    if "Stateful" in names or (isinstance(made, nn.Module) and any(True for _ in made.parameters())):
        raise MethodError(
            f"`aggregator`: expected one without parameters and state, which no checkpoint would hold. Found "
            f"{type(made).__name__}."
        )
    return cast(Weighting, weighting)


class LossRates(Float32Buffers):
    r"""The logits of FAMO ([Liu2023]), which Adam moves so that all losses fall at one rate.

    As ``torchjd.scalarization.FAMO`` computes it, with the state of Adam in buffers, so that a training continues
    exactly.

    Args:
        count: K, of losses.
        lr: of the logits.
        decay: weight decay of the logits.
        least: lower bound of the losses, which is taken off.
    """

    logits: Tensor
    moments: Tensor
    updates: Tensor

    def __init__(self, count: int, lr: float, decay: float, least: float = 0.0) -> None:
        super().__init__()
        self._lr, self._decay, self._least = lr, decay, least
        self.register_buffer("logits", torch.zeros(count))
        self.register_buffer("moments", torch.zeros(2, count))
        self.register_buffer("updates", torch.zeros(()))

    def weights(self, losses: Tensor, known: Tensor) -> Tensor:
        """(K,) for the losses (K,) of a batch; 0 for one that is not known."""
        return rate_weights(self.logits, losses - self._least, known)

    @torch.no_grad()
    def update(self, before: Tensor, after: Tensor, known: Tensor) -> None:
        """Move the logits by what a step changed; (K,) each."""
        gradient = rate_gradient(self.logits, before - self._least, after - self._least, known)
        gradient = gradient + self._decay * self.logits
        self.updates += 1
        first, second = self.moments.unbind()
        first.mul_(0.9).add_(0.1 * gradient)
        second.mul_(0.999).add_(0.001 * gradient.square())
        size = (second / (1 - 0.999**self.updates)).sqrt() + 1e-8
        self.logits -= self._lr * first / (1 - 0.9**self.updates) / size
