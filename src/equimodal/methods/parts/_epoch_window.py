"""The epochs in which a method does something, by their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from equimodal.methods._base import EpochContext, Stateful


class EpochWindow(Stateful):
    """Epochs ``start`` to ``end``, both included; an epoch that is not announced counts as the first.

    Put it before :class:`Method` among the bases. ``state`` of a subclass names ``"epoch"`` too.

    Example:
        >>> window = EpochWindow()
        >>> window.start, window.end = 1, 2
        >>> [window.on_train_epoch_start(EpochContext(e)) or window.in_window() for e in range(4)]
        [False, True, True, False]
    """

    state: ClassVar[Sequence[str]] = ("epoch",)
    epoch: int = 0
    start: int = 0
    end: int | None = None

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """The number of the epoch says whether it is in the window."""
        self.epoch = context.epoch

    def in_window(self) -> bool:
        """Whether the epoch is one of them."""
        return self.start <= self.epoch and not self.is_over()

    def is_over(self) -> bool:
        """Whether the last of them has gone by."""
        return self.end is not None and self.epoch > self.end
