"""AGM: gradients through each modality's response are scaled so that the balance of their scores keeps its course."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from equimodal._utils.shapes import line_up
from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import agm_coefficients, relative_strengths
from equimodal.inference import Rule
from equimodal.methods._base import Scales, StepReport
from equimodal.methods._info import TEST_CHOICE, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import (
    SHARED,
    BatchTerm,
    EpochWindow,
    batch_confidences,
    confidence_sums,
    confidences,
    per_modality,
)
from equimodal.tasks import Task, distribution_of
from equimodal.unimodal import Masked, Shapley


class AGM(EpochWindow, Joint):
    r"""Adaptive gradient modulation (Li et al., ICCV 2023, equations 3 to 11).

    The output is the sum of responses :math:`u_m` of the modalities, their Shapley values with an output of 0 for no
    modality; for two :math:`u_1 = \frac12 (u(1, 2) - u(2) + u(1))`. With :math:`l_m` the mean logarithm of the
    probability that :math:`u_m` gives to the true class, and :math:`\bar l_m` its mean over all steps before,

    .. math:: r_m = e^{l_m - \mathrm{mean}_{j \ne m} l_j}, \quad
        \tau_m = e^{\bar l_m - \mathrm{mean}_{j \ne m} \bar l_j}, \quad
        \kappa_m = e^{\alpha \min(\tau_m - r_m, c)}

    and the gradient that flows through :math:`u_m`, into encoders and head, is multiplied by :math:`\kappa_m`. In the
    first step :math:`\tau = 1`.

    Args:
        alpha: :math:`\alpha > 0`; 1 is the default of the released code, 2.5 its example.
        cap: c, which keeps :math:`\kappa` below :math:`e^{\alpha c}`; released code: 10 CREMA-D, 7 UR-Funny.
        start: first epoch (from 0) that is modulated; an epoch that is not announced counts as the first.
        end: last one; later epochs are plain joint training.

    The released scripts also clip the norm of the gradient where the head's is large: ``clip_norm`` of the engine.

    Raises:
        ModelError: the fusion does not declare what stands for an absent modality.
        UnsupportedError: more than six modalities, whose responses take :math:`2^M` passes of fusion and head.
    """

    info = MethodInfo(
        title="Adaptive gradient modulation",
        idea="scales the gradient through each modality's Shapley response",
        paper="Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV 2023, "
        "arXiv 2308.07686",
        equations="responses (3, 4), scores and ratios (8, 9), running means (10), coefficients (11)",
        family="gradient modulation",
        modalities="two to six",
        fusion="any that declares how absent modalities are filled",
        missing="supported per sample: a modality that a sample lacks has the response 0; one that nobody in a batch "
        "has is not compared",
        cost="1.1 joint steps: one pass of the encoders, 2^M of fusion and head; one forward pass more with "
        "accumulation",
        deviations=(
            "a modality is muted in its features, as if absent, and not in its inputs: encoders see real inputs only",
            "a regression is scored by minus the logarithm of the mean error of its masked outputs, since shares of a "
            "number predict nothing; several labels or pixels by the mean",
        ),
        released=(
            "the scales of the last modulated batch stay in force for all later epochs",
            "the cap differs between scripts: 10, 7, or none",
            "inputs are muted by zeros, with gradients: encoders are also trained on zeros",
            TEST_CHOICE,
        ),
        consulted="paper; lihong2303/AGM_ICCV2023 at 5a65542 (model/CREMAD_net.py, run/CREMAD_main.py, "
        "run/MOSEI_main.py)",
    )
    averages: Tensor
    steps: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        alpha: Annotated[float, Within(above=0), "released code"] = 1.0,
        cap: Annotated[float, Within(above=0), "released code, CREMA-D"] = 10.0,
        start: Annotated[int, Within(at_least=0, whole=True), "released code"] = 0,
        end: Annotated[int, Within(at_least=0, whole=True), "released code: its epochs 1 to 20"] = 19,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(AGM.__init__, locals())
        self.alpha, self.cap, self.start, self.end = alpha, cap, start, end
        self.shapley = Shapley(model)
        self.masked = Masked(model) if distribution_of(task) in SHARED else None
        self.term = BatchTerm(self._gathered, self._scaled)
        self.register_buffer("averages", per_modality(self))
        self.register_buffer("steps", per_modality(self))

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss; the factors follow from sums over the whole batch."""
        survey = None if self.is_over() else self.term.survey()
        return [Phase("joint", self._objective, list(self.model.parameters()), survey=survey)]

    def _responses(self, features: Mapping[str, Tensor], output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """u_m; what they lack of the output, that of no modality, is shared by those that a sample has."""
        values = self.shapley(features, batch.present)
        every = torch.ones(len(batch), dtype=torch.bool, device=output.device)
        masks = {m: every if batch.presence is None else batch.presence.get(m, every) for m in values}
        rest = output - torch.stack(list(values.values())).sum(0)
        rest = rest / line_up(torch.stack(list(masks.values())).sum(0), output).to(output.dtype)
        return {m: u + line_up(masks[m], output) * rest for m, u in values.items()}

    def _sums(self, features: Mapping[str, Tensor], responses: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        alone = responses if self.masked is None else self.masked(features, batch.present)
        return confidence_sums(self, alone, batch, logarithm=True)

    def _gathered(self, batch: Batch) -> dict[str, Tensor]:
        features = self._features(batch)
        return self._sums(features, self._responses(features, self._fused(features, batch), batch), batch)

    def _scaled(self, own: Mapping[str, Tensor], totals: Mapping[str, Tensor]) -> Tensor:
        """What is missing to a loss of factors 1: the value 0, and the gradient through each response less than it."""
        factors = self.coefficients(*confidences(self, totals, logarithm=True))
        losses = torch.stack([own[f"through/{m}"] for m in self.modalities])
        return ((factors.to(losses.dtype) - 1) * (losses - losses.detach())).sum()

    @torch.no_grad()
    def coefficients(self, scores: Tensor, known: Tensor) -> Tensor:
        """kappa, (M,): 1 outside the window, and for a modality without a score."""
        if not self.in_window():
            return torch.ones_like(scores)
        target = relative_strengths(self.averages.to(scores.dtype), known & (self.steps > 0))
        factors = agm_coefficients(relative_strengths(scores, known), target, self.alpha, self.cap)
        return torch.where(known, factors, 1.0)

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        output = self._fused(features, batch)
        loss = self.loss(output, batch)
        if self.is_over():
            return Objective(loss)
        responses = self._responses(features, output, batch)
        sums = self._sums(features, responses, batch)
        fixed = output.detach()  # L_m has the value of L, and its gradient flows through u_m alone
        through = {f"through/{m}": loss * 0 for m in self.modalities}
        through |= {f"through/{m}": self.loss(fixed + (u - u.detach()), batch) for m, u in responses.items()}
        return self.term.added(loss, {**sums, **through}, sums=sums)

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """Nothing is left to scale; the running means take in this step's scores."""
        if not self.is_over():
            scores, known = batch_confidences(self, descent, engine, report, logarithm=True)
            factors = self.coefficients(scores, known)
            report.coefficients["response"] = dict(zip(self.modalities, factors.unbind(), strict=True))
            mean = (self.averages * self.steps + scores) / (self.steps + 1)
            self.averages.copy_(torch.where(known, mean, self.averages))
            self.steps.add_(known)
        return ()
