"""MASAM: a sharpness-aware step for the one encoder that has slowed down or agrees most with the fused loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Perturbation, Phase
from equimodal.functional import encoder_selection, gradient_cosines
from equimodal.inference import Rule
from equimodal.methods._base import StepReport
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import LossMemory, encoder_parameters, fused_ascent, fused_grams, mean_own_parts
from equimodal.tasks import Task


class MASAM(MultiLoss):
    r"""Modality-aware sharpness-aware minimization (ICLR 2026), as far as it is known from a note on the paper.

    With :math:`L = L(u, y) + \lambda \sum_m L(u_m, y)`, :math:`\gamma_m` the cosine between the gradients of the fused
    loss and of :math:`L(u_m, y)` for encoder m, and :math:`d_m = \max(0, L_m^{t-1} - MA_m^t)` how far the running mean
    :math:`MA_m^t = \beta MA_m^{t-1} + (1 - \beta) L_m^t` has come below the last loss,

    .. math:: m^* = \arg\max_m\, \alpha d_m + (1 - \alpha) \gamma_m, \qquad
        \epsilon = \rho\, \gamma_{m^*} \frac{\nabla_{\theta_{m^*}} L(u, y)}{\|\nabla_{\theta_{m^*}} L(u, y)\|}

    Encoder m* takes the gradient of the fused loss at :math:`\theta_{m^*} + \epsilon`, and that of its own loss at
    :math:`\theta_{m^*}`; every other parameter takes its plain gradient.

    Args:
        radius: :math:`\rho`, in the unit of the weights; 0.5 published for MIMIC and UR-Funny.
        share: :math:`\alpha`; 0.5 published for MIMIC and UR-Funny.
        momentum: :math:`\beta`; 0.9 published for MIMIC and UR-Funny.
        weight: :math:`\lambda`.
        select: ``"score"`` (paper); ``"all"`` perturbs every encoder at once, each by :math:`\rho \gamma_m`; ``"none"``
            is joint training with unimodal losses.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
    """

    info = MethodInfo(
        title="Modality-aware sharpness-aware minimization",
        idea="a second pass flattens the fused loss along one encoder, which is chosen anew in every step",
        paper="MASAM, ICLR 2026, openreview AUKeDukcUi",
        equations="selection score, perturbation of one encoder, combined gradient (from a note on the paper)",
        family="sharpness-aware",
        missing=MASKED + "; a modality of nobody in a batch is not chosen",
        cost="about 2.2 joint steps: gradients of the parts, a second pass; one short read by the host",
        deviations=(
            "written from a note: the paper's text was not seen",
            "the running mean starts at the first loss; a negative cosine moves nothing",
        ),
        released=(
            "defaults of the command line overwrite the configuration, so with the published command no encoder is "
            "chosen: all are perturbed",
            "per tensor the direction is a projection of the unimodal on the fused gradient, and the factor is the "
            "cosine of the last tensor, used only where it is above 0",
            "the unimodal gradient is taken at the perturbed weights too",
            "three modalities: a step raises ValueError",
        ),
        consulted="a note on the paper; Orange2107/MASAM-Multimodal-Adaptive-SAM at 713f931",
        engine={
            "sharpness": "refused: its second pass is at weights that it moves itself",
            "asynchronous": "differs: which modality is perturbed is decided on the host in every step",
        },
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        radius: Annotated[float, Within(above=0), "released configuration of CREMA-D"] = 0.3,
        share: Annotated[float, Within(at_least=0, at_most=1), "released configuration of CREMA-D"] = 0.8,
        momentum: Annotated[float, Within(at_least=0, below=1), "released configuration of CREMA-D"] = 0.91,
        weight: Annotated[float, Within(at_least=0), "released configuration"] = 1.0,
        select: Annotated[Literal["score", "all", "none"], "paper"] = "score",
        heads: Mapping[str, nn.Module] | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, weight=weight, heads=heads, inference=inference, calibrated=calibrated)
        check_options(MASAM.__init__, locals())
        self.radius, self.share, self.momentum, self.select = radius, share, momentum, select
        self.memory = LossMemory(len(self.modalities), next(self.heads.parameters()))
        self._alignment: dict[str, Tensor] = {}

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One, whose second pass is for the encoder that is chosen after the first."""
        if self.select == "none":
            return super().phases(batches)
        trained = [*self.model.parameters(), *self.heads.parameters()]
        return [Phase("joint", self._in_parts, trained, separate=encoder_parameters(self), perturbation=self._move)]

    def _in_parts(self, batch: Batch) -> Objective:
        absent = {f"unimodal/{m}" for m in batch.inputs if not batch.count(m)}
        parts = {name: loss for name, loss in self._parts(batch)[0].items() if name not in absent}
        return Objective.sum_of(parts, {name: self.weight for name in parts if name != "fused"})

    @torch.no_grad()
    def _move(self, descent: Descent) -> Perturbation | None:
        """Up along the fused loss, for one encoder or for all; nothing where no cosine is above 0."""
        like = self.memory.average
        cosines, norms = gradient_cosines(fused_grams(self, descent, like))
        scores = self.memory.scores(mean_own_parts(self, descent, like), cosines, self.share, self.momentum)
        self._alignment = dict(zip(self.modalities, cosines.unbind(), strict=True))
        found, agreement = torch.stack([scores, cosines]).tolist()  # one read by the host
        rows = encoder_selection(found, agreement, every=self.select == "all")
        return fused_ascent(self, descent, rows, self.radius * cosines, norms[:, 0]) if rows else None

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """Remember the losses."""
        if self.select != "none":
            self.memory.keep()
            report.coefficients["alignment"] = self._alignment
