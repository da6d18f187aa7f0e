"""MLA: one shared head, alternating unimodal steps, orthogonal gradient projection, fusion by uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.errors import ModelError, ScheduleWarning
from equimodal.inference import Prediction, Rule
from equimodal.methods._base import EpochContext, Stateful, warn_if_frozen, warn_once
from equimodal.methods._info import MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import (
    ProjectingMethod,
    branch_phase,
    default_head,
    equal_width,
    like_model,
    ranked_scores,
)
from equimodal.methods.released import MLA_RELEASED, fuse_by_batch, require_classification
from equimodal.projection import Flat, NoProjection, Orthogonal, corresponding, projectable_layers
from equimodal.tasks import Task, distribution_of


class MLA(Stateful, ProjectingMethod):
    r"""Multimodal learning with alternating unimodal adaptation (Zhang et al., CVPR 2024, equations 3 to 9).

    All modalities share one head g. In every batch each modality takes a step of its own; the gradient of the head's
    weight is multiplied by a projector P that removes the feature directions the head has learnt from the modalities
    visited before:

    .. math:: G_W \leftarrow G_W P, \qquad k = \frac{P \bar h_m^\top}{\alpha + \bar h_m P \bar h_m^\top},
        \qquad P \leftarrow P - k\,(\bar h_m P)

    P starts as the identity and takes in :math:`\bar h_m`, the batch mean of m's features, only AFTER m's step; the
    bias is not projected. At prediction time each sample weighs its modalities by
    :math:`w_m = \mathrm{softmax}_m(-e_m)`, :math:`e_m` the entropy of :math:`p_m`.

    Args:
        head: the shared head, features -> (B, C, ...); a deeper head gets one projector per linear layer or 1x1
            convolution (positions are its rows). Default ``nn.Linear(d, C)``, as published, on whatever features the
            encoders give; one output per position in a segmentation.
        projector: ``"flat"`` damps the dominant directions of the other modalities' features instead of removing them
            (MIE's spectrum); ``None`` is the ablation.
        alpha: :math:`\alpha_0` of the published schedule :math:`\alpha = \alpha_0^{1 + b/B}`, b the batch in an epoch
            of B.
        alpha_schedule: ``"epoch"`` needs B, from ``on_train_epoch_start``.
        alpha_scale: ``"relative"`` multiplies alpha by the running mean of :math:`|\bar h|^2`, whose unit alpha has.
        projector_reset: ``"cycle"`` is after every batch. A projector that is never reset loses rank over long runs;
            ``report.extras["plasticity/..."]`` is trace(P)/d.
        temperature: :math:`\tau` of the flat spectrum; refreshed at the end of each epoch.
        order: of the modalities in a batch. ``"weak_first"``: by the training scores of the last epoch, the lowest
            first, for which a bound is tightest (arXiv 2506.00030; the score is ours); ``"strong_first"`` is its
            control. Epoch 0, and equal scores, have the order of the encoders.
        seed: of the shuffling generator.
        variant: ``"released"`` is what the authors' repository computes: no projection, and one weight per BATCH from
            entropies whose softmax runs over the batch axis, so a prediction depends on which samples share its batch.
        inference: ``None`` is ``"uncertainty"``, from the entropy per sample, per pixel of a segmentation, per label,
            or from the predicted variance of ``Regression(loss="gaussian_nll")``; and ``"mean"`` for other regressions,
            whose numbers say nothing about their uncertainty.

    Raises:
        ModelError: feature widths differ, or the head has no linear layer to project.
        UnsupportedError: the task does not allow the inference rule, or has no released variant.
    """

    info = MethodInfo(
        title="Multimodal learning with alternating unimodal adaptation",
        idea="modalities take turns on one shared head; its gradient is projected off what the others "
        "taught it; fusion by uncertainty",
        paper="Zhang et al., Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024, "
        "arXiv 2311.10707",
        equations="shared head and alternation (3, 4), projector update and projected gradient (5, 6), entropy weights "
        "and fusion (7 to 9)",
        family="alternating, gradient projection, inference rule",
        order="modalities take turns in the order of the encoders, on one head",
        fusion="ignored; encoders of equal feature width and one shared head",
        missing="supported per sample: each modality trains on the samples that have it and drops out of the fusion",
        cost="about 1 joint step: M encoder passes, M head passes, one rank-1 update per modality",
        deviations=("none in the defaults; every option beyond the paper is off",),
        released=MLA_RELEASED,
        consulted="paper; Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation (main.py, utils/utils.py)",
        featured=True,
    )
    state = ("_batch", "_batches", "_generator", "projection.plasticity")
    former_names = (("projectors.", "projection.projectors."), ("flat.", "projection.bank."))

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        head: nn.Module | None = None,
        projector: Annotated[Literal["orthogonal", "flat"] | None, "paper equation 5"] = "orthogonal",
        alpha: Annotated[float, Within(above=0, below=1), "paper schedule 0.1^(1 + b/B)"] = 0.1,
        alpha_schedule: Annotated[Literal["epoch", "constant"], "paper"] = "epoch",
        alpha_scale: Annotated[Literal["absolute", "relative"], "paper"] = "absolute",
        projector_reset: Annotated[Literal["never", "epoch", "cycle"], "paper"] = "never",
        temperature: Annotated[float, Within(at_least=0), "MIE paper; only used by projector='flat'"] = 0.4,
        order: Annotated[Literal["fixed", "shuffled", "weak_first", "strong_first"], "paper"] = "fixed",
        seed: Annotated[int, Within(whole=True)] = 0,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule | None, "paper equations 7 to 9, where the task predicts any uncertainty"] = None,
        calibrated: bool = False,
    ) -> None:
        if inference is None:
            inference = "mean" if distribution_of(task) == "point" else "uncertainty"
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(MLA.__init__, locals())
        self.alpha, self.alpha_schedule, self.projector_reset = alpha, alpha_schedule, projector_reset
        self.order, self.variant = order, variant
        if variant == "released":
            require_classification(task)
            projector = None
        width = equal_width(self.multimodal, "MLA's shared head")
        self.head = default_head(width, task) if head is None else head
        like_model(self.head, self.multimodal)
        layers = projectable_layers(self.head, pointwise=True)
        if projector is not None and not layers:
            raise ModelError(
                "`head`: expected at least one linear layer whose gradient can be projected. Found none in "
                f"{type(self.head).__name__}. Use projector=None."
            )
        self.projection = NoProjection()
        if projector == "orthogonal":
            self.projection = Orthogonal(layers, self.current_alpha, relative=alpha_scale == "relative")
        elif projector == "flat":
            self.projection = Flat(corresponding({m: {"head": layers} for m in self.modalities}), temperature)
        self._generator = torch.Generator().manual_seed(seed)
        self.scores = ranked_scores(self, order)
        self._batch, self._batches = 0, None if alpha_schedule == "epoch" else 1
        warn_if_frozen(self, "MLA trains only the shared head on it.")

    @classmethod
    def recommended(cls, task: Task) -> dict[str, Any]:
        """Also: alpha in the unit of the features, and a projector that is not exhausted after a few epochs."""
        return super().recommended(task) | {"alpha_scale": "relative", "projector_reset": "epoch"}

    # ---- training ---------------------------------------------------------------------------------------------------

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality, in the order that is asked for."""
        model, head, order = self.multimodal, self.head, self.turns()
        if self.order == "shuffled":
            order = [order[i] for i in torch.randperm(len(order), generator=self._generator).tolist()]
        for m in order:
            yield branch_phase(model, m, head, partial(self._objective, m), partial(self._second, m))
        self.__dict__["_batch"] += 1  # plainly: nn.Module takes long to set an attribute
        if self.projector_reset == "cycle":
            self.projection.restart()

    def _objective(self, modality: str, own: Batch, batch: Batch) -> Objective:
        feature = self.multimodal.encode(own.inputs, None, [modality])[modality]
        output, sums = self.projection.observe(modality, self.head, feature)
        return self.scored(self.loss(output, batch, modality), sums, output, batch, modality)

    def _second(self, modality: str, own: Batch, batch: Batch) -> Objective:
        """The loss at perturbed weights, from which nothing is learnt about the features."""
        output = self.head(self.multimodal.encode(own.inputs, None, [modality])[modality])
        return Objective(self.loss(output, batch, modality))

    def current_alpha(self) -> float:
        r""":math:`\alpha_0^{1 + b/B}` at the current batch b of an epoch of B."""
        if self.alpha_schedule == "constant":
            return self.alpha
        batches = self._batches
        if batches is None:
            warn_once(
                self,
                "MLA's alpha schedule does not know the number of steps per epoch, so alpha stays at its start. Call "
                "method.on_train_epoch_start(EpochContext(epoch, steps=...)), or use alpha_schedule='constant'.",
                ScheduleWarning,
            )
            return self.alpha
        return float(self.alpha ** (1 + min(self._batch, batches) / batches))

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Start of the alpha schedule; the projector is reset here with ``projector_reset="epoch"``."""
        self._batch = 0
        if self.scores is not None:
            self.scores.end_epoch()
        if self.alpha_schedule == "epoch":
            self._batches = context.steps or self._batches
        if self.projector_reset == "epoch":
            self.projection.restart()

    def on_train_epoch_end(self, context: EpochContext) -> None:
        """Flat projectors of each modality are made from the covariances of all the others."""
        self.projection.end_epoch()
        for m in self.modalities:
            self.projection.forget(m)

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The shared head's output for each modality's features."""
        return {m: self.head(h) for m, h in features.items()}

    @property
    def single_samples(self) -> bool:
        """Not with ``variant="released"``, which weighs whole batches."""
        return self.variant != "released" and self.inference.custom is None

    def combine(
        self, fused: Tensor | None, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Prediction:
        """As :meth:`Method.combine`; ``variant="released"`` forms one weight per batch."""
        prediction = super().combine(fused, unimodal, present)
        by_batch = self.variant == "released" and prediction.rule == "uncertainty"
        return fuse_by_batch(prediction, present) if by_batch else prediction
