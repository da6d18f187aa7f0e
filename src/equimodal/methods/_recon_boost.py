"""ReconBoost: modalities take turns, each learning what the ensemble of the others leaves over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Presence
from equimodal.engine import Objective, Phase, Sharpness, modules_of
from equimodal.features import single_width
from equimodal.functional import known_share
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Method, Stateful, warn_if_frozen
from equimodal.methods._info import MethodInfo
from equimodal.methods._loss import mask_of, target_of
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import (
    adapted,
    branch_phase,
    equal_width,
    like_model,
    present_sum,
    reset_optimizer,
    unannounced,
)
from equimodal.tasks import Task


class ReconBoost(Stateful, Method):
    r"""Gradient boosting over modalities (Hua et al., ICML 2024), of which only the newest learner of each is kept.

    Encoders and one shared head give :math:`u_m`. A stage is about one modality: for ``stage_epochs`` it learns beside
    what the others, which keep still, know together, :math:`F = b \sum_{j \ne m} u_j`:

    .. math:: L_m = \frac{w_1}{C} L(u_m, y) + \frac{w_2}{C} \mathrm{softmax}(F)_y \log p_m[y]
              + \alpha \, \mathrm{MSE}(p_m, p_{previous})

    that is a cross-entropy whose weight :math:`(w_1 - w_2\, \mathrm{softmax}(F)_y) / C` shrinks where the others are
    right, and an agreement with the modality of the stage before. Then ``rectify_epochs`` of all together on
    :math:`L(b \sum_j u_j, y)`, with b learned. A modality joins the ensemble at its first stage.

    Args:
        target_weight: :math:`w_1`; 4 released for AVE, 1 for sentiment.
        known_weight: :math:`w_2`, of what the others know; 0.25 released for sentiment.
        agreement: :math:`\alpha`.
        stage_epochs: epochs of one modality.
        rectify_epochs: epochs of all modalities after them.
        boost_rate: b at the start.
        residual: ``"true_class"``: the others count at the true class, as above. ``"full"``: the whole functional
            gradient y - softmax(F), whose loss has no lower bound.
        head: the shared head; default d -> 256 -> C.
        variant: ``"released"``: the agreement has no gradient, and the modalities that keep still are in training mode.

    Raises:
        ModelError: feature widths differ.
        MethodError: a step before ``on_train_epoch_start``.
    """

    info = MethodInfo(
        title="Boosting with modality reconcilement",
        idea="modalities take turns; each learns what the ensemble of the others leaves over",
        paper="Hua et al., ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024, arXiv 2405.09321",
        equations="reconcilement loss against the ensemble of the others, agreement with the modality before (memory "
        "consolidation), joint epochs after each stage (global rectification)",
        family="alternating, objective",
        tasks=("classification",),
        order="modalities take turns in the order of the encoders, on one head",
        fusion="ignored; encoders of equal feature width and one shared head",
        missing="supported per sample: a stage trains on the samples that have its modality, F sums what they have",
        cost="about 1 joint step: (M - 1) forward passes and one encoder in a stage, 1 in rectification",
        deviations=(
            "class weights and label smoothing of the task enter the first term of the loss only",
            "before any other modality has had a stage, F is 0",
        ),
        released=(
            "both arguments of the agreement are detached, so it has no gradient",
            "modalities that keep still are in training mode: their running statistics drift",
            "the first stage compares with one random number, whose softmax is 1: a constant weight",
            "the checkpoint is chosen on the test set, whose last batch is dropped",
        ),
        consulted="abstract; huacong/ReconBoost at 441eb51 (train.py, models/dynamic_net.py)",
    )
    state = ("stage", "rectifying")

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        target_weight: Annotated[float, Within(above=0), "released commands"] = 5.0,
        known_weight: Annotated[float, Within(at_least=0), "released commands"] = 1.0,
        agreement: Annotated[float, Within(at_least=0), "released commands"] = 0.5,
        stage_epochs: Annotated[int, Within(at_least=1, whole=True), "released commands"] = 4,
        rectify_epochs: Annotated[int, Within(at_least=0, whole=True), "released commands"] = 4,
        boost_rate: Annotated[float, Within(above=0), "released commands"] = 1.0,
        residual: Annotated[Literal["true_class", "full"], "released code"] = "true_class",
        head: nn.Module | None = None,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper: the sum of the modalities' outputs"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(ReconBoost.__init__, locals())
        self.target_weight, self.known_weight, self.agreement = target_weight, known_weight, agreement
        self.stage_epochs, self.rectify_epochs, self.residual = stage_epochs, rectify_epochs, residual
        self.variant = variant
        width = equal_width(self.multimodal, "ReconBoost's shared head")
        body = nn.Sequential(
            nn.Linear(single_width(width, "feature_sizes"), 256), nn.ReLU(), nn.Linear(256, task.outputs)
        )
        self.head = adapted(body, task) if head is None else head
        self.boost_rate = nn.Parameter(torch.tensor(float(boost_rate)))
        like_model(self, self.multimodal)
        self.stage: int | None = None
        self.rectifying = 0
        warn_if_frozen(self, "ReconBoost trains only the shared head on it.")

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Which modality's stage it is, and which part of it; a change starts with fresh optimizer state."""
        before = (self.stage, self.rectifying)
        self.stage, place = divmod(context.epoch, self.stage_epochs + self.rectify_epochs)
        self.rectifying = int(place >= self.stage_epochs)
        if before[0] is not None and before != (self.stage, self.rectifying):
            reset_optimizer(self, context)

    def _joined(self, stage: int) -> tuple[str, ...]:
        """The modalities that have had a stage before this one."""
        return self.modalities[:stage]

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: the modality whose stage it is, or all that have had one."""
        if self.stage is None:
            raise unannounced(self)
        if self.rectifying:
            joined = [p for m in self._joined(self.stage + 1) for p in self.multimodal.parameters_of(m)]
            return [Phase("joint", self._rectification, [*joined, *self.head.parameters(), self.boost_rate])]
        m = self.modalities[self.stage % len(self.modalities)]
        phase = branch_phase(self.multimodal, m, self.head, partial(self._reconcilement, m))
        if self.variant == "paper":
            others = [p for j in self.modalities if j != m for p in self.multimodal.parameters_of(j)]
            phase = replace(phase, frozen=modules_of(self.model, others))
        return [phase]

    def _rectification(self, batch: Batch) -> Objective:
        features = self.multimodal.encode(batch.inputs, batch.present)
        return Objective(self.loss(self.fused_output(features, batch.presence), batch))

    def _reconcilement(self, modality: str, own: Batch, batch: Batch) -> Objective:
        stage, count = self.stage or 0, len(self.modalities)
        output = self.head(self.multimodal.encode(own.inputs, None, [modality])[modality])
        with torch.no_grad():
            there = [j for j in self._joined(stage) if j != modality and j in batch.inputs and batch.count(j)]
            known = self.unimodal_outputs(self.multimodal.encode(batch.inputs, batch.present, there))
            rows = batch.rows(modality)
            known = {j: u if rows is None else u[rows] for j, u in known.items()}
            masks = {j: mask_of(batch, j) if rows is None else mask_of(batch, j)[rows] for j in known}
            others = self.boost_rate * present_sum(known, masks)[0] if known else torch.zeros_like(output)
        share = known_share(output, others, target_of(batch, modality), self.residual)
        loss = self.target_weight * self.loss(output, batch, modality) + self.known_weight * share.mean()
        loss = loss / self.task.outputs
        previous = self.modalities[(stage - 1) % count]
        if stage and previous in known:
            gap = torch.softmax(output, 1) - torch.softmax(known[previous], 1)
            gap = masks[previous][:, None] * (gap if self.variant == "paper" else gap.detach())
            loss = loss + self.agreement * gap.square().mean()
        return Objective(loss, score_inputs=self.score_inputs(output, batch, modality))

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The shared head's output for each modality's features."""
        return {m: self.head(h) for m, h in features.items()}

    def fused_output(self, features: Mapping[str, Tensor], present: Presence | None) -> Tensor:
        """b times the sum of the outputs of the modalities that a sample has, once they have joined."""
        joined = self._joined(len(self.modalities) if self.stage is None else self.stage + 1)
        outputs = self.unimodal_outputs(features)
        known = {m: outputs[m] for m in joined if m in outputs}
        total = present_sum(known, present)[0] if known else torch.zeros_like(next(iter(outputs.values())))
        return self.boost_rate * total
