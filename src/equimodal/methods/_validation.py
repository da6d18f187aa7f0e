"""What a validation pass says: score and loss of a method, and of each modality alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import all_sum, average_statistics, is_distributed
from equimodal.errors import MethodError
from equimodal.methods._loss import loss_sums, mean_of_sums
from equimodal.tasks import counting_dtype, mean_ratio

if TYPE_CHECKING:
    from equimodal.methods._predictor import BatchLike, Predictor

_FUSED = ""
"""Stands for the method's prediction beside the names of the modalities."""


@dataclass(frozen=True)
class Validation:
    """What a pass over a set of samples says; the same on every process, and whatever the batch sizes.

    Args:
        score: of the method's prediction; higher is better. ``float(validation)`` is this.
        loss: the task's loss of the prediction; NaN if it is not known.
        scores: modality -> score of its unimodal output, over the samples that have it. Empty where the method has no
            unimodal outputs; without an entry for a modality that no sample has.
        losses: modality -> loss of its unimodal output, over the same samples.

    Example:
        >>> validation = Validation(0.75, 0.6, {"audio": 0.7}, {"audio": 0.9})
        >>> float(validation), Validation.of(0.5).score
        (0.75, 0.5)
    """

    score: float
    loss: float = math.nan
    scores: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Validation | float) -> Validation:
        """``value``, or a plain score as a validation without anything else."""
        return value if isinstance(value, Validation) else cls(float(value))

    def __float__(self) -> float:
        return float(self.score)


class ValidationSums:
    """Sums over samples from which a :class:`Validation` is made.

    A loss that is a mean with weights (class weights, pixels that count) is the mean over all samples; one that is no
    mean (Dice over the pixels of a batch) is the mean of its batches.

    Args:
        method: predicts; its task gives scores and losses.
    """

    def __init__(self, method: Predictor) -> None:
        self._method = method
        self._device = next(method.parameters()).device
        self._dtype = counting_dtype(self._device)
        self._names = (_FUSED, *method.modalities)
        self._scores = torch.zeros(
            (len(self._names), 2, method.task.score_size), dtype=self._dtype, device=self._device
        )
        self._losses: Tensor | None = None  # (names, 2, K): K is known when the first batch has been seen

    def add(self, batch: Batch) -> None:
        """Predict a batch with targets, in evaluation mode, and add what it says."""
        target = cast(Tensor, batch.target)
        prediction = self._method.predict(batch.inputs, batch.present)
        self._add(_FUSED, prediction.output, target)
        for m, output in prediction.unimodal.items():
            rows = batch.rows(m) if m in batch.inputs else target.new_zeros(0, dtype=torch.int64)
            if rows is None:
                self._add(m, output, target)
            elif len(rows):
                self._add(m, output.index_select(0, rows), target.index_select(0, rows))

    def _add(self, name: str, output: Tensor, target: Tensor) -> None:
        task: Any = self._method.task
        place = self._names.index(name)
        self._scores[place] += torch.stack(task.score_terms(output, target))
        sums = torch.stack(loss_sums(task, output, target, self._dtype))
        if self._losses is None:
            self._losses = torch.zeros((len(self._names), *sums.shape), dtype=self._dtype, device=self._device)
        self._losses[place] += sums

    def total(self) -> Validation:
        """The sums of all processes, read: one synchronisation.

        Raises:
            MethodError: no process has seen a sample.
        """
        terms = 0 if self._losses is None else self._losses.shape[2]
        # a process without a batch does not know how many terms the loss has
        known = all_sum({"known": torch.tensor([terms, terms > 0], dtype=self._dtype, device=self._device)})["known"]
        total, seen = known.tolist()
        if not seen:
            raise MethodError("`batches`: expected at least one batch of samples. Found none.")
        shape = (len(self._names), 2, round(total / seen))
        losses = self._losses if self._losses is not None else self._scores.new_zeros(shape)
        sums = all_sum({"scores": self._scores, "losses": losses})
        scores = torch.stack([mean_ratio(*pair.unbind()) for pair in sums["scores"]])
        means, weights = sums["losses"].unbind(1)
        means = mean_of_sums(means, weights)
        fused, *alone = torch.stack([scores, means, weights.amax(1)], dim=1).tolist()
        found = {m: values for m, values in zip(self._names[1:], alone, strict=True) if values[2] > 0}
        return Validation(
            fused[0],
            fused[1],
            {m: values[0] for m, values in found.items() if not math.isnan(values[0])},
            {m: values[1] for m, values in found.items()},
        )


@torch.no_grad()
def measure(method: Predictor, batches: Iterable[BatchLike]) -> Validation:
    """Score and loss of ``method``, and of each modality alone, over all samples of ``batches``.

    One pass in evaluation mode, which leaves no trace. With several processes each gives batches of its own (at
    least one process one batch), and batch statistics are averaged for the pass, so that all evaluate one model.

    Args:
        method: what is measured.
        batches: with targets; of any size.

    Raises:
        MethodError: there is no batch on any process.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Ensemble
        >>> model = MultimodalModel({"a": nn.Linear(2, 2)}, Concat({"a": 2}), nn.Linear(2, 2))
        >>> found = measure(Ensemble(model, Classification(2)), [Batch({"a": torch.eye(2)}, torch.tensor([0, 1]))])
        >>> found.score == found.scores["a"], sorted(found.losses)
        (True, ['a'])
    """
    sums = ValidationSums(method)
    device = next(method.parameters()).device
    layers = [m for m in method.modules() if getattr(m, "track_running_stats", False) is True]
    before = [(b, b.clone()) for m in layers for b in m.buffers(recurse=False)] if is_distributed() else []
    average_statistics(method)
    try:
        for raw in batches:
            sums.add(method.check_batch(raw).to(device))
    finally:
        for buffer, value in before:
            buffer.copy_(value)
    return sums.total()


def part_of(batches: object) -> str | None:
    """The part of a dataset (``"train"``, ``"validation"``, ``"test"``) that batches are of, where they say so."""
    for _ in range(5):  # a loader of this library has a split; a DataLoader has a dataset, which may be a subset
        part = getattr(batches, "part", None)
        if isinstance(part, str):
            return part
        inner = getattr(batches, "split", None)
        batches = getattr(batches, "dataset", None) if inner is None or callable(inner) else inner
    return None


def require_validation(batches: object, name: str) -> None:
    """Refuse batches that are known to be of another part of a dataset.

    Raises:
        MethodError: training or test data.
    """
    part = part_of(batches)
    if part not in (None, "validation"):
        raise MethodError(
            f"`{name}`: expected validation data. Found the {part} split. Pass a loader of dataset.validation."
        )
