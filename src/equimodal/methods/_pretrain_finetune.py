"""Unimodal pre-training, then joint training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from equimodal._utils.arguments import check_number
from equimodal.batch import Batch, Presence
from equimodal.engine import Descent, Engine, Phase, Sharpness, UpdateScale, modules_of
from equimodal.errors import MethodError
from equimodal.inference import Rule, apply_rule
from equimodal.methods._base import ALL_TASKS, MASKED, EpochContext, MethodInfo, StepReport, record_score
from equimodal.methods._joint import Joint
from equimodal.methods.parts import LossShares, linear_heads, nothing, reset_optimizer, unimodal_phase
from equimodal.tasks import Task, distribution_of


class PretrainFinetune(Joint):
    """Unimodal training of every encoder first, then joint training from there.

    The first part of the epochs trains each encoder with a head of its own (as :class:`Ensemble`), the rest trains
    encoders, fusion and head on the fused loss (as :class:`Joint`), with fresh optimizer state. Needs
    ``on_train_epoch_start(EpochContext(epoch, epochs))`` before each epoch, which every engine adapter calls.

    Args:
        model: encoders, fusion and head.
        task: gives the loss.
        pretrain: share of the epochs in (0, 1) spent on the unimodal part; the whole budget equals the others'.
        freeze: keep the encoders as they are in the joint part: weights, running statistics (which are used there, as
            in evaluation) and without dropout. They are the modules all of whose parameters are an encoder's.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: rule; default the joint head.
        calibrated: fit one temperature per modality on validation data.

    Raises:
        MethodError: an argument is out of range, or a step is asked for before the first epoch was announced.

    Example:
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import EpochContext
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = PretrainFinetune(model, Classification(2))
        >>> method.on_train_epoch_start(EpochContext(epoch=0, epochs=10))
        >>> method.pretraining
        True
    """

    info = MethodInfo(
        title="Unimodal pre-training, then joint training",
        paper="Control; no paper of its own.",
        equations="L(head_m(h_m), y) for the first epochs, then L(head(fuse(h)), y)",
        family="staged",
        tasks=ALL_TASKS,
        modalities="any number",
        fusion="any",
        missing=MASKED,
        cost="1 joint step",
        defaults={"pretrain": "half of the budget (ours)", "freeze": "encoders are fine-tuned"},
        deviations=("the pre-training counts towards the budget, so that budgets match",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        pretrain: float = 0.5,
        freeze: bool = False,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.heads = linear_heads(self.multimodal, task, heads)
        check_number("pretrain", pretrain, above=0, below=1)
        self.pretrain = pretrain
        self.freeze = freeze
        self.pretraining: bool | None = None

    def get_extra_state(self) -> dict[str, Any]:
        """Which part the training is in."""
        return {"pretraining": self.pretraining}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self.pretraining = state["pretraining"]

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Decide which part the epoch belongs to; at the change, optimizer state is forgotten."""
        if context.epochs is None:
            raise MethodError("`context.epochs`: PretrainFinetune needs the number of epochs. Found None.")
        before = self.pretraining
        self.pretraining = context.epoch < max(1, min(round(self.pretrain * context.epochs), context.epochs - 1))
        if before and not self.pretraining:
            reset_optimizer(self, context)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality, later one joint."""
        if self.pretraining is None:
            raise MethodError(
                "PretrainFinetune needs to know the epoch. Call method.on_train_epoch_start(EpochContext(epoch, "
                "epochs)) "
                "before each epoch."
            )
        shares = LossShares(self.task, batches, self.modalities if self.pretraining else (), self.pretraining)
        if self.pretraining:
            for m in self.modalities:
                yield unimodal_phase(self.multimodal, self.task, m, self.heads[m], nothing, shares)
            return
        encoders = [p for m in self.modalities for p in self.multimodal.parameters_of(m)] if self.freeze else []
        still = {id(p) for p in encoders}
        trained = [p for p in self.model.parameters() if id(p) not in still]
        objective = partial(self._joint_objective, shares)
        yield Phase("joint", objective, trained, frozen=modules_of(self.model, encoders))

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """Only reports the training score of the unimodal part."""
        if phase.modality is not None:
            record_score(report, phase.name, descent)
        return ()

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pre-training heads while they train; afterwards the exact split of an additive head."""
        if self.pretraining:
            outputs: dict[str, Tensor] = self.heads(features)
            return outputs
        return super().unimodal_outputs(features)

    def outputs(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor], Presence | None]:
        """In the unimodal part the joint head is untrained, so the mean of the unimodal outputs stands in for it."""
        fused, unimodal, presence = super().outputs(inputs, present)
        if self.pretraining:
            fused = apply_rule("mean", unimodal, presence, distribution=distribution_of(self.task))[0]
        return fused, unimodal, presence
