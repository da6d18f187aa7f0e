"""The engine of a plain loop, :class:`PlainEngine`, which needs torch only; and what methods may ask of any engine."""

from equimodal.engine._compiled import check_compile_mode
from equimodal.engine._copies import engine_beside, fresh_optimizer
from equimodal.engine._features import FEATURES, departures
from equimodal.engine._gradients import Gradients
from equimodal.engine._modes import RunningStatistics, evaluating, modules_of, paused_statistics
from equimodal.engine._optimizers import cancels_scale, is_scale_invariant, is_schedule_free
from equimodal.engine._plain import PlainEngine
from equimodal.engine._processes import ExactSampler, all_sum, average_statistics, gather_rows, is_distributed
from equimodal.engine._protocol import (
    Descent,
    Engine,
    Objective,
    Perturbation,
    Phase,
    SampleValues,
    Survey,
    UpdateScale,
    sample_index,
)
from equimodal.engine._random_state import load_random_state, save_random_state
from equimodal.engine._recording import is_compiled, recompiles, recorded_call, recorded_inputs, watch
from equimodal.engine._sharding import is_sharded, local, reshard, total_norm
from equimodal.engine._sharpness import Sharpness

__all__ = [
    "FEATURES",
    "Descent",
    "Engine",
    "ExactSampler",
    "Gradients",
    "Objective",
    "Perturbation",
    "Phase",
    "PlainEngine",
    "RunningStatistics",
    "SampleValues",
    "Sharpness",
    "Survey",
    "UpdateScale",
    "all_sum",
    "average_statistics",
    "cancels_scale",
    "check_compile_mode",
    "departures",
    "engine_beside",
    "evaluating",
    "fresh_optimizer",
    "gather_rows",
    "is_compiled",
    "is_distributed",
    "is_scale_invariant",
    "is_schedule_free",
    "is_sharded",
    "load_random_state",
    "local",
    "modules_of",
    "paused_statistics",
    "recompiles",
    "recorded_call",
    "recorded_inputs",
    "reshard",
    "sample_index",
    "save_random_state",
    "total_norm",
    "watch",
]
