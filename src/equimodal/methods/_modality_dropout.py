"""Modality dropout: joint training in which modalities are left out at random."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from equimodal._utils.shapes import line_up
from equimodal.batch import Batch, Tree, tree_map
from equimodal.engine import Sharpness
from equimodal.inference import Rule
from equimodal.methods._base import Stateful
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.tasks import Task

_KEPT = "modality_dropout.kept"


class ModalityDropout(Stateful, Joint):
    r"""Joint training in which each modality of a sample is dropped with probability q, never all of them.

    Survivors are rescaled by 1 / P(kept), so that the expected output of an additive head is that of the full model.
    Drops are made on features; a dropped modality's encoder gets no gradient from that sample.

    Args:
        probability: q; the literature uses 0.1 to 0.5.
        seed: of the method's own generator.
    """

    info = MethodInfo(
        title="Modality dropout",
        idea="leaves modalities out at random",
        paper="Control; Neverova et al., ModDrop, TPAMI 2016, arXiv 1501.00102.",
        equations="h_m <- mask_m h_m / P(kept), mask ~ Bernoulli(1 - q), never all dropped",
        family="feed-forward",
        modalities="any number",
        order="modalities are drawn in the order of the encoders",
        missing=MASKED,
        cost="1 joint step",
        deviations=("rescaled by the exact probability of being kept, (1-q)/(1-q^M); the literature: 1-q",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        engine={
            "processes, trainer": "differs: every process draws the masks of its own samples",
            "sharded": "refused: where a modality is dropped on one process only, its encoder would leave the others "
            "waiting",
            "accumulation": "differs: the masks of each micro-batch are drawn in turn",
        },
    )
    state = ("_generator",)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        probability: Annotated[float, Within(at_least=0, below=1), "ours; literature: 0.1 to 0.5"] = 0.2,
        seed: Annotated[int, Within(whole=True)] = 0,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(ModalityDropout.__init__, locals())
        self.probability = probability
        self._generator = torch.Generator().manual_seed(seed)

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
        device = next(self.parameters()).device
        masks = [self.draw(len(batch)).to(device, non_blocking=True) for batch in batches]
        return [batch.with_extras(**{_KEPT: kept}) for batch, kept in zip(batches, masks, strict=True)]

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        kept = batch.extras[_KEPT]
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
