"""The losses that training samples have had so far."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from equimodal.engine import SampleValues
from equimodal.methods.parts._samples import SampleTable


class LossesSoFar(NamedTuple):
    """Sums of losses, and the bounds of all sums that are known.

    Args:
        rows: of the samples of a batch.
        least: over all samples, a scalar.
        most: over all samples, a scalar.
    """

    rows: SampleValues
    least: Tensor
    most: Tensor


class LossHistory(SampleTable):
    """The cross-entropies that each training sample has had so far in each modality, added up.

    Example:
        >>> history = LossHistory(["audio"])
        >>> output, target, index = torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([7, 3])
        >>> now = history.with_losses("audio", output, target, index)
        >>> history.update({"audio": now.rows})
        >>> history.with_losses("audio", output, target, index).rows.values / torch.tensor(2.0).log()
        tensor([2., 2.])
    """

    @torch.no_grad()
    def with_losses(self, modality: str, output: Tensor, target: Tensor, index: Tensor) -> LossesSoFar:
        """The sums with the losses of a batch; they are kept by :meth:`update`.

        Args:
            modality: whose output.
            output: logits (n, C) of the samples that have it.
            target: their classes (n,), or shares of classes (n, C).
            index: (n,), their dataset indices.
        """
        column = self.columns.index(modality)
        target = target if target.is_floating_point() else target.long()
        loss = nn.functional.cross_entropy(output, target, reduction="none").to(self.values.dtype)
        now = loss + self.at(index)[0][:, column]
        return LossesSoFar(SampleValues(now, index), *self.bounds(column, now, index))
