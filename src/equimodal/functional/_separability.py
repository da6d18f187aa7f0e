"""How well features of a modality fall into groups of one class each."""

from __future__ import annotations

import torch
from torch import Tensor

from equimodal.errors import MethodError


def scaled_to_unit(points: Tensor) -> Tensor:
    """Each column scaled to [-1, 1] by its least and greatest value; 0 where these are equal.

    Args:
        points: (n, d), n >= 1.

    Example:
        >>> scaled_to_unit(torch.tensor([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]])).tolist()
        [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    low, high = points.aminmax(dim=0)
    width = high - low
    return torch.where(width > 0, 2 * (points - low) / torch.where(width > 0, width, 1) - 1, 0)


def k_means(points: Tensor, clusters: int, generator: torch.Generator, starts: int = 10, rounds: int = 100) -> Tensor:
    """Cluster of each point by Lloyd's algorithm from seeds of k-means++, the best of several starts.

    Args:
        points: (n, d), n >= 1, on the CPU.
        clusters: at least 1; at most n are made.
        generator: draws the seeds.
        starts: how often to begin anew.
        rounds: most rounds of each.

    Returns:
        (n,) numbers of clusters.

    Example:
        >>> points = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
        >>> found = k_means(points, 2, torch.Generator().manual_seed(0))
        >>> bool(found[0] == found[1] != found[2] == found[3])
        True
    """
    if points.ndim != 2 or not len(points) or clusters < 1:
        raise MethodError(f"`points`: expected (n, d) with a point. Found {tuple(points.shape)}, {clusters} clusters.")
    points = points.detach().double()
    best, found = torch.inf, torch.zeros(len(points), dtype=torch.int64)
    for _ in range(starts):
        centres = _seeds(points, min(clusters, len(points)), generator)
        labels = found.new_full((len(points),), -1)
        for _ in range(rounds):
            distance, nearest = torch.cdist(points, centres).square().min(1)
            if torch.equal(nearest, labels):
                break
            labels = nearest
            sums = torch.zeros_like(centres).index_add_(0, labels, points)
            counts = torch.bincount(labels, minlength=len(centres))[:, None]
            centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        inertia = float(distance.sum())
        if inertia < best:
            best, found = inertia, labels
    return found


def _seeds(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centre is a point drawn with the square of its distance to the nearest one before."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen, nearest = [first], (points - points[first]).square().sum(1)
    for _ in range(count - 1):
        level = float(torch.rand(1, generator=generator)) * float(nearest.sum())
        following = min(int(torch.searchsorted(nearest.cumsum(0), level, right=True)), len(points) - 1)
        chosen.append(following)
        nearest = torch.minimum(nearest, (points - points[following]).square().sum(1))
    return points[chosen]


def purity(clusters: Tensor, classes: Tensor) -> float:
    r"""Share of samples in the most frequent class of their cluster, :math:`\frac1n \sum_k \max_c |k \cap c|`.

    Args:
        clusters: (n,) numbers from 0.
        classes: (n,) numbers from 0.

    Example:
        >>> purity(torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 1, 0]))
        0.75
    """
    table = torch.zeros(int(clusters.max()) + 1, int(classes.max()) + 1, dtype=torch.int64)
    table.index_put_((clusters, classes), torch.ones_like(clusters), accumulate=True)
    return int(table.amax(1).sum()) / len(clusters)
