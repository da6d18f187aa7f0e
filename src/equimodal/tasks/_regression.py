"""One or several numbers per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from equimodal.errors import TargetError, did_you_mean, missing_extra
from equimodal.functional import gaussian_nll, gaussian_nll_residual
from equimodal.tasks._protocol import (
    Distribution,
    at_least_float32,
    check_output,
    positive_integer,
    real_number,
    refuse_entries,
    score,
    truth,
)

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
        mean: what an output of 0 stands for, in the unit of the target; one number, or one per number of the target.
        deviation: what a step of 1 of an output stands for, > 0, in the unit of the target; as ``mean``.
        log: learn the logarithm of the targets, which are > 0; ``mean`` and ``deviation`` are then of the logarithm.

    Targets are numbers (B,), or (B, D), in their unit. The model learns :math:`(y - \mathrm{mean}) /
    \mathrm{deviation}` (with ``log`` of :math:`\log y`), which is the unit of its outputs, the loss, the residual and
    ``delta``; by default nothing is rescaled. Scores, metrics and :meth:`probabilities` are in the unit of the target.
    Mean and deviation are kept with the weights. :attr:`equimodal.data.Dataset.task` takes those of the training
    targets where these are far from 0 and 1.

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
        >>> far = Regression(mean=13.0, deviation=2.0)
        >>> far.probabilities(torch.tensor([[0.5]])), far.loss(torch.tensor([[0.5]]), torch.tensor([15.0]))
        (tensor([14.]), tensor(0.5000))
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
        mean: float | Sequence[float] = 0.0,
        deviation: float | Sequence[float] = 1.0,
        log: bool = False,
    ) -> None:
        super().__init__()
        self.size = positive_integer("size", size)
        if not isinstance(loss, str) or loss not in get_args(RegressionLoss):
            raise TargetError(
                f"`loss`: expected one of {', '.join(get_args(RegressionLoss))}. Found {loss!r}."
                f"{did_you_mean(loss, get_args(RegressionLoss))}"
            )
        real_number("delta", delta, 0)
        truth("sentiment", sentiment)
        truth("log", log)
        if limits is not None:
            pair = list(limits) if isinstance(limits, (list, tuple)) else []
            if len(pair) != 2 or not all(isinstance(v, Real) for v in pair) or not pair[0] < pair[1]:
                raise TargetError(f"`limits`: expected (lowest, highest). Found {limits!r}.")
        if sentiment and size != 1:
            raise TargetError(f"`sentiment`: expected one number per sample. Found size={size}.")
        self.kind = loss
        self.delta = delta
        self.limits = (-3.0, 3.0) if sentiment and limits is None else limits
        self.sentiment = sentiment
        if sentiment and log:
            raise TargetError("`log`: expected False for targets in [-3, 3], `sentiment`. Found True.")
        self.log = log
        origin, step = self._numbers("mean", mean), self._numbers("deviation", deviation)
        if not all(d > 0 for d in step):
            raise TargetError(f"`deviation`: expected numbers > 0. Found {list(step)}.")
        self.rescales = any(origin) or any(d != 1 for d in step)
        self.mean: Tensor | None = None
        self.deviation: Tensor | None = None
        if self.rescales:
            exact = all(_in_float32(m, d) for m, d in zip(origin, step, strict=True))
            kept = torch.float32 if exact else torch.float64
            del self.mean, self.deviation
            self.register_buffer("mean", torch.tensor(origin, dtype=kept))
            self.register_buffer("deviation", torch.tensor(step, dtype=kept))

    def _numbers(self, name: str, value: float | Sequence[float]) -> tuple[float, ...]:
        """D finite numbers."""
        plain: Any = value.tolist() if hasattr(value, "tolist") else value
        numbers = list(plain) if isinstance(plain, (list, tuple)) else [plain] * self.size
        if len(numbers) != self.size:
            raise TargetError(f"`{name}`: expected a number, or {self.size} of them. Found {value!r}.")
        return tuple(real_number(name, v) for v in numbers)

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
        text = f"size={self.size}, loss={self.kind!r}, sentiment={self.sentiment}"
        if self.mean is None or self.deviation is None:
            return f"{text}, log=True" if self.log else text
        shown = [", ".join(f"{v:.6g}" for v in t.tolist()) for t in (self.mean, self.deviation)]
        text += ", mean={}, deviation={}".format(*(f"({v})" if self.size > 1 else v for v in shown))
        return f"{text}, log=True" if self.log else text

    def _like(self, output: Tensor, target: Tensor) -> Tensor:
        """The target as (B, D) in the output's type."""
        check_output(output, self)
        target = self.in_deviations(target).to(output.dtype)
        target = target[:, None] if target.ndim == 1 else target
        if target.shape != (len(output), self.size):
            raise TargetError(
                f"`target`: expected (B,) or (B, {self.size}) for an output (B, {self.outputs}). "
                f"Found {tuple(target.shape)} for {tuple(output.shape)}."
            )
        return target

    def in_deviations(self, target: Tensor) -> Tensor:
        """The target in the unit of the outputs, (target - mean) / deviation, or of its logarithm; same shape."""
        target = at_least_float32(target).log() if self.log else target
        if self.mean is None or self.deviation is None:
            return target
        mean, deviation = self.mean, self.deviation
        if target.ndim == 1:
            mean, deviation = mean[0], deviation[0]
        moved: Tensor = (target.to(torch.promote_types(target.dtype, mean.dtype)) - mean) / deviation
        return moved

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
        y, z = self._like(output, target), output[:, : self.size]
        if self.log:
            error = self._in_unit(z) - at_least_float32(target).reshape(z.shape)
        else:
            error = at_least_float32(z - y) if self.deviation is None else at_least_float32(z - y) * self.deviation
        numerator = -error.abs().sum(0)
        return numerator, torch.full_like(numerator, output.shape[0])

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Minus the MAE, in the unit of the target; a scalar tensor."""
        return score(self, output, target)

    def probabilities(self, output: Tensor) -> Tensor:
        """The predicted numbers, in the unit of the target: (B,) if D = 1, else (B, D); in float32 at least."""
        mean = self._in_unit(output[:, : self.size]).contiguous()
        return mean[:, 0] if self.size == 1 else mean

    def _in_unit(self, output: Tensor) -> Tensor:
        """(B, D) of the outputs, in the unit of the target."""
        found = at_least_float32(output)
        if self.mean is not None and self.deviation is not None:
            found = found * self.deviation + self.mean
        return found.clamp(max=_LARGEST_LOGARITHM).exp() if self.log else found

    def deviation_in_unit(self, deviation: Tensor, values: Tensor) -> Tensor:
        """A deviation of outputs in the unit of the target; of logarithms, in first order, its product with the value.

        Args:
            deviation: (B, D) or (B,), in the unit of the outputs.
            values: predicted numbers, as :meth:`probabilities` gives them.
        """
        found = deviation if self.deviation is None else deviation * self.deviation
        return found * values.reshape(found.shape) if self.log else found

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
        if self.log:
            bad, expected = bad | (rows <= 0), f"{expected} above 0"
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


_LARGEST_LOGARITHM = 88.0
"""exp of it is still a finite float32."""


def _in_float32(mean: float, deviation: float) -> bool:
    """Whether float32 holds both, and rounds the mean by less than a thousandth of the deviation."""
    limit = torch.finfo(torch.float32)
    return abs(mean) < limit.max and limit.tiny < deviation < limit.max and abs(mean) * limit.eps < 2e-3 * deviation
