"""The training loader of an epoch, for methods that look at its samples and say what an epoch consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from equimodal.batch import Batch
from equimodal.engine import all_sum, evaluating
from equimodal.errors import UnsupportedError
from equimodal.methods._base import EpochContext, Method
from equimodal.methods._predictor import BatchLike
from equimodal.methods.parts._announced import lacking
from equimodal.tasks import counting_dtype

Positions = Tensor | Sequence[int]


@runtime_checkable
class PlannedLoader(Protocol):
    """What a method may ask of a loader that takes plans; :class:`equimodal.data.Loader` is one.

    The split has ``len``, ``modalities``, ``target``, ``present`` and ``positions`` of its samples.
    """

    @property
    def split(self) -> Any:
        """The samples."""

    def plan(
        self,
        rows: Mapping[str, Positions] | None,
        target: Positions | None = None,
        groups: Positions | None = None,
        *,
        blocks: bool = False,
    ) -> None:
        """Say what epochs consist of from the next one on; see :meth:`equimodal.data.Loader.plan`."""

    def full_pass(self) -> Iterable[Batch]:
        """Batches of every sample of this process once, unchanged; the loader stays where it is."""

    def __iter__(self) -> Iterator[Batch]:
        """The batches of an epoch."""

    def __len__(self) -> int:
        """How many batches the next epoch has."""


def planned_loader(method: Method, context: EpochContext) -> PlannedLoader:
    """The training loader, if it takes plans.

    Args:
        method: named in the error.
        context: of the epoch.

    Raises:
        MethodError: the context has no loader.
        UnsupportedError: the loader does not take plans.

    Example:
        >>> from equimodal import MultimodalModel
        >>> from equimodal.data import load_avdigits, loader
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> from torch import nn
        >>> data = load_avdigits()
        >>> widths = {"image": 64, "audio": 1024}
        >>> encoders = {m: nn.Sequential(nn.Flatten(), nn.Linear(n, 8)) for m, n in widths.items()}
        >>> model = MultimodalModel(encoders, Concat({"image": 8, "audio": 8}), nn.Linear(16, 10))
        >>> context = EpochContext(0, loader=loader(data.train, 32))
        >>> train = planned_loader(Joint(model, data.task), context)
        >>> train.plan({"image": range(320), "audio": [-1] * 320})  # images alone
        >>> len(train)
        10
    """
    name = type(method).__name__
    if context.loader is None:
        raise lacking(method, "loader", "plans the rows of an epoch")
    if not isinstance(context.loader, PlannedLoader):
        raise UnsupportedError(
            f"`context.loader`: {name} plans the rows of an epoch, which needs a loader with the method `plan`. Found "
            f"{type(context.loader).__name__}. Make it with equimodal.data.loader(dataset.train, batch_size); your own "
            "arrays become a dataset with equimodal.data.from_arrays."
        )
    return context.loader


def full_pass(loader: Iterable[BatchLike]) -> Iterable[BatchLike]:
    """Every sample once: unchanged, and without moving a loader that takes plans."""
    return loader.full_pass() if isinstance(loader, PlannedLoader) else loader


def presence_of(method: Method, loader: PlannedLoader) -> Tensor:
    """(N, M) booleans: which samples of the loader's split have which modality of the method."""
    split = loader.split
    every = torch.ones(len(split), dtype=torch.bool)
    return torch.stack([split.present.get(m, every) & (m in split.modalities) for m in method.modalities], 1)


def rows_alone(method: Method, loader: PlannedLoader, samples: Tensor, alone: Tensor) -> dict[str, Tensor]:
    """Rows of a plan: each sample with one modality.

    Args:
        method: whose modalities.
        loader: gives those of its split.
        samples: (n,) positions.
        alone: (n,) position of the modality that a sample keeps; -1: all.
    """
    place = {m: method.modalities.index(m) if m in method.modalities else -1 for m in loader.split.modalities}
    return {m: torch.where((alone < 0) | (alone == i), samples, -1) for m, i in place.items()}


@torch.no_grad()
def training_table(
    method: Method, loader: PlannedLoader, columns: int, values: Callable[[Batch], Tensor]
) -> tuple[Tensor, Tensor]:
    """Numbers of every training sample, from a pass in evaluation mode that leaves the loader where it is.

    Args:
        method: put in evaluation mode for the pass.
        loader: of the training samples of this process.
        columns: K, how many numbers each sample has.
        values: from a batch to (B, K).

    Returns:
        (N, K) by position in the loader's split, equal on every process, on the CPU, and (N,) which samples some
        process has. Other rows are 0.
    """
    split = loader.split
    device = next(method.parameters()).device
    table = torch.zeros(len(split), columns + 1, dtype=counting_dtype(device), device=device)
    with evaluating(method):
        for raw in loader.full_pass():
            rows = split.positions(raw.index).to(device)
            found = values(method.check_batch(raw).to(device)).to(table)
            table[rows] = torch.cat([found, torch.ones_like(found[:, :1])], 1)
    whole = all_sum({"table": table})["table"].cpu()
    return whole[:, :-1], whole[:, -1] > 0
