"""One class per sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equimodal.errors import TargetError, missing_extra
from equimodal.functional import softmax_cross_entropy_residual
from equimodal.tasks._protocol import (
    Distribution,
    at_least_float32,
    check_output,
    counting_dtype,
    positive_integer,
    positive_weights,
    real_number,
    refuse_entries,
    score,
)

_ROUNDING = 0.02  # passes probabilities of bfloat16, and those rounded to two digits


class Classification(nn.Module):
    r"""One class per sample, trained with cross-entropy and scored by accuracy.

    Args:
        num_classes: C >= 2.
        class_weight: C positive numbers, or ``None``; as in ``torch.nn.functional.cross_entropy``.
        label_smoothing: in [0, 1).

    Targets are class indices (B,), integers of any type, or soft targets (B, C), floating-point class probabilities q
    as mixup, distillation or several annotators give them. The loss is then :math:`-\sum_c q_c \log p_c`, which
    temperatures are fitted by too; the score and the metrics count the class with the largest q as the true one.

    :meth:`check_target` refuses integers outside 0..C-1, and rows of numbers outside [0, 1] or whose sum is further
    than 0.02 from 1 (several labels at once are :class:`MultiLabel`). Methods call it on every batch in host memory.

    Raises:
        TargetError: an argument is out of range, or (in :meth:`check_target`) a label is.
        ModelError: (in :meth:`loss`, :meth:`residual` and :meth:`score`) an output that is not (B, C).

    Example:
        >>> import torch
        >>> task = Classification(3)
        >>> task.score(torch.eye(3), torch.tensor([0, 1, 1]))
        tensor(0.6667)
    """

    name = "classification"
    distribution: ClassVar[Distribution] = "categorical"
    dense = False
    score_size = 1
    main_metric = "accuracy"
    higher_is_better = True
    class_weight: Tensor | None

    def __init__(
        self, num_classes: int, class_weight: Sequence[float] | Tensor | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        positive_integer("num_classes", num_classes, 2)
        self.label_smoothing = real_number("label_smoothing", label_smoothing, 0, 1, ends="[)")
        weight = positive_weights("class_weight", class_weight, num_classes)
        self.num_classes = num_classes
        self.register_buffer("class_weight", weight, persistent=False)

    @property
    def outputs(self) -> int:
        """C, the number of logits."""
        return self.num_classes

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"num_classes={self.num_classes}, label_smoothing={self.label_smoothing}"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, averaged as ``torch.nn.functional.cross_entropy`` does."""
        check_output(output, self)
        weight = self._buffers["class_weight"]  # as self.class_weight, without the search
        weight = None if weight is None else weight.to(output.dtype)
        if target.dtype != torch.int64 and not target.is_floating_point():
            target = target.long()
        return nn.functional.cross_entropy(output, target, weight=weight, label_smoothing=self.label_smoothing)

    def loss_terms(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss, (1,)."""
        return self.loss(output, target).reshape(1)

    def loss_weights(self, target: Tensor) -> Tensor | None:
        """(1,) sum of the samples' class weights; ``None`` without class weights, where each counts the same."""
        if self.class_weight is None:
            return None
        dtype = counting_dtype(target.device)
        if target.is_floating_point():  # as torch averages soft targets
            return torch.full((1,), float(target.shape[0]), device=target.device, dtype=dtype)
        return self.class_weight.to(dtype)[target.long()].sum().reshape(1)

    def residual(self, output: Tensor, target: Tensor) -> Tensor:
        r""":math:`\partial L/\partial z`: :math:`(p - \mathrm{onehot}(y))/B` for the plain cross-entropy, (B, C).

        Class weights, label smoothing and soft targets are included exactly.
        """
        check_output(output, self)
        if self.class_weight is None and not self.label_smoothing and not target.is_floating_point():
            share = 1 / output.shape[0]  # p / B less 1 / B at the label, without a table of zeros and ones
            taken = output.new_full((output.shape[0], 1), -share)
            return (torch.softmax(output, dim=1) * share).scatter_add(1, target.long()[:, None], taken)
        return softmax_cross_entropy_residual(output, self._target_weights(output, target))

    def _target_weights(self, output: Tensor, target: Tensor) -> Tensor:
        """q with loss = -sum q log p."""
        weight = None if self.class_weight is None else self.class_weight.to(output.dtype)
        smooth = self.label_smoothing
        if target.is_floating_point():
            q = (1 - smooth) * target.to(output.dtype) + smooth / self.num_classes
            return (q if weight is None else q * weight) / output.shape[0]
        target = target.long()
        onehot = nn.functional.one_hot(target, self.num_classes).to(output.dtype)
        q = (1 - smooth) * onehot + smooth / self.num_classes
        if weight is None:
            return q / output.shape[0]
        return q * weight / weight[target].sum()

    def score_terms(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Number of correct samples and of samples, each (1,)."""
        check_output(output, self)
        correct = (output.argmax(dim=1) == _labels(target)).sum(dim=0, keepdim=True, dtype=torch.float32)
        return correct, torch.full_like(correct, output.shape[0])

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Accuracy in [0, 1], a scalar tensor."""
        return score(self, output, target)

    def probabilities(self, output: Tensor) -> Tensor:
        """softmax over the classes, (B, C), in float32 at least."""
        return torch.softmax(at_least_float32(output), dim=1)

    def check_target(self, target: Tensor | None) -> None:
        """Raise unless ``target`` is (B,) integers in [0, C) or (B, C) rows of probabilities; synchronises on CUDA."""
        if target is not None and target.ndim == 1 and target.dtype == torch.int64 and self._has_classes(target):
            return  # the common case, asked in every step
        expected = f"class indices (B,) in 0..{self.num_classes - 1} or probabilities (B, {self.num_classes})"
        if target is None:
            raise TargetError(f"`target`: expected {expected}. Found None.")
        if target.is_floating_point():
            if target.ndim != 2 or target.shape[1] != self.num_classes:
                raise TargetError(
                    f"`target`: expected {expected}. Found {target.dtype} {tuple(target.shape)}; "
                    "for class indices convert with .long()."
                )
            bad = ~((target >= 0) & (target <= 1))  # also where NaN
            refuse_entries(target, bad, expected)
            total = target.sum(dim=1, dtype=counting_dtype(target.device))
            refuse_entries(
                total,
                (total - 1).abs() > _ROUNDING,
                f"probabilities (B, {self.num_classes}) with rows that sum to 1",
                "Divide each row by its sum; several labels per sample are the task MultiLabel.",
            )
            return
        if target.ndim != 1 or target.dtype == torch.bool:
            raise TargetError(f"`target`: expected {expected}. Found {target.dtype} {tuple(target.shape)}.")
        if not self._has_classes(target):
            outside = (target < 0) | (target >= self.num_classes)
            refuse_entries(target, outside, expected, "Check the labels or `num_classes`.")

    def _has_classes(self, target: Tensor) -> bool:
        """Whether integers (B,) are classes; of few, in host memory, Python's own sets are the quickest to ask."""
        if target.numel() <= 256 and target.is_cpu:
            return _up_to(self.num_classes).issuperset(target.tolist())
        if not target.numel():
            return True
        least, most = target.aminmax()
        return int(least) >= 0 and int(most) < self.num_classes

    def metrics(self) -> Any:
        """Accuracy, macro-averaged F1 and mean average precision over the classes; of soft targets their argmax."""
        try:
            from torchmetrics import MetricCollection
            from torchmetrics.classification import MulticlassAccuracy, MulticlassAveragePrecision, MulticlassF1Score
            from torchmetrics.wrappers import LambdaInputTransformer
        except ImportError as error:
            raise missing_extra("torchmetrics", "cli", "`Classification.metrics`") from error
        metrics = {
            "accuracy": MulticlassAccuracy(self.num_classes, average="micro"),
            "macro_f1": MulticlassF1Score(self.num_classes, average="macro"),
            "mean_average_precision": MulticlassAveragePrecision(self.num_classes, average="macro"),
        }
        return MetricCollection({n: LambdaInputTransformer(m, transform_target=_labels) for n, m in metrics.items()})


@cache
def _up_to(count: int) -> frozenset[int]:
    return frozenset(range(count))


def _labels(target: Tensor) -> Tensor:
    """(B,) classes; of soft targets the most probable ones."""
    return target.argmax(dim=1) if target.is_floating_point() else target
