"""Outputs of experts whose quality is known, on validation and test samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equimodal.inference import JOINT
from equimodal.tasks import Classification, Distribution, MultiLabel, Regression, Segmentation, distribution_of

F64 = torch.float64
CLASSES, SIDE = 4, 6

Experts = Mapping[str, tuple[float, float]]
"""Expert -> (how much it knows: 0 is chance, factor on how boldly it says so)."""

REGIMES: dict[str, Experts] = {
    "one strong": {"m0": (3.0, 1.0), "m1": (0.0, 1.0), "m2": (0.0, 1.0), "m3": (0.0, 1.0), JOINT: (2.0, 1.0)},
    "bold and wrong": {"m0": (3.0, 1.0), "m1": (0.0, 10.0), "m2": (0.3, 10.0), JOINT: (2.0, 3.0)},
    "only together": {"m0": (0.0, 1.0), "m1": (0.0, 1.0), JOINT: (3.0, 1.0)},
    "equal": {"m0": (2.0, 1.0), "m1": (2.0, 1.0), "m2": (2.0, 1.0)},
    "joint at chance": {"m0": (2.5, 1.0), "m1": (1.0, 1.0), JOINT: (0.0, 5.0)},
}


@dataclass(frozen=True)
class Said:
    """What the experts say of some samples."""

    outputs: dict[str, Tensor]
    target: Tensor

    @property
    def joint(self) -> Tensor | None:
        return self.outputs.get(JOINT)

    @property
    def unimodal(self) -> dict[str, Tensor]:
        return {m: z for m, z in self.outputs.items() if m != JOINT}


def classes(experts: Experts, size: int, seed: int) -> Said:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (size,), generator=g)
    onehot = torch.nn.functional.one_hot(y, CLASSES).to(F64)
    noise = {e: torch.randn(size, CLASSES, generator=g, dtype=F64) for e in experts}
    return Said({e: bold * (k * onehot + 1.5 * noise[e]) for e, (k, bold) in experts.items()}, y)


def labels(experts: Experts, size: int, seed: int) -> Said:
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(size, 3, generator=g) < torch.tensor([0.5, 0.3, 0.4])).long()
    noise = {e: torch.randn(size, 3, generator=g, dtype=F64) for e in experts}
    return Said({e: bold * (k * (y - 0.5) + noise[e]) for e, (k, bold) in experts.items()}, y)


def numbers(experts: Experts, size: int, seed: int) -> Said:
    g = torch.Generator().manual_seed(seed)
    y = 2 * torch.randn(size, generator=g, dtype=F64)
    outputs = {}
    for position, (e, (k, bold)) in enumerate(experts.items()):
        share = k**2 / (1 + k**2)  # of the variance, as a regression shrinks to what it knows
        error = torch.randn(size, generator=g, dtype=F64)
        mean = share * (y + 2 * error / k) if k else 0.1 * bold * error
        outputs[e] = (mean + 0.3 * (position - 1))[:, None]
    return Said(outputs, y)


def gaussians(experts: Experts, size: int, seed: int) -> Said:
    said = numbers(experts, size, seed)
    logs = {e: torch.full_like(z, 0.5) - 2 * torch.tensor(experts[e][1]).log() for e, z in said.outputs.items()}
    return Said({e: torch.cat([z, logs[e]], 1) for e, z in said.outputs.items()}, said.target)


def pixels(experts: Experts, size: int, seed: int) -> Said:
    g = torch.Generator().manual_seed(seed)
    size = max(size // 10, 8)
    y = (torch.rand(size, SIDE, SIDE, generator=g) < 0.25).long()
    outputs = {}
    for position, (e, (k, bold)) in enumerate(experts.items()):
        odds = k * (2.0 * y - 1) + torch.randn(y.shape, generator=g, dtype=F64) * 1.5
        z = bold * odds + (position - 2)  # every expert has an offset of its own
        outputs[e] = torch.stack([torch.zeros_like(z), z], 1)
    return Said(outputs, y)


TASKS: dict[str, tuple[Callable[[], Any], Callable[[Experts, int, int], Said]]] = {
    "classification": (lambda: Classification(CLASSES), classes),
    "multilabel": (lambda: MultiLabel(3), labels),
    "regression": (Regression, numbers),
    "gaussian": (lambda: Regression(loss="gaussian_nll"), gaussians),
    "segmentation": (lambda: Segmentation(2), pixels),
}


def kind(task: Any) -> Distribution:
    return distribution_of(task)
