"""Runs and comparisons: configuration, training with selection on validation data, records, cost."""

from equimodal.report import CONTROLS
from equimodal.studies._build import build_data, build_method, build_model, method_options
from equimodal.studies._compare import Entry, StudyConfig, StudyError, compare
from equimodal.studies._config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from equimodal.studies._cost import interleaved, measure_cost, ratios
from equimodal.studies._export import export_run
from equimodal.studies._fusion import fusion_options
from equimodal.studies._predict import predict_run, write_predictions
from equimodal.studies._recipes import recipe, recipes, task_options
from equimodal.studies._run import fit, load_run, run
from equimodal.studies._summary import summarise
from equimodal.studies._weights import load_model_weights, load_weights, save_weights

__all__ = [
    "CONTROLS",
    "DataConfig",
    "Entry",
    "ModelConfig",
    "RunConfig",
    "StudyConfig",
    "StudyError",
    "TrainingConfig",
    "build_data",
    "build_method",
    "build_model",
    "compare",
    "export_run",
    "fit",
    "fusion_options",
    "interleaved",
    "load_model_weights",
    "load_run",
    "load_weights",
    "measure_cost",
    "method_options",
    "predict_run",
    "ratios",
    "recipe",
    "recipes",
    "run",
    "save_weights",
    "summarise",
    "task_options",
    "write_predictions",
]
