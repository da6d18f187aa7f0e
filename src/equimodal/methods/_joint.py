"""Joint training: the reference of every comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Objective, Phase
from equimodal.errors import UnsupportedError
from equimodal.inference import Rule
from equimodal.methods._base import MASKED, Method, MethodInfo
from equimodal.methods._heads import can_split, split_outputs
from equimodal.sharpness import Sharpness
from equimodal.tasks import Task


class Joint(Method):
    r"""Plain joint training, :math:`L(\mathrm{head}(\mathrm{fuse}(h_1..h_M)), y)`: the reference of every comparison.

    Args:
        model: encoders, fusion and head; all of them are trained.
        task: gives the loss.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: ``"fused"`` reads the joint head. The other rules read unimodal outputs, which exist (split exactly)
            only with a linear head on Concat or Sum.
        calibrated: fit one temperature per modality on validation data.

    Raises:
        UnsupportedError: ``inference`` needs unimodal outputs and the head is not additive.

    Works with: any number of modalities, any fusion and head, absent modalities, every engine feature of
    :class:`~equimodal.PlainEngine`. Deviations: none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> Joint(model, Classification(2)).predict({"audio": torch.zeros(1, 5), "video": torch.zeros(1, 3)}).rule
        'fused'
    """

    info = MethodInfo(
        title="Joint training",
        paper="Control; no paper of its own.",
        equations="L(head(fuse(h_1, ..., h_M)), y)",
        family="objective",
        tasks=("classification",),
        modalities="any number",
        fusion="any",
        missing=MASKED,
        cost="1 joint step, by definition",
        defaults={"inference": "the joint head is what this control trains"},
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
    )
    min_modalities = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        if inference not in ("fused", "auto") and not self._has_unimodal():
            raise UnsupportedError(
                f"`inference`: {inference!r} needs unimodal outputs, which {type(self).__name__} has only with a "
                "linear "
                "head on Concat or Sum. Use inference='fused', or MultiLoss."
            )

    def _has_unimodal(self) -> bool:
        return can_split(self.multimodal)

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        return self.multimodal.encode(batch.inputs, batch.present)

    def _joint_objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        output = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        return Objective(self.task.loss(output, cast(Tensor, batch.target)))

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss."""
        return [Phase("joint", self._joint_objective, list(self.model.parameters()))]

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The exact split of an additive head; empty otherwise."""
        return split_outputs(self.multimodal, features) if can_split(self.multimodal) else {}
