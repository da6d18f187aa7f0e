"""LFM: the loss goes from aligning the modalities to fitting the labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Presence
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.errors import UnsupportedError
from equimodal.features import pool
from equimodal.functional import (
    alignment_share,
    binary_jensen_shannon,
    cross_modal_contrast,
    divergence_from_mean,
    jensen_shannon,
    released_alignment_share,
)
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Method, Stateful
from equimodal.methods._info import MethodInfo
from equimodal.methods._loss import mask_of
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import encoder_parameters, equal_width, linear_heads, present_sum, unannounced
from equimodal.tasks import Task


class LFM(Stateful, Method):
    r"""Learning the modality gap (Yang et al., NeurIPS 2024), with the heuristic mix.

    Each modality has a head; the prediction is the mean of their outputs. Fitting labels is what makes modalities
    unequally fast, so at first a loss without labels that aligns the modalities counts more:

    .. math:: L = (1 - a_t)\, L(\tfrac1M \sum_m u_m, y) + a_t A, \qquad a_t = 1 - e^{-1/t}

    with t the epoch from 1, and A the mean over pairs of modalities.

    Args:
        alignment: ``"contrastive"``: the features of one sample are to be alike, those of different samples of a batch
            not (encoders of equal width). ``"jensen_shannon"``: the divergence between the predictions of two
            modalities, which is a mean over samples.
        temperature: of ``"contrastive"``.
        heads: modality -> module from its features to (B, C); default one linear layer each.
        variant: ``"released"``: 2 L with the mix of the released script, a polynomial for 200 epochs, and the
            divergence of the mean of two predictions from each of them.

    Raises:
        ModelError: ``"contrastive"`` with encoders of unequal width.
        MethodError: a step before ``on_train_epoch_start``.
        UnsupportedError: ``variant="released"`` for another task than classification.
    """

    info = MethodInfo(
        title="Dynamically learning the modality gap",
        idea="aligning modalities without labels comes first, fitting labels later",
        paper="Yang et al., Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS 2024",
        equations="sum of label fitting and unsupervised alignment with the heuristic schedule",
        family="objective",
        tasks=("classification", "multilabel"),
        fusion="ignored; one head per modality, whose outputs are averaged",
        missing="supported per sample: pairs of modalities that a sample has",
        cost="1 joint step and M small heads",
        deviations=(
            "the mix that is learned on held-out samples is left out",
            "the paper's text was not at hand: the schedule is from a note on it, its direction from the released code",
            "any number of modalities: the mean over pairs",
        ),
        released=(
            "no contrastive term: the alignment is KL(m || p), which has no bound, where the Jensen-Shannon divergence "
            "has KL(p || m)",
            "the mix is a polynomial fitted for 200 epochs of CREMA-D, and negative in epochs 177 to 188",
            "the script that learns the mix can move it by at most 0.004 times a gradient in the whole training",
            "test scores are printed, and no epoch is chosen",
        ),
        consulted="abstract; njustkmg/NeurIPS24-LFM at ad44fa0 (Crema_epoch.py, Crema_epoch_learnable.py)",
        engine={
            "processes, trainer, accumulation, sharded: alignment='contrastive'": "differs: samples are compared with "
            "those of their micro-batch"
        },
    )
    state = ("share",)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        alignment: Annotated[Literal["contrastive", "jensen_shannon"], "paper"] = "contrastive",
        temperature: Annotated[float, Within(above=0), "ours: usual for normalised features"] = 0.1,
        heads: Mapping[str, nn.Module] | None = None,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper: the mean of the modalities' outputs"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(LFM.__init__, locals())
        self.alignment, self.temperature, self.variant = alignment, temperature, variant
        if variant == "released":
            if task.name != "classification":
                raise UnsupportedError(
                    f"`variant`: the released code of LFM is for classes. Found the task {task.name!r}. Use 'paper'."
                )
        elif alignment == "contrastive":
            equal_width(self.multimodal, "LFM's contrast of features")
        self.heads = linear_heads(self.multimodal, task, heads)
        self.share: float | None = None

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """The share of the alignment in this epoch."""
        schedule = released_alignment_share if self.variant == "released" else alignment_share
        self.share = schedule(context.epoch)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: encoders and heads."""
        if self.share is None:
            raise unannounced(self)
        return [Phase("joint", self._objective, [*encoder_parameters(self), *self.heads.parameters()])]

    def _objective(self, batch: Batch) -> Objective:
        share = self.share or 0.0
        features = self.multimodal.encode(batch.inputs, batch.present)
        outputs = self.heads(features)
        fitting = self.loss(self._mean(outputs, batch.present), batch)
        alignment = self._alignment(features, outputs, batch)
        total = (1 - share) * fitting + share * alignment
        total = 2 * total if self.variant == "released" else total
        return Objective(total, {"fitting": fitting.detach(), "alignment": alignment.detach()})

    def _alignment(self, features: Mapping[str, Tensor], outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        zero = next(iter(outputs.values())).sum() * 0
        there = [m for m in self.modalities if m in outputs and batch.count(m)]
        own = {m: mask_of(batch, m) for m in there}
        pairs = [(a, b, own[a] & own[b]) for a, b in itertools.combinations(there, 2)]
        if not pairs:
            return zero
        if self.alignment == "contrastive" and self.variant == "paper":
            same = torch.eye(len(batch), dtype=torch.bool, device=zero.device)
            pooled = {m: pool(features[m]) for m in there}
            terms = [cross_modal_contrast(pooled[a], pooled[b], same, both, self.temperature) for a, b, both in pairs]
            return torch.stack(terms).mean()
        terms = [torch.where(both, self._distance(outputs[a], outputs[b]), 0) for a, b, both in pairs]
        number = torch.stack([both for *_, both in pairs]).sum(0)
        return (torch.stack(terms).sum(0) / number.clamp_min(1)).mean()

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) between two predictions."""
        if self.variant == "released":
            return divergence_from_mean(first, second)
        if self.task.name == "multilabel":
            return binary_jensen_shannon(first, second).mean(1)
        return jensen_shannon(first, second)

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def _mean(self, outputs: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> Tensor:
        total, count = present_sum(outputs, present)
        return total / count.clamp_min(1)

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the heads."""
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs

    def fused_output(self, features: Mapping[str, Tensor], present: Presence | None) -> Tensor:
        """Mean of the outputs of the modalities that a sample has."""
        return self._mean(self.heads(features), present)
