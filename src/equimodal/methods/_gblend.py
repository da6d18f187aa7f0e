"""G-Blend: losses weighted by how well they generalise, found by training each of them aside for a while."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import blending_weights
from equimodal.inference import Inference, Rule
from equimodal.methods._base import EpochContext, Scales, StepReport
from equimodal.methods._info import OWN_ROWS, MethodInfo
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import lacking, probe_run, unimodal_phase
from equimodal.tasks import Task, distribution_of


class GBlend(MultiLoss):
    r"""Gradient blending (Wang, Tran and Feiszli, CVPR 2020, equation 4 and algorithms 1 and 2).

    :math:`L = w_0 L(z, y) + \sum_m w_m L(u_m, y)` with own linear heads. At the start of each super-epoch every loss k
    is trained alone, by a copy of the model as it is, for as many epochs; with its gain on validation data
    :math:`G_k = -\Delta L^v_k` and the growth of its overfitting :math:`O_k = \Delta (L^v_k - L^t_k)`,
    :math:`w_k \propto G_k / O_k^2` and the weights sum to 1. A loss that gained nothing, or whose modality nobody has,
    gets 0; where none gained, the weights stay.

    Args:
        super_epoch: epochs between two estimates. As many as the whole training has is the paper's offline variant.
        probe_epochs: epochs that each copy is trained for; ``None`` is ``super_epoch``, or what is left of training.
        floor: smallest growth of overfitting, relative to the loss.
        heads: modality -> module from its features to the output; default one linear layer each.

    Raises:
        MethodError: a super-epoch starts without ``loader``, ``engine`` or ``validation`` in the context.
    """

    info = MethodInfo(
        title="Gradient blending",
        idea="losses weighted by how well they generalise",
        paper="Wang, Tran and Feiszli, What Makes Training Multi-modal Classification Networks Hard?, CVPR 2020, "
        "arXiv 1905.12681",
        equations="overfitting-to-generalisation ratio, optimal blend (4), algorithms 1 and 2",
        family="objective",
        missing=OWN_ROWS,
        cost="3 joint steps: 1, and 2 of the copies, if probe_epochs is super_epoch",
        deviations=(
            "gains below 0 count as 0, which the paper does not treat, and overfitting has a smallest size",
            "where no loss gained anything the weights stay",
        ),
        released=(
            "the authors' code (VMZ) takes the weights as options and does not estimate them",
            "ports sum losses over batches, or (MultiBench) use levels instead of differences",
        ),
        consulted="paper; facebookresearch/VMZ; pliang279/MultiBench at 09a2219 (training_structures/"
        "gradient_blend.py); GeWu-Lab/BalanceBenchmark at 4c1482f (GBlending_trainer.py)",
        engine={"sharded": "refused: the copies that it trains aside cannot be made of sharded parameters"},
    )
    weights: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        super_epoch: Annotated[int, Within(at_least=1, whole=True), "BalanceBenchmark"] = 10,
        probe_epochs: Annotated[int | None, Within(at_least=1, whole=True), "paper: a super-epoch"] = None,
        floor: Annotated[float, Within(above=0), "ours: the paper has none"] = 0.01,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(GBlend.__init__, locals())
        self.super_epoch, self.probe_epochs, self.floor = super_epoch, probe_epochs, floor
        self.alone: str | None = None
        like, count = next(self.heads.parameters()).detach(), len(self.modalities) + 1
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.register_buffer("weights", torch.full((count,), 1 / count, dtype=dtype, device=like.device))

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """At the start of a super-epoch: train a copy on each loss alone, and weigh by what it gained."""
        if context.epoch % self.super_epoch:
            return
        if context.validation is None:
            raise lacking(self, "validation", "weighs losses by what they gain on validation data")
        left = self.super_epoch if context.epochs is None else max(1, context.epochs - context.epoch)
        epochs, names = self.probe_epochs or min(self.super_epoch, left), ("fused", *self.modalities)
        runs = {n: probe_run(self, context, epochs=epochs, adjust=partial(GBlend.only, name=n)) for n in names}
        losses = self.weights.new_tensor([run.losses(n) for n, run in runs.items()])
        training, validation = (losses[:, 0], losses[:, 1]), (losses[:, 2], losses[:, 3])
        self.weights.copy_(blending_weights(training, validation, self.weights, self.floor))

    def only(self, name: str) -> None:
        """Train the loss of this name alone from now on: that of a modality, or ``"fused"``."""
        self.alone = name
        fused = Inference(self.modalities, "fused", distribution=distribution_of(self.task))
        self.inference = fused.to(self.weights.device)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the weighted sum of losses; of a copy what its loss trains."""
        if self.alone in self.modalities:
            return [unimodal_phase(self, self.alone, self.heads[self.alone])]
        heads = [] if self.alone else list(self.heads.parameters())
        return [Phase("joint", self._objective, [*self.model.parameters(), *heads])]

    def _objective(self, batch: Batch) -> Objective:
        if self.alone == "fused":
            return Objective(self.loss(self._fused(self._features(batch), batch), batch))
        losses = self._parts(batch)[0]
        names = ["fused", *(f"unimodal/{m}" for m in self.modalities)]
        weights = dict(zip(names, self.weights.to(losses["fused"].dtype).unbind(), strict=True))
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return Objective(total, {name: loss.detach() for name, loss in losses.items()})

    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """The gradients stay as they are; the report gets the weights."""
        names: Any = ("fused", *self.modalities)
        report.coefficients["weight"] = dict(zip(names, self.weights.clone().unbind(), strict=True))
        return ()
