"""Scaling, clusters and purity by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from equimodal.errors import MethodError
from equimodal.functional import k_means, purity, scaled_to_unit


def test_scaling_by_hand() -> None:
    points = torch.tensor([[0.0, 2.0], [4.0, 2.0], [1.0, 2.0]])
    assert scaled_to_unit(points).tolist() == [[-1.0, 0.0], [1.0, 0.0], [-0.5, 0.0]]


def test_purity_by_hand() -> None:
    """Clusters {0, 0, 1}, {1, 1}, {2}: 2 + 2 + 1 of 6."""
    assert purity(torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 1, 2])) == pytest.approx(5 / 6)
    assert purity(torch.tensor([0, 1, 2]), torch.tensor([5, 5, 5])) == 1.0


def inertia(points: torch.Tensor, labels: torch.Tensor) -> float:
    return sum(float((points[labels == k] - points[labels == k].mean(0)).square().sum()) for k in set(labels.tolist()))


def test_the_best_of_all_partitions() -> None:
    """Eight points in two clusters: no partition is better."""
    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = k_means(points, 2, torch.Generator().manual_seed(1))
    best = min(inertia(points, torch.tensor(p)) for p in itertools.product((0, 1), repeat=8))
    assert inertia(points, found) == pytest.approx(best, abs=1e-12)


def test_groups_that_are_far_apart_are_found() -> None:
    g = torch.Generator().manual_seed(2)
    classes = torch.arange(60) % 5
    points = 20 * torch.eye(5)[classes] + torch.randn(60, 5, generator=g)
    assert purity(k_means(points, 5, g), classes) == 1.0
    assert set(k_means(points, 5, g).tolist()) == set(range(5))


def test_fewer_points_than_clusters_and_equal_points() -> None:
    g = torch.Generator().manual_seed(0)
    assert sorted(k_means(torch.tensor([[0.0], [1.0]]), 4, g).tolist()) == [0, 1]
    assert len(set(k_means(torch.ones(5, 2), 3, g).tolist())) == 1
    with pytest.raises(MethodError, match="`points`"):
        k_means(torch.zeros(0, 2), 2, g)
