"""What a run is made of: configuration, recipes, and the objects built from them."""

from equimodal.studies.setup._build import (
    build_data,
    build_method,
    build_model,
    check_device,
    fixed_rate,
    optimizer_factory,
    scheduler_factory,
    seeded,
)
from equimodal.studies.setup._cells import cell_folder, check_labels
from equimodal.studies.setup._config import (
    LOGGERS,
    DataConfig,
    Entry,
    LoaderConfig,
    ModelConfig,
    RunConfig,
    StudyConfig,
    TrainingConfig,
)
from equimodal.studies.setup._fusion import fusion_options
from equimodal.studies.setup._options import companion_options, method_options, resolved_options
from equimodal.studies.setup._own_code import check_trust, module_of, trusted_modules, trusting
from equimodal.studies.setup._places import place_here
from equimodal.studies.setup._recipes import recipe, recipes, task_options
from equimodal.studies.setup._uses import renamed, sources

__all__ = [
    "LOGGERS",
    "DataConfig",
    "Entry",
    "LoaderConfig",
    "ModelConfig",
    "RunConfig",
    "StudyConfig",
    "TrainingConfig",
    "build_data",
    "build_method",
    "build_model",
    "cell_folder",
    "check_device",
    "check_labels",
    "check_trust",
    "companion_options",
    "fixed_rate",
    "fusion_options",
    "method_options",
    "module_of",
    "optimizer_factory",
    "place_here",
    "recipe",
    "recipes",
    "renamed",
    "resolved_options",
    "scheduler_factory",
    "seeded",
    "sources",
    "task_options",
    "trusted_modules",
    "trusting",
]
