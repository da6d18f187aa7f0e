"""What finished runs give: predictions, exported models, a pack for reviewers."""

from equimodal.studies.outputs._export import export_run
from equimodal.studies.outputs._pack import write_pack
from equimodal.studies.outputs._predict import predict_run, write_predictions

__all__ = [
    "export_run",
    "predict_run",
    "write_pack",
    "write_predictions",
]
