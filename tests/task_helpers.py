"""Outputs and methods for every task, on the models of `equimodal.testing`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from equimodal.methods import Method, get
from equimodal.tasks import Task
from equimodal.testing import TASKS, spatial_of, task_batch, task_model, task_target

__all__ = [
    "NAN",
    "TASKS",
    "D",
    "finite",
    "make_output",
    "make_target",
    "spatial_of",
    "task_batch",
    "task_method",
    "task_model",
]

D = 4
"""Features per modality of the models for tasks."""
NAN = math.nan

make_target = task_target


def make_output(task: Task, size: int, seed: int = 0, spatial: tuple[int, ...] = (4, 4)) -> Tensor:
    """Random outputs in float64."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, task.outputs, *(spatial if task.dense else ()), generator=g, dtype=torch.float64)


def task_method(method: str, name: str, count: int, *, task: Task | None = None, **options: Any) -> Method:
    """The method on the model of a task, in float64 and training mode."""
    task = TASKS[name]() if task is None else task
    return get(method)(task_model(name, task, count), task, **options).double().train()


def finite(method: nn.Module) -> bool:
    """Whether every parameter and buffer is finite."""
    return all(bool(torch.isfinite(t).all()) for t in (*method.parameters(), *method.buffers()))
