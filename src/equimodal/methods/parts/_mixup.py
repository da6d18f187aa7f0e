"""Mixup of the samples of a batch: inputs and targets with one share per batch."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, tree_map
from equimodal.errors import BatchError, UnsupportedError
from equimodal.tasks import Task

UNMIXED = "unmixed target"
"""Name of the target before the mixture among a batch's extras."""


class Mixup:
    r"""Each sample mixed with another: :math:`s x_i + (1 - s) x_j` with :math:`s \sim Beta(\alpha, \alpha)`.

    Args:
        alpha: parameter of the Beta distribution; 0 is off.
        task: says what the targets are: classes become one-hot, labels and numbers are mixed as they are.
        seed: of the generator on the host, which decides share and partners.

    Raises:
        UnsupportedError: the targets are label maps, or of a kind that is not known.
    """

    def __init__(self, alpha: float, task: Task, seed: int) -> None:
        if alpha > 0 and task.name not in ("classification", "multilabel", "regression"):
            raise UnsupportedError(
                f"`mixup_alpha`: expected classes, labels or numbers as targets. Found the task {task.name!r}: a "
                "mixture of two label maps is no label map. Use 0."
            )
        self.alpha, self._task, self.generator = alpha, task, torch.Generator().manual_seed(seed)

    def __call__(self, batches: list[Batch]) -> list[Batch]:
        """The mixed batches, each with the target before the mixture among its extras."""
        return [self._mixed(b) for b in batches] if self.alpha > 0 else batches

    def unmixed_target(self, batch: Batch) -> Tensor:
        """The target before the mixture; of a batch that was not mixed, its target."""
        return cast(Tensor, batch.extras.get(UNMIXED, batch.target))

    def _mixed(self, batch: Batch) -> Batch:
        if batch.presence is not None and any(batch.rows(m) is not None for m in batch.inputs):
            raise BatchError(
                "`mixup_alpha`: mixing samples needs all modalities in all of them. Found absent ones. Use 0."
            )
        share = _draw_beta(self.alpha, self.generator)
        order = torch.randperm(len(batch), generator=self.generator)
        plain = cast(Tensor, batch.target)
        order, target = order.to(plain.device, non_blocking=True), plain
        if not target.is_floating_point():
            classes = self._task.name == "classification"
            target = nn.functional.one_hot(target.long(), self._task.outputs).float() if classes else target.float()

        def mix(t: Tensor) -> Tensor:
            if t.dtype == torch.bool:  # the mask of a sequence: a step is real where either sample has one
                return t | t.index_select(0, order)
            if not t.is_floating_point():
                raise BatchError("`mixup_alpha`: only floating-point inputs can be mixed. Found integers. Use 0.")
            return share * t + (1 - share) * t.index_select(0, order)

        inputs = {m: tree_map(mix, x) for m, x in batch.inputs.items()}
        return Batch(inputs, mix(target), None, batch.index, {**batch.extras, UNMIXED: plain})


def _draw_beta(alpha: float, generator: torch.Generator) -> float:
    """One draw from Beta(alpha, alpha), as a ratio of Gamma draws from the given generator."""
    gamma = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    return float(gamma[0] / gamma.sum())
