"""Joint training: the reference of every comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.errors import UnsupportedError
from equimodal.inference import Rule
from equimodal.methods._base import ALL_TASKS, MASKED, Method, MethodInfo
from equimodal.methods.parts import LossShares, check_way, usual_way
from equimodal.tasks import Task
from equimodal.unimodal import Way


class Joint(Method):
    r"""Plain joint training, :math:`L(\mathrm{head}(\mathrm{fuse}(h_1..h_M)), y)`: the reference of every comparison.

    Args:
        model: encoders, fusion and head; all of them are trained.
        task: gives the loss.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: ``"fused"`` reads the joint head. The other rules read unimodal outputs, which exist (split exactly)
            with an affine head on an additive fusion, or come from ``unimodal``.
        calibrated: fit one temperature per modality on validation data.
        unimodal: where unimodal outputs come from: ``"split"``, ``"masked"``, ``"shapley"`` or an object of
            :mod:`equimodal.unimodal`; default the exact split where there is one (for a late fusion its heads, for a
            regression nothing, since addends are no predictions). It changes what is read off the trained model, not
            the training.

    Raises:
        UnsupportedError: ``inference`` needs unimodal outputs, of which there are none.
        ModelError: the model does not allow what ``unimodal`` asks for.

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
        tasks=ALL_TASKS,
        modalities="any number",
        fusion="any",
        missing=MASKED,
        cost="1 joint step, by definition",
        defaults={
            "inference": "the joint head is what this control trains",
            "unimodal": "the exact split where the head is additive, the heads of a late fusion (ours)",
        },
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        role="reference",
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
        unimodal: Way | nn.Module | None = None,
    ) -> None:
        super().__init__(
            model, task, sharpness=sharpness, inference=inference, calibrated=calibrated, unimodal=unimodal
        )
        if unimodal is None and type(self).unimodal_outputs is Joint.unimodal_outputs:
            self.unimodal = usual_way(self.multimodal, task)
        check_way(self.unimodal, task, inference)
        if inference not in ("fused", "auto") and self.unimodal is None and not self._has_unimodal():
            raise UnsupportedError(
                f"`inference`: {inference!r} needs unimodal outputs, which {type(self).__name__} has only with a "
                "linear head on Concat or Sum, or a Late fusion (for a regression only the latter). Use "
                "inference='fused', unimodal='masked', or MultiLoss."
            )

    def _has_unimodal(self) -> bool:
        return usual_way(self.multimodal, self.task) is not None

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        return self.multimodal.encode(batch.inputs, batch.present)

    def _joint_objective(self, shares: LossShares, batch: Batch) -> Objective:
        features = self._features(batch)
        output = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        return Objective(shares.loss(output, cast(Tensor, batch.target), batch))

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss."""
        objective = partial(self._joint_objective, LossShares(self.task, batches))
        return [Phase("joint", objective, list(self.model.parameters()))]

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The exact split of an additive head, or the heads of a late fusion; empty where there is neither."""
        way = usual_way(self.multimodal, self.task)
        outputs: dict[str, Tensor] = {} if way is None else way(features)
        return outputs
