"""Balanced multimodal learning: train models so that every modality is learnt, and see whether it was."""

from equimodal.batch import Batch, Presence
from equimodal.engine import Engine, PlainEngine
from equimodal.errors import EquimodalError, EquimodalWarning
from equimodal.inference import Inference, Prediction
from equimodal.model import Multimodal, MultimodalModel
from equimodal.sharpness import Sharpness
from equimodal.tasks import Classification, Task

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Classification",
    "Engine",
    "EquimodalError",
    "EquimodalWarning",
    "Inference",
    "Multimodal",
    "MultimodalModel",
    "PlainEngine",
    "Prediction",
    "Presence",
    "Sharpness",
    "Task",
    "__version__",
]
