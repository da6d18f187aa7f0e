"""Unimodal models and their ensemble: no interaction, no competition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Phase, Sharpness
from equimodal.inference import Rule
from equimodal.methods._info import OWN_ROWS, MethodInfo
from equimodal.methods.parts import BranchMethod, linear_heads, unimodal_phase
from equimodal.tasks import Task


class Ensemble(BranchMethod):
    """Unimodal models trained independently and combined at prediction time (UME): no interaction, no competition.

    Each modality has its own head, loss, backward pass and step (clipping included), so with an elementwise optimizer
    this equals M separate trainings on the same batches. The model's fusion and head take no part.

    Args:
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
    """

    info = MethodInfo(
        title="Unimodal ensemble (UME)",
        idea="modalities trained apart, averaged at the end",
        paper="Control; named UME in Du et al., On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, "
        "ICML 2023, arXiv 2305.01233.",
        equations="mean over m of softmax(head_m(h_m)), each trained on its own loss",
        family="alternating",
        modalities="any number",
        fusion="ignored",
        missing=OWN_ROWS,
        cost="1 joint step (M unimodal ones)",
        deviations=("one epoch is selected for the whole ensemble, not one per member",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        role="independent",
    )
    min_modalities = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "mean of probabilities"] = "mean",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.heads = linear_heads(self.multimodal, task, heads)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per modality."""
        for m in self.trained_modalities():
            yield unimodal_phase(self, m, self.heads[m])

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the own heads of the trained modalities."""
        outputs: dict[str, Tensor] = self.heads({m: h for m, h in features.items() if m in self.trained_modalities()})
        return outputs
