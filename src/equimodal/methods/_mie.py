"""MIE (IGM): sharpness-aware forward phase, flat gradient modification between modalities in the backward phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.errors import ScheduleWarning
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful, trainable, warn_if_frozen, warn_once
from equimodal.methods._info import MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods._validation import Validation
from equimodal.methods.parts import (
    Heads,
    Mixup,
    ProjectingMethod,
    Stages,
    branch_phase,
    published_head,
    ranked_scores,
    reset_optimizer,
    training_samples,
    unannounced,
)
from equimodal.methods.released import MIE_FEATURES, MIE_RELEASED, MeanFlat, perturbed_loss, require_one_process
from equimodal.projection import Flat, NoProjection, branch_layers, corresponding
from equimodal.tasks import Task


class MIE(Stateful, ProjectingMethod):
    r"""Modal-aware interactive enhancement, published as IGM (Jiang et al., IJCAI 2025, equations 3 to 10).

    One branch per modality, an encoder and a classifier d -> 256 -> 64 -> C of its own (for a segmentation, of which
    nothing is published, d -> C at each position); the prediction is the mean of the branches' softmax. Only the active
    modality trains.

    *Forward phase*: the gradient used is :math:`(1-a)\, g + a\, g'`, g' taken at
    :math:`\theta_m + \rho\, g/\|g\|_2` (:class:`~equimodal.Sharpness`).

    *Backward phase*: every linear layer of the active branch that corresponds to one of the other modalities' branches
    uses :math:`G \leftarrow G P`, where P damps the directions in which the other modalities' features vary most,

    .. math:: C = \frac1N \sum_n u_n u_n^\top = V\,\mathrm{diag}(\lambda)\,V^\top, \quad
        P = V\,\mathrm{diag}\!\left(e^{-\tau (\lambda - \lambda_{min})/(\lambda_{max} - \lambda_{min})}\right) V^\top

    Layers correspond by position among those of equal weight shape, classifier with classifier, encoder with encoder.

    Args:
        sam: ``"full"`` takes 2 passes, ``"momentum"`` 1; ``None`` is the ablation.
        radius: :math:`\rho`. The published configuration files say 1e-10, which perturbs nothing.
        flat_ratio: a.
        sam_every: k of ``every_k``.
        projection: multiply by P; ``False`` is the ablation.
        temperature: :math:`\tau`.
        sources: ``"others"``: P from the average covariance of all other modalities visited so far; ``"previous"``: of
            the one visited just before. The same for two modalities.
        layers: ``"classifier"``, ``"linear"`` (classifier and encoder) or ``"all"`` (convolutions too, by unfolded
            patches).
        alternate: ``"batch"``: every modality steps on every batch; covariances are gathered while training and
            projectors refreshed once per epoch. ``"epoch"``: one modality per epoch. ``"stage"``: the paper's schedule.
        stage_epochs: lengths of the stages in epochs, repeated over the modalities. Each stage starts from the best
            model so far with fresh optimizer state, and the covariances of the modality before are collected in
            evaluation mode in a pass over the training data.
        order: of the turns; ranked, as in :class:`MLA`, by the training scores of each modality's last turn.
        mixup_alpha: of the Beta distribution of mixup on inputs and targets (not label maps); 0 is off.
        heads: modality -> classifier, instead of the published one.
        seed: of the mixup generator.
        variant: ``"released"`` is what the authors' repository computes, but for the choice on the test set.

    Raises:
        MethodError: with ``"epoch"`` or ``"stage"``, a step before ``on_train_epoch_start``.
    """

    info = MethodInfo(
        title="Modal-aware interactive enhancement (published as IGM)",
        idea="turns of sharpness-aware steps; gradients are damped where the others' features are strong",
        paper="Interactive multimodal learning via flat gradient modification, IJCAI 2025, arXiv 2407.04587",
        equations="sharpness-aware objective (forward phase); covariance, flat projector, gradient (backward phase)",
        family="alternating, gradient projection, sharpness-aware",
        order="modalities take turns in the order of the encoders",
        fusion="ignored; one classifier per modality",
        missing="supported per sample: each branch trains on the samples that have its modality",
        cost="2 joint steps with sam='full', about 1 with 'momentum' or None",
        complete={"mixup_alpha": "mixing two samples needs every modality in both"},
        deviations=(
            "alternation by batch is the default: no extra pass, any budget; the paper's is alternate='stage'",
            "mixup is off by default, so that methods are compared on equal data",
            "with alternation by batch or epoch covariances are gathered in training mode",
        ),
        released=MIE_RELEASED,
        consulted="paper; njustkmg/IJCAI25-IGM (train_CREMA.py, models/AudioVideo.py, configs)",
        featured=True,
        engine=MIE_FEATURES,
    )
    state = ("mixup.generator", "stages", "_active", "_known_epoch", "_refreshed", "_steps", "projection.plasticity")
    former_names = (("flat.", "projection.bank."),)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        sam: Annotated[Literal["full", "every_k", "momentum"] | None, "paper"] = "full",
        radius: Annotated[float, Within(above=0), "Foret et al. 2021; the published 1e-10 has no effect"] = 0.05,
        flat_ratio: Annotated[float, Within(at_least=0, at_most=1), "released configuration files"] = 0.3,
        sam_every: Annotated[int, Within(at_least=1, whole=True), "ours; only used by sam='every_k'"] = 5,
        projection: Annotated[bool, "paper"] = True,
        temperature: Annotated[float, Within(at_least=0), "released configuration files"] = 0.4,
        sources: Annotated[Literal["others", "previous"], "paper: all modalities visited before"] = "others",
        layers: Annotated[
            Literal["classifier", "linear", "all"], "the only ones that the released code multiplies"
        ] = "linear",
        alternate: Annotated[Literal["batch", "epoch", "stage"], "ours, see deviations"] = "batch",
        stage_epochs: Annotated[Sequence[int], "released configuration of CREMA-D"] = (25, 50),
        order: Annotated[Literal["fixed", "weak_first", "strong_first"], "paper"] = "fixed",
        mixup_alpha: Annotated[float, Within(at_least=0), "ours; 1.0 in the released configuration of CREMA-D"] = 0.0,
        heads: Mapping[str, nn.Module] | None = None,
        seed: Annotated[int, Within(whole=True)] = 0,
        variant: Literal["paper", "released"] = "paper",
        inference: Annotated[Rule, "paper"] = "mean",
        calibrated: bool = False,
    ) -> None:
        check_options(MIE.__init__, locals())
        released = variant == "released"
        sharpness = Sharpness(sam, radius=radius, ratio=flat_ratio, every=sam_every) if sam and not released else None
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.alternate, self.mixup_alpha = alternate, mixup_alpha
        self.variant, self.flat_ratio = variant, flat_ratio
        self.stages, self.mixup = Stages(stage_epochs), Mixup(mixup_alpha, task, seed)
        self.heads = Heads(self.multimodal, heads, lambda width: published_head(width, task))
        self.projection = NoProjection()
        if projection:
            keyed = corresponding({m: branch_layers(model, m, self.heads[m], layers) for m in self.modalities})
            self.projection = (MeanFlat if released else Flat)(keyed, temperature, sources)
        self.order, self.scores = order, ranked_scores(self, order)
        self._active: str | None = None  # None: every modality
        self._known_epoch, self._refreshed, self._steps = alternate == "batch", not projection, 0
        warn_if_frozen(self, "MIE trains only its classifier.")

    @classmethod
    def recommended(cls, task: Task) -> dict[str, Any]:
        """Also, for numbers, the whole gradient at the perturbed weights: its deep classifiers fit their noise."""
        return super().recommended(task) | ({"flat_ratio": 1.0} if task.name == "regression" else {})

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Mixup, once per step, so that both passes see the same."""
        return self.mixup(batches)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per active modality: all of them, or the one whose epoch or stage it is."""
        if not self._known_epoch:
            raise unannounced(self, "epoch, loader=train_loader", "alternate='batch'")
        if self.variant == "released":
            require_one_process()
        self.__dict__["_steps"] += 1  # plainly: nn.Module takes long to set an attribute
        if self.alternate == "batch" and self._steps == 1000 and not self._refreshed:
            message = (
                "MIE's projectors are refreshed by on_train_epoch_end, which was not called in 1000 steps, so no "
                "gradient is projected. Call method.on_train_epoch_end(EpochContext(epoch)) after each epoch."
            )
            warn_once(self, message, ScheduleWarning)
        for m in self.turns() if self._active is None else (self._active,):
            yield branch_phase(self.multimodal, m, self.heads[m], partial(self._objective, m), partial(self._second, m))

    def _objective(self, modality: str, own: Batch, batch: Batch) -> Objective:
        with self.projection.observing(modality, on=self.alternate != "stage") as sums:
            feature, output = self._branch(modality, own)
        loss = self.loss(output, batch, modality)
        if self.variant == "released":
            branch = trainable([*self.multimodal.parameters_of(modality), *self.heads[modality].parameters()])
            target = self.mixup.unmixed_target(own)
            loss = perturbed_loss(
                loss, lambda: self.task.loss(self.heads[modality](feature), target), branch, self.flat_ratio
            )
        return self.scored(loss, sums, output, batch, modality)

    def _second(self, modality: str, own: Batch, batch: Batch) -> Objective:
        """The loss at the perturbed weights; covariances and scores are those of the first pass."""
        return Objective(self.loss(self._branch(modality, own)[1], batch, modality))

    def _branch(self, modality: str, own: Batch) -> tuple[Tensor, Tensor]:
        feature = self.multimodal.encode(own.inputs, None, [modality])[modality]
        return feature, self.heads[modality](feature)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Choose the active modality; at a new stage: covariances of the last one, best model, fresh optimizer."""
        self._known_epoch = True
        if self.alternate == "stage":
            self._enter_stage(context)
            return
        self._active = None if self.alternate == "batch" else self._of_turn(context.epoch)
        if self.scores is not None and self.alternate == "batch":
            self.scores.end_epoch()
        for m in self.modalities if self._active is None else (self._active,):
            self.projection.forget(m)

    def on_train_epoch_end(self, context: EpochContext) -> None:
        """Refresh the projectors from the covariances gathered while training."""
        if self.alternate != "stage":
            self.projection.end_epoch()
            self._refreshed = True

    def _of_turn(self, number: int) -> str:
        """Whose epoch or stage it is; the order changes only when each has had its turn."""
        position = number % len(self.modalities)
        if self.scores is not None and position == 0:
            self.scores.end_epoch()
        return self.turns()[position]

    def _enter_stage(self, context: EpochContext) -> None:
        if not self.stages.enter(context.epoch):
            return
        previous, self._active = self._active, self._of_turn(self.stages.current)
        if previous is None:
            return
        self.stages.restore(self.state_dict())
        if isinstance(self.projection, Flat):
            self.projection.forget(previous)
            for own in training_samples(self, previous, context, "use alternate='epoch' or 'batch'"):
                with torch.no_grad(), self.projection.observing(previous) as sums:
                    self._branch(previous, own)
                self.projection.add(previous, sums)
            self.projection.end_epoch()
        reset_optimizer(self, context)

    def on_validation_end(self, validation: Validation | float) -> None:
        """Remember the best model so far, from which the next stage starts."""
        if self.alternate == "stage":
            model, heads = self.model.state_dict(prefix="model."), self.heads.state_dict(prefix="heads.")
            self.stages.remember(float(validation), {**model, **heads})
