"""AUG: boosting inside the modality that is behind, by classifiers trained on what earlier ones leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import lagging, residual_target
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful, StepReport
from equimodal.methods._info import OWN_ROWS, MethodInfo
from equimodal.methods._loss import target_of
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import BoostedHeads, BranchMethod, EpochScores, branch_phase, warn_unannounced
from equimodal.tasks import Task


class AUG(Stateful, BranchMethod):
    r"""Sustained boosting with adaptive classifier assignment (Jiang et al., NeurIPS 2025).

    Modality m has classifiers :math:`h_m^j(z) = V\,\mathrm{relu}(W_m^j z + b_m^j) + c`, whose last layer is shared by
    all; its output is their sum. Modalities take turns, each with the loss

    .. math:: L_m = L(h_m^n, \tilde y) + L\Big(\sum_{j \le n} h_m^j, y\Big) + L\Big(\sum_{j < n} h_m^j, y\Big),
        \qquad \tilde y = \max\Big(y - \lambda \sum_{j < n} y \odot p_m^j,\ 0\Big)

    for the newest of several classifiers; with one it is :math:`L(h_m^1, y)`. Every ``every`` epochs a modality gets
    another classifier if :math:`\max_{j \ne m} s_j - \sigma s_m > \tau`, s the mean probability of the true class over
    the last epoch's training samples. The prediction is the mean of the modalities' softmax.

    Args:
        share: :math:`\lambda`; published 0.1 to 1.
        every: epochs between two looks at the scores; published 20 for CREMA-D, 10 for Kinetics-Sounds, VGGSound and
            NVGesture, 5 for Twitter, 1 for Sarcasm.
        ratio: :math:`\sigma`.
        margin: :math:`\tau`, a probability.
        maximum: classifiers that a modality can have. They exist from the start, and train from their turn on.
        hidden: width of W z.
        variant: ``"released"``: classifiers after the first keep the weights they are drawn with, as the optimizer does
            not know them, and the residual is taken of the softmax of the summed earlier outputs.

    Raises:
        UnsupportedError: ``inference="fused"``: there is no joint head.
    """

    info = MethodInfo(
        title="Sustained boosting with adaptive classifier assignment",
        idea="the modality that is behind gets further classifiers, trained on what its earlier ones leave",
        paper="Jiang et al., Rethinking Multimodal Learning from the Perspective of Mitigating Classification Ability "
        "Disproportion, NeurIPS 2025, arXiv 2502.20120",
        equations="residual target, loss of the newest, of all and of all earlier classifiers; assignment rule",
        family="alternating, boosting",
        tasks=("classification",),
        order="modalities take turns in the order of the encoders, on one last layer",
        fusion="ignored; classifiers of each modality",
        missing=OWN_ROWS,
        cost="1 joint step",
        deviations=(
            "the score is the probability by the summed outputs; the published sum of probabilities grows with every "
            "classifier",
            "the rule of the paper's text: who is behind gets the classifier, and within the margin nobody; its "
            "Algorithm 1 says the opposite",
            "scores are those of the epoch's training passes; no pass of their own",
            "for three or more modalities the margin is to the best other one",
        ),
        released=(
            "classifiers after the first are not in the optimizer and keep their initial weights",
            "the residual is taken of the softmax of the summed earlier outputs",
            "scores are compared by their ratio, with 1 percent, at epoch 0 and ten times in all",
            "the prediction weighs audio by 0.4 and video by 0.6",
        ),
        consulted="paper; njustkmg/NeurIPS25-AUG at 841d079 (train_CREMAD.py, model/AudioVideo.py)",
    )
    state = ("classifiers.counts", "_announced")

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        share: Annotated[float, Within(at_least=0), "released code"] = 0.5,
        every: Annotated[int, Within(at_least=1, whole=True), "paper (CREMA-D)"] = 20,
        ratio: Annotated[float, Within(above=0), "paper"] = 1.0,
        margin: Annotated[float, Within(at_least=0), "paper"] = 0.01,
        maximum: Annotated[int, Within(at_least=1, whole=True), "ours: the released ten and the first"] = 11,
        hidden: Annotated[int, Within(at_least=1, whole=True), "paper"] = 256,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "ours; published: a weighted sum of outputs"] = "mean",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(AUG.__init__, locals())
        self.share, self.every, self.ratio, self.margin = share, every, ratio, margin
        self.maximum, self.variant = maximum, variant
        self.classifiers = BoostedHeads(self.multimodal, task.outputs, hidden, maximum)
        self.scores = EpochScores(self.modalities, 1, self.classifiers.last.weight)
        self._announced = False

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Every ``every`` epochs, a classifier more for each modality that is behind."""
        self._announced = True
        scores = self.scores.end_epoch()
        if context.epoch == 0 or context.epoch % self.every or any(map(math.isnan, scores)):
            return
        behind = lagging(scores, self.ratio, self.margin)
        counts = zip(self.classifiers.counts, behind, strict=True)
        self.classifiers.counts = [min(n + grows, self.maximum) for n, grows in counts]

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality, in the order of the encoders."""
        if not self._announced:
            warn_unannounced(self, "it adds no classifier")
        for m in self.modalities:
            projections = self.classifiers.projections_of(m)[: 1 if self.variant == "released" else None]
            trained = nn.ModuleList([*projections, self.classifiers.last])
            yield branch_phase(self.multimodal, m, trained, partial(self._objective, m))

    def _objective(self, modality: str, own: Batch, batch: Batch) -> Objective:
        feature = self.multimodal.encode(own.inputs, None, [modality])[modality]
        *earlier, newest = self.classifiers.each(modality, feature)
        output = torch.stack([*earlier, newest]).sum(0)
        loss = self.loss(output, batch, modality)
        target = target_of(own)
        if not target.is_floating_point():
            target = nn.functional.one_hot(target.long(), self.task.outputs)
        target = target.to(output.dtype)
        if earlier:
            before = torch.stack(earlier).sum(0)
            known = [before] if self.variant == "released" else earlier
            left = residual_target(target, [self.task.probabilities(z) for z in known], self.share)
            # its mean is over samples, which is how the engine weighs a micro-batch of this phase
            loss = loss + self.loss(before, batch, modality) + self.task.loss(newest, left.to(newest.dtype))
        right = (self.task.probabilities(output.detach()) * target).sum()
        sums = {"numerator": right.reshape(1), "denominator": torch.full_like(right, len(own)).reshape(1)}
        return Objective(loss, {}, sums)

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """Take in the scores."""
        self.scores.add(phase.name, descent.sums)

    def unimodal_outputs(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Sums of the outputs of each modality's classifiers."""
        outputs: dict[str, Tensor] = self.classifiers(features)
        return outputs
