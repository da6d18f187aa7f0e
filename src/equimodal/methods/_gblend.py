"""G-Blend: losses weighted by how well they generalise, found by training each of them aside for a while."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.functional import blending_weights
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, StepReport
from equimodal.methods._info import OWN_ROWS, MethodInfo
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import lacking, per_modality, probe_run, train_alone, weighted_objective
from equimodal.tasks import Task


class GBlend(MultiLoss):
    r"""Gradient blending (Wang, Tran and Feiszli, CVPR 2020, equation 4 and algorithms 1 and 2).

    :math:`L = w_0 L(z, y) + \sum_m w_m L(u_m, y)` with own linear heads. At the start of each super-epoch every loss k
    is trained alone, by a copy of the model as it is, for as many epochs; with its gain on validation data
    :math:`G_k = -\Delta L^v_k` and the growth of its overfitting :math:`O_k = \Delta (L^v_k - L^t_k)`,
    :math:`w_k \propto G_k / O_k^2` and the weights sum to 1. A loss that gained nothing, or whose modality nobody has,
    gets 0; where none gained, the weights stay. Under SGD a step is shorter than that of :class:`MultiLoss`.

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
        deviations=("gains below 0 count as 0; overfitting has a smallest size; without any gain the weights stay",),
        released=(
            "the authors' code (VMZ) takes the weights as options and does not estimate them",
            "ports sum losses over batches, or (MultiBench) use levels instead of differences",
        ),
        consulted="paper; facebookresearch/VMZ; pliang279/MultiBench at 09a2219; GeWu-Lab/BalanceBenchmark at 4c1482f",
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
        self.losses = ("fused", *self.modalities)
        equal = per_modality(self, 1 / len(self.losses))
        self.register_buffer("weights", torch.cat([equal[:1], equal]))

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """At the start of a super-epoch: train a copy on each loss alone, and weigh by what it gained."""
        if context.epoch % self.super_epoch:
            return
        if context.validation is None:
            raise lacking(self, "validation", "weighs losses by what they gain on validation data")
        left = self.super_epoch if context.epochs is None else max(1, context.epochs - context.epoch)
        epochs = self.probe_epochs or min(self.super_epoch, left)
        runs = {n: probe_run(self, context, epochs=epochs, adjust=partial(train_alone, name=n)) for n in self.losses}
        t0, t1, v0, v1 = self.weights.new_tensor([run.losses(n) for n, run in runs.items()]).unbind(1)
        self.weights.copy_(blending_weights((t0, t1), (v0, v1), self.weights, self.floor))

    def _objective(self, batch: Batch) -> Objective:
        names = ("fused", *(f"unimodal/{m}" for m in self.modalities))
        return weighted_objective(self._parts(batch)[0], dict(zip(names, self.weights, strict=True)))

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """The report gets the weights of the step."""
        report.coefficients["weight"] = dict(zip(self.losses, self.weights.clone().unbind(), strict=True))
