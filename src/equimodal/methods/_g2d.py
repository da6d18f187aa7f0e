"""G2D: distillation from unimodal teachers, and encoders that train alone, the weakest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import Phase, Sharpness
from equimodal.functional import distillation
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods._predictor import BatchLike
from equimodal.methods._umt import UMT
from equimodal.methods.parts import (
    Companions,
    joint_phase,
    lacking,
    mean_over_batch,
    ranking_by,
    stage_alone,
    unannounced,
)
from equimodal.tasks import Task, distribution_of


class G2D(Stateful, UMT):
    r"""Gradient-guided distillation (Rakib and Bagavathi, ICCV 2025): :class:`UMT` with distilled outputs and stages.

    .. math:: L = L(u, y) + \frac1B \sum_i \sum_m \left(
        \alpha \|z_{m,i} - z^T_{m,i}\|^2 + \beta\, T^2\, KL(p^T_{m,i} \| p_i) \right)

    with p of the *fused* output. *Sequential modality prioritization*: modalities are ranked by the mean probability
    that their teachers give to the true class (another task's score elsewhere). In stage j only the encoder of the
    j-th weakest trains, with fusion and head; after M - 1 stages all do. An encoder that waits keeps still: weights,
    running statistics, optimizer state.

    Args:
        teachers: as for :class:`UMT`; trained methods, whose outputs are read.
        weight: :math:`\alpha`.
        output_weight: :math:`\beta`.
        temperature: T.
        alone: share of the epochs in which one encoder trains alone, the same for each stage; 0 is the ablation. Needs
            the number of epochs.
        reduction: of the feature term: ``"sum"`` over the entries of a sample (paper), or their ``"mean"`` (released).

    Raises:
        ModelError: as :class:`UMT`.
        MethodError: with ``alone`` above 0, a step before ``on_train_epoch_start``, or no number of epochs.
    """

    info = MethodInfo(
        title="Gradient-guided distillation",
        idea="distillation from unimodal teachers; the weakest encoder trains alone first",
        paper="Rakib and Bagavathi, G2D: Boosting Multimodal Learning with Gradient-Guided Distillation, ICCV 2025, "
        "arXiv 2506.21514",
        equations="feature and output distillation; sequential modality prioritization in stages",
        family="distillation, staged",
        modalities="two or more, with a teacher each",
        order="teachers of equal score are ranked in the order of the encoders",
        missing=MASKED + "; a sample without a modality is not taught in it",
        cost="1.3 joint steps, less while encoders wait, and the training of the teachers",
        deviations=(
            "the ranking is made once, in a pass over the training samples (of the first batch where no loader is "
            "offered): frozen teachers do not change",
            "M - 1 stages of equal length share the epochs; published: 150 of 300 for two modalities",
            "numbers are distilled by the squared difference of outputs",
        ),
        released=(
            "the feature term is the mean over entries, 1/d of the paper's",
            "per batch the gradient of the encoder whose teacher scores highest is set to zero, for two modalities the "
            "same schedule; only tensors with four axes, and weight decay still shrinks them",
            "equal scores raise an error",
        ),
        consulted="notes on the paper; rAIson-Lab/G2D at 95969d8 (student.py, utils/utils.py)",
    )
    state = ("ranking", "_epoch", "_epochs")

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        teachers: Companions | Mapping[str, nn.Module],
        weight: Annotated[float, Within(at_least=0), "paper"] = 1.0,
        output_weight: Annotated[float, Within(at_least=0), "paper"] = 1.0,
        temperature: Annotated[float, Within(above=0), "paper"] = 1.0,
        alone: Annotated[float, Within(at_least=0, below=1), "paper: 150 of 300 epochs"] = 0.5,
        reduction: Annotated[Literal["sum", "mean"], "paper"] = "sum",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, teachers=teachers, weight=weight, sharpness=sharpness, inference=inference,
                         calibrated=calibrated)  # fmt: skip
        check_options(G2D.__init__, locals())
        self.output_weight, self.temperature = output_weight, temperature
        self.alone, self.reduction = alone, reduction
        self.ranking: list[str] = []
        self._epoch: int | None = None
        self._epochs: int | None = None

    # ---- stages -----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Rank the teachers, once; note the epoch."""
        if self.alone > 0 and context.epochs is None:
            raise lacking(self, "epochs", "with alone > 0 divides the epochs into stages", "alone=0")
        self._epoch, self._epochs = context.epoch, context.epochs
        if self.alone > 0 and not self.ranking and context.loader is not None:
            self._rank(context.loader)

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Without a loader the teachers are ranked on the first batch."""
        if self.alone > 0 and not self.ranking:
            self._rank(batches)
        return batches

    def _rank(self, batches: Iterable[BatchLike]) -> None:
        """The modalities by the scores of their teachers on the samples that have them, the lowest first."""
        terms, size = (self._true_probability, 1) if self.task.name == "classification" else (None, None)
        self.ranking = ranking_by(self, batches, self._taught, terms, size, unknown=0.0)

    def _taught(self, batch: Batch) -> dict[str, Tensor]:
        return self.teachers.outputs(self.teachers.features(batch))

    def _true_probability(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if target.is_floating_point():
            return self.task.score_terms(output, target)
        true = self.task.probabilities(output).gather(1, target[:, None].long()).sum(0)
        return true, torch.full_like(true, len(target))

    def stage(self) -> int:
        """j of the stage that the epoch is in, from 0; M - 1 where all encoders train."""
        if self.alone == 0:
            return len(self.modalities) - 1
        if self._epoch is None or self._epochs is None:
            raise unannounced(self, "epoch, epochs", "alone=0")
        return stage_alone(self._epoch, round(self.alone * self._epochs), len(self.modalities))

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything, or one encoder with fusion and head."""
        stage = self.stage()
        waiting = [] if stage == len(self.modalities) - 1 else [m for m in self.modalities if m != self.ranking[stage]]
        return [joint_phase(self, self._objective, waiting)]

    # ---- loss -------------------------------------------------------------------------------------------------------

    def _terms(
        self, features: Mapping[str, Tree], taught: Mapping[str, Tree], output: Tensor, batch: Batch
    ) -> dict[str, tuple[float, Tensor]]:
        terms = super()._terms(features, taught, output, batch)
        if self.output_weight > 0:
            apart = {m: self._apart(u, output) for m, u in self.teachers.outputs(taught).items()}
            terms["outputs"] = (self.output_weight, mean_over_batch(apart, batch))
        return terms

    def _apart(self, teacher: Tensor, student: Tensor) -> Tensor:
        kind = distribution_of(self.task)
        if kind == "categorical":
            return distillation(teacher, student, self.temperature)
        if kind == "bernoulli":  # each label is a choice of two
            of_teacher, of_student = (torch.stack([torch.zeros_like(u), u], 1) for u in (teacher, student))
            return distillation(of_teacher, of_student, self.temperature)
        return (student - teacher.detach()).square()
