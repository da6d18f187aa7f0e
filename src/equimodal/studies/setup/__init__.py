"""What a run is made of: configuration, recipes, and the objects built from them."""

from equimodal.studies.setup._build import (
    build_data,
    build_method,
    build_model,
    check_device,
    method_options,
    optimizer_factory,
    resolved_options,
    scheduler_factory,
    seeded,
)
from equimodal.studies.setup._config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from equimodal.studies.setup._fusion import fusion_options
from equimodal.studies.setup._recipes import recipe, recipes, task_options

__all__ = [
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "TrainingConfig",
    "build_data",
    "build_method",
    "build_model",
    "check_device",
    "fusion_options",
    "method_options",
    "optimizer_factory",
    "recipe",
    "recipes",
    "resolved_options",
    "scheduler_factory",
    "seeded",
    "task_options",
]
