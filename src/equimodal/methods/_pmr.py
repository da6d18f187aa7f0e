"""PMR: the modality that lags is pulled to its class prototypes, the one that leads is kept undecided for a while."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import pmr_coefficients
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Scales, StepReport
from equimodal.methods._info import MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import BatchTerm, ClassPrototypes, EpochWindow, unannounced, whole_sums
from equimodal.tasks import Task

Totals = Mapping[str, Tensor]


class PMR(EpochWindow, Joint):
    r"""Prototypical modal rebalance (Fan et al., CVPR 2023, equations 7 to 13).

    Before each epoch the prototypes of every modality are made of a tenth of the training samples. With
    :math:`q_m = \mathrm{softmax}_k(-\|z_m - c_k^m\|_2)`, its mean :math:`s_m` for the true class, and

    .. math:: \beta_m = \mathrm{clip}\Big(\frac{s_{max}}{s_m} - 1, 0, 1\Big), \quad
        \gamma_m = \mathrm{clip}\Big(\frac{s_m}{s_{min}} - 1, 0, 1\Big), \quad
        L = L_{task} + \alpha \sum_m \beta_m L^{PCE}_m - \mu \sum_m \gamma_m H(q_m)

    where :math:`L^{PCE}_m = -\log q_m[y]` pulls a modality that lags to the prototypes, and the entropy H, in the first
    epochs only, keeps one that leads from being sure too early. Both are means over the samples that have the modality.

    Args:
        alpha: :math:`\alpha > 0`; 1 or 2 in the paper.
        mu: :math:`\mu \ge 0`; 0.01 or 0.001 in the paper.
        entropy_epochs: how many epochs have the entropy term.
        start: first epoch (from 0) with terms of prototypes.
        end: last one.
        momentum: share of the old prototypes in the new ones.
        variant: ``"paper"``, or ``"released"``: :math:`\beta_m` is 1 for every modality behind the best and 0 for that,
            without entropy.

    Raises:
        MethodError: no training samples are offered before an epoch.
    """

    info = MethodInfo(
        title="Prototypical modal rebalance",
        idea="pulls the features of the modality that lags to class prototypes",
        paper="Fan et al., PMR: Prototypical Modal Rebalance for Multimodal Learning, CVPR 2023, arXiv 2211.07089",
        equations="prototypes (7), distances (8), prototype cross-entropy, coefficients (10 to 12), entropy, loss (13)",
        family="objective",
        tasks=("classification",),
        modalities="two or more: each is compared with the best and with the worst, the same for two",
        missing="supported per sample: scores and terms are means over the samples that have the modality; a class of "
        "which no sample was looked at has no term",
        cost="1.1 joint steps: the terms, and a forward pass over a tenth of the samples per epoch; one forward pass "
        "more with accumulation",
        deviations=(
            "the tenth is every tenth training sample of each class, among those that have the modality",
            "the number of epochs with the entropy term is ours: the paper calls it the early stage",
        ),
        released=(
            "the coefficient is 0 or alpha, whatever the gap",
            "the entropy term is absent",
            "prototypes are made of the first tenth of the shuffled batches; a class without a sample there has NaN",
            "without --modulation Proto nothing is done",
        ),
        consulted="paper; fanyunfeng-bit/Modal-Imbalance-PMR at 3615e48 (main_Prototype_grad.py)",
        engine={"processes, trainer, sharded": "differs: every process looks at a tenth of its own samples"},
    )
    state = ("epoch", "ready")

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        alpha: Annotated[float, Within(above=0), "paper, released code"] = 1.0,
        mu: Annotated[float, Within(at_least=0), "paper"] = 0.01,
        entropy_epochs: Annotated[int, Within(at_least=0, whole=True), "ours"] = 10,
        start: Annotated[int, Within(at_least=0, whole=True), "released code"] = 0,
        end: Annotated[int, Within(at_least=0, whole=True), "released code"] = 100,
        momentum: Annotated[float, Within(at_least=0, below=1), "released code"] = 0.2,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(PMR.__init__, locals())
        self.alpha, self.mu, self.entropy_epochs = alpha, mu, entropy_epochs
        self.start, self.end, self.variant, self.ready = start, end, variant, False
        self.prototypes = ClassPrototypes(self, task.outputs, momentum)
        self.term = BatchTerm(self._sums, self._terms)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """New prototypes."""
        super().on_train_epoch_start(context)
        if self.in_window():
            self.prototypes.update(self, context)
            self.ready = True

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss and the terms, whose weights follow from sums over the whole batch."""
        if self.in_window() and not self.ready:
            raise unannounced(self, "epoch, loader=train_loader")
        survey = self.term.survey() if self.in_window() else None
        return [Phase("joint", self._objective, list(self.model.parameters()), survey=survey)]

    def _sums(self, batch: Batch) -> dict[str, Tensor]:
        return self.prototypes.sums(self._features(batch), batch)

    def coefficients(self, totals: Totals) -> tuple[Tensor, Tensor]:
        """beta and gamma, (M,) each."""
        known = torch.stack([totals[f"known/{m}"] for m in self.modalities])
        scores = torch.stack([totals[f"score/{m}"] for m in self.modalities]) / known.clamp_min(1)
        beta, gamma = pmr_coefficients(scores, known > 0)
        if self.variant == "released":
            return (beta > 0).to(beta.dtype), torch.zeros_like(gamma)
        return beta, gamma if self.epoch < self.entropy_epochs else torch.zeros_like(gamma)

    def _terms(self, own: Totals, totals: Totals) -> Tensor:
        """The terms' share of one part of the batch; an engine weighs it by its samples."""
        beta, gamma = self.coefficients({name: t.detach() for name, t in totals.items()})
        part = totals["samples"].detach() / own["samples"].detach()
        terms = []
        for i, m in enumerate(self.modalities):
            terms.append(self.alpha * beta[i] * own[f"pull/{m}"] / totals[f"known/{m}"].clamp_min(1))
            terms.append(-self.mu * gamma[i] * own[f"entropy/{m}"] / totals[f"count/{m}"].clamp_min(1))
        return torch.stack(terms).sum() * part

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        loss = self.loss(self._fused(features, batch), batch)
        if not self.in_window():
            return Objective(loss)
        return self.term.added(loss, self.prototypes.sums(features, batch), {"fused": loss.detach()})

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """The gradients stay as they are; the report gets scores and coefficients."""
        if self.in_window():
            names = [f"{kind}/{m}" for kind in ("score", "known") for m in self.modalities]
            totals = whole_sums(descent, engine, names)
            for name, values in zip(("pull", "entropy"), self.coefficients(totals), strict=True):
                report.coefficients[name] = dict(zip(self.modalities, values.unbind(), strict=True))
            report.scores |= {m: totals[f"score/{m}"] / totals[f"known/{m}"].clamp_min(1) for m in self.modalities}
        return ()
