"""UMT: encoders stay close to teachers that were trained on one modality each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import Objective, Sharpness
from equimodal.errors import ModelError, did_you_mean
from equimodal.inference import Rule
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import Companions, feature_gap, mean_over_batch
from equimodal.tasks import Task


class UMT(Joint):
    r"""Uni-modal teacher (Du et al., ICML 2023): joint training with features near those of unimodal teachers.

    .. math:: L = L(u, y) + \lambda \frac1B \sum_i \sum_m \|z_{m,i} - z^T_{m,i}\|^2 / d_m

    The teachers :math:`z^T_m` are frozen, in evaluation mode, and see the same augmented samples. A sample without a
    modality has no gap in it.

    Args:
        teachers: modality -> a method trained on it (:class:`Unimodal`, or one :class:`Ensemble` for all), a model, or
            an encoder. In a comparison: ``uses: {teachers: {audio: LABEL, ...}}``. Their features must have the
            student's kind and width.
        weight: :math:`\lambda`.

    Raises:
        ModelError: a modality without a teacher or a teacher without a modality; in a step, features of another width.
        MethodError: the weight is below 0, or a step without the teachers' modules.
    """

    info = MethodInfo(
        title="Uni-modal teacher",
        idea="features are held near those of frozen unimodal teachers",
        paper="Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023, arXiv "
        "2305.01233",
        equations="joint loss and squared distance to the features of unimodal teachers",
        family="distillation",
        modalities="two or more, with a teacher each",
        missing=MASKED + "; a sample without a modality has no gap in it",
        cost="1.3 joint steps, and the training of the teachers",
        deviations=("the weight of the paper is not known to us: that of BalanceBenchmark is the default",),
        released=("nothing was seen; BalanceBenchmark adds the term in a window of epochs only",),
        consulted="abstract; GeWu-Lab/BalanceBenchmark at 4c1482f",
    )
    min_modalities = 2

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        teachers: Companions | Mapping[str, nn.Module],
        weight: Annotated[float, Within(at_least=0), "BalanceBenchmark"] = 10.0,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(UMT.__init__, locals())
        self.weight, self.reduction = weight, "mean"
        self.teachers = Companions.of(teachers, self.multimodal)
        named = self.teachers.names
        if named != ("",) and set(named) != set(self.modalities):  # "": one that is named to predict, not loaded
            strange = sorted(set(named) - set(self.modalities))
            raise ModelError(
                f"`teachers`: expected one per modality {list(self.modalities)}. Found {sorted(named)}."
                f"{did_you_mean(strange, self.modalities)}"
            )

    def _objective(self, batch: Batch) -> Objective:
        features, taught = self._features(batch), self.teachers.features(batch)
        output = self._fused(features, batch)
        total = self.loss(output, batch)
        losses = {"fused": total.detach()}
        for name, (weight, term) in self._terms(features, taught, output, batch).items():
            total, losses[name] = total + weight * term, term.detach()
        return Objective(total, losses)

    def _terms(
        self, features: Mapping[str, Tree], taught: Mapping[str, Tree], output: Tensor, batch: Batch
    ) -> dict[str, tuple[float, Tensor]]:
        """Name -> weight and value of what the teachers add to the loss."""
        reduction: Any = self.reduction
        gaps = {m: feature_gap(features[m], t, reduction, f"teachers[{m!r}]") for m, t in taught.items()}
        return {"features": (self.weight, mean_over_batch(gaps, batch))}
