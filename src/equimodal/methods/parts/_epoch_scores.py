"""Training scores of the modalities over an epoch, and the order that follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from equimodal._utils.precision import Float32Buffers
from equimodal.batch import Batch
from equimodal.engine import all_sum, evaluating
from equimodal.methods._base import Method, Stateful
from equimodal.methods._loss import own_rows
from equimodal.methods._predictor import BatchLike
from equimodal.tasks import counting_dtype, mean_ratio

Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Numerator and denominator of a score, (K,) each, of an output and its target."""

RANKED = ("weak_first", "strong_first")
"""Orders of the modalities that follow from their last training scores."""


class EpochScores(Stateful, Float32Buffers):
    """The score of each modality over the training samples of its last epoch, equal on every process.

    Args:
        modalities: whose scores, in the order of the model.
        size: K, the length of numerators and denominators; the score is the mean of their ratios.
        like: gives device and type, float32 at least.

    Example:
        >>> scores = EpochScores(["audio", "video"], 1, torch.zeros(()))
        >>> scores.add("audio", {"numerator": torch.tensor([9.0]), "denominator": torch.tensor([10.0])})
        >>> scores.add("video", {"numerator": torch.tensor([4.0]), "denominator": torch.tensor([10.0])})
        >>> scores.end_epoch(), scores.order("weak_first")
        ([0.8999999761581421, 0.4000000059604645], ['video', 'audio'])
    """

    state = ("last",)
    numerators: Tensor
    denominators: Tensor

    def __init__(self, modalities: Sequence[str], size: int, like: Tensor) -> None:
        super().__init__()
        self._modalities = tuple(modalities)
        dtype = torch.promote_types(like.dtype, torch.float32)
        table = torch.zeros(len(self._modalities), size, dtype=dtype, device=like.device)
        self.register_buffer("numerators", table)
        self.register_buffer("denominators", table.clone())
        self.last: list[float | None] = [None] * len(self._modalities)  # of an epoch in which it was seen

    @torch.no_grad()
    def add(self, modality: str, sums: Mapping[str, Tensor]) -> None:
        """Take in the ``numerator`` and ``denominator`` of a step; every process must call it equally often."""
        row = self._modalities.index(modality)
        zero = torch.zeros_like(self.numerators[row])
        whole = all_sum({name: sums.get(name, zero).to(zero.dtype) for name in ("numerator", "denominator")})
        self.numerators[row] += whole["numerator"]
        self.denominators[row] += whole["denominator"]

    def end_epoch(self) -> list[float]:
        """The scores; of a modality that was not seen since the last call, its last one, or NaN. Waits for a device."""
        found = torch.stack([mean_ratio(n, d) for n, d in zip(self.numerators, self.denominators, strict=True)])
        pairs = zip(found.tolist(), self.last, strict=True)
        self.last = [old if math.isnan(new) else float(new) for new, old in pairs]
        self.numerators.zero_()
        self.denominators.zero_()
        return [math.nan if score is None else score for score in self.last]

    def order(self, rule: str) -> list[str]:
        """The modalities by their last scores; in their own order where some are not known, or equal.

        Args:
            rule: one of :data:`RANKED`.
        """
        known = [score for score in self.last if score is not None]
        if len(known) < len(self._modalities):
            return list(self._modalities)
        sign = 1 if rule == "weak_first" else -1
        score = dict(zip(self._modalities, known, strict=True))
        return sorted(self._modalities, key=lambda m: sign * score[m])


def ranking_of(terms: Tensor, modalities: Sequence[str], unknown: float = -math.inf) -> list[str]:
    """The modalities by their scores, the lowest first; equal ones as they are. Waits for a device.

    Args:
        terms: (M, 2, K), numerators and denominators of the scores on this process.
        modalities: in the order of the rows.
        unknown: score of a modality that no process has seen.

    Example:
        >>> ranking_of(torch.tensor([[[9.0], [10.0]], [[4.0], [10.0]], [[0.0], [0.0]]]), ["audio", "video", "text"])
        ['text', 'video', 'audio']
    """
    whole = all_sum({"terms": terms})["terms"]
    scores = torch.stack([mean_ratio(*pair.unbind()) for pair in whole]).nan_to_num(unknown).tolist()
    return [m for _, m in sorted(zip(scores, modalities, strict=True), key=lambda pair: pair[0])]


@torch.no_grad()
def ranking_by(
    method: Method,
    batches: Iterable[BatchLike],
    outputs: Callable[[Batch], Mapping[str, Tensor]],
    terms: Terms | None = None,
    size: int | None = None,
    unknown: float = -math.inf,
) -> list[str]:
    """:func:`ranking_of` the scores of some outputs in a pass in evaluation mode, each on the samples that have it.

    Args:
        method: whose modalities; put in evaluation mode for the pass.
        batches: of this process.
        outputs: of a batch: modality -> (B, C, ...).
        terms: of the score; default the task's.
        size: K of ``terms``; default the task's.
        unknown: score of a modality that no process has seen.
    """
    task, device = method.task, next(method.parameters()).device
    shape = len(method.modalities), 2, task.score_size if size is None else size
    table = torch.zeros(shape, dtype=counting_dtype(device), device=device)
    with evaluating(method):
        for raw in batches:
            batch = method.check_batch(raw).to(device)
            for m, output in outputs(batch).items():
                pair = (terms or task.score_terms)(*own_rows(output, batch, m))
                table[method.modalities.index(m)] += torch.stack(pair).to(table.dtype)
    return ranking_of(table, method.modalities, unknown)


def ranked_scores(method: Method, order: str) -> EpochScores | None:
    """What ranks the modalities of a method by the task's scores; ``None`` where its order does not follow from any."""
    if order not in RANKED:
        return None
    return EpochScores(method.modalities, method.task.score_size, next(method.parameters()))
