"""One or several numbers per sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equimodal.errors import TargetError, missing_extra
from equimodal.functional import gaussian_nll, gaussian_nll_residual
from equimodal.tasks._protocol import (
    Distribution,
    at_least_float32,
    check_output,
    positive_integer,
    refuse_entries,
    score,
)

_LARGEST_LOGARITHM = 80.0  # its exponential, and a mean of such, is a number in float32
RegressionLoss = Literal["l1", "mse", "huber", "gaussian_nll"]


class Regression(nn.Module):
    r"""D numbers per sample, scored by minus the mean absolute error (MAE), so that higher is better.

    ========================= ================================================= ================================
    ``loss``                  mean over samples and numbers of, with e = z - y  residual, times B D
    ========================= ================================================= ================================
    ``"l1"`` (default)        :math:`|e|`                                       :math:`\mathrm{sign}(e)`
    ``"mse"``                 :math:`e^2`                                       :math:`2 e`
    ``"huber"``               :math:`e^2/2` below delta, else                   e clamped to [-delta, delta]
                              :math:`\delta(|e| - \delta/2)`
    ``"gaussian_nll"``        :math:`\frac12(s + e^2 \exp(-s))`                 :math:`e \exp(-s)` for the mean,
                                                                                :math:`\frac12(1 - e^2 \exp(-s))`
                                                                                for s
    ========================= ================================================= ================================

    ``"gaussian_nll"`` has 2 D output channels: D means, then D log-variances s. Only it says how certain a prediction
    is, which the inference rules ``uncertainty`` and ``precision`` need.

    Args:
        size: D >= 1, numbers per sample.
        loss: default l1, the loss of CGGM's CMU-MOSI experiments.
        delta: where the Huber loss becomes linear, in the unit of the target; 1, as in PyTorch.
        limits: (lowest, highest) value that a target can have, in the unit of the target; ``None`` does not check.
        sentiment: report the metrics of the sentiment literature too; needs D = 1 and targets in [-3, 3].
        unit: (mean m, deviation s > 0) that the targets were standardised with before training: a target is
            t = (y - m) / s. Losses are of t; scores, metrics and predictions are of y. Default (0, 1): t is y.
        log: the targets were standardised after their logarithm was taken: t = (log y - m) / s.

    Targets are numbers (B,), or (B, D). Nothing is rescaled but what ``unit`` and ``log`` say.

    Metrics: ``mae``, ``pearson`` (mean over the D numbers; 0 where one side is constant); with ``sentiment``,
    ``accuracy2_with_zero`` (negative against non-negative), ``accuracy2_without_zero`` (negative against positive,
    samples with target 0 left out), their ``f1_...`` (weighted by class), ``accuracy5`` and ``accuracy7`` (clipped to
    [-2, 2] and [-3, 3], then rounded).

    Raises:
        TargetError: an argument is out of range, or (in :meth:`check_target`) a target is.
        ModelError: (in :meth:`loss`, :meth:`residual` and :meth:`score`) an output that is not (B, D) or (B, 2 D).

    Example:
        >>> import torch
        >>> task = Regression()
        >>> task.score(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 3.0]))
        tensor(-0.5000)
    """

    name = "regression"
    dense = False
    main_metric = "mae"
    higher_is_better = False
    relative_score = True

    def __init__(
        self,
        size: int = 1,
        *,
        loss: RegressionLoss = "l1",
        delta: float = 1.0,
        limits: tuple[float, float] | None = None,
        sentiment: bool = False,
        unit: tuple[float, float] = (0.0, 1.0),
        log: bool = False,
    ) -> None:
        super().__init__()
        self.size = positive_integer("size", size)
        if loss not in get_args(RegressionLoss):
            raise TargetError(f"`loss`: expected one of {', '.join(get_args(RegressionLoss))}. Found {loss!r}.")
        if not 0 < delta < float("inf"):
            raise TargetError(f"`delta`: expected a number > 0. Found {delta}.")
        if limits is not None and (len(limits) != 2 or not limits[0] < limits[1]):
            raise TargetError(f"`limits`: expected (lowest, highest). Found {limits}.")
        if sentiment and size != 1:
            raise TargetError(f"`sentiment`: expected one number per sample. Found size={size}.")
        if len(unit) != 2 or not all(map(math.isfinite, unit)) or not unit[1] > 0:
            raise TargetError(f"`unit`: expected (mean, deviation > 0). Found {unit}.")
        if limits is not None and (tuple(unit) != (0.0, 1.0) or log):
            raise TargetError(f"`limits`: expected None for targets that were standardised. Found {limits}.")
        self.kind = loss
        self.delta = delta
        self.mean, self.deviation, self.log = float(unit[0]), float(unit[1]), bool(log)
        self.limits = (-3.0, 3.0) if sentiment and limits is None else limits
        self.sentiment = sentiment

    @property
    def distribution(self) -> Distribution:
        """``"gaussian"`` with the Gaussian loss, else ``"point"``: a number without any uncertainty."""
        return "gaussian" if self.kind == "gaussian_nll" else "point"

    @property
    def outputs(self) -> int:
        """D, or 2 D with the Gaussian loss."""
        return 2 * self.size if self.kind == "gaussian_nll" else self.size

    @property
    def score_size(self) -> int:
        """D: one mean absolute error per number."""
        return self.size

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"size={self.size}, loss={self.kind!r}, sentiment={self.sentiment}"

    def _like(self, output: Tensor, target: Tensor) -> Tensor:
        """The target as (B, D) in the output's type."""
        target = target.to(output.dtype)
        target = target[:, None] if target.ndim == 1 else target
        check_output(output, self)
        if target.shape != (len(output), self.size):
            raise TargetError(
                f"`target`: expected (B,) or (B, {self.size}) for an output (B, {self.outputs}). "
                f"Found {tuple(target.shape)} for {tuple(output.shape)}."
            )
        return target

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss over samples and numbers."""
        y = self._like(output, target)
        if self.kind == "gaussian_nll":
            return gaussian_nll(output[:, : self.size], output[:, self.size :], y)
        losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "l1": nn.functional.l1_loss,
            "mse": nn.functional.mse_loss,
            "huber": lambda z, y: nn.functional.huber_loss(z, y, delta=self.delta),
        }
        return losses[self.kind](output, y)

    def residual(self, output: Tensor, target: Tensor) -> Tensor:
        r""":math:`\partial L/\partial z` in closed form, see the table above; shape of ``output``."""
        y = self._like(output, target)
        if self.kind == "gaussian_nll":
            return torch.cat(gaussian_nll_residual(output[:, : self.size], output[:, self.size :], y), dim=1)
        error = output - y
        if self.kind == "l1":
            return torch.sign(error) / output.numel()
        if self.kind == "mse":
            return 2 * error / output.numel()
        return error.clamp(-self.delta, self.delta) / output.numel()

    def score_terms(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the sum of absolute errors, and the number of samples; each (D,)."""
        y, z = at_least_float32(self._like(output, target)), at_least_float32(output[:, : self.size])
        error = self.in_unit(z) - self.in_unit(y) if self.log else (z - y) * self.deviation
        numerator = -error.abs().sum(0)
        return numerator, torch.full_like(numerator, output.shape[0])

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Minus the MAE, in the unit of the target; a scalar tensor."""
        return score(self, output, target)

    def in_unit(self, values: Tensor) -> Tensor:
        """Numbers as they are trained on, in the unit of the target: m + s t, or with ``log`` its exponential.

        Example:
            >>> Regression(unit=(10.0, 2.0)).in_unit(torch.tensor([-1.0, 0.0, 1.0]))
            tensor([ 8., 10., 12.])
        """
        if self.mean == 0 and self.deviation == 1 and not self.log:
            return values
        found = values * self.deviation + self.mean
        return found.clamp(max=_LARGEST_LOGARITHM).exp() if self.log else found

    def probabilities(self, output: Tensor) -> Tensor:
        """The predicted numbers in the unit of the target: (B,) if D = 1, else (B, D); in float32 at least."""
        mean = self.in_unit(at_least_float32(output[:, : self.size])).contiguous()
        return mean[:, 0] if self.size == 1 else mean

    def check_target(self, target: Tensor | None) -> None:
        """Raise unless ``target`` is finite numbers (B,) or (B, D) within ``limits``; synchronises on a CUDA device."""
        shape = "(B,) or (B, 1)" if self.size == 1 else f"(B, {self.size})"
        expected = f"finite numbers {shape}" + ("" if self.limits is None else f" in {list(self.limits)}")
        if target is None:
            raise TargetError(f"`target`: expected {expected}. Found None.")
        fits = (target.ndim == 2 and target.shape[1] == self.size) or (self.size == 1 and target.ndim == 1)
        if not fits or target.dtype == torch.bool or target.is_complex():
            raise TargetError(f"`target`: expected {expected}. Found {target.dtype} {tuple(target.shape)}.")
        rows = target.reshape(len(target), -1)
        bad = ~torch.isfinite(rows)
        if self.limits is not None:
            bad = bad | (rows < self.limits[0]) | (rows > self.limits[1])
        refuse_entries(rows, bad, expected, "Remove these samples, or correct their targets.")

    def metrics(self) -> Any:
        """MAE and Pearson correlation, and with ``sentiment`` the accuracies and F1 of the sentiment literature."""
        try:
            from torchmetrics import MetricCollection

            from equimodal.tasks._regression_metrics import MeanPearson, sentiment_metrics
        except ImportError as error:
            raise missing_extra("torchmetrics", "cli", "`Regression.metrics`") from error
        from torchmetrics.regression import MeanAbsoluteError

        own = {"mae": MeanAbsoluteError(), "pearson": MeanPearson(self.size)}
        return MetricCollection({**own, **(sentiment_metrics() if self.sentiment else {})})
