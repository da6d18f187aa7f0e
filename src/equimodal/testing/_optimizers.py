"""Optimizers of the kinds that methods must get on with, written out in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """Sign of an interpolated momentum, with decoupled decay (Chen et al. 2023, algorithm 2)."""

    def __init__(self, params: Any, lr: float = 1e-3, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update."""
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["decay"])
                p.sub_(torch.sign(first * mean + (1 - first) * p.grad), alpha=group["lr"])
                mean.mul_(second).add_(p.grad, alpha=1 - second)


class ScheduleFree(Optimizer):
    """Schedule-free SGD (Defazio et al. 2024): the parameters hold y while training and the average x otherwise."""

    def __init__(self, params: Any, lr: float = 0.05, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "train_mode": True, "k": 0})

    def _move(self, training: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == training:
                continue
            for p in group["params"]:
                z = self.state[p].get("z")
                if z is not None:  # y = (1 - momentum) z + momentum x
                    weight = 1 - group["momentum"] if training else 1 - 1 / group["momentum"]
                    p.data.lerp_(z, weight)
            group["train_mode"] = training

    def train(self) -> None:
        """To the training point y."""
        self._move(True)

    def eval(self) -> None:
        """To the averaged point x."""
        self._move(False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update."""
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("call train() before step()")
            beta, lr = group["momentum"], group["lr"]
            weight = 1 / (group["k"] + 1)
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.detach().clone())
                x = (p - (1 - beta) * z) / beta
                z.sub_(p.grad, alpha=lr)
                x.lerp_(z, weight)
                p.copy_((1 - beta) * z + beta * x)
            group["k"] += 1


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "lion": lambda p: Lion(p, lr=0.01, decay=0.1),
    "schedule-free": lambda p: ScheduleFree(p),
}
"""Name -> makes the optimizer from parameters."""
