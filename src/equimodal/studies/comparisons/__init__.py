"""Many runs: entries and seeds, workers, summary, cost."""

from equimodal.studies.comparisons._compare import EXECUTORS, StudyError, compare, load_study
from equimodal.studies.comparisons._cost import count_operations, declared_cost, interleaved, measure_cost, ratios
from equimodal.studies.comparisons._details import with_evaluations
from equimodal.studies.comparisons._executor import Cell, Executor
from equimodal.studies.comparisons._ray import RayExecutor
from equimodal.studies.comparisons._single import study_of_run
from equimodal.studies.comparisons._summary import epochs_of, summarise
from equimodal.studies.comparisons._workers import WorkerDiedError, WorkerPool, worker_pool

__all__ = [
    "EXECUTORS",
    "Cell",
    "Executor",
    "RayExecutor",
    "StudyError",
    "WorkerDiedError",
    "WorkerPool",
    "compare",
    "count_operations",
    "declared_cost",
    "epochs_of",
    "interleaved",
    "load_study",
    "measure_cost",
    "ratios",
    "study_of_run",
    "summarise",
    "with_evaluations",
    "worker_pool",
]
