"""Adapter to Lightning's Trainer: any method, with Lightning's checkpoints, loggers, progress bar and devices.

Needs the ``cli`` extra. The Trainer runs the loop; the method's own steps run in manual optimization.
"""

from equimodal.errors import missing_extra

try:
    import lightning.pytorch  # noqa: F401
except ImportError as error:
    raise missing_extra("lightning", "cli", "`equimodal.lightning`") from error

from equimodal.lightning._engine import LightningEngine
from equimodal.lightning._means import EpochMeans
from equimodal.lightning._module import MethodModule

__all__ = ["EpochMeans", "LightningEngine", "MethodModule"]
