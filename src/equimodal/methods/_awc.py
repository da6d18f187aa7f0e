"""AWC: encoders are held back early by a Fisher-weighted distance to an anchor, the superior ones more strongly."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from equimodal._utils.precision import widest_float
from equimodal.batch import Batch
from equimodal.engine import (
    Descent,
    Engine,
    Objective,
    Phase,
    Sharpness,
    all_sum,
    evaluating,
    is_sharded,
    paused_statistics,
)
from equimodal.errors import UnsupportedError
from equimodal.functional import correlation, shapley_values, superior
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Scales, Stateful, StepReport
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import encoder_parameters, lacking, zero_features
from equimodal.tasks import Task, mean_ratio


class AWC(Stateful, Joint):
    r"""Adaptive weight constraint (CVPR 2026), and the uniform one that is its control. Experimental.

    In the first epochs each encoder is pulled back to an anchor :math:`\theta^*`:

    .. math:: L = L_{task} + \sum_m \frac{\alpha_m}{2} \sum_i F_{ii} (\theta_i - \theta_i^*)^2

    F is the mean squared gradient of single samples at the anchor. The profit of a set of modalities is, over the
    batch, the correlation of its prediction (features of the others zero) with the target, summed over the coordinates;
    2-means on the Shapley values of the profit tells superior from inferior modalities, which have two strengths
    :math:`\alpha`. In tasks without numbers to correlate the profit is the task's score.

    The paper was read in notes only, which disagree about the anchor; hence the option, and hence experimental.

    Args:
        constraint: ``"uniform"`` has ``superior_strength`` for all encoders and needs no profit: by the paper's own
            ablation it gives most of the gain.
        superior_strength: :math:`\alpha` of the superior modalities.
        inferior_strength: :math:`\alpha` of the others.
        epochs: in which the constraint acts.
        anchor: weights, and F at them, of the start of each epoch, or of the start of training.
        samples: F is measured on so many training samples (of each process); each takes a backward pass of its own.

    Raises:
        MethodError: an epoch begins without a loader while the constraint acts.
    """

    info = MethodInfo(
        title="Adaptive weight constraint (experimental)",
        idea="encoders are pulled back to an anchor early on, the superior modalities more",
        paper="CVPR 2026, arXiv 2501.05264",
        equations="profit by correlation, Shapley values, two groups, Fisher-weighted quadratic constraint",
        family="objective",
        modalities="two or more; 2^M passes of fusion and head while it adapts",
        missing=MASKED,
        cost="1 joint step; a backward pass for each of `samples` samples at the start of an epoch while it acts",
        deviations=(
            "the anchor is an option: what we read of the paper does not agree on it",
            "for tasks other than regression the profit is the task's score (ours)",
            "F is measured on some of the training samples, and in evaluation mode",
        ),
        released=("not read: the repository is not stored",),
        consulted="notes on the paper; neither its text nor its code",
        engine={"sharded": "refused: anchors and Fisher information are kept for whole weights"},
    )
    state = ("_acts", "_anchored")

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        constraint: Annotated[Literal["adaptive", "uniform"], "paper"] = "adaptive",
        superior_strength: Annotated[float, Within(at_least=0), "paper (MM-Fi)"] = 20_000.0,
        inferior_strength: Annotated[float, Within(at_least=0), "paper (MM-Fi)"] = 10_000.0,
        epochs: Annotated[int, Within(at_least=0, whole=True), "paper: 20 of 50"] = 20,
        anchor: Annotated[Literal["epoch", "initial"], "ours: see above"] = "epoch",
        samples: Annotated[int, Within(at_least=1, whole=True), "ours"] = 256,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(AWC.__init__, locals())
        self.constraint, self.anchor, self.epochs, self.samples = constraint, anchor, epochs, samples
        self.strengths = (superior_strength, inferior_strength)
        self._acts, self._anchored = False, False
        for number, p in enumerate(encoder_parameters(self)):
            self.register_buffer(f"anchor_{number}", p.detach().clone())
            self.register_buffer(f"fisher_{number}", torch.zeros_like(p))

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """A new anchor, with the Fisher information at it."""
        self._acts = context.epoch < self.epochs
        if self._acts and not (self._anchored and self.anchor == "initial"):
            if context.loader is None:
                raise lacking(self, "loader", "measures Fisher information on training samples", "epochs=0")
            self._measure(context)

    def _measure(self, context: EpochContext) -> None:
        parameters = encoder_parameters(self)
        if any(is_sharded(p) for p in parameters):
            raise UnsupportedError("AWC: expected whole encoders. Found sharded ones. Shard other parts of the model.")
        asking = [p for p in parameters if p.requires_grad]
        total = {f"{i}": torch.zeros_like(p) for i, p in enumerate(parameters)}
        count = torch.zeros((), device=parameters[0].device)
        place = {id(p): f"{i}" for i, p in enumerate(parameters)}
        with evaluating(self):
            for raw in context.loader or ():
                batch = self.check_batch(raw).to(parameters[0].device)
                for row in range(min(len(batch), self.samples - int(count))):
                    one = batch.select(torch.tensor([row], device=parameters[0].device))
                    loss = self.loss(self._fused(self._features(one), one), one)
                    found = torch.autograd.grad(loss, asking, allow_unused=True)
                    for p, g in zip(asking, found, strict=True):
                        if g is not None:
                            total[place[id(p)]] += g.square()
                    count += 1
                if int(count) >= self.samples:
                    break
        whole = all_sum({**total, "count": count})
        with torch.no_grad():
            for i, p in enumerate(parameters):
                getattr(self, f"anchor_{i}").copy_(p)
                getattr(self, f"fisher_{i}").copy_(whole[f"{i}"] / whole["count"].clamp_min(1))
        self._anchored = True

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        sums = self._profit(features, batch) if self._acts and self.constraint == "adaptive" else {}
        return Objective(self.loss(self._fused(features, batch), batch), {}, sums)

    @torch.no_grad()
    def _profit(self, features: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
        """For each set of modalities (the first is the least bit), sums over the samples of what its profit is of."""
        found = []
        with paused_statistics(self.model):
            for bits in product((False, True), repeat=len(self.modalities)):
                kept = dict(zip(self.modalities, reversed(bits), strict=True))
                inside = {m: f if kept[m] else zero_features(f) for m, f in features.items()}
                output, target = self._rows(self._fused(inside, batch), batch, None)
                if self.task.name == "regression":
                    x = self.task.probabilities(output).reshape(len(target), -1)
                    x = x.to(widest_float(x.device))
                    y = target.reshape(len(target), -1).to(x)
                    found.append(torch.stack([x.sum(0), y.sum(0), (x * y).sum(0), (x * x).sum(0), (y * y).sum(0)], -1))
                else:
                    found.append(torch.stack(self.task.score_terms(output, target)))
        return {"profit": torch.stack(found), "samples": torch.full_like(found[0].flatten()[0], len(batch))}

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """The gradient of the constraint is added to the encoders'."""
        if not self._acts:
            return ()
        ahead = torch.ones(len(self.modalities), dtype=torch.bool, device=phase.device)
        if self.constraint == "adaptive":
            sums = engine.all_sum({name: descent.sums[name] for name in ("profit", "samples")})
            if self.task.name == "regression":
                worth = correlation(sums["profit"], sums["samples"]).sum(-1)
            else:
                worth = torch.stack([mean_ratio(*pair.unbind()) for pair in sums["profit"]]).nan_to_num(0.0)
            shares = shapley_values(worth[None])[0]
            ahead = superior(shares)
            report.coefficients["profit"] = dict(zip(self.modalities, shares.unbind(), strict=True))
        wide = widest_float(ahead.device)
        more, less = (torch.full((), s, dtype=wide, device=ahead.device) for s in self.strengths)
        strengths = torch.where(ahead, more, less)
        report.coefficients["strength"] = dict(zip(self.modalities, strengths.unbind(), strict=True))
        number = 0
        for m, strength in zip(self.modalities, strengths, strict=True):
            for p in self.multimodal.parameters_of(m):
                if p.grad is not None:
                    anchor, fisher = getattr(self, f"anchor_{number}"), getattr(self, f"fisher_{number}")
                    p.grad.add_(strength.to(p.dtype) * fisher * (p - anchor))
                number += 1
        return ()
