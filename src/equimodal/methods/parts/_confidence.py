"""Scores of modalities that a rule compares within a batch: how sure each one's output is of the truth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine
from equimodal.errors import ModelError
from equimodal.functional import true_label_probability, true_probability
from equimodal.methods._base import Method, StepReport
from equimodal.methods._loss import own_rows
from equimodal.methods.parts._heads import SHARED, usual_way
from equimodal.methods.parts._sums import whole_sums
from equimodal.tasks import Task, distribution_of
from equimodal.unimodal import Masked, Split

_LEAST = 1e-8
"""Smallest probability whose logarithm is taken."""


def scoring_way(method: Method, unimodal: nn.Module | None) -> nn.Module:
    """Where the unimodal outputs come from that scores are taken of.

    Args:
        method: gives model and task.
        unimodal: chosen by the user; ``None`` is the exact split of an additive head, or the heads of a late fusion.
            Addends of a number predict nothing, so for a regression it is the fused output with the other modalities
            masked.

    Raises:
        ModelError: nothing is chosen, and the head cannot be split.
    """
    if unimodal is not None:
        return unimodal
    way = usual_way(method.multimodal, method.task)
    if way is not None:
        return way
    if distribution_of(method.task) in SHARED:
        return Masked(method.model)
    raise ModelError(f"{Split.refusal(method.model)} Here: unimodal='masked'.")


@torch.no_grad()
def confidence_sums(
    method: Method, outputs: Mapping[str, Tensor], batch: Batch, *, logarithm: bool = False
) -> dict[str, Tensor]:
    r"""Sums over the samples that have a modality, for an objective's ``sums``: of confidences and of what they count.

    The confidence of an output is the probability of the true class, the mean over labels or pixels where there are
    several; of a regression it is the inverse of the mean absolute error.

    Args:
        method: gives task and modalities.
        outputs: modality -> (B, C, ...) of all samples of ``batch``.
        batch: as the objective was given it.
        logarithm: average logarithms of probabilities instead.

    Returns:
        ``confidence/m`` and ``counted/m`` of every modality of the method, scalars; 0 where no sample has it.
    """
    zero = next(iter(outputs.values())).new_zeros((), dtype=torch.float64 if _wide(outputs) else torch.float32)
    sums = {f"{kind}/{m}": zero for kind in ("confidence", "counted") for m in method.modalities}
    for m, output in outputs.items():
        own, target = own_rows(output, batch, m)
        if own.shape[0]:
            total, count = _terms(method.task, own, target, logarithm)
            sums[f"confidence/{m}"], sums[f"counted/{m}"] = total.to(zero.dtype), count.to(zero.dtype)
    return sums


def _wide(outputs: Mapping[str, Tensor]) -> bool:
    return any(output.dtype == torch.float64 for output in outputs.values())


def _terms(task: Task, output: Tensor, target: Tensor, logarithm: bool) -> tuple[Tensor, Tensor]:
    distribution = distribution_of(task)
    if distribution in SHARED:
        errors, count = task.score_terms(output, target)
        return errors.sum(), count.sum()
    p = task.probabilities(output)
    valid = None
    if distribution == "bernoulli":
        true = true_label_probability(p, target)
    else:
        ignored = getattr(task, "ignore_index", None)
        valid = None if ignored is None else target != ignored
        true = true_probability(p, target if valid is None else torch.where(valid, target, 0))
    true = true.clamp_min(_LEAST).log() if logarithm else true
    weights = torch.ones_like(true) if valid is None else valid.to(true.dtype)
    return (true * weights).sum(), weights.sum()


def confidences(method: Method, sums: Mapping[str, Tensor], *, logarithm: bool = False) -> tuple[Tensor, Tensor]:
    """Confidence of each modality, and whether it has one, both (M,).

    Args:
        method: gives task and modalities.
        sums: of :func:`confidence_sums`, over all micro-batches and processes.
        logarithm: as the sums were made with; then the logarithm of the confidence.
    """
    total = torch.stack([sums[f"confidence/{m}"] for m in method.modalities])
    count = torch.stack([sums[f"counted/{m}"] for m in method.modalities])
    known, mean = count > 0, total / count.clamp_min(1)
    if distribution_of(method.task) in SHARED:  # the mean is minus the error
        error = (-mean).clamp_min(_LEAST)
        return torch.where(known, -error.log() if logarithm else 1 / error, 0), known
    return mean, known


def batch_confidences(
    method: Method, descent: Descent, engine: Engine, report: StepReport, *, logarithm: bool = False
) -> tuple[Tensor, Tensor]:
    """:func:`confidences` of a step, over all its micro-batches and processes; the report gets them as scores."""
    names = [f"{kind}/{m}" for kind in ("confidence", "counted") for m in method.modalities]
    sums = whole_sums(descent, engine, names)
    scores, known = confidences(method, sums, logarithm=logarithm)
    report.scores |= {m: s for m, s in zip(method.modalities, scores.unbind(), strict=True) if f"counted/{m}" in sums}
    return scores, known
