"""OPM: features of the modality that is ahead are dropped with a probability that grows with its lead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from equimodal.batch import Batch, Tree, keep_rows, tree_map
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness, Survey, is_distributed
from equimodal.functional import discrepancy_ratios, opm_probabilities
from equimodal.inference import Rule
from equimodal.methods._base import Scales, StepReport
from equimodal.methods._info import SCORED_ROWS, SCORES, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import (
    EpochWindow,
    batch_confidences,
    confidence_sums,
    confidences,
    per_modality,
    scoring_way,
)
from equimodal.tasks import Task
from equimodal.unimodal import Way

_DRAWN = "opm.drawn"


class OPM(EpochWindow, Joint):
    r"""On-the-fly prediction modulation (Wei et al., TPAMI 2024, equations 6 to 8 and algorithm 1).

    With :math:`s_m` the mean probability that a modality's part of the output gives to the true class,

    .. math:: \rho_m = \mathrm{mean}_{j \ne m} \frac{s_m}{s_j}, \quad
        q_m = \begin{cases} q_{base} (1 + \lambda \tanh(\rho_m - 1)) & \rho_m > 1 \\ 0 & \text{else} \end{cases}

    and each sample's features of m count as absent with probability :math:`q_m` of the batch before, in the fusion
    only: encoders run on all of them. A sample keeps all that it has where nothing would be left.

    Args:
        base: :math:`q_{base}`.
        strength: :math:`\lambda`.
        warm_up: epochs before anything is dropped; an epoch that is not announced counts as the first.
        execution: probability that a batch is modulated at all; 0.7 in the released scripts.
        seed: of the method's own generator.
        variant: ``"paper"``, or ``"released"``: q of the same batch, which takes a forward pass more where it comes in
            parts, and all features divided by :math:`1 - \sum_m d_m q_m / \sum_m d_m`.
        unimodal: default the exact split of an additive head, and for a regression the masked outputs.

    Raises:
        ModelError: the head is not additive, and ``unimodal`` names no other way.
    """

    info = MethodInfo(
        title="On-the-fly prediction modulation",
        idea="drops features of the modality that is ahead",
        paper="Wei et al., On-the-fly Modulation for Balanced Multimodal Learning, TPAMI 2024, arXiv 2410.11582",
        equations="discrepancy ratio (6), drop probability (7), masked features (8), algorithm 1",
        family="feed-forward",
        order="drops are drawn in the order of the encoders",
        fusion="additive with an affine head, or unimodal='masked'",
        missing=SCORED_ROWS,
        cost="1 joint step",
        deviations=(
            "a dropped feature counts as absent: the fusion fills it by its rule (Concat: zeros, as in the paper)",
            "where all that a sample has would be dropped it keeps all",
            SCORES,
        ),
        released=(
            "q is that of the same batch",
            "features are divided by one minus the mean of q over all of them, which makes the weak modality's larger",
            "the warm-up has 6 epochs (its test is epoch <= 5), and only 70 % of the batches are modulated",
            "models/Classifier.py does not parse: a bracket is left over",
        ),
        consulted="a third party's notes of equations 6 to 8 and of algorithm 1; GeWu-Lab/BML_TPAMI2024 at 4b3aa4f "
        "(code/models/Classifier.py, code/main.py, code/config.py)",
        engine={
            "processes, trainer, sharded": "differs: every process draws the drops of its own samples",
        },
    )
    state = ("epoch", "_generator")
    probabilities: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        base: Annotated[float, Within(at_least=0, at_most=1), "released script"] = 0.5,
        strength: Annotated[float, Within(at_least=0), "released script"] = 0.5,
        warm_up: Annotated[int, Within(at_least=0, whole=True), "released code"] = 5,
        execution: Annotated[float, Within(above=0, at_most=1), "every batch; the release has a coin"] = 1.0,
        seed: Annotated[int, Within(whole=True)] = 0,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
        unimodal: Way | nn.Module | None = None,
    ) -> None:
        super().__init__(
            model, task, sharpness=sharpness, inference=inference, calibrated=calibrated, unimodal=unimodal
        )
        check_options(OPM.__init__, locals())
        self.unimodal = scoring_way(self, self.unimodal)
        self.base, self.strength, self.execution = base, strength, execution
        self.warm_up = self.start = warm_up
        self.variant, self._generator = variant, torch.Generator().manual_seed(seed)
        self._same: Tensor | None = None
        self.register_buffer("probabilities", per_modality(self))

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """A number in [0, 1) for every sample and modality, or 2 in a batch that is not modulated."""
        if not self.in_window():
            return batches
        rank, processes = (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
        sizes, executed = [len(batch) for batch in batches], torch.rand((), generator=self._generator) < self.execution
        drawn = torch.rand(processes, sum(sizes), len(self.modalities), generator=self._generator)[rank]
        drawn = torch.where(executed, drawn, 2.0).to(self.probabilities.device, non_blocking=True)
        parts = torch.split(drawn, sizes)
        return [batch.with_extras(**{_DRAWN: part}) for batch, part in zip(batches, parts, strict=True)]

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss."""
        self._same, survey = None, None
        in_parts = len(batches) > 1 or is_distributed()
        if self.variant == "released" and self.in_window() and in_parts:
            survey = Survey(self._gathered, self._receive, always=True)
        return [Phase("joint", self._objective, list(self.model.parameters()), survey=survey)]

    @torch.no_grad()
    def _sums(self, features: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return confidence_sums(self, cast(nn.Module, self.unimodal)(features, batch.present), batch)

    def _gathered(self, batch: Batch) -> dict[str, Tensor]:
        return self._sums(self._features(batch), batch)

    def _receive(self, totals: Mapping[str, Tensor]) -> None:
        self._same = self._following(*confidences(self, totals))

    def _following(self, scores: Tensor, known: Tensor) -> Tensor:
        return opm_probabilities(discrepancy_ratios(scores, known), self.base, self.strength)

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        sums = self._sums(features, batch)
        if not self.in_window():
            return Objective(self.loss(self._fused(features, batch), batch), {}, sums)
        q = self.probabilities
        if self.variant == "released":
            q = self._following(*confidences(self, sums)) if self._same is None else self._same
        drawn, presence = batch.extras[_DRAWN], batch.presence
        every = torch.ones_like(drawn[:, 0], dtype=torch.bool)
        has = {m: every if presence is None else presence.get(m, every) for m in features}
        column = {m: i for i, m in enumerate(self.modalities)}
        kept = {m: mask & (drawn[:, column[m]] >= q[column[m]]) for m, mask in has.items()}
        nothing = ~torch.stack(list(kept.values())).any(0)
        kept = {m: mask | (nothing & has[m]) for m, mask in kept.items()}
        absent = {m: ~every for m in self.modalities if m not in features}
        left: dict[str, Tree] = {m: keep_rows(h, kept[m]) for m, h in features.items()}
        if self.variant == "released":
            left = {m: self._rescaled(h, q, drawn) for m, h in left.items()}
        output = self.multimodal.head(self.multimodal.fuse(left, {**kept, **absent}))
        return Objective(self.loss(output, batch), {}, sums)

    def _rescaled(self, feature: Tree, q: Tensor, drawn: Tensor) -> Tree:
        widths = [d if isinstance(d, int) else sum(d) for d in self.multimodal.feature_sizes.values()]
        shares = torch.tensor(widths, dtype=q.dtype).to(q.device, non_blocking=True) / sum(widths)
        factor = torch.where(drawn[0, 0] <= 1, 1 / (1 - (shares * q).sum()).clamp_min(1e-6), 1.0)
        return tree_map(lambda t: t * factor.to(t.dtype) if t.is_floating_point() else t, feature)

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """The gradients stay as they are; the scores decide about the next batch."""
        scores, known = batch_confidences(self, descent, engine, report)
        if self.in_window():
            following = self._following(scores, known)
            used = following if self.variant == "released" else self.probabilities.clone()
            report.coefficients["drop"] = dict(zip(self.modalities, used.unbind(), strict=True))
            self.probabilities.copy_(following)
        return ()
