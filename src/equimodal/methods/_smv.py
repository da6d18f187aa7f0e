"""SMV: modalities of a sample that add little are seen once more, alone."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.engine import Sharpness
from equimodal.functional import bernoulli_draws, copies_alone, weakest_share
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import AWAY, MASKED, NO_SHARDS, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import plan_copies, training_table, worth_of_right_sets
from equimodal.methods.released import SMV_RELEASED, draws_with_replacement
from equimodal.tasks import Task
from equimodal.unimodal import Shapley


class SMV(Stateful, Joint):
    r"""Sample-level modality valuation (Wei et al., CVPR 2024): joint training on resampled data.

    A set of modalities is worth its size where the model's prediction from it alone is right, else 0. The Shapley value
    :math:`\phi_{im}` of that is what modality m adds to sample i. After ``warmup`` epochs, before each epoch:

    * ``level="sample"``: sample i is seen once more with m alone, one to three times, the smaller :math:`\phi_{im}` is
      (:func:`~equimodal.functional.copies_alone`).
    * ``level="modality"``: each sample is seen once more with the modality of the lowest mean alone, with probability
      :math:`\min(1, \tfrac23 \alpha g)`, g being its gap to the others (:func:`~equimodal.functional.weakest_share`).

    Args:
        level: see above.
        warmup: epochs of plain joint training before.
        alpha: :math:`\alpha` of the modality level.
        seed: of the draws of the modality level.
        variant: ``"released"``: exactly that share of samples is drawn, with replacement.

    Raises:
        MethodError, UnsupportedError: no loader is offered once it is needed, or one without plans; M > 6 (2^M passes).
        ModelError: the fusion does not declare how it fills absent modalities.
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
        released=SMV_RELEASED,
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
        Shapley(model)  # refuses what cannot be valued
        self.level, self.warmup, self.alpha, self.variant = level, warmup, alpha, variant
        self._generator = torch.Generator().manual_seed(seed)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Value the training samples and plan the epoch."""
        if context.epoch < self.warmup:
            return
        loader, worth, seen, there = training_table(self, context, partial(worth_of_right_sets, self))
        apart = there & (there.sum(1, keepdim=True) > 1)  # a sample with one modality would only be repeated
        plan_copies(self, loader, seen, self._copies(worth, apart))

    def _copies(self, worth: Tensor, apart: Tensor) -> Tensor:
        """(N, M) how often each sample is seen once more with one modality."""
        if self.level == "sample":
            return copies_alone(worth) * apart
        weakest, share = weakest_share(worth, apart, self.alpha)
        draw = draws_with_replacement if self.variant == "released" else bernoulli_draws
        drawn = draw(apart[:, weakest], share, self._generator)
        return drawn[:, None] * (torch.arange(len(self.modalities)) == weakest)
