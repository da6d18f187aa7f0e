"""MCR: each encoder is rewarded where the prediction needs its own modality, in a game against the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import Phase, Sharpness
from equimodal.errors import UnsupportedError
from equimodal.features import pool
from equimodal.functional import cross_modal_contrast
from equimodal.inference import Rule
from equimodal.methods._base import Stateful
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._loss import mask_of, target_of
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import PermutationGame, equal_width, like_model
from equimodal.tasks import Task, distribution_of

SIGNS = {"greedy": -1, "independent": 0, "collaborative": 1}
"""k of each mode."""


class MCR(Stateful, MultiLoss):
    r"""Multimodal competition regularizer (Kontras et al., NeurIPS 2025).

    :math:`D_m` is how far the prediction moves when the features of modality m are permuted within the batch, the mean
    Jensen-Shannon divergence over K permutations and the samples that have m. :math:`D_m^{(e)}` is the same number with
    a gradient for encoder e alone: the features of the others, and fusion and head, are held. Then

    .. math:: L = L(u, y) + \mu \sum_m L(u_m, y)
        - \ell \sum_e \Big( D_e^{(e)} + k \sum_{m \ne e} D_m^{(e)} \Big) + c\, L_{con} + b\, L_{ceb}

    :math:`L_{con}` is a supervised contrastive loss between the features of each pair of modalities, and
    :math:`L_{ceb} = \|[z_1, \dots, z_M] - h(y)\|^2` keeps what the target explains, h a network C - d - sum of widths.

    Args:
        weight: :math:`\mu` of the unimodal losses; 1 published for the conformer.
        game_weight: :math:`\ell`; 0.01 published for AVE.
        mode: ``"greedy"``: k = -1, an encoder is punished where the prediction depends on the others;
            ``"independent"``: k = 0; ``"collaborative"``: k = 1.
        permutations: K.
        contrast_weight: c. Samples of one class count as equal; where the target is no class, only a sample's own pair
            does. Needs encoders of equal width.
        temperature: of the contrastive loss.
        bottleneck_weight: b; 1 published for the conformer.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        seed: of the permutations.

    Raises:
        ModelError: ``contrast_weight`` above 0 with encoders of different width.
        UnsupportedError: ``bottleneck_weight`` above 0 for a segmentation, whose target is no vector.
    """

    info = MethodInfo(
        title="Multimodal competition regularizer",
        idea="an encoder is rewarded where the prediction changes when its own modality is permuted",
        paper="Kontras et al., Balancing Multimodal Training Through Game-Theoretic Regularization, NeurIPS 2025, "
        "arXiv 2411.07335",
        equations="game between the encoders on permuted features, contrastive term, conditional bottleneck",
        family="objective",
        order="permutations are drawn in the order of the encoders",
        missing=MASKED + "; a modality is permuted among the samples that have it",
        cost="about 1.1 joint steps with a small head: M (1 + M) passes of fusion and head on K batches of features",
        deviations=(
            "features are permuted, so encoders run once; the paper's game, with the others' features held",
            "regression compares predictions by the task's loss, whose growth the game then never exceeds; published: "
            "the squared difference",
            "the contrastive term of a regression pairs each sample with itself; published: 30 bins of the target",
            "encoders start as the model has them, not trained on one modality first",
        ),
        released=(
            "with two modalities the regularizer is computed, logged and not added: the loss is that of joint "
            "training with unimodal losses",
            "the prediction that it compares with is not detached: each term trains all encoders and the head",
            "the bottleneck is predicted from the detached fused output, not from the target",
        ),
        consulted="paper; kkontras/MCR at 338d370 (Bias_Infusion.py, configurations)",
        engine={
            "processes, trainer, sharded": "differs: every process permutes its own samples",
            "accumulation": "differs: modalities are permuted within a micro-batch",
        },
    )
    state = ("game.generator",)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        weight: Annotated[float, Within(at_least=0), "released command of CREMA-D (ResNet)"] = 0.01,
        game_weight: Annotated[float, Within(at_least=0), "released command of CREMA-D"] = 0.1,
        mode: Annotated[Literal["greedy", "independent", "collaborative"], "released command of CREMA-D"] = "greedy",
        permutations: Annotated[int, Within(at_least=1, whole=True), "released command of CREMA-D"] = 32,
        contrast_weight: Annotated[float, Within(at_least=0), "released command of CREMA-D"] = 1.0,
        temperature: Annotated[float, Within(above=0), "released code"] = 0.5,
        bottleneck_weight: Annotated[float, Within(at_least=0), "not given in the command of CREMA-D (ResNet)"] = 0.0,
        heads: Mapping[str, nn.Module] | None = None,
        seed: Annotated[int, Within(whole=True)] = 0,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, weight=weight, heads=heads, sharpness=sharpness, inference=inference,
                         calibrated=calibrated)  # fmt: skip
        check_options(MCR.__init__, locals())
        self.game_weight, self.contrast_weight, self.temperature = game_weight, contrast_weight, temperature
        self.bottleneck_weight = bottleneck_weight
        if contrast_weight > 0:
            equal_width(self.multimodal, "MCR with contrast_weight > 0")
        if bottleneck_weight > 0 and task.dense:
            raise UnsupportedError(
                f"`bottleneck_weight`: expected 0 for {task.name!r}, whose target is a map and no vector that features "
                f"could be predicted from. Found {bottleneck_weight}."
            )
        self.game = PermutationGame(self.multimodal, task, SIGNS[mode], permutations, seed)
        self.bottleneck = nn.Sequential()
        if bottleneck_weight > 0:
            widths = self._widths()
            inputs = task.outputs // (2 if distribution_of(task) == "gaussian" else 1)
            first, last = nn.Linear(inputs, max(widths), bias=False), nn.Linear(max(widths), sum(widths), bias=False)
            self.bottleneck = nn.Sequential(first, nn.ReLU(), last)
        like_model(self.bottleneck, self.multimodal)

    def _widths(self) -> list[int]:
        return [
            sum(d) if isinstance(d, tuple) else d for d in (self.multimodal.feature_sizes[m] for m in self.modalities)
        ]

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Draw the permutations once per step, so that both passes of a sharpness-aware step see the same."""
        return [self.game.drawn(b) for b in batches] if self.game_weight > 0 else batches

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the sum of losses."""
        (joint,) = super().phases(batches)
        return [Phase("joint", self._objective, [*joint.parameters, *self.bottleneck.parameters()])]

    def _terms(self, features: Mapping[str, Tree], batch: Batch) -> dict[str, tuple[float, Tensor]]:
        terms = {
            "game": (self.game_weight, self.game.loss),
            "contrast": (self.contrast_weight, self._contrast),
            "bottleneck": (self.bottleneck_weight, self._bottleneck),
        }
        return {name: (weight, term(features, batch)) for name, (weight, term) in terms.items() if weight > 0}

    def _contrast(self, features: Mapping[str, Tree], batch: Batch) -> Tensor:
        target = target_of(batch)
        positive = torch.eye(len(batch), dtype=torch.bool, device=target.device)
        if self.task.name == "classification":
            labels = target.argmax(1) if target.is_floating_point() else target
            positive = labels[:, None] == labels
        vectors = {m: pool(z) for m, z in features.items()}
        valid = {m: mask_of(batch, m) for m in vectors}
        pairs = list(combinations(vectors, 2))
        losses = [
            cross_modal_contrast(vectors[m], vectors[n], positive, valid[m] & valid[n], self.temperature)
            for m, n in pairs
        ]
        return torch.stack(losses).sum() if losses else next(iter(vectors.values())).sum() * 0

    def _bottleneck(self, features: Mapping[str, Tree], batch: Batch) -> Tensor:
        target = target_of(batch)
        if self.task.name == "classification" and not target.is_floating_point():
            target = nn.functional.one_hot(target.long(), self.task.outputs)
        like = next(self.bottleneck.parameters())
        explained = self.bottleneck(target.reshape(len(batch), -1).to(like.dtype)).split(self._widths(), 1)
        gaps = [
            (pool(features[m]) - h).square().sum(1) * mask_of(batch, m)
            for m, h in zip(self.modalities, explained, strict=True)
            if m in features
        ]
        return torch.stack(gaps).sum(0).mean()
