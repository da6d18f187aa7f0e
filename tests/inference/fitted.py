"""Methods with the rule ``skill``, fitted."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.fusion import Concat
from equimodal.methods import Method, MultiLoss
from tests.helpers import CLASSES, make_batch, make_method

F64 = torch.float64


def fitted(name: str = "MultiLoss", count: int = 3, size: int = 40, rule: Any = "skill") -> tuple[Method, Batch]:
    method, batch = make_method(name, count, inference=rule), make_batch(count, size)
    method.fit_inference([batch])
    return method, batch


def pool_of(method: Method) -> Any:
    assert method.inference.pool is not None
    return method.inference.pool


def strong_and_weak() -> tuple[MultiLoss, Batch]:
    """Two modalities that are logits, one of them clearer; the joint head adds them."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (200,), generator=g)
    onehot = nn.functional.one_hot(y, CLASSES).to(F64)
    inputs = {m: k * onehot + torch.randn(200, CLASSES, generator=g, dtype=F64) for m, k in (("a", 2.5), ("b", 1.5))}
    encoders = {m: nn.Linear(CLASSES, CLASSES, bias=False) for m in "ab"}
    head = nn.Linear(2 * CLASSES, CLASSES, bias=False)
    heads = {m: nn.Linear(CLASSES, CLASSES, bias=False) for m in "ab"}
    eye = torch.eye(CLASSES)
    with torch.no_grad():
        for module in (*encoders.values(), *heads.values()):
            module.weight.copy_(eye)
        head.weight.copy_(torch.cat([eye, eye], 1))
    model = MultimodalModel(encoders, Concat({"a": CLASSES, "b": CLASSES}), head).double()
    method = MultiLoss(model, Classification(CLASSES), heads=heads, inference="skill").double()
    return method, Batch(inputs, y)
