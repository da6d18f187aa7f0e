"""MIDAS: samples put together from samples of different classes, labelled by how confident each modality is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import weak_weights
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful, StepReport
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import Misalignment, lacking, per_modality, unannounced, weighted_objective
from equimodal.tasks import Task

_MOVES = ("confidence", "followed", "usable")
"""Sums that move alpha."""


class MIDAS(Stateful, MultiLoss):
    r"""Misalignment-based data augmentation (Hwang, Choi and Whang, NeurIPS 2025).

    One modality of sample i stays, every other one m is taken, as features, from a random sample :math:`\pi_m(i)` of
    another class. With :math:`\tilde c_m` the share of modality m in the unimodal confidences of the true labels,
    s the mean cosine between a modality's own and its new features, and :math:`y_m` the label of :math:`\pi_m(i)`,

    .. math:: L = L(u, y) + \sum_m L(u_m, y) + \lambda \frac1n \sum_i \Big(1 + \frac{s_i + 1}{2}\Big)
        \Big(-\hat y_i^\top \log \mathrm{softmax} f(\tilde z_i)\Big), \qquad
        \hat y_i = \sum_m \alpha_m \tilde c_{m,i}\, e_{y_{m,i}}

    :math:`\alpha` is 1 but for the least confident modality, whose weight grows by :math:`\eta` in every step in which
    the fused prediction follows it less than its confidence says, and else falls. In the warm-up only the unimodal
    losses are trained.

    Args:
        misaligned_weight: :math:`\lambda`; 5 published for Kinetics-Sounds.
        step: :math:`\eta`.
        warm_up: share of the epochs; published 10 of 70 for CREMA-D and Kinetics-Sounds, 0 for UCF-101, 2 of 30 for
            Food-101. Needs the number of epochs.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        seed: of the partners.

    Raises:
        MethodError: with a warm-up, a step before ``on_train_epoch_start``, or no number of epochs.
    """

    info = MethodInfo(
        title="Misalignment-based data augmentation",
        idea="trains on samples put together from different classes, labelled by unimodal confidence",
        paper="Hwang, Choi and Whang, MIDAS: Misalignment-based Data Augmentation Strategy for Imbalanced Multimodal "
        "Learning, NeurIPS 2025, arXiv 2509.25831",
        equations="confidence-based label, weak-modality weight, hard-sample weight, total loss; swapped modalities "
        "averaged for three or more",
        family="augmentation, objective",
        tasks=("classification",),
        order="which modality stays, and the partners, are drawn in the order of the encoders",
        missing=MASKED + "; only samples with all modalities are put together",
        cost="about 1.1 joint steps: one more pass of fusion and head",
        deviations=(
            "the modality that stays is drawn for each batch",
            "partners are drawn among the samples of other classes, with repeats, not by a permutation",
            "class weights and label smoothing do not enter the loss on misaligned samples",
        ),
        released=(
            "the permutation keeps pairs of one class and fixed points",
            "unimodal losses are averaged, not added up",
            "one weight is handed to whichever modality is weak now, and is not in the checkpoint",
            "the loader of configurations drops every setting, so runs use batches of 4 and a rate of 1e-3",
        ),
        consulted="paper; Seong-HyeonHwang/MIDAS_NeurIPS2025 at d25b225",
        engine={
            "processes, trainer, sharded": "differs: every process puts its own samples together",
            "accumulation": "differs: samples are put together within a micro-batch",
        },
    )
    state = ("misalignment.generator", "warming")
    alpha: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        misaligned_weight: Annotated[float, Within(at_least=0), "paper (CREMA-D)"] = 1.0,
        step: Annotated[float, Within(above=0), "paper"] = 0.05,
        warm_up: Annotated[float, Within(at_least=0, below=1), "paper: 10 of 70 epochs (CREMA-D)"] = 1 / 7,
        heads: Mapping[str, nn.Module] | None = None,
        seed: Annotated[int, Within(whole=True)] = 0,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(MIDAS.__init__, locals())
        self.misaligned_weight, self.step, self.warm_up = misaligned_weight, step, warm_up
        self.warming: bool | None = None if warm_up > 0 else False
        self.misalignment = Misalignment(self.modalities, task, seed)
        self.register_buffer("alpha", per_modality(self, 1.0))

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Whether the epoch belongs to the warm-up."""
        if self.warm_up > 0 and context.epochs is None:
            raise lacking(self, "epochs", "with warm_up > 0 takes a share of the epochs", "warm_up=0")
        self.warming = self.warm_up > 0 and context.epoch < round(self.warm_up * (context.epochs or 0))

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Draw the partners once per step, so that both passes of a sharpness-aware step see the same."""
        return [self.misalignment.drawn(b) for b in batches]

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the sum of losses; in the warm-up encoders and heads on theirs."""
        if self.warming is None:
            raise unannounced(self, "epoch, epochs", "warm_up=0")
        return super().phases(batches)

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        outputs = self.heads(features)
        losses = {f"unimodal/{m}": self.loss(u, batch, m) for m, u in outputs.items()}
        sums: dict[str, Tensor] = {}
        if not self.warming:
            losses["fused"] = self.loss(self._fused(features, batch), batch)
            if len(features) == len(self.modalities):
                fused = partial(self._fused, batch=replace(batch, present=None))
                losses["misaligned"], sums = self.misalignment.loss(features, outputs, batch, self.alpha, fused)
        return weighted_objective(losses, {"misaligned": self.misaligned_weight}, sums)

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """The next alpha, from sums over all processes."""
        report.coefficients["alpha"] = dict(zip(self.modalities, self.alpha.clone().unbind(), strict=True))
        zeros = {n: torch.zeros_like(self.alpha[: 1 if n == "usable" else None]) for n in _MOVES}
        whole = engine.all_sum({n: descent.sums.get(n, zero).to(zero.dtype) for n, zero in zeros.items()})
        moved = weak_weights(self.alpha, whole["confidence"], whole["followed"], self.step)
        self.alpha.copy_(torch.where(whole["usable"] > 0, moved, self.alpha))
