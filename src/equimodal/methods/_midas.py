"""MIDAS: samples put together from samples of different classes, labelled by how confident each modality is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Tree, tree_map
from equimodal.engine import Descent, Engine, Objective, Phase, Sharpness
from equimodal.errors import MethodError
from equimodal.features import pool
from equimodal.functional import misaligned_target, shares, weak_weights
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful, StepReport
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._loss import mask_of, target_of
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.tasks import Task

_PARTNERS = "misalignment.partners"


class MIDAS(Stateful, MultiLoss):
    r"""Misalignment-based data augmentation ([Hwang2025]_).

    One modality of sample i stays, every other one m is taken, as features, from a random sample :math:`\pi_m(i)` of
    another class. With :math:`\tilde c_m` the share of modality m in the unimodal confidences of the true labels,
    s the mean cosine between a modality's own and its new features, and :math:`y_m` the label of :math:`\pi_m(i)`,

    .. math:: L = L(u, y) + \sum_m L(u_m, y) + \lambda \frac1n \sum_i \Big(1 + \frac{s_i + 1}{2}\Big)
        \Big(-\hat y_i^\top \log \mathrm{softmax} f(\tilde z_i)\Big), \qquad
        \hat y_i = \sum_m \alpha_m \tilde c_{m,i}\, e_{y_{m,i}}

    :math:`\alpha` is 1 but for the least confident modality, whose weight grows by :math:`\eta` in every step in which
    the fused prediction follows it less than its confidence says, and else falls. In the warm-up only the unimodal
    losses are trained.

    Published accuracy on validation data (authors' table): CREMA-D 74.99 +- 0.31 (joint 60.28, MCR 70.91),
    Kinetics-Sounds 74.88 +- 0.49, Food-101 93.46 +- 0.36. A weight of 5 on Food-101 gives 65.2.

    Args:
        misaligned_weight: :math:`\lambda`; 5 published for Kinetics-Sounds.
        step: :math:`\eta`.
        warm_up: share of the epochs; published 10 of 70 for CREMA-D and Kinetics-Sounds, 0 for UCF-101, 2 of 30 for
            Food-101. Needs the number of epochs.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        seed: of the partners.

    Raises:
        MethodError: an option is out of its range; with a warm-up, a step before ``on_train_epoch_start`` or without
            the number of epochs.

    References:
        .. [Hwang2025] MIDAS: Misalignment-based Data Augmentation Strategy for Imbalanced Multimodal Learning, NeurIPS
           2025, arXiv 2509.25831.
    """

    info = MethodInfo(
        title="Misalignment-based data augmentation",
        idea="trains on samples put together from different classes, labelled by unimodal confidence",
        paper="Hwang, Choi and Whang, MIDAS: Misalignment-based Data Augmentation Strategy for Imbalanced Multimodal "
        "Learning, NeurIPS 2025, arXiv 2509.25831",
        equations="confidence-based label, weak-modality weight, hard-sample weight, total loss; swapped modalities "
        "averaged for three or more",
        family="augmentation, objective",
        tasks=("classification",),
        modalities="two or more",
        order="which modality stays, and the partners, are drawn in the order of the encoders",
        fusion="any",
        missing=MASKED + "; only samples with all modalities are put together",
        cost="about 1.1 joint steps: one more pass of fusion and head",
        deviations=(
            "the modality that stays is drawn for each batch",
            "partners are drawn among the samples of other classes, with repeats, not by a permutation",
            "class weights and label smoothing do not enter the loss on misaligned samples",
        ),
        released=(
            "the permutation keeps pairs of one class and fixed points",
            "unimodal losses are averaged, not added up",
            "one weight is handed to whichever modality is weak now, and is not in the checkpoint",
            "the loader of configurations drops every setting, so runs use batches of 4 and a rate of 1e-3",
        ),
        consulted="paper; the authors' released code at d25b225, read for facts",
        engine={
            "processes, trainer, sharded": "differs: every process puts its own samples together",
            "accumulation": "differs: samples are put together within a micro-batch",
        },
    )
    state = ("_generator", "warming")
    alpha: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        misaligned_weight: Annotated[float, Within(at_least=0), "paper (CREMA-D)"] = 1.0,
        step: Annotated[float, Within(above=0), "paper"] = 0.05,
        warm_up: Annotated[float, Within(at_least=0, below=1), "paper: 10 of 70 epochs (CREMA-D)"] = 1 / 7,
        heads: Mapping[str, nn.Module] | None = None,
        seed: Annotated[int, Within(whole=True)] = 0,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(MIDAS.__init__, locals())
        self.misaligned_weight, self.step, self.warm_up = misaligned_weight, step, warm_up
        self.warming: bool | None = None if warm_up > 0 else False
        self._generator = torch.Generator().manual_seed(seed)
        like = next(self.heads.parameters())
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.register_buffer("alpha", torch.ones(len(self.modalities), dtype=dtype, device=like.device))

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Whether the epoch belongs to the warm-up."""
        if self.warm_up > 0 and context.epochs is None:
            raise MethodError(
                "`context.epochs`: MIDAS with warm_up > 0 takes a share of the epochs. Found None. Give "
                "EpochContext(epoch, epochs), or use warm_up=0."
            )
        self.warming = self.warm_up > 0 and context.epoch < round(self.warm_up * (context.epochs or 0))

    def prepare(self, batches: list[Batch]) -> list[Batch]:
        """Draw the partners once per step, so that both passes of a sharpness-aware step see the same."""
        return [b.with_extras(**{_PARTNERS: self._partners(b)}) for b in batches]

    def _partners(self, batch: Batch) -> Tensor:
        """(B, M): whose features of m a sample is given; -1 where it cannot be put together."""
        size, count = len(batch), len(self.modalities)
        stays = int(torch.randint(count, (), generator=self._generator))
        labels = labels_of(batch)
        drawn = torch.rand(count, size, size, generator=self._generator).to(labels.device, non_blocking=True)
        masks = torch.stack([mask_of(batch, m) for m in self.modalities])
        apart = labels[:, None] != labels
        allowed = apart & masks[:, None]
        allowed[stays] = torch.eye(size, dtype=torch.bool, device=labels.device)
        found = torch.where(allowed, drawn, -1.0).argmax(2)
        usable = allowed.any(2).all(0) & masks.all(0)
        return torch.where(usable, found, -1).mT

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the sum of losses; in the warm-up encoders and heads on theirs."""
        if self.warming is None:
            raise MethodError(
                "MIDAS with warm_up > 0 needs to know the epoch. Call method.on_train_epoch_start(EpochContext(epoch, "
                "epochs)) before each epoch, or use warm_up=0."
            )
        return super().phases(batches)

    def _objective(self, batch: Batch) -> Objective:
        features = self._features(batch)
        outputs = self.heads(features)
        losses = {f"unimodal/{m}": self.loss(u, batch, m) for m, u in outputs.items()}
        sums: dict[str, Tensor] = {}
        if not self.warming:
            losses["fused"] = self.loss(self._fused(features, batch), batch)
            if len(features) == len(self.modalities):
                misaligned, sums = self._misaligned(features, outputs, batch)
                losses["misaligned"] = misaligned
        weights = {"misaligned": self.misaligned_weight}
        total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        return Objective(total, {name: loss.detach() for name, loss in losses.items()}, sums)

    def _misaligned(
        self, features: Mapping[str, Tree], outputs: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted cross-entropy of samples that are put together, and the sums that move alpha."""
        partners, labels = batch.extras[_PARTNERS], labels_of(batch)
        usable, rows = partners[:, 0] >= 0, partners.clamp_min(0)
        mixed = {m: _taken(features[m], rows[:, i]) for i, m in enumerate(self.modalities)}
        output = self._fused(mixed, replace(batch, present=None))
        with torch.no_grad():
            true = [self.task.probabilities(outputs[m]).gather(1, labels[:, None])[:, 0] for m in mixed]
            confidence = torch.stack([c[rows[:, i]] for i, c in enumerate(true)], 1)
            target = misaligned_target(confidence, labels[rows], self.alpha.to(confidence.dtype), self.task.outputs)
            weight = usable * (1 + (self._likeness(features, mixed, rows) + 1) / 2)
            followed = shares(self.task.probabilities(output).gather(1, labels[rows]))
            sums = {
                "confidence": (shares(confidence) * usable[:, None]).sum(0),
                "followed": (followed * usable[:, None]).sum(0),
                "usable": usable.sum(dtype=confidence.dtype).reshape(1),
            }
        losses = -(target * torch.log_softmax(output.to(target.dtype), 1)).sum(1)
        return (torch.where(usable, losses, 0.0) * weight).sum() / usable.sum().clamp_min(1), sums

    def _likeness(self, features: Mapping[str, Tree], mixed: Mapping[str, Tree], rows: Tensor) -> Tensor:
        """(B,) mean cosine between own and new features, over the modalities that are new."""
        own = torch.arange(len(rows), device=rows.device)
        new = (rows != own[:, None]).to(self.alpha.dtype)
        cosines = [nn.functional.cosine_similarity(pool(features[m]), pool(mixed[m]), dim=1) for m in self.modalities]
        return (torch.stack(cosines, 1) * new).sum(1) / new.sum(1).clamp_min(1)

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """The next alpha, from sums over all processes."""
        report.coefficients["alpha"] = dict(zip(self.modalities, self.alpha.clone().unbind(), strict=True))
        zero = torch.zeros_like(self.alpha)
        given = {
            n: descent.sums.get(n, zero[:1] if n == "usable" else zero) for n in ("confidence", "followed", "usable")
        }
        whole = engine.all_sum({n: t.to(zero.dtype) for n, t in given.items()})
        moved = weak_weights(self.alpha, whole["confidence"], whole["followed"], self.step)
        self.alpha.copy_(torch.where(whole["usable"] > 0, moved, self.alpha))


def labels_of(batch: Batch) -> Tensor:
    """(B,) classes; of soft targets the most probable ones."""
    target = target_of(batch)
    return target.argmax(1) if target.is_floating_point() else target.long()


def _taken(feature: Tree, rows: Tensor) -> Tree:
    return tree_map(lambda t: t.index_select(0, rows), feature)
