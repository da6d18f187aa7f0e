"""What a method asks of a task, and what follows from it for every task."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import torch
from torch import Tensor

from equimodal._utils.precision import widest_float
from equimodal.errors import ModelError, TargetError, did_you_mean

Distribution = Literal["categorical", "bernoulli", "gaussian", "point"]
"""What an output says about the target: softmax over axis 1, one sigmoid per channel, means and log-variances, or a
number without any uncertainty."""


@runtime_checkable
class Task(Protocol):
    """What a method asks of a task. Implement it to bring your own.

    Four more members are read where a task has them:

    * ``distribution``: what an output is, one of :data:`Distribution`; without it ``"categorical"``. It decides how the
      inference rules combine outputs.
    * ``loss_terms(output, target)`` (T,) and ``loss_weights(target)`` (T,): means that sum to the loss, and what each
      of them averages over (the sum of class weights, say; additive over samples). They make micro-batches count
      exactly as one batch. Without them, or where ``loss_weights`` returns ``None``, every sample counts the same.
    * ``in_deviations(target)``: the target in the unit of the outputs, where these have another one.
    * ``relative_score``: ``True`` where the score has the unit of the target, so that only relative changes mean
      anything.
    """

    @property
    def name(self) -> str:
        """Kind of the task, as methods declare it in ``MethodInfo.tasks``."""

    @property
    def outputs(self) -> int:
        """Size of the output's axis 1."""

    @property
    def dense(self) -> bool:
        """Whether there is one output per pixel instead of one per sample."""

    @property
    def score_size(self) -> int:
        """K, the length of what :meth:`score_terms` returns."""

    @property
    def main_metric(self) -> str:
        """Name of the metric of :meth:`metrics` that studies report."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of the main metric is better; if not, the score is minus that metric."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss, a scalar."""

    def residual(self, output: Tensor, target: Tensor) -> Tensor:
        """dL/doutput, differentiable with respect to ``output``."""

    def score_terms(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Numerators and denominators (K,), additive over samples; the score is the mean of their ratios."""

    def probabilities(self, output: Tensor) -> Tensor:
        """What users read off an output."""

    def check_target(self, target: Tensor | None) -> None:
        """Raise :class:`~equimodal.errors.TargetError` for a target of the wrong kind, shape or range."""

    def metrics(self) -> Any:
        """A ``torchmetrics.MetricCollection`` fed with (probabilities, target), both in the unit that users read."""


def mean_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The score of summed terms: the mean of numerator_k / denominator_k over the k with denominator_k > 0.

    NaN where no denominator is above 0: then there is nothing to judge.

    Args:
        numerator: (K,).
        denominator: (K,).

    Example:
        >>> mean_ratio(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([2.0, 4.0, 0.0]))
        tensor(0.6250)
    """
    if denominator.shape == (1,):  # the common case: 0 / 0 is NaN by itself
        return (numerator / denominator)[0]
    some = denominator > 0
    ratio = torch.where(some, numerator, 0) / torch.where(some, denominator, 1)
    return ratio.sum() / some.sum()


def score(task: Task, output: Tensor, target: Tensor) -> Tensor:
    """Score of ``output``, a scalar; higher is better. See :func:`mean_ratio`."""
    return mean_ratio(*task.score_terms(output, target))


def distribution_of(task: Task) -> Distribution:
    """What an output of ``task`` says about the target.

    Raises:
        TargetError: the task names a distribution that is not known.
    """
    found = getattr(task, "distribution", "categorical")
    if found not in get_args(Distribution):
        raise TargetError(
            f"`task.distribution`: expected one of {', '.join(get_args(Distribution))}. Found {found!r}."
            f"{did_you_mean(found, get_args(Distribution))}"
        )
    return cast(Distribution, found)


def in_output_unit(task: Task, target: Tensor) -> Tensor:
    """The target as the numbers that outputs are compared with; what a task without a unit is given stays as it is."""
    moved = getattr(task, "in_deviations", None)
    return target if moved is None else cast(Tensor, moved(target))


def counting_dtype(device: torch.device) -> torch.dtype:
    """Type in which counts and weights are summed: float64 where the device has it."""
    return widest_float(device)


def at_least_float32(output: Tensor) -> Tensor:
    """``output`` in float32, or in float64 if it is."""
    return output if output.dtype == torch.float64 else output.float()


def check_output(output: Tensor, task: Task) -> None:
    """Refuse an output that is not (B, C) - or (B, C, *pixels) of a dense task - with the C that the task has.

    Only shapes are compared, so no device is waited for and a compiled graph stays whole.

    Raises:
        ModelError: a head of another width, or one that was given features which are not pooled.
    """
    if (output.ndim > 2 if task.dense else output.ndim == 2) and output.shape[1] == task.outputs:
        return
    pixels, dense = (", *pixels", ", dense=True") if task.dense else ("", "")
    raise ModelError(
        f"`head`: expected an output (B, {task.outputs}{pixels}) for {type(task).__name__}. Found "
        f"{tuple(output.shape)}. Let the head (or each of `heads`) end with task.outputs = {task.outputs} outputs; "
        f"equimodal.features.affine_head(d, {task.outputs}{dense}) makes one that reads features of any kind."
    )


def positive_integer(name: str, value: object, least: int = 1) -> int:
    """``value`` if it is an integer of at least ``least``; else :class:`~equimodal.errors.TargetError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TargetError(f"`{name}`: expected an integer >= {least}. Found {value!r}.")
    return value


def real_number(
    name: str, value: object, least: float = -math.inf, most: float = math.inf, *, ends: str = "()"
) -> float:
    """``value`` if it is a finite number between two bounds; else :class:`~equimodal.errors.TargetError`.

    Args:
        name: of the parameter.
        value: what was given.
        least: the lower bound.
        most: the upper bound.
        ends: which of the bounds belong to the range, as in ``"[)"``.
    """
    wrong = isinstance(value, bool) or not isinstance(value, Real)
    if not wrong and math.isfinite(number := float(value)):  # type: ignore[arg-type]
        above = number >= least if ends[0] == "[" else number > least
        if above and (number <= most if ends[1] == "]" else number < most):
            return number
    text = "a finite number" if math.isinf(least) else f"a number {'>=' if ends[0] == '[' else '>'} {least:g}"
    text = text if math.isinf(most) else f"a number in {ends[0]}{least:g}, {most:g}{ends[1]}"
    raise TargetError(f"`{name}`: expected {text}. Found {value!r}.")


def truth(name: str, value: object) -> bool:
    """``value`` if it is ``True`` or ``False``; else :class:`~equimodal.errors.TargetError`."""
    if not isinstance(value, bool):
        raise TargetError(f"`{name}`: expected True or False. Found {value!r}.")
    return value


def positive_weights(name: str, values: Any, count: int) -> Tensor | None:
    """(count,) positive numbers as float32, or ``None``; else :class:`~equimodal.errors.TargetError`."""
    if values is None:
        return None
    try:
        weight = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        hint = did_you_mean(values, ["balanced"])  # of Dataset.choose_task
        raise TargetError(f"`{name}`: expected {count} positive numbers. Found {values!r}.{hint}") from error
    if weight.shape != (count,) or not bool((weight > 0).all()) or not bool(torch.isfinite(weight).all()):
        raise TargetError(f"`{name}`: expected {count} positive numbers. Found {values}.")
    return weight


def refuse_entries(target: Tensor, bad: Tensor, expected: str, hint: str = "") -> None:
    """Refuse a target with entries that are not ``expected``; the message shows some of them and their rows.

    Args:
        target: (B, ...).
        bad: booleans of the same shape; reading whether any is true waits for the device.
        expected: what the target should be.
        hint: what to do next.
    """
    if bool(bad.any()):
        rows = bad.reshape(len(bad), -1).any(1).nonzero()[:5, 0].tolist()
        entries = target[bad].tolist() if target.is_floating_point() else sorted(set(target[bad].tolist()))
        raise TargetError(f"`target`: expected {expected}. Found {entries[:5]} in rows {rows}. {hint}".rstrip())
