"""MMPareto: the fused and the unimodal gradient of each encoder, made into one that harms neither loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness, local
from equimodal.functional import norm_restoration, pareto_weights
from equimodal.inference import Rule
from equimodal.methods._base import Scales, StepReport
from equimodal.methods._info import OWN_ROWS, UPDATES, MethodInfo
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import encoder_parameters, scale_encoders
from equimodal.tasks import Task


class MMPareto(MultiLoss):
    r"""Pareto directions of fused and unimodal losses (Wei and Hu, ICML 2024, equations 5 to 9).

    Encoder m has two gradients, :math:`g_0` of the fused loss and :math:`g_m` of its own head's loss. Where they agree
    it takes their sum. Where they conflict, :math:`\langle g_0, g_m \rangle \le 0`, it takes
    :math:`h = 2 w g_0 + 2 (1 - w) g_m` with the w that makes h shortest, a descent direction of both losses, at the
    length of the sum:

    .. math:: \theta_m \leftarrow \theta_m - \eta \gamma \max(1, \|g_0 + g_m\| / \|h\|)\, h

    Heads and fusion take the gradient of the sum of all losses. Without conflict a step is that of
    :class:`MultiLoss` with :math:`\gamma` times the encoders' rate: ``conflict/m`` of the report says how often.

    Args:
        gamma: acts in every step; of the update under optimizers that cancel a factor on the gradient (Adam).
        heads: modality -> module from its features to the output; default one linear layer each.
        variant: ``"released"`` gives each tensor of an encoder the length of the sum, which turns the gradient.
    """

    info = MethodInfo(
        title="Pareto integration of unimodal losses",
        idea="fused and unimodal gradient of an encoder in a direction that harms neither",
        paper="Wei and Hu, MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance, ICML 2024, "
        "arXiv 2405.17730",
        equations="conflict test, min-norm weights of two tasks, restored length, gamma; algorithm 1",
        family="gradient modulation",
        modalities="two or more: each encoder has two tasks, whatever their number",
        missing=OWN_ROWS,
        cost="1.7 joint steps: one forward pass, a backward pass of each loss",
        deviations=(
            "the factor that restores the length is at most 10: it is infinite for opposite gradients",
            UPDATES,
        ),
        released=(
            "the length is restored for each tensor of an encoder by itself, which changes the direction",
            "the schedule of the learning rate is made and never stepped: it stays at 2e-3 for all 50 epochs",
            "the clipping of the weights to [0.001, 0.999] never acts",
        ),
        consulted="paper; GeWu-Lab/MMPareto_ICML2024 at a339db3 (MMPareto.py, min_norm_solvers.py)",
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        gamma: Annotated[float, Within(above=0), "released code; constant in its script"] = 1.5,
        heads: Mapping[str, nn.Module] | None = None,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(MMPareto.__init__, locals())
        self.gamma, self.variant = gamma, variant

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One, with the gradients of each loss apart for the encoders."""
        trained = [*self.model.parameters(), *self.heads.parameters()]
        return [Phase("joint", self._objective, trained, separate=encoder_parameters(self))]

    def _objective(self, batch: Batch) -> Objective:
        return Objective.sum_of(self._parts(batch)[0])

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """g_m <- the common direction; gamma on the gradient or the update."""
        factors = {}
        for m in self.modalities:
            parameters = [p for p in self.multimodal.parameters_of(m) if p.grad is not None]
            names = ["fused", f"unimodal/{m}"]
            if not parameters or names[1] not in descent.gradients:
                continue
            gram = descent.gradients.gram(parameters, names)
            weights = pareto_weights(gram)
            length = norm_restoration(gram, weights)
            pairs = zip(*(descent.gradients.of(name, parameters) for name in names), strict=True)
            for p, pair in zip(parameters, pairs, strict=True):
                if self.variant == "released":
                    length = norm_restoration(descent.gradients.gram([p], names), weights, torch.inf)
                both = zip(pair, weights, strict=True)
                terms = [local(g) * (2 * w * length).to(g.dtype) for g, w in both if g is not None]
                local(cast(Tensor, p.grad)).copy_(torch.stack(terms).sum(0))
            report.extras[f"conflict/{m}"] = (gram[0, 1] <= 0).float()
            report.coefficients.setdefault("fused weight", {})[m] = weights[0]
            factors[m] = torch.full_like(weights[0], self.gamma)
        return scale_encoders(self, engine, report, factors)
