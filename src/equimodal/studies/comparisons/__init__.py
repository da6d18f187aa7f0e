"""Many runs: entries and seeds, workers, summary, cost."""

from equimodal.studies.comparisons._compare import StudyError, compare, load_study
from equimodal.studies.comparisons._cost import interleaved, measure_cost, ratios
from equimodal.studies.comparisons._summary import summarise

__all__ = [
    "StudyError",
    "compare",
    "interleaved",
    "load_study",
    "measure_cost",
    "ratios",
    "summarise",
]
