"""InfoReg: the modality that knows more is held back while information is still coming in."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import leads, regulation_strength
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Scales, StepReport
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import LearningWindow, mean_own_losses, own_loss_sums, required_way
from equimodal.tasks import Task


class InfoReg(Joint):
    r"""Information regulation in the prime learning window (Huang et al., CVPR 2025).

    The trace of an encoder's Fisher information says how much information still comes in. While it grows fast,
    :math:`(T_m^{t-1} - T_m^{t-2}) / T_m^{t-1} > K` for epoch t, modality m is in its prime window; if it leads the
    others there, it is held close to its weights at the start of the epoch:

    .. math:: \nabla_{\theta_m} L \mathrel{+}= a_m (\theta_m - \theta_m^{epoch}), \quad
              a_m = e^{\beta \tanh \Delta_m}, \quad \Delta_m = \mathrm{mean}_{j: s_j < s_m}(s_m - s_j) > 0

    with :math:`s_m = -L(u_m, y)` the mean log-likelihood of its output alone, over the batch.

    Args:
        beta: :math:`\beta`, 0.1 to 1 in the paper.
        threshold: K, 0.01 to 0.1 in the paper; negative: the window stays open while the trace falls.
        unimodal_weight: of the unimodal losses beside the joint one; 1 is the paper's InfoReg*.

    Raises:
        ModelError: the head has no exact split and is no late fusion, so there are no outputs of single modalities.
    """

    info = MethodInfo(
        title="Adaptive unimodal regulation of information",
        idea="while information comes in fast, the leading modality is held close to its last weights",
        paper="Huang et al., Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition, CVPR 2025, "
        "arXiv 2503.18595",
        equations="score difference, prime learning window by the Fisher trace, proximal term",
        family="gradient modulation",
        tasks=("classification", "multilabel", "segmentation"),
        fusion="Concat or Sum with a linear head, or Late",
        missing=MASKED + "; scores are means over the samples that have the modality",
        cost="1 joint step, and a copy of the encoders",
        deviations=(
            "the score is the log-likelihood, higher is better: as printed, a loss, it would hold back the weakest",
            "the trace is the squared gradient of the whole batch, averaged over an epoch, not of single samples",
        ),
        released=(
            "scores are sums over the batch, so tanh is near 1 whenever one modality leads",
            "the strength has factors of 0.95 for audio and 0.1 for video",
            "one window for all, decided by audio, from a sum over ten epochs that begins with zeros: it is open for "
            "the first ten epochs also where the trace does not grow",
            "unimodal losses are always on, and the trace contains the proximal term",
        ),
        consulted="paper; GeWu-Lab/InfoReg_CVPR2025 at 939b2ed (main.py)",
    )
    single_loss = False

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        beta: Annotated[float, Within(at_least=0), "paper"] = 0.9,
        threshold: Annotated[float, Within(below=1), "paper"] = 0.04,
        unimodal_weight: Annotated[float, Within(at_least=0), "paper"] = 0.0,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(InfoReg.__init__, locals())
        required_way(self, "MultiLoss, which has heads of its own")
        self.beta, self.threshold, self.unimodal_weight = beta, threshold, unimodal_weight
        self.window = LearningWindow(self.multimodal, threshold)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Which modalities are in their prime window; their weights now."""
        self.window.begin_epoch()

    def on_train_epoch_end(self, context: EpochContext) -> None:
        """The traces of the epoch."""
        self.window.end_epoch()

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        total = self.loss(self._fused(features, batch), batch)
        own = {m: self.loss(output, batch, m) for m, output in self.unimodal_outputs(features).items()}
        if self.unimodal_weight:
            total = total + self.unimodal_weight * torch.stack(list(own.values())).sum()
        return Objective(total, {}, own_loss_sums(own, batch))

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """Note the traces; hold leaders in their window back."""
        losses, known = mean_own_losses(self, descent, engine)
        held = self.window.hold_back(regulation_strength(leads(-losses, known), self.beta))
        report.scores = dict(zip(self.modalities, (-losses).unbind(), strict=True))
        report.coefficients["strength"] = dict(zip(self.modalities, held.unbind(), strict=True))
        return ()
