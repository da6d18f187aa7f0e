"""Data Remixing: each sample is seen with the modality that has learned it least, in batches of one modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Sharpness
from equimodal.functional import distance_from_uniform
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import AWAY, NO_SHARDS, OWN_ROWS, TEST_CHOICE, MethodInfo
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import rows_alone, training_table
from equimodal.tasks import Task


class DataRemixing(Stateful, MultiLoss):
    r"""Data Remixing (Ma et al., ICML 2025).

    First ``warmup`` epochs on :math:`L(u, y) + w \sum_m L(u_m, y)`, with :math:`u_m` of own linear heads. Then each
    epoch sample i is seen with one modality alone, that of smallest :math:`d_{im} = KL(p_{im} \| \mathrm{uniform})`,
    with the loss :math:`L(u, y) + \gamma L(u_m, y)`. Every batch is of one modality.

    Args:
        warmup: epochs on complete samples.
        warmup_weight: w.
        weight: :math:`\gamma`.
        keep_joint: share of samples, drawn anew in each epoch, that stay complete, in batches of their own. With 0, as
            published, the joint head sees no two modalities together after the warm-up.
        seed: of that draw.
        heads: modality -> module from its features to (B, C); default one linear layer each.
        variant: ``"released"``: all batches of the last modality, then of the one before ...; of equal ones the last.

    Raises:
        MethodError, UnsupportedError: no loader is offered once it is needed, or one without plans.
    """

    info = MethodInfo(
        title="Data Remixing",
        idea="each sample is seen with its least learned modality alone, in batches of one modality",
        paper="Ma et al., Improving Multimodal Learning Balance and Sufficiency through Data Remixing, ICML 2025, "
        "arXiv 2506.11550",
        equations="distance of each modality's prediction from uniform, assignment of samples, batches of one modality",
        family="data",
        tasks=("classification", "multilabel"),
        modalities="any number",
        order="batches are made in the order of the encoders; of equal modalities one is chosen by it",
        missing=OWN_ROWS + "; a sample is assigned among those that it has",
        cost="1 joint step in the warm-up, then 1/M of one; before each epoch a forward pass",
        deviations=(
            AWAY,
            "predictions are compared on samples without augmentation",
            "a single sample that remains of a modality's batches is left out",
        ),
        released=("all batches of one modality come before those of the other", TEST_CHOICE),
        engine={"sharded": NO_SHARDS},
        consulted="abstract; MatthewMaxy/Remix_ICML2025 at 6ff72b9 (train.py)",
    )
    state = ("weight", "generator")

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        warmup: Annotated[int, Within(at_least=0, whole=True), "released script"] = 10,
        warmup_weight: Annotated[float, Within(at_least=0), "released script"] = 0.5,
        weight: Annotated[float, Within(at_least=0), "released script"] = 1.0,
        keep_joint: Annotated[float, Within(at_least=0, at_most=1), "paper: every sample is remixed"] = 0.0,
        seed: Annotated[int, Within(whole=True)] = 0,
        heads: Mapping[str, nn.Module] | None = None,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(
            model, task, weight=warmup_weight, heads=heads, sharpness=sharpness, inference=inference,
            calibrated=calibrated,
        )  # fmt: skip
        check_options(DataRemixing.__init__, locals())
        self.warmup, self.warmup_weight, self.alone_weight, self.variant = warmup, warmup_weight, weight, variant
        self.keep_joint, self.generator = keep_joint, torch.Generator().manual_seed(seed)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Assign the training samples and plan the epoch."""
        self.weight = self.warmup_weight if context.epoch < self.warmup else self.alone_weight
        if context.epoch < self.warmup:
            return
        loader, distance, _, there = training_table(self, context, self._distances)
        chosen = there.any(1).nonzero()[:, 0]
        distance = torch.where(there, distance, torch.inf)[chosen]
        released, last = self.variant == "released", len(self.modalities) - 1
        assigned = last - distance.flip(1).argmin(1) if released else distance.argmin(1)
        groups = last - assigned if released else assigned
        together = torch.rand(len(chosen), generator=self.generator) < self.keep_joint
        rows = rows_alone(self, loader, chosen, torch.where(together, -1, assigned))
        loader.plan(rows, groups=torch.where(together, last + 1, groups), blocks=released)

    def _distances(self, batch: Batch) -> dict[str, Tensor]:
        """Of each modality's prediction from uniform, (B,)."""
        outputs, labels = self.heads(self._features(batch)), self.task.name == "multilabel"
        return {m: distance_from_uniform(u, labels) for m, u in outputs.items()}
