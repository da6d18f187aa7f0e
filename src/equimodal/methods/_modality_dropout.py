"""Modality dropout: joint training in which modalities are left out at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import check_number
from equimodal._utils.shapes import line_up
from equimodal.batch import Batch, Tree, tree_map
from equimodal.engine import Sharpness
from equimodal.inference import Rule
from equimodal.methods._base import ALL_TASKS, MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.tasks import Task


class ModalityDropout(Joint):
    r"""Joint training in which each modality of a sample is dropped with probability q, never all of them.

    Survivors are rescaled by 1 / P(kept), so that the expected output of an additive head is that of the full model.
    Drops are made on features; a dropped modality's encoder gets no gradient from that sample.

    Args:
        model: encoders, fusion and head.
        task: gives the loss.
        probability: q in [0, 1); the literature uses 0.1 to 0.5.
        seed: of the method's own generator.
        sharpness: see :class:`~equimodal.Sharpness`.
        inference: rule; default the joint head.
        calibrated: fit one temperature per modality on validation data.

    Deviations: the rescaling uses the exact probability of being kept given that not all are dropped,
    :math:`(1-q)/(1-q^M)`, where the literature uses :math:`1-q`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> ModalityDropout(model, Classification(2), probability=0.3).draw(4).shape
        torch.Size([4, 2])
    """

    info = MethodInfo(
        title="Modality dropout",
        idea="leaves modalities out at random",
        paper="Control; Neverova et al., ModDrop, TPAMI 2016, arXiv 1501.00102.",
        equations="h_m <- mask_m h_m / P(kept), mask ~ Bernoulli(1 - q), never all dropped",
        family="feed-forward",
        tasks=ALL_TASKS,
        modalities="any number",
        order="modalities are drawn in the order of the encoders",
        fusion="any",
        missing=MASKED,
        cost="1 joint step",
        defaults={"probability": "0.2, inside the 0.1 to 0.5 of the literature (ours)"},
        deviations=("survivors are rescaled by the exact keep probability (1-q)/(1-q^M)",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        engine={
            "processes, trainer": "differs: every process draws the masks of its own samples",
            "sharded": "refused: where a modality is dropped on one process only, its encoder would leave the others "
            "waiting",
            "accumulation": "differs: the masks of each micro-batch are drawn in turn",
            "compiled-loss": "refused: the masks of a batch are looked up by object; compile the encoders",
        },
    )

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        probability: float = 0.2,
        seed: int = 0,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_number("probability", probability, at_least=0, below=1)
        check_number("seed", seed, whole=True)
        self.probability = probability
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: list[Tensor] = []
        self._batches: list[Batch] = []

    def get_extra_state(self) -> dict[str, Any]:
        """State of the method's generator."""
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        self._generator.set_state(state["generator"].cpu())

    def draw(self, size: int) -> Tensor:
        """(size, M) booleans: what is kept; every row keeps at least one. Drawn on the host."""
        shape = (size, len(self.modalities))
        kept = torch.rand(shape, generator=self._generator) >= self.probability
        while not bool(kept.any(1).all()):
            again = torch.rand(shape, generator=self._generator) >= self.probability
            kept = torch.where(kept.any(1, keepdim=True), kept, again)
        return kept

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Draw the masks once per step, so that both passes of a sharpness-aware step see the same."""
        self._kept = [self.draw(len(batch)) for batch in batches]
        self._batches = batches
        return batches

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        kept = self._kept[next(i for i, b in enumerate(self._batches) if b is batch)]
        kept = kept.to(next(self.parameters()).device, non_blocking=True)
        presence = batch.presence
        if presence is not None or len(batch.inputs) < len(self.modalities):
            full = torch.ones_like(kept[:, 0])  # a sample whose present modalities were all drawn keeps them
            masks = [
                (full if presence is None else presence.get(m, full)) if m in batch.inputs else ~full
                for m in self.modalities
            ]
            available = torch.stack(masks, dim=1)
            kept = kept | ~(kept & available).any(1, keepdim=True)
        scale = (1 - self.probability ** len(self.modalities)) / (1 - self.probability)
        features = self.multimodal.encode(batch.inputs, batch.present)
        return {m: _scaled(h, kept[:, self.modalities.index(m)], scale) for m, h in features.items()}


def _scaled(feature: Tree, kept: Tensor, scale: float) -> Tree:
    """Rows that are kept times ``scale``, the others zero; masks of tokens stay as they are."""

    def apply(t: Tensor) -> Tensor:
        return t * (line_up(kept, t).to(t.dtype) * scale) if t.is_floating_point() else t

    return tree_map(apply, feature)
