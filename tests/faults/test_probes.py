"""A probe never does much worse than a constant, and does not depend on the unit of the features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, Regression
from equimodal.diagnostics import probe_scores
from equimodal.fusion import Concat
from equimodal.methods import Joint
from equimodal.tasks import Task
from tests.faults.families import many


class Keep(nn.Module):
    """Returns its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_features = width
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.one


def probe(parts: list[tuple[Tensor, Tensor]], task: Task) -> float:
    width = parts[0][0].shape[1]
    method = Joint(MultimodalModel({"x": Keep(width)}, Concat({"x": width}), nn.Linear(width, task.outputs)), task)
    train, validation, test = ([Batch({"x": x}, y)] for x, y in parts)
    return probe_scores(method, train, validation, test)["x"]


def drawn(seed: int, informative: bool, size: int = 80) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    features = [torch.randn(size, 6, generator=g) for _ in range(3)]
    truth = [x[:, 0] + 0.3 * torch.randn(size, generator=g) for x in features]
    noise = [torch.randn(size, generator=g) for _ in range(3)]
    return features, truth if informative else noise


def test_an_almost_constant_training_feature_does_not_decide_alone() -> None:
    for number, rng in enumerate(many(12, seed=30)):
        features, targets = drawn(number, informative=bool(number % 2))
        tiny = 10.0 ** float(rng.integers(-9, -2))
        level = float(rng.normal()) * 10.0 ** float(rng.integers(-3, 3))
        columns = rng.choice(6, int(rng.integers(1, 4)), replace=False).tolist()
        for column in columns:
            features[0][:, column] = level + tiny * features[0][:, column]
        y = targets if number % 3 else [13 + t for t in targets]
        error = -probe(list(zip(features, y, strict=True)), Regression())
        constant = max(float((part - y[0].median()).abs().mean()) for part in y[1:])  # the penalty is chosen on y[1]
        assert error < 1.3 * constant, number
        if number % 2 and 0 not in columns:
            labels = [(t > 0).long() for t in targets]
            assert probe(list(zip(features, labels, strict=True)), Classification(2)) > 0.75, number


def test_the_unit_of_a_feature_changes_nothing() -> None:
    for number, rng in enumerate(many(6, seed=31)):
        features, targets = drawn(100 + number, informative=True)
        task = Regression() if number % 2 else Classification(2)
        y = targets if number % 2 else [(t > 0).long() for t in targets]
        plain = probe(list(zip(features, y, strict=True)), task)
        scale = torch.tensor(10.0 ** rng.integers(-12, 12, 6), dtype=torch.float32)
        offset = scale * torch.tensor(rng.integers(-30, 30, 6), dtype=torch.float32)
        moved = probe([(x * scale + offset, t) for x, t in zip(features, y, strict=True)], task)
        assert abs(plain - moved) < 0.02
        assert plain > (-0.4 if number % 2 else 0.8)
