"""The last losses of the modalities and their running means."""

from __future__ import annotations

import torch
from torch import Tensor

from equimodal._utils.precision import Float32Buffers
from equimodal.functional import selection_scores


class LossMemory(Float32Buffers):
    """The last unimodal losses and their running means; what a step finds is kept once the step is done.

    Args:
        count: of the modalities.
        like: gives device and type, float32 at least.
    """

    previous: Tensor
    average: Tensor
    seen: Tensor

    def __init__(self, count: int, like: Tensor) -> None:
        super().__init__()
        dtype = torch.promote_types(like.dtype, torch.float32)
        for name in ("previous", "average"):
            self.register_buffer(name, torch.zeros(count, dtype=dtype, device=like.device))
        self.register_buffer("seen", torch.zeros(count, dtype=torch.bool, device=like.device))
        self._found: tuple[Tensor, Tensor] | None = None

    def scores(self, loss: Tensor, alignment: Tensor, share: float, momentum: float) -> Tensor:
        """Scores of the modalities, (M,); a loss of NaN is not known in this step."""
        loss = loss.to(self.average.dtype)
        previous, average = (torch.where(self.seen, t, torch.nan) for t in (self.previous, self.average))
        found = selection_scores(loss, previous, average, alignment, share, momentum)
        self._found = loss, found.average
        return found.scores

    def keep(self) -> None:
        """Remember what :meth:`scores` was given last."""
        if self._found is None:
            return
        loss, average = self._found
        known = ~loss.isnan()
        self.previous.copy_(torch.where(known, loss, self.previous))
        self.average.copy_(torch.where(known, average, self.average))
        self.seen.logical_or_(known)
        self._found = None
