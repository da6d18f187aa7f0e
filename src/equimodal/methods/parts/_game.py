"""A game between encoders: each is rewarded for what the prediction loses when its own modality is permuted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equimodal.batch import Batch, Tree, tree_map
from equimodal.functional import binary_jensen_shannon, jensen_shannon
from equimodal.methods._loss import count_of, target_of
from equimodal.methods.parts._fixed import FixedHead
from equimodal.methods.parts._heads import detached
from equimodal.model import Multimodal
from equimodal.tasks import Task, distribution_of

ORDER = "permutations"
"""Name of the drawn permutations among a batch's extras."""


class PermutationGame:
    r"""The loss :math:`-\sum_e (D_e^{(e)} + k \sum_{m \ne e} D_m^{(e)})` on features that are permuted in the batch.

    :math:`D_m^{(e)}` is the mean distance between the prediction and the one with m's features permuted, with a
    gradient for encoder e alone; a modality is permuted among the samples that have it.

    Args:
        model: fuses, and has the head; both are held.
        task: decides about the distance: Jensen-Shannon divergence of classes, pixels and labels; of numbers its loss
            between the two (of Gaussians the absolute difference of the means).
        sign: k.
        count: permutations, K.
        seed: of the generator on the host.
    """

    def __init__(self, model: Multimodal, task: Task, sign: int, count: int, seed: int) -> None:
        self._names, self._task, self._sign, self._count = tuple(model.modalities), task, sign, count
        self._fixed = FixedHead(model)
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self, batch: Batch) -> Batch:
        """The batch with its permutations: (B, K, M), the rows whose features a sample is given."""
        device = target_of(batch).device
        rows = torch.arange(len(batch), device=device)
        orders = rows[:, None, None].repeat(1, self._count, len(self._names))
        for position, m in enumerate(self._names):
            count, have = count_of(batch, m), batch.rows(m) if m in batch.inputs else None
            if count == 0:
                continue
            places = torch.stack([torch.randperm(count, generator=self.generator) for _ in range(self._count)], 1)
            places = places.to(device, non_blocking=True)
            orders[rows if have is None else have, :, position] = places if have is None else have[places]
        return batch.with_extras(**{ORDER: orders})

    def loss(self, features: Mapping[str, Tree], batch: Batch) -> Tensor:
        """A scalar, from features with their graph."""
        players = [m for m in features if count_of(batch, m)]
        return torch.stack([self._reward(e, players, features, batch) for e in players]).sum().neg()

    def _reward(self, player: str, players: list[str], features: Mapping[str, Tree], batch: Batch) -> Tensor:
        live = {m: z if m == player else detached(z) for m, z in features.items()}
        plain = self._fixed(live, batch.present)
        signs = {m: 1 if m == player else self._sign for m in players}
        return torch.stack([k * self._distance(m, plain, live, batch) for m, k in signs.items() if k]).sum()

    def _distance(self, modality: str, plain: Tensor, features: Mapping[str, Tree], batch: Batch) -> Tensor:
        order = batch.extras[ORDER][:, :, self._names.index(modality)]
        rows = batch.rows(modality)
        same = torch.arange(len(batch), device=order.device) if rows is None else rows
        other = order.index_select(0, same).flatten()
        same = same.repeat_interleave(self._count)
        given = {m: _rows(z, other if m == modality else same) for m, z in features.items()}
        present = {m: mask.index_select(0, same) for m, mask in (batch.present or {}).items()}
        moved, plain = self._fixed(given, present), plain.index_select(0, same)
        kind = distribution_of(self._task)
        if kind == "categorical":
            return jensen_shannon(moved, plain).mean()
        if kind == "bernoulli":
            return binary_jensen_shannon(moved, plain).mean()
        if kind == "gaussian":
            return (moved - plain).chunk(2, dim=1)[0].abs().mean()
        return self._task.loss(moved, plain)


def _rows(feature: Tree, rows: Tensor) -> Tree:
    return tree_map(lambda t: t.index_select(0, rows), feature)
