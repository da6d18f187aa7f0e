"""DGL: encoders learn from unimodal losses alone, fusion and head from the fused loss alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.inference import Rule
from equimodal.methods._base import Method
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import FixedHead, detached, zero_features
from equimodal.tasks import Task
from equimodal.unimodal import Masked


class DGL(Method):
    r"""Disentangled gradient learning (Wei et al., ICCV 2025): the gradient between fusion and encoders is cut.

    With :math:`u = f(z_1, \dots, z_M; \psi)` the fused output and :math:`u_m = f(0, \dots, z_m, \dots, 0; \psi)` the
    output of the same fusion and head with the features of all others set to zero,

    .. math:: L = L(f(\mathrm{sg}(z); \psi), y) + \alpha \sum_m L(f(0, \dots, z_m, \dots, 0; \mathrm{sg}(\psi)), y)

    so the encoders follow a head that only the fused loss trains. There are no further parameters. One backward pass
    gives what the two of the released code give.

    Args:
        weight: :math:`\alpha`. Under SGD it is a factor on the encoders' learning rate; an optimizer that divides by
            the size of the gradient (Adam) cancels it. Released scripts: 4 to 5 for CREMA-D, 2 to 3 for
            Kinetics-Sounds, with SGD at 2e-3.
    """

    info = MethodInfo(
        title="Disentangled gradient learning",
        idea="encoders learn from unimodal losses only, fusion and head from the fused loss only",
        paper="Wei et al., Boosting Multimodal Learning via Disentangled Gradient Learning, ICCV 2025, arXiv "
        "2507.10213",
        equations="fused loss on detached features for fusion and head; unimodal losses through the same head, with "
        "its parameters held, for the encoders",
        family="objective",
        missing=MASKED,
        cost="1 joint step: one backward pass through the encoders, M + 1 passes of fusion and head",
        deviations=("none",),
        released=(
            "with the gated fusion, the layers before the gate get no gradient from either loss and keep their "
            "initial weights, so the encoders learn through a random map",
            "with FiLM the unimodal output is the product of a modality with itself",
        ),
        consulted="abstract and README; shicaiwei123/ICCV2025-GDL at b72a55f",
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        weight: Annotated[float, Within(above=0), "released default"] = 4.0,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(DGL.__init__, locals())
        self.weight = weight
        self._fixed = FixedHead(self.multimodal)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: both kinds of losses, whose parameters have nothing in common."""
        return [Phase("joint", self._objective, list(self.model.parameters()))]

    def _objective(self, batch: Batch) -> Objective:
        features = self.multimodal.encode(batch.inputs, batch.present)
        own = {m: detached(z) for m, z in features.items()}
        total = self.loss(self.multimodal.head(self.multimodal.fuse(own, batch.present)), batch)
        losses = {"fused": total.detach()}
        for m in features:
            alone = {n: z if n == m else zero_features(z) for n, z in features.items()}
            unimodal = self.loss(self._fixed(alone), batch, m)
            total = total + self.weight * unimodal
            losses[f"unimodal/{m}"] = unimodal.detach()
        return Objective(total, losses)

    def unimodal_outputs(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """The fused output with the features of all others set to zero."""
        outputs: dict[str, Tensor] = Masked(self.model, "zeros")(features)
        return outputs
