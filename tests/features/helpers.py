"""Shared by the proofs of the engine features: the settings, what is claimed of each, optimizers, small models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equimodal import Batch, MultimodalModel, PlainEngine
from equimodal.engine import UpdateScale
from equimodal.engine._features import departures
from equimodal.fusion import Concat
from equimodal.methods import Method, available, get
from tests.helpers import CLASSES, METHOD_SETTINGS, WIDTH, Settings, method_on, mlp, plain_batch, setting_id

Setting = tuple[str, Settings]
SETTINGS: list[Setting] = [
    *METHOD_SETTINGS,
    *((n, {}) for n in available() if n not in {m for m, _ in METHOD_SETTINGS}),
]
"""Every registered method at its defaults, and the options that the tests of the registry add."""
SIZES = {"a": 5, "b.c": 4, "keys": 3}

every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=setting_id)


def departure(setting: Setting, feature: str) -> str | None:
    """``"refused"``, ``"differs"``, or ``None`` where the claim of the feature holds as it stands."""
    name, options = setting
    known = {k: v for k, v in options.items() if k != "small"}
    kinds = {text.partition(":")[0] for text in departures(get(name), feature, known)}
    return "refused" if "refused" in kinds else "differs" if kinds else None


def plain_method(setting: Setting, seed: int = 0, norm: bool = False, sizes: dict[str, int] = SIZES) -> Method:
    """The method on MLP encoders (which compile), with batch normalisation if asked for, in float64."""
    torch.manual_seed(seed)
    encoders: dict[str, nn.Module] = {
        m: nn.Sequential(mlp(n, WIDTH), nn.BatchNorm1d(WIDTH)) if norm else mlp(n, WIDTH) for m, n in sizes.items()
    }
    fusion = Concat(dict.fromkeys(encoders, WIDTH))
    model = MultimodalModel(encoders, fusion, nn.Linear(WIDTH * len(encoders), CLASSES)).double()
    return method_on(model, setting[0], **setting[1])


def data(size: int = 12, seed: int = 0, sizes: dict[str, int] = SIZES) -> Batch:
    """Random vectors and labels for :func:`plain_method`."""
    return plain_batch(sizes, CLASSES, size, seed)


def single(batch: Batch) -> Batch:
    """The batch in float32."""
    return batch._map(lambda t: t.float() if t.is_floating_point() else t)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Everything in the state that is a tensor, extra state included."""
    found: dict[str, Tensor] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[name] = value.detach().clone()
        elif isinstance(value, dict):
            for key, part in value.items():
                walk(f"{name}/{key}", part)
        elif isinstance(value, (list, tuple)):
            for key, part in enumerate(value):
                walk(f"{name}/{key}", part)

    for name, value in module.state_dict().items():
        walk(name, value)
    return found


class Lion(Optimizer):
    """Sign of an interpolated momentum, with decoupled decay (Chen et al. 2023, algorithm 2)."""

    def __init__(self, params: Any, lr: float = 1e-3, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
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


class Watched(PlainEngine):
    """Writes down, for every phase, the order of what happens to its gradients."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.events: list[str] = []

    def descend(self, phase: Any, batches: Sequence[Batch], sharpness: Any = None) -> Any:
        self.events.append(f"phase {phase.name}")
        return super().descend(phase, batches, sharpness)

    def _finish_backward(self, phase: Any, failed: bool = False, parts: Any = None) -> bool:
        self.events.append("average")
        result = super()._finish_backward(phase, failed, parts)
        if self._scale is not None:
            unscale, scale = self._scale.unscale, self._scale

            def spied(parameters: Any) -> bool:
                self.events.append("unscale")
                del scale.unscale
                return unscale(parameters)

            scale.unscale = spied  # type: ignore[method-assign]
        return result

    def step(self, phase: Any, scales: Sequence[UpdateScale] = ()) -> None:
        self.events.append("clip")
        super().step(phase, scales)

    def _step_optimizers(self) -> None:
        self.events.append("step")
        super()._step_optimizers()


def nan_batch(batch: Batch, modality: str) -> Batch:
    """One sample of one modality is NaN."""
    spoilt = batch.inputs[modality].clone()
    spoilt[1] = math.nan
    return Batch({**batch.inputs, modality: spoilt}, batch.target, batch.present, batch.index)
