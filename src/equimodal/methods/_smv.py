"""SMV: modalities of a sample that add little are seen once more, alone."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Presence, keep_rows
from equimodal.engine import Sharpness
from equimodal.functional import copies_alone, shapley_values
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import AWAY, MASKED, NO_SHARDS, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._loss import labels_of, mask_of
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import planned_loader, presence_of, rows_alone, training_table
from equimodal.tasks import Task
from equimodal.unimodal import Shapley

_MOST = 6


class SMV(Stateful, Joint):
    r"""Sample-level modality valuation (Wei et al., CVPR 2024): joint training on resampled data.

    A set of modalities is worth its size where the model's prediction from it alone is right, else 0. The Shapley value
    :math:`\phi_{im}` of that is what modality m adds to sample i. After ``warmup`` epochs, before each epoch:

    * ``level="sample"``: sample i is seen once more with m alone, one to three times, the smaller :math:`\phi_{im}` is
      (:func:`~equimodal.functional.copies_alone`).
    * ``level="modality"``: with :math:`\bar\phi_m` the means and g the difference between the lowest of them and the
      mean of the others, each sample is seen once more with the lowest modality alone, with probability
      :math:`\min(1, \tfrac23 \alpha g)`.

    Args:
        level: see above.
        warmup: epochs of plain joint training before.
        alpha: :math:`\alpha` of the modality level.
        seed: of the draws of the modality level.
        variant: ``"released"``: exactly that share of samples is drawn, with replacement.

    Raises:
        MethodError: no loader is offered once it is needed.
        ModelError: the fusion does not declare how it fills absent modalities.
        UnsupportedError: a loader without plans, or more than 6 modalities (2^M predictions).
    """

    info = MethodInfo(
        title="Sample-level modality valuation",
        idea="modalities that add little to a sample are seen once more, alone",
        paper="Wei et al., Enhancing Multimodal Cooperation via Sample-level Modality Valuation, CVPR 2024, "
        "arXiv 2309.06255",
        equations="value of a set of modalities, Shapley value per sample, resampling at sample and modality level",
        family="data",
        tasks=("classification",),
        modalities="two to six",
        order="batches of copies are made in the order of the encoders; of equal modalities the first is the weakest",
        fusion="any that declares how it fills absent modalities",
        missing=MASKED + "; an absent modality has value 0 and is not seen alone",
        cost="1 joint step, and up to 3 per modality and sample more: an epoch grows; before it one forward pass with "
        "2^M - 1 passes of fusion and head",
        deviations=(
            AWAY,
            "means are over all samples, for which values are known anyway; the paper's over a fifth of them",
            "copies of one modality come in batches of their own, which are shuffled among the others",
            "values are computed on samples without augmentation",
            "more than two modalities: the lowest mean against the mean of the others",
        ),
        released=(
            "scripts and dataset do not fit together: construction fails with an unexpected argument `loader`",
            "the modality level draws a fixed number of samples, with replacement",
        ),
        engine={"sharded": NO_SHARDS},
        consulted="GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation at 7ed12b0 (code/sample_level.py, "
        "modality_level.py, datasets/dataloader.py)",
    )
    state = ("_generator",)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        level: Annotated[Literal["sample", "modality"], "paper: the better one"] = "sample",
        warmup: Annotated[int, Within(at_least=0, whole=True), "released scripts"] = 5,
        alpha: Annotated[float, Within(above=0), "released scripts"] = 1.0,
        seed: Annotated[int, Within(whole=True)] = 0,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(SMV.__init__, locals())
        Shapley(model, _MOST)  # refuses what cannot be valued
        self.level, self.warmup, self.alpha, self.variant = level, warmup, alpha, variant
        self._generator = torch.Generator().manual_seed(seed)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Value the training samples and plan the epoch."""
        if context.epoch < self.warmup:
            return
        loader = planned_loader(self, context)
        worth, seen = training_table(self, loader, len(self.modalities), self._worth)
        there = presence_of(self, loader)
        # a sample with one modality would only be repeated
        apart = there & seen[:, None] & (there.sum(1) > 1)[:, None]
        again = self._copies(worth, apart)
        samples = seen.nonzero()[:, 0]
        target, alone = [samples], [torch.full_like(samples, -1)]
        for position in range(len(self.modalities)):
            repeated = torch.repeat_interleave(torch.arange(len(seen)), again[:, position])
            target.append(repeated)
            alone.append(torch.full_like(repeated, position))
        chosen, kept = torch.cat(target), torch.cat(alone)
        # apart, as batch normalisation cannot train on the one row of a batch that has a modality
        loader.plan(rows_alone(self, loader, chosen, kept), target=chosen, groups=kept)

    def _worth(self, batch: Batch) -> Tensor:
        """(B, M) Shapley values of size if right, else 0."""
        features = self.multimodal.encode(batch.inputs, batch.present)
        classes, count = labels_of(batch), len(self.modalities)
        own = [mask_of(batch, m) for m in self.modalities]
        values = torch.zeros(len(batch), 2**count, device=classes.device)
        for members in range(1, 2**count):
            masks = {m: own[i] & bool(members >> i & 1) for i, m in enumerate(self.modalities) if m in features}
            size = torch.stack(list(masks.values())).sum(0)
            kept = {m: keep_rows(z, masks[m]) for m, z in features.items()}
            output = cast(Tensor, self.fused_output(kept, Presence(masks)))
            values[:, members] = torch.where(output.argmax(1) == classes, size, 0).to(values)
        return shapley_values(values)

    def _copies(self, worth: Tensor, apart: Tensor) -> Tensor:
        """(N, M) how often each sample is seen once more with one modality."""
        if self.level == "sample":
            return copies_alone(worth) * apart
        means = (worth * apart).sum(0) / apart.sum(0).clamp_min(1)
        weakest, count = int(means.argmin()), len(self.modalities)
        gap = (means.sum() - means[weakest]) / (count - 1) - means[weakest]
        share = min(1.0, 2 / 3 * self.alpha * float(gap))
        copies = torch.zeros_like(apart, dtype=torch.int64)
        able = apart[:, weakest].nonzero()[:, 0]
        if self.variant == "released":
            drawn = torch.randint(max(1, len(able)), (int(share * len(able)),), generator=self._generator)
            copies[:, weakest] = torch.bincount(able[drawn], minlength=len(copies))
        else:
            copies[able, weakest] = (torch.rand(len(able), generator=self._generator) < share).long()
        return copies
