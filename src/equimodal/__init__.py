"""Balanced multimodal learning: train models so that every modality is learnt, and see whether it was."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equimodal.batch import Batch, Presence
    from equimodal.engine import Engine, PlainEngine, Sharpness
    from equimodal.errors import EquimodalError, EquimodalWarning
    from equimodal.inference import Inference, Prediction
    from equimodal.model import Multimodal, MultimodalModel
    from equimodal.studies.tables import load
    from equimodal.tasks import Classification, MultiLabel, Regression, Segmentation, Task

__version__ = "0.1.0"

_HOMES = {
    "Batch": "batch",
    "Classification": "tasks",
    "Engine": "engine",
    "EquimodalError": "errors",
    "EquimodalWarning": "errors",
    "Inference": "inference",
    "MultiLabel": "tasks",
    "Multimodal": "model",
    "MultimodalModel": "model",
    "PlainEngine": "engine",
    "Prediction": "inference",
    "Presence": "batch",
    "Regression": "tasks",
    "Segmentation": "tasks",
    "Sharpness": "engine",
    "Task": "tasks",
    "load": "studies.tables",
}

__all__ = [
    "Batch",
    "Classification",
    "Engine",
    "EquimodalError",
    "EquimodalWarning",
    "Inference",
    "MultiLabel",
    "Multimodal",
    "MultimodalModel",
    "PlainEngine",
    "Prediction",
    "Presence",
    "Regression",
    "Segmentation",
    "Sharpness",
    "Task",
    "__version__",
    "load",
]


_PACKAGES = (
    "data", "diagnostics", "encoders", "export", "functional", "fusion", "methods", "report", "sklearn", "studies",
    "tasks", "unimodal",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts without torch (PEP 562)."""
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])
