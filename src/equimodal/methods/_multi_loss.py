"""Joint training with unimodal losses: the strongest simple control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from equimodal._utils.arguments import check_number
from equimodal.batch import Batch
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.inference import Rule
from equimodal.methods._base import ALL_TASKS, MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods.parts import LossShares, linear_heads, own_rows
from equimodal.tasks import Task


class MultiLoss(Joint):
    r"""Joint training plus one loss per modality, :math:`L(z, y) + \lambda \sum_m L(u_m, y)` with own linear heads.

    Args:
        model: encoders, fusion and head.
        task: gives the loss.
        weight: :math:`\lambda \ge 0`; 1 is usual in the literature.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: rule; default the joint head.
        calibrated: fit one temperature per modality on validation data.

    Deviations: none. Works with everything that :class:`Joint` works with.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel, PlainEngine
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = MultiLoss(model, Classification(2))
        >>> batch = Batch({"audio": torch.randn(6, 5), "video": torch.randn(6, 3)}, torch.tensor([0, 1] * 3))
        >>> report = method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)))
        >>> sorted(report.losses)
        ['fused', 'joint', 'unimodal/audio', 'unimodal/video']
    """

    info = MethodInfo(
        title="Joint training with unimodal losses",
        paper="Control; part of many methods (G-Blend, MMPareto, QMF ...).",
        equations="L(z, y) + weight * sum_m L(u_m, y)",
        family="objective",
        tasks=ALL_TASKS,
        modalities="any number",
        fusion="any",
        missing=MASKED,
        cost="1 joint step and M small heads",
        defaults={"weight": "1, as usual in the literature"},
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        role="baseline",
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        weight: float = 1.0,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_number("weight", weight, at_least=0)
        self.weight = weight
        self.heads = linear_heads(self.multimodal, task, heads)

    def _has_unimodal(self) -> bool:
        return True

    def _objective(self, shares: LossShares, batch: Batch) -> Objective:
        features = self._features(batch)
        output = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        fused = shares.loss(output, cast(Tensor, batch.target), batch)
        losses = {"fused": fused.detach()}
        total = fused
        for m, z in self.heads(features).items():
            own = shares.loss(*own_rows(z, batch, m), batch, m)
            total = total + self.weight * own
            losses[f"unimodal/{m}"] = own.detach()
        return Objective(total, losses)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the sum of losses."""
        objective = partial(self._objective, LossShares(self.task, batches, self.modalities))
        return [Phase("joint", objective, [*self.model.parameters(), *self.heads.parameters()])]

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the own heads."""
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs
