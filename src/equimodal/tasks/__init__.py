"""A task: its loss, its score (higher is better), the residual dL/doutput in closed form, and its metrics."""

from equimodal.tasks._classification import Classification
from equimodal.tasks._multilabel import MultiLabel
from equimodal.tasks._named_metrics import metric_names, named_metrics
from equimodal.tasks._protocol import Distribution, Task, distribution_of, mean_ratio, score
from equimodal.tasks._protocol import check_output as check_output
from equimodal.tasks._protocol import counting_dtype as counting_dtype
from equimodal.tasks._protocol import in_output_unit as in_output_unit
from equimodal.tasks._regression import Regression, RegressionLoss
from equimodal.tasks._segmentation import Segmentation

__all__ = [
    "Classification",
    "Distribution",
    "MultiLabel",
    "Regression",
    "RegressionLoss",
    "Segmentation",
    "Task",
    "distribution_of",
    "mean_ratio",
    "metric_names",
    "named_metrics",
    "score",
]
