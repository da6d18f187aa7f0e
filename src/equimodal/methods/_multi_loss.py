"""Joint training with unimodal losses: the strongest simple control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from equimodal._utils.modules import parameters_in
from equimodal.batch import Batch, Tree
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.inference import Rule
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import linear_heads
from equimodal.tasks import Task


class MultiLoss(Joint):
    r"""Joint training plus one loss per modality, :math:`L(z, y) + \lambda \sum_m L(u_m, y)` with own linear heads.

    Args:
        weight: :math:`\lambda`.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
    """

    info = MethodInfo(
        title="Joint training with unimodal losses",
        idea="joint loss plus one loss per modality",
        paper="Control; part of many methods (G-Blend, MMPareto, QMF ...).",
        equations="L(z, y) + weight * sum_m L(u_m, y)",
        family="objective",
        modalities="any number",
        missing=MASKED,
        cost="1 joint step and M small heads",
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        role="baseline",
    )
    single_loss = False

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        weight: Annotated[float, Within(at_least=0), "as usual in the literature"] = 1.0,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(MultiLoss.__init__, locals())
        self.weight = weight
        self.heads = linear_heads(self.multimodal, task, heads)

    def _has_unimodal(self) -> bool:
        return True

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the sum of losses."""
        return [Phase("joint", self._objective, [*parameters_in(self.model), *parameters_in(self.heads)])]

    def _objective(self, batch: Batch) -> Objective:
        parts, features, _ = self._parts(batch)
        total, losses = parts["fused"], {name: loss.detach() for name, loss in parts.items()}
        for name, own in parts.items():
            total = total if name == "fused" else torch.add(total, own, alpha=self.weight)
        for name, (weight, term) in self._terms(features, batch).items():
            total, losses[name] = torch.add(total, term, alpha=weight), term.detach()
        return Objective(total, losses)

    def _parts(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tree], dict[str, Tensor]]:
        """The losses ``fused`` and ``unimodal/m``, with their graphs; features; outputs of the own heads."""
        features: dict[str, Tree] = self._features(batch)
        fused, outputs = self.loss(self._fused(features, batch), batch), self.heads(features)
        own = {f"unimodal/{m}": self.loss(z, batch, m) for m, z in outputs.items()}
        return {"fused": fused, **own}, features, outputs

    def _terms(self, features: Mapping[str, Tree], batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Name -> weight and value of what a subclass adds to the loss."""
        return {}

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the own heads."""
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs
