"""Models and records whose findings are known: logits as inputs, weights by hand, outcomes by count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.diagnostics import Outcomes
from equimodal.diagnostics.checks import Finding, Records, Subject, get
from equimodal.fusion import Concat
from equimodal.methods import Joint

CLASSES = 3


def run(code: str, subject: Subject, **thresholds: Any) -> list[Finding]:
    """What one check finds."""
    return list(get(code)(**thresholds).run(subject))


def earned(right: int, samples: int = 200, first: int = 0) -> Outcomes:
    """Outcomes of so many right samples, from the sample ``first`` on."""
    numerator = np.zeros((samples, 1), np.float32)
    numerator[first : first + right] = 1
    return Outcomes(numerator, np.ones_like(numerator))


def recorded(*outcomes: Mapping[str, Outcomes], **more: Any) -> Subject:
    """A subject of records alone, of two modalities."""
    records = Records(outcomes=outcomes, modalities=("a", "b"), trained=("a", "b"), share=True, **more)
    return Subject("records", records=records)


def identity(size: int) -> nn.Linear:
    layer = nn.Linear(size, size, bias=False)
    layer.weight.data = torch.eye(size)
    return layer


def told(
    weights: Sequence[float] = (1.0, 1.0), bias: Sequence[float] = (0.0,) * CLASSES, classes: int = CLASSES
) -> Joint:
    """Joint training's model whose logits are the weighted sum of its inputs, which are logits themselves."""
    head = nn.Linear(2 * classes, classes)
    head.weight.data = torch.cat([w * torch.eye(classes) for w in weights], 1)
    head.bias.data = torch.tensor(bias)
    encoders = {"a": identity(classes), "b": identity(classes)}
    return Joint(MultimodalModel(encoders, Concat({"a": classes, "b": classes}), head), Classification(classes))


def labels(samples: int, classes: int = CLASSES) -> Tensor:
    return torch.arange(samples) % classes


def logits(said: Tensor, strength: float = 4.0, seed: int = 0, classes: int = CLASSES) -> Tensor:
    """Logits that say these classes, each sample with a little noise of its own."""
    noise = torch.randn(len(said), classes, generator=torch.Generator().manual_seed(seed))
    return strength * nn.functional.one_hot(said, classes).float() + 1e-3 * noise


def batches(target: Tensor, inputs: Mapping[str, Tensor], size: int = 32, **more: Tensor) -> list[Batch]:
    """Batches of tensors; ``more`` is presence by modality."""
    cut = [slice(i, i + size) for i in range(0, len(target), size)]
    return [
        Batch({m: x[s] for m, x in inputs.items()}, target[s], {m: p[s] for m, p in more.items()} or None) for s in cut
    ]


def data(seed: int = 0, samples: int = 192, **said: Tensor) -> dict[str, Any]:
    """The three parts, with inputs that say the label unless ``said`` gives other classes for all parts."""
    target, found = labels(samples), {}
    for number, part in enumerate(("train", "validation", "test")):
        inputs = {m: logits(said.get(m, target), seed=100 * seed + 10 * number + i) for i, m in enumerate("ab")}
        found[part] = batches(target, inputs)
    return found


def subject(method: Any, parts: Mapping[str, Any] | None = None, **more: Any) -> Subject:
    return Subject("model", method, data() if parts is None else parts, **more)
