"""The training loader of an epoch, for methods that look at its samples and say what an epoch consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

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


def plan_copies(method: Method, loader: PlannedLoader, seen: Tensor, copies: Tensor) -> None:
    """Plan an epoch of every sample once, and of copies with one modality in batches of their own.

    Apart, as batch normalisation cannot train on the one row of a batch that has a modality.

    Args:
        method: whose modalities.
        loader: takes the plan.
        seen: (N,) booleans, which samples there are.
        copies: (N, M), how often a sample is seen once more with a modality alone.
    """
    samples = seen.nonzero()[:, 0]
    target, alone = [samples], [torch.full_like(samples, -1)]
    for position in range(len(method.modalities)):
        repeated = torch.repeat_interleave(torch.arange(len(seen)), copies[:, position])
        target.append(repeated)
        alone.append(torch.full_like(repeated, position))
    chosen, kept = torch.cat(target), torch.cat(alone)
    loader.plan(rows_alone(method, loader, chosen, kept), target=chosen, groups=kept)


class TrainingTable(NamedTuple):
    """Numbers of the training samples, by position in the split of their loader; equal on every process, on the CPU.

    Args:
        loader: takes the plan.
        values: (N, M), 0 where nothing is known.
        seen: (N,) booleans, the samples that some process has.
        there: (N, M) booleans, those of them that have the modality.
    """

    loader: PlannedLoader
    values: Tensor
    seen: Tensor
    there: Tensor


@torch.no_grad()
def training_table(
    method: Method, context: EpochContext, values: Callable[[Batch], Mapping[str, Tensor]]
) -> TrainingTable:
    """A number per training sample and modality, from a pass in evaluation mode that leaves the loader where it is.

    Args:
        method: put in evaluation mode for the pass.
        context: has the loader.
        values: of a batch: modality -> (B,); one that is left out has the number 0.

    Raises:
        MethodError, UnsupportedError: as :func:`planned_loader`.
    """
    loader = planned_loader(method, context)
    split = loader.split
    device = next(method.parameters()).device
    table = torch.zeros(len(split), len(method.modalities) + 1, dtype=counting_dtype(device), device=device)
    with evaluating(method):
        for raw in loader.full_pass():
            rows = split.positions(raw.index).to(device)
            for m, found in values(method.check_batch(raw).to(device)).items():
                table[rows, method.modalities.index(m)] = found.to(table)
            table[rows, -1] = 1
    whole = all_sum({"table": table})["table"].cpu()
    seen = whole[:, -1] > 0
    return TrainingTable(loader, whole[:, :-1], seen, presence_of(method, loader) & seen[:, None])
