"""Groups of samples that must stay together, and the folds that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from equimodal.errors import MethodError

FOLDS = 5
"""Parts of a cross-validation."""
Groups = Sequence[object] | npt.NDArray[np.generic] | Tensor


def group_codes(groups: Groups | None, count: int) -> Tensor | None:
    """(count,) numbers 0, 1, ... in the sorted order of the labels; ``None`` where they tell no samples apart.

    That is without labels, and where all samples have the same one.

    Args:
        groups: (count,) labels: speaker, patient ...
        count: number of samples.

    Raises:
        MethodError: another number of labels.

    Example:
        >>> group_codes(["b", "a", "b"], 3)
        tensor([1, 0, 1])
    """
    if groups is None:
        return None
    labels = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    if labels.shape != (count,):
        raise MethodError(
            f"`groups`: expected one label for each of {count} samples. Found {labels.shape}. Give them in the order "
            "of the samples in `batches`."
        )
    _, codes = np.unique(labels, return_inverse=True)
    found = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int64))
    return None if int(found.max()) == 0 else found


def folds_of(
    groups: Tensor | None, target: Tensor, outputs: Mapping[str, Tensor], present: Mapping[str, Tensor]
) -> Tensor:
    """(N,) numbers of folds, at most :data:`FOLDS`, equal within a group; the same in whatever order samples come.

    Groups go to the smallest fold so far, the largest group first. Samples without groups are sorted by their target
    and the size of their outputs and dealt out in turn, so that folds are alike in both.

    Args:
        groups: (N,) codes, or ``None``: every sample by itself.
        target: (N, ...).
        outputs: expert -> (N, ...).
        present: expert -> (N,) booleans; content of other rows is not read.
    """
    if groups is not None:
        return _folds_of_groups(groups)
    sizes = []
    for e, z in outputs.items():
        square = z.detach().cpu().double().flatten(1).square().sum(1)
        sizes.append(torch.where(present[e].cpu(), square, 0.0))
    size = torch.stack(sizes).sort(0).values.sum(0)  # sorted: the order of the experts does not matter
    y = target.detach().cpu().double().flatten(1) if target.ndim > 1 else target.detach().cpu().double()[:, None]
    key = (y * torch.arange(1, y.shape[1] + 1)).mean(1)
    order = np.lexsort((size.numpy(), key.numpy()))
    found = torch.empty(len(y), dtype=torch.int64)
    found[torch.from_numpy(order)] = torch.arange(len(y)) % min(FOLDS, len(y))
    return found


def _folds_of_groups(groups: Tensor) -> Tensor:
    counts = torch.bincount(groups).tolist()
    folds = min(FOLDS, len(counts))
    filled, fold_of = [0] * folds, [0] * len(counts)
    for group in sorted(range(len(counts)), key=lambda g: (-counts[g], g)):
        smallest = min(range(folds), key=lambda f: (filled[f], f))
        fold_of[group] = smallest
        filled[smallest] += counts[group]
    return torch.tensor(fold_of)[groups]
