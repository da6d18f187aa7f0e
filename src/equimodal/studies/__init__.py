"""Runs, comparisons and tuning: configuration, training with selection on validation data, records, cost."""

from equimodal.report import CONTROLS
from equimodal.studies.checks import check_folder, check_run, check_study, findings_of
from equimodal.studies.comparisons import (
    Cell,
    Executor,
    RayExecutor,
    StudyError,
    compare,
    interleaved,
    load_study,
    measure_cost,
    ratios,
    summarise,
)
from equimodal.studies.outputs import export_run, predict_run, write_pack, write_predictions
from equimodal.studies.reproduction import published_table, published_tables
from equimodal.studies.runs import OUTCOMES as OUTCOMES
from equimodal.studies.runs import fit, load_model_weights, load_run, load_weights, run, save_weights, suggest_rate
from equimodal.studies.runs import read_outcomes as read_outcomes
from equimodal.studies.setup import (
    DataConfig,
    Entry,
    LoaderConfig,
    ModelConfig,
    RunConfig,
    StudyConfig,
    TrainingConfig,
    build_data,
    build_method,
    build_model,
    fusion_options,
    method_options,
    recipe,
    recipes,
    task_options,
    trusting,
)
from equimodal.studies.setup import cell_folder as cell_folder
from equimodal.studies.setup import companion_options as companion_options
from equimodal.studies.tables import Predictor, fit_table, load
from equimodal.studies.tuning import TuneConfig, tune

__all__ = [
    "CONTROLS",
    "Cell",
    "DataConfig",
    "Entry",
    "Executor",
    "LoaderConfig",
    "ModelConfig",
    "Predictor",
    "RayExecutor",
    "RunConfig",
    "StudyConfig",
    "StudyError",
    "TrainingConfig",
    "TuneConfig",
    "build_data",
    "build_method",
    "build_model",
    "check_folder",
    "check_run",
    "check_study",
    "compare",
    "export_run",
    "findings_of",
    "fit",
    "fit_table",
    "fusion_options",
    "interleaved",
    "load",
    "load_model_weights",
    "load_run",
    "load_study",
    "load_weights",
    "measure_cost",
    "method_options",
    "predict_run",
    "published_table",
    "published_tables",
    "ratios",
    "recipe",
    "recipes",
    "run",
    "save_weights",
    "suggest_rate",
    "summarise",
    "task_options",
    "trusting",
    "tune",
    "write_pack",
    "write_predictions",
]
