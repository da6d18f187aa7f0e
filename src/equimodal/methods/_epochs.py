"""What a method may need between epochs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from equimodal.engine import Engine
from equimodal.methods._validation import require_validation

if TYPE_CHECKING:
    from equimodal.methods._predictor import BatchLike


@dataclass(frozen=True)
class EpochContext:
    """What a method may need to know or use between epochs.

    Args:
        epoch: number of the epoch, from 0.
        epochs: how many are planned, if known.
        steps: updates per epoch, if known.
        loader: iterable over the training batches, for methods that pass over the data; ``None`` if not offered.
        engine: the engine that trains.
        validation: iterable over the validation batches, for methods that choose something between epochs; ``None`` if
            not offered. Never test data: a loader of another split is refused.
        accumulate: micro-batches per update.

    Raises:
        MethodError: ``validation`` is of the training or test split.
    """

    epoch: int
    epochs: int | None = None
    steps: int | None = None
    loader: Iterable[BatchLike] | None = None
    engine: Engine | None = None
    validation: Iterable[BatchLike] | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        require_validation(self.validation, "context.validation")
