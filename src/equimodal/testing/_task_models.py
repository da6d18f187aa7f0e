"""Models and batches for every task: vectors, and maps for segmentation in two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.errors import MethodError
from equimodal.features import on_rows
from equimodal.model import MultimodalModel
from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation, Task
from equimodal.testing._models import NAMES, concat, mlp

FEATURES = 4
"""Features per modality."""

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
"""Name -> task: the tasks of the library with the losses and options that differ in kind."""


class Maps(nn.Module):
    """(B, 2, *spatial) to (B, FEATURES, *spatial)."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        kind = nn.Conv2d if axes == 2 else nn.Conv3d
        self.first, self.last = kind(2, 3, 3, padding=1), kind(3, FEATURES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of features."""
        maps: Tensor = self.last(torch.tanh(self.first(x)))
        return maps


def spatial_of(name: str) -> tuple[int, ...]:
    """Sizes of the maps of the task of that name."""
    return (3, 4, 2) if name == "volume" else (4, 4)


def task_target(task: Task, size: int, seed: int = 0, spatial: tuple[int, ...] = (4, 4)) -> Tensor:
    """Random targets that the task takes.

    Raises:
        MethodError: the task is none of the library.
    """
    g = torch.Generator().manual_seed(seed + 17)
    if isinstance(task, Classification):
        return torch.randint(0, task.num_classes, (size,), generator=g)
    if isinstance(task, MultiLabel):
        return torch.randint(0, 2, (size, task.num_labels), generator=g)
    if isinstance(task, Regression):
        y = torch.randn(size, task.size, generator=g, dtype=torch.float64)
        return y[:, 0] if task.size == 1 else y
    if not isinstance(task, Segmentation):
        raise MethodError(f"`task`: expected a task of equimodal. Found {type(task).__name__}. Make targets yourself.")
    labels = torch.randint(0, task.num_classes, (size, *spatial), generator=g)
    if task.ignore_index is not None:
        labels[torch.rand(labels.shape, generator=g) < 0.2] = task.ignore_index
    return labels


def task_model(name: str, task: Task, count: int, *, convolution: bool = False, deep: bool = False) -> MultimodalModel:
    """Small encoders, Concat and an affine head, in float64.

    Args:
        name: key of :data:`TASKS`, which decides about the axes of maps.
        task: decides about the kind of the encoders and the size of the output.
        count: of modalities.
        convolution: of a segmentation: the head is a 1x1 convolution, not a linear layer over the positions as rows.
        deep: the head has a hidden layer.

    Example:
        >>> model = task_model("mse", TASKS["mse"](), 2)
        >>> model(task_batch("mse", TASKS["mse"](), 2, size=3).inputs).shape
        torch.Size([3, 2])
    """
    torch.manual_seed(0)
    axes = len(spatial_of(name))
    encoders: dict[str, nn.Module] = {m: Maps(axes) if task.dense else mlp(5, FEATURES) for m in NAMES[:count]}
    width = FEATURES * count
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
    return MultimodalModel(encoders, concat(encoders, FEATURES), head).double()


def task_batch(name: str, task: Task, count: int, size: int = 8, seed: int = 0, absent: float | None = None) -> Batch:
    """Inputs for :func:`task_model` that carry something of the target.

    Args:
        name: key of :data:`TASKS`.
        task: takes the targets.
        count: of modalities.
        size: of the batch.
        seed: of inputs and targets.
        absent: some rows lack two of the modalities and hold this number instead; ``None``: all modalities are there.

    Example:
        >>> sorted(task_batch("mse", TASKS["mse"](), 2, absent=0.0).present)
        ['audio.raw', 'the keys']
    """
    g = torch.Generator().manual_seed(seed + 100)
    spatial = spatial_of(name)
    target = task_target(task, size, seed, spatial)
    if task.dense:
        signal = torch.stack([target.double(), (target == 1).double()], dim=1).clamp(0, 4)
    else:
        signal = target.double().reshape(size, -1)[:, :1]
    inputs: dict[str, Any] = {}
    for number, m in enumerate(NAMES[:count]):
        noise = torch.randn(size, *((2, *spatial) if task.dense else (5,)), generator=g, dtype=torch.float64)
        inputs[m] = noise + signal / (1 + number)
    if absent is None:
        return Batch(inputs, target, None, torch.arange(size))
    first = torch.arange(size) % 3 != 0
    present = {NAMES[0]: first, NAMES[1]: (torch.arange(size) % 4 != 1) | ~first}
    for m, mask in present.items():
        inputs[m] = torch.where(mask.reshape(-1, *[1] * (inputs[m].ndim - 1)), inputs[m], absent)
    return Batch(inputs, target, present, torch.arange(size))
