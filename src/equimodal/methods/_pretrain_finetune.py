"""Unimodal pre-training, then joint training: the control of staged methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor, nn

from equimodal.batch import Batch, Presence
from equimodal.engine import Phase, Sharpness
from equimodal.inference import Rule, apply_rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import joint_phase, lacking, linear_heads, reset_optimizer, unannounced, unimodal_phase
from equimodal.tasks import Task, distribution_of


class PretrainFinetune(Stateful, Joint):
    """Unimodal training of every encoder first, then joint training from there.

    The first part of the epochs trains each encoder with a head of its own (as :class:`Ensemble`), the rest trains
    encoders, fusion and head on the fused loss (as :class:`Joint`), with fresh optimizer state. Needs
    ``on_train_epoch_start(EpochContext(epoch, epochs))`` before each epoch, which every engine adapter calls.

    Args:
        pretrain: share of the epochs spent on the unimodal part; the whole budget equals the others'.
        freeze: keep the encoders as they are in the joint part: weights, running statistics (which are used there, as
            in evaluation) and without dropout. They are the modules all of whose parameters are an encoder's.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.

    Raises:
        MethodError: a step before ``on_train_epoch_start``, or no number of epochs.
    """

    info = MethodInfo(
        title="Unimodal pre-training, then joint training",
        idea="modalities trained apart first, then together, in one budget",
        paper="Control; no paper of its own.",
        equations="L(head_m(h_m), y) for the first epochs, then L(head(fuse(h)), y)",
        family="staged",
        modalities="any number",
        missing=MASKED,
        cost="1 joint step",
        deviations=("the pre-training counts towards the budget, so that budgets match",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        rows={"frozen": {"freeze": True}},
    )
    state = ("pretraining",)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        pretrain: Annotated[float, Within(above=0, below=1), "half of the budget (ours)"] = 0.5,
        freeze: Annotated[bool, "encoders are fine-tuned"] = False,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.heads = linear_heads(self.multimodal, task, heads)
        check_options(PretrainFinetune.__init__, locals())
        self.pretrain, self.freeze = pretrain, freeze
        self.pretraining: bool | None = None

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Decide which part the epoch belongs to; at the change, optimizer state is forgotten."""
        if context.epochs is None:
            raise lacking(self, "epochs", "needs their number")
        before = self.pretraining
        self.pretraining = context.epoch < max(1, min(round(self.pretrain * context.epochs), context.epochs - 1))
        if before and not self.pretraining:
            reset_optimizer(self, context)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality, later one joint."""
        if self.pretraining is None:
            raise unannounced(self, "epoch, epochs")
        if self.pretraining:
            for m in self.modalities:
                yield unimodal_phase(self, m, self.heads[m])
            return
        yield joint_phase(self, self._objective, self.modalities if self.freeze else ())

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pre-training heads while they train; afterwards the exact split of an additive head."""
        if self.pretraining:
            outputs: dict[str, Tensor] = self.heads(features)
            return outputs
        return super().unimodal_outputs(features)

    def outputs_of(
        self, features: Mapping[str, Any], present: Presence | None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """In the unimodal part the joint head is untrained, so the mean of the unimodal outputs stands in for it."""
        fused, unimodal = super().outputs_of(features, present)
        if self.pretraining:
            fused = apply_rule("mean", unimodal, present, distribution=distribution_of(self.task))[0]
        return fused, unimodal
