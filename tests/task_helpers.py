"""Models and batches for every task: vectors, and maps for segmentation in two and three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equimodal import Batch, MultimodalModel
from equimodal.features import on_rows
from equimodal.fusion import Concat
from equimodal.methods import Method, get
from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation, Task
from tests.helpers import NAMES, mlp

F64 = torch.float64
D = 4

TASKS: dict[str, Callable[[], Task]] = {
    "classification": lambda: Classification(3),
    "weighted": lambda: Classification(3, class_weight=[1.0, 2.0, 5.0]),
    "multilabel": lambda: MultiLabel(3, pos_weight=[1.0, 2.0, 0.5]),
    "l1": lambda: Regression(),
    "mse": lambda: Regression(2, loss="mse"),
    "huber": lambda: Regression(loss="huber", delta=0.7),
    "gaussian": lambda: Regression(2, loss="gaussian_nll"),
    "segmentation": lambda: Segmentation(3, class_weight=[0.2, 0.3, 0.5], ignore_index=9),
    "regions": lambda: Segmentation(4, regions={"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}, batch_dice=False),
    "volume": lambda: Segmentation(2, dice_weight=0.3),
}


def make_target(task: Task, size: int, seed: int = 0, spatial: tuple[int, ...] = (4, 4)) -> Tensor:
    """Random targets that the task takes."""
    g = torch.Generator().manual_seed(seed + 17)
    if isinstance(task, Classification):
        return torch.randint(0, task.num_classes, (size,), generator=g)
    if isinstance(task, MultiLabel):
        return torch.randint(0, 2, (size, task.num_labels), generator=g)
    if isinstance(task, Regression):
        y = torch.randn(size, task.size, generator=g, dtype=F64)
        return y[:, 0] if task.size == 1 else y
    assert isinstance(task, Segmentation)
    labels = torch.randint(0, task.num_classes, (size, *spatial), generator=g)
    if task.ignore_index is not None:
        labels[torch.rand(labels.shape, generator=g) < 0.2] = task.ignore_index
    return labels


def make_output(task: Task, size: int, seed: int = 0, spatial: tuple[int, ...] = (4, 4)) -> Tensor:
    """Random outputs in float64."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, task.outputs, *(spatial if task.dense else ()), generator=g, dtype=F64)


def spatial_of(name: str) -> tuple[int, ...]:
    """Sizes of the maps of the task of that name."""
    return (3, 4, 2) if name == "volume" else (4, 4)


class Maps(nn.Module):
    """(B, 2, *spatial) to (B, D, *spatial)."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        kind = nn.Conv2d if axes == 2 else nn.Conv3d
        self.first, self.last = kind(2, 3, 3, padding=1), kind(3, D, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.last(torch.tanh(self.first(x)))
        return maps


def task_model(name: str, task: Task, count: int, *, convolution: bool = False, deep: bool = False) -> MultimodalModel:
    """Small encoders, Concat and an affine head (one linear layer, or a 1x1 convolution), in float64."""
    torch.manual_seed(0)
    axes = len(spatial_of(name))
    encoders: dict[str, nn.Module] = {m: Maps(axes) if task.dense else mlp(5, D) for m in NAMES[:count]}
    fusion = Concat(dict.fromkeys(encoders, D))
    width = D * count
    if convolution and task.dense:
        kind = nn.Conv2d if axes == 2 else nn.Conv3d
        head: nn.Module = kind(width, task.outputs, 1)
        if deep:
            head = nn.Sequential(kind(width, 5, 1), nn.Tanh(), kind(5, task.outputs, 1))
    else:
        body: nn.Module = nn.Linear(width, task.outputs)
        if deep:
            body = nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, task.outputs))
        head = on_rows(body, task.dense)
    return MultimodalModel(encoders, fusion, head).double()


def task_batch(name: str, task: Task, count: int, size: int = 8, seed: int = 0, absent: float | None = None) -> Batch:
    """Inputs that carry something of the target; with ``absent`` some rows lack two modalities and hold that number."""
    g = torch.Generator().manual_seed(seed + 100)
    spatial = spatial_of(name)
    target = make_target(task, size, seed, spatial)
    if task.dense:
        signal = torch.stack([target.double(), (target == 1).double()], dim=1).clamp(0, 4)
    else:
        signal = target.double().reshape(size, -1)[:, :1]
    inputs: dict[str, Any] = {}
    for number, m in enumerate(NAMES[:count]):
        noise = torch.randn(size, *((2, *spatial) if task.dense else (5,)), generator=g, dtype=F64)
        inputs[m] = noise + signal / (1 + number)
    if absent is None:
        return Batch(inputs, target, None, torch.arange(size))
    first = torch.arange(size) % 3 != 0
    present = {NAMES[0]: first, NAMES[1]: (torch.arange(size) % 4 != 1) | ~first}
    for m, mask in present.items():
        inputs[m] = torch.where(mask.reshape(-1, *[1] * (inputs[m].ndim - 1)), inputs[m], absent)
    return Batch(inputs, target, present, torch.arange(size))


def task_method(method: str, name: str, count: int, *, task: Task | None = None, **options: Any) -> Method:
    """The method on the model of a task, in float64 and training mode."""
    own = TASKS[name]() if task is None else task
    return get(method)(task_model(name, own, count), own, **options).double().train()


def finite(method: nn.Module) -> bool:
    """Whether every parameter and buffer is finite."""
    return all(bool(torch.isfinite(t).all()) for t in (*method.parameters(), *method.buffers()))


NAN = math.nan
