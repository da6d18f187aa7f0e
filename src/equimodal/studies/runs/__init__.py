"""One run: training with selection on validation data, its checkpoints and its records."""

from equimodal.studies.runs._companions import load_companions
from equimodal.studies.runs._content import COMPARISON, TUNING, check_content, content_of
from equimodal.studies.runs._fit import Progress, fit
from equimodal.studies.runs._identity import check_config, check_finished, located
from equimodal.studies.runs._load import load_run
from equimodal.studies.runs._metrics import is_finished, read_metrics
from equimodal.studies.runs._outcomes import OUTCOMES, read_outcomes, read_samples
from equimodal.studies.runs._parts import train_part
from equimodal.studies.runs._processes import process_context
from equimodal.studies.runs._randomness import own_randomness
from equimodal.studies.runs._rate import suggest_rate
from equimodal.studies.runs._records import (
    ELSEWHERE,
    environment,
    epochs_done,
    plain,
    read_json,
    read_lines,
    read_yaml,
    text_of_json,
    write_bytes,
    write_json,
    write_text,
    write_yaml,
)
from equimodal.studies.runs._run import DETAILS, conclude, prepare_folder, run
from equimodal.studies.runs._seal import is_sealed, seal, seal_hash, verify, versions_of, warn_versions, write_sealed
from equimodal.studies.runs._select import SELECTIONS, load_selected
from equimodal.studies.runs._signals import REQUEUE, STOPPED, InUseError, Terminated, Termination, in_use, locked
from equimodal.studies.runs._stored import read_environment, read_history, stored_config
from equimodal.studies.runs._weights import load_model_weights, load_weights, save_weights

__all__ = [
    "COMPARISON",
    "DETAILS",
    "ELSEWHERE",
    "OUTCOMES",
    "REQUEUE",
    "SELECTIONS",
    "STOPPED",
    "TUNING",
    "InUseError",
    "Progress",
    "Terminated",
    "Termination",
    "check_config",
    "check_content",
    "check_finished",
    "conclude",
    "content_of",
    "environment",
    "epochs_done",
    "fit",
    "in_use",
    "is_finished",
    "is_sealed",
    "load_companions",
    "load_model_weights",
    "load_run",
    "load_selected",
    "load_weights",
    "located",
    "locked",
    "own_randomness",
    "plain",
    "prepare_folder",
    "process_context",
    "read_environment",
    "read_history",
    "read_json",
    "read_lines",
    "read_metrics",
    "read_outcomes",
    "read_samples",
    "read_yaml",
    "run",
    "save_weights",
    "seal",
    "seal_hash",
    "stored_config",
    "suggest_rate",
    "text_of_json",
    "train_part",
    "verify",
    "versions_of",
    "warn_versions",
    "write_bytes",
    "write_json",
    "write_sealed",
    "write_text",
    "write_yaml",
]
