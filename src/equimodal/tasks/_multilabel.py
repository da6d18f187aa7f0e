"""Several labels per sample, each there or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from equimodal.errors import TargetError, missing_extra
from equimodal.functional import binary_cross_entropy_residual
from equimodal.tasks._protocol import (
    Distribution,
    at_least_float32,
    check_output,
    positive_integer,
    positive_weights,
    refuse_entries,
    score,
)


class MultiLabel(nn.Module):
    r"""L labels per sample, each there or not, trained with binary cross-entropy and scored by micro-averaged F1.

    :math:`L = -\frac{1}{BL} \sum \left( w_l\, y \log \sigma(z) + (1 - y) \log(1 - \sigma(z)) \right)`, as
    ``torch.nn.functional.binary_cross_entropy_with_logits``. A label is predicted where :math:`z > 0`.

    Args:
        num_labels: L >= 1.
        pos_weight: L positive numbers w, what a label that is there counts; ``None`` is 1.

    Targets are 0 or 1, (B, L), of any numeric type; values between (as mixup produces them) are taken as probabilities
    by the loss and the temperatures, and as a label that is there from 0.5 upwards by the score and the metrics.

    Score: :math:`2 TP / (2 TP + FP + FN)` over all labels and samples. Metrics: ``micro_f1``, ``macro_f1`` and
    ``mean_average_precision`` over the labels, and ``accuracy``, the share of right entries.

    Raises:
        TargetError: an argument is out of range, or (in :meth:`check_target`) a target is.
        ModelError: (in :meth:`loss`, :meth:`residual` and :meth:`score`) an output that is not (B, L).

    Example:
        >>> import torch
        >>> task = MultiLabel(2)
        >>> task.score(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [0, 1]]))
        tensor(0.8000)
    """

    name = "multilabel"
    distribution: ClassVar[Distribution] = "bernoulli"
    dense = False
    score_size = 1
    main_metric = "micro_f1"
    higher_is_better = True
    pos_weight: Tensor | None

    def __init__(self, num_labels: int, pos_weight: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        self.num_labels = positive_integer("num_labels", num_labels)
        self.register_buffer("pos_weight", positive_weights("pos_weight", pos_weight, num_labels), persistent=False)

    @property
    def outputs(self) -> int:
        """L, the number of logits."""
        return self.num_labels

    def extra_repr(self) -> str:
        """Arguments, for ``repr``."""
        return f"num_labels={self.num_labels}"

    def _like(self, output: Tensor, target: Tensor) -> Tensor:
        check_output(output, self)
        if output.shape != target.shape:
            raise TargetError(
                f"`target`: expected (B, {self.num_labels}) as the output. Found {tuple(target.shape)} for "
                f"{tuple(output.shape)}."
            )
        return target.to(output.dtype)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over samples and labels."""
        weight = None if self.pos_weight is None else self.pos_weight.to(output.dtype)
        return nn.functional.binary_cross_entropy_with_logits(output, self._like(output, target), pos_weight=weight)

    def residual(self, output: Tensor, target: Tensor) -> Tensor:
        r""":math:`\partial L/\partial z`: :math:`(\sigma(z) - y) / (B L)` without weights, (B, L)."""
        return binary_cross_entropy_residual(output, self._like(output, target), self.pos_weight)

    def score_terms(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """2 TP and 2 TP + FP + FN, each (1,)."""
        truth, guess = self._like(output, target) >= 0.5, output > 0
        numerator = (2 * (truth & guess).sum()).float().reshape(1)
        return numerator, (truth.sum() + guess.sum()).float().reshape(1)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Micro-averaged F1 in [0, 1], a scalar tensor."""
        return score(self, output, target)

    def probabilities(self, output: Tensor) -> Tensor:
        """sigmoid of every logit, (B, L), in float32 at least."""
        return torch.sigmoid(at_least_float32(output))

    def check_target(self, target: Tensor | None) -> None:
        """Raise unless ``target`` is (B, L) numbers in [0, 1]; synchronises on a CUDA device."""
        expected = f"(B, {self.num_labels}) numbers from 0 (label is not there) to 1 (is there)"
        if target is None:
            raise TargetError(f"`target`: expected {expected}. Found None.")
        if target.ndim != 2 or target.shape[1] != self.num_labels or target.is_complex():
            raise TargetError(f"`target`: expected {expected}. Found {target.dtype} {tuple(target.shape)}.")
        bad = ~((target >= 0) & (target <= 1))  # also where NaN
        refuse_entries(target, bad, expected, "Check the labels or `num_labels`.")

    def metrics(self) -> Any:
        """Micro and macro F1, accuracy per entry and mean average precision over the labels."""
        try:
            from torchmetrics import MetricCollection
            from torchmetrics.classification import (
                MultilabelAccuracy,
                MultilabelAveragePrecision,
                MultilabelF1Score,
            )
            from torchmetrics.wrappers import LambdaInputTransformer
        except ImportError as error:
            raise missing_extra("torchmetrics", "cli", "`MultiLabel.metrics`") from error
        count = self.num_labels
        metrics = {
            "micro_f1": MultilabelF1Score(count, average="micro"),
            "macro_f1": MultilabelF1Score(count, average="macro"),
            "accuracy": MultilabelAccuracy(count, average="micro"),
            "mean_average_precision": MultilabelAveragePrecision(count, average="macro"),
        }
        return MetricCollection({n: LambdaInputTransformer(m, transform_target=_labels) for n, m in metrics.items()})


def _labels(target: Tensor) -> Tensor:
    """(B, L) of 0 and 1; a probability counts as a label from 0.5 upwards."""
    return (target >= 0.5).long()
