"""Samples put together from several of a batch: who is joined with whom, and the loss on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Tree, tree_map
from equimodal.features import pool
from equimodal.functional import misaligned_target, shares
from equimodal.methods._loss import labels_of, mask_of
from equimodal.tasks import Task

PARTNERS = "misalignment.partners"
"""Name of the drawn partners among a batch's extras."""


class Misalignment:
    r"""One modality of each sample stays, every other one is taken from a random sample of another class.

    Only samples with all modalities are put together, and only of partners that have the modality.

    Args:
        modalities: in the order of the model.
        task: of classes.
        seed: of the generator on the host.
    """

    def __init__(self, modalities: Sequence[str], task: Task, seed: int) -> None:
        self._names, self._task = tuple(modalities), task
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self, batch: Batch) -> Batch:
        """The batch with partners: (B, M), whose features of m a sample is given; -1 where there are none."""
        size, count = len(batch), len(self._names)
        stays = int(torch.randint(count, (), generator=self.generator))
        labels = labels_of(batch)
        drawn = torch.rand(count, size, size, generator=self.generator).to(labels.device, non_blocking=True)
        masks = torch.stack([mask_of(batch, m) for m in self._names])
        apart = labels[:, None] != labels
        allowed = apart & masks[:, None]
        allowed[stays] = torch.eye(size, dtype=torch.bool, device=labels.device)
        found = torch.where(allowed, drawn, -1.0).argmax(2)
        usable = allowed.any(2).all(0) & masks.all(0)
        return batch.with_extras(**{PARTNERS: torch.where(usable, found, -1).mT})

    def loss(
        self,
        features: Mapping[str, Tree],
        outputs: Mapping[str, Tensor],
        batch: Batch,
        alpha: Tensor,
        fused: Callable[[Mapping[str, Tree]], Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted cross-entropy on samples that are put together, and the sums that move alpha.

        Args:
            features: of all modalities.
            outputs: unimodal outputs (B, C), whose probabilities of the true classes are the confidences.
            batch: with its partners.
            alpha: (M,), weights in the soft labels.
            fused: from features to the fused output.
        """
        partners, labels = batch.extras[PARTNERS], labels_of(batch)
        usable, rows = partners[:, 0] >= 0, partners.clamp_min(0)
        mixed = {m: _taken(features[m], rows[:, i]) for i, m in enumerate(self._names)}
        output = fused(mixed)
        with torch.no_grad():
            true = [self._task.probabilities(outputs[m]).gather(1, labels[:, None])[:, 0] for m in mixed]
            confidence = torch.stack([c[rows[:, i]] for i, c in enumerate(true)], 1)
            target = misaligned_target(confidence, labels[rows], alpha.to(confidence.dtype), self._task.outputs)
            weight = usable * (1 + (self._likeness(features, mixed, rows).to(target.dtype) + 1) / 2)
            followed = shares(self._task.probabilities(output).gather(1, labels[rows]))
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
        new = rows != own[:, None]
        cosines = [nn.functional.cosine_similarity(pool(features[m]), pool(mixed[m]), dim=1) for m in self._names]
        return (torch.stack(cosines, 1) * new).sum(1) / new.sum(1).clamp_min(1)


def _taken(feature: Tree, rows: Tensor) -> Tree:
    return tree_map(lambda t: t.index_select(0, rows), feature)
