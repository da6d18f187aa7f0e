"""What a finished run gives: predictions and exported models."""

from equimodal.studies.outputs._export import export_run
from equimodal.studies.outputs._predict import predict_run, write_predictions

__all__ = [
    "export_run",
    "predict_run",
    "write_predictions",
]
