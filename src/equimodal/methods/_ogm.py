"""OGM and OGM-GE: a smaller gradient for the modality that is ahead, and the noise that it lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness, local
from equimodal.functional import discrepancy_ratios, ogm_coefficients
from equimodal.inference import Rule
from equimodal.methods._base import Scales, StepReport
from equimodal.methods._info import SCORED_ROWS, SCORES, UPDATES, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import (
    EpochWindow,
    GradientNoise,
    Noise,
    batch_confidences,
    confidence_sums,
    encoder_parameters,
    scale_encoders,
    scoring_way,
)
from equimodal.tasks import Task
from equimodal.unimodal import Way


class OGM(EpochWindow, Joint):
    r"""On-the-fly gradient modulation with generalisation enhancement (Peng et al., CVPR 2022, equations 7 to 13).

    The score :math:`s_m` of a modality is the mean probability that its part of the output gives to the true class:

    .. math:: \rho_m = \mathrm{mean}_{j \ne m} \frac{s_m}{s_j}, \quad
        k_m = \begin{cases} 1 - \tanh(\alpha \rho_m) & \rho_m > 1 \\ 1 & \text{else} \end{cases}, \quad
        \theta_m \leftarrow \theta_m - \eta (k_m g_m + \xi_m)

    in the encoders. OGM-GE has the noise :math:`\xi_m`, OGM has none. k jumps from 1 to :math:`1 - \tanh \alpha`.

    Args:
        alpha: :math:`\alpha > 0`; released settings: 0.8 CREMA-D, 0.1 VGGSound.
        start: first epoch (from 0) that is modulated; an epoch that is not announced counts as the first.
        end: last one.
        noise: ``"covariance"``: OGM-GE, exactly the covariance of the mini-batch gradient, by one more backward pass;
            ``"entries"``: the released code's, with the spread of the entries of each gradient tensor.
        seed: of the method's own generator.
        unimodal: default the exact split of an additive head, and for a regression the masked outputs.

    Raises:
        ModelError: the head is not additive, and ``unimodal`` names no other way.
    """

    info = MethodInfo(
        title="On-the-fly gradient modulation",
        idea="the encoder whose modality is ahead gets a smaller gradient",
        paper="Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022, "
        "arXiv 2203.15332",
        equations="discrepancy ratio (8), coefficient (10), modulated update, noise of generalisation enhancement",
        family="gradient modulation",
        modalities="two or more: the mean of the ratios to the others (the authors' extension, TPAMI 2024)",
        fusion="additive with an affine head, or unimodal='masked'",
        missing=SCORED_ROWS,
        cost="1 joint step; 1.7 with noise='covariance'",
        order="the noise of 'entries' is drawn in the order of the encoders",
        deviations=(SCORES, UPDATES),
        released=(
            "only gradients with four dimensions are modulated: linear, attention and norm layers never are",
            "where scores are equal the audio encoder is damped",
            "the noise has the spread of the entries of a tensor, in both encoders, whether damped or not",
            "with gated and FiLM fusion both unimodal outputs are parts of a head that is not additive",
        ),
        consulted="paper; GeWu-Lab/OGM-GE_CVPR2022 at 343dc1d (main.py)",
        engine={
            "processes, trainer, sharded: noise='covariance'": "differs: every process draws its own samples' numbers",
            "sharded: noise='entries'": "refused: the spread of the entries of a tensor needs all of them",
        },
    )
    state = ("epoch", "gradient_noise.generator")

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        alpha: Annotated[float, Within(above=0), "released README, CREMA-D"] = 0.8,
        start: Annotated[int, Within(at_least=0, whole=True), "released code"] = 0,
        end: Annotated[int, Within(at_least=0, whole=True), "released code: half of 100 epochs"] = 50,
        noise: Annotated[Noise | None, "OGM of the paper's ablation"] = None,
        seed: Annotated[int, Within(whole=True)] = 0,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
        unimodal: Way | nn.Module | None = None,
    ) -> None:
        super().__init__(
            model, task, sharpness=sharpness, inference=inference, calibrated=calibrated, unimodal=unimodal
        )
        check_options(OGM.__init__, locals())
        self.unimodal = scoring_way(self, self.unimodal)
        self.alpha, self.start, self.end = alpha, start, end
        self.noise, self.gradient_noise = noise, GradientNoise(noise, seed)

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Draw the numbers that the noise is made of."""
        return self.gradient_noise.prepared(batches, next(self.parameters()).device)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss; the noise apart for the encoders."""
        return [Phase("joint", self._objective, list(self.model.parameters()), separate=encoder_parameters(self))]

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        output = self._fused(features, batch)
        with torch.no_grad():
            alone = cast(nn.Module, self.unimodal)(features, batch.present)
        parts, sums = self.gradient_noise.terms(self, output, batch)
        sums |= confidence_sums(self, alone, batch)
        return Objective(self.loss(output, batch), {}, sums, parts=parts)

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """g_m <- k_m g_m + xi_m, or the factor on the update."""
        scores, known = batch_confidences(self, descent, engine, report)
        if not self.in_window():
            return ()
        factors = ogm_coefficients(discrepancy_ratios(scores, known), self.alpha)
        encoders = [p for p in encoder_parameters(self) if p.grad is not None]
        noise = self.gradient_noise.of(encoders, descent, engine) if self.noise else []
        scales = scale_encoders(self, engine, report, dict(zip(self.modalities, factors.unbind(), strict=True)))
        for p, xi in zip(encoders, noise, strict=False):
            local(cast(Tensor, p.grad)).add_(xi)
        return scales
