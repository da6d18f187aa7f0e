"""D&R: encoders that separate training samples better than new ones go some way back to where they began."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import nn

from equimodal.engine import Sharpness
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import MASKED, TEST_CHOICE, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import SoftReset, cluster_purities, encoder_parameters, full_pass, lacking, reset_optimizer
from equimodal.tasks import Task


class DiagnosingRelearning(Stateful, Joint):
    r"""Diagnosing and re-learning (Wei et al., ECCV 2024): joint training with encoders that are reset in part.

    Before the epochs E, 2E, ... RE the features of each modality, scaled to [-1, 1] per dimension, are put into as many
    clusters as there are classes (k-means). An encoder whose clusters are purer on training than on validation samples
    learns by heart:

    .. math:: w_m = \tanh(\lambda |P_m^{train} - P_m^{validation}|), \qquad
        \theta_m \leftarrow w_m \theta_m^{initial} + (1 - w_m) \theta_m.

    Args:
        strength: :math:`\lambda`.
        every: E, in epochs.
        times: R.
        seed: of k-means.
        variant: ``"paper"`` mixes running statistics like weights and forgets the encoders' optimizer state;
            ``"released"`` keeps both.

    Raises:
        MethodError: no training or no validation samples are offered when needed.
    """

    info = MethodInfo(
        title="Diagnosing and re-learning",
        idea="encoders that separate training samples better than new ones are reset in part",
        paper="Wei et al., Diagnosing and Re-learning for Balanced Multimodal Learning, ECCV 2024, arXiv 2407.09705",
        equations="purity of clusters, gap between training and validation, soft re-initialisation",
        family="staged",
        tasks=("classification",),
        modalities="any number",
        missing=MASKED + "; purity is of the samples that have the modality",
        cost="1 joint step; at each reset a pass over training and validation samples, and k-means",
        deviations=(
            "k-means is ours (k-means++, the best of 10 starts), on samples without augmentation",
            "the first reset is after E epochs; in the released script after E + 1",
        ),
        released=(
            "running statistics are not reset, and momenta are kept",
            "the default of 50 epochs has room for two of the three resets; the script has 90",
            TEST_CHOICE,
        ),
        consulted="GeWu-Lab/Diagnosing_Relearning_ECCV2024 at 025085e (code/ours.py)",
    )
    state = ("soft_reset.initial",)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        strength: Annotated[float, Within(at_least=0), "released scripts"] = 3.0,
        every: Annotated[int, Within(at_least=1, whole=True), "released scripts"] = 20,
        times: Annotated[int, Within(at_least=0, whole=True), "released scripts"] = 3,
        seed: Annotated[int, Within(whole=True)] = 0,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(DiagnosingRelearning.__init__, locals())
        self.strength, self.every, self.times, self.seed, self.variant = strength, every, times, seed, variant
        self.soft_reset = SoftReset(self, statistics=variant == "paper")

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Remember where the encoders begin; diagnose and reset them when it is time."""
        self.soft_reset.remember()
        number, rest = divmod(context.epoch, self.every)
        if rest or not 1 <= number <= self.times:
            return
        if context.loader is None or context.validation is None:
            missing = "loader" if context.loader is None else "validation"
            raise lacking(self, missing, "compares training and validation samples")
        batches = full_pass(context.loader), context.validation
        training, validation = (cluster_purities(self, b, self.seed) for b in batches)
        for m in self.modalities:
            known = m in training and m in validation  # else nothing is known of it
            weight = math.tanh(self.strength * abs(training[m] - validation[m])) if known else 0.0
            self.soft_reset.back(m, weight)
            self._aside[f"reset/{m}"] = torch.tensor(weight, device=next(self.parameters()).device)
        if self.variant == "paper":
            reset_optimizer(self, context, encoder_parameters(self))
