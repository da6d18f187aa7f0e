"""MLB: unimodal losses, and gradients that are slowed for the modality that is ahead and sped up for one that lags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import discrepancy_ratios, mlb_coefficients
from equimodal.inference import Rule
from equimodal.methods._base import Scales, StepReport
from equimodal.methods._info import OWN_ROWS, SCORES, UPDATES, MethodInfo
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import EpochWindow, batch_confidences, columns_of_head, confidence_sums, scale_encoders
from equimodal.tasks import Task


class MLB(EpochWindow, MultiLoss):
    r"""Multi-loss gradient modulation (Kontras et al., BMVC 2024, section 3).

    With :math:`s_m` the mean probability that m's own head gives to the true class,

    .. math:: \rho_m = \mathrm{mean}_{j \ne m} \frac{s_j}{s_m}, \quad
        k_m = \begin{cases} 1 + (\beta - 1) \tanh(\alpha (\rho_m - 1)) & \rho_m > 1 \\
        1 + \tanh(\alpha (\rho_m - 1)) & \text{else} \end{cases}

    the gradient of :math:`L(z, y) + \sum_m L(u_m, y)` is multiplied by :math:`k_m` in encoder m, in the weights (not
    biases) of m's own head, and in m's columns of a joint head that is one linear layer on Concat.

    Args:
        alpha: :math:`\alpha > 0`; 0.5 to 5 in the released settings.
        beta: the largest factor; 0.5 to 10 in the released settings. Below 1 a modality that lags is slowed, too.
        start: first epoch (from 0) that is modulated; an epoch that is not announced counts as the first.
        end: last one; ``None`` is the last of all.
        heads: modality -> module from its features to the output; default one linear layer each.
    """

    info = MethodInfo(
        title="Multi-loss gradient modulation",
        idea="unimodal losses, and gradients scaled by how far a modality is ahead or behind",
        paper="Kontras et al., Improving Multimodal Learning with Multi-Loss Gradient Modulation, BMVC 2024, "
        "arXiv 2405.07930",
        equations="multi-loss objective, ratio of scores and balancing coefficient of section 3",
        family="gradient modulation",
        modalities="two or more: the mean of the ratios to the others",
        fusion="any; columns of the head are scaled where it is one linear layer on Concat",
        missing=OWN_ROWS,
        cost="1 joint step and M small heads",
        deviations=(
            SCORES,
            UPDATES,
        ),
        released=(
            "with beta = 0.5, as in its run file of UCF-101, the modality that lags is slowed",
            "beta is ignored unless the mode has the type that the class compares it with",
            "of a regression the ratio is of squared errors",
        ),
        consulted="abstract; kkontras/MCR, of the same authors, at 338d370 (Bias_Infusion.py, run.sh)",
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        alpha: Annotated[float, Within(above=0), "released run file, CREMA-D"] = 0.5,
        beta: Annotated[float, Within(above=0), "released code's default: both branches are one"] = 2.0,
        start: Annotated[int, Within(at_least=0, whole=True), "ours: from the first epoch"] = 0,
        end: Annotated[int | None, Within(at_least=0, whole=True), "ours: in all epochs"] = None,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(MLB.__init__, locals())
        self.alpha, self.beta, self.start, self.end = alpha, beta, start, end
        self.columns = columns_of_head(self.multimodal)

    def _objective(self, batch: Batch) -> Objective:
        losses, _, outputs = self._parts(batch)
        total = torch.stack(list(losses.values())).sum()
        return Objective(total, {n: t.detach() for n, t in losses.items()}, confidence_sums(self, outputs, batch))

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """g_m <- k_m g_m of encoder, own head and columns, or the same factor on the update."""
        scores, known = batch_confidences(self, descent, engine, report)
        if not self.in_window():
            return ()
        k = mlb_coefficients(discrepancy_ratios(1 / scores.clamp_min(1e-12), known), self.alpha, self.beta)
        factors = dict(zip(self.modalities, k.unbind(), strict=True))
        own = {m: [p for p in self.heads[m].parameters() if p.ndim > 1] for m in self.modalities}
        return scale_encoders(self, engine, report, factors, beside=own, columns=self.columns)
