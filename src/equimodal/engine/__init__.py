"""The engine of a plain loop, :class:`PlainEngine`, which needs torch only; and what methods may ask of any engine."""

from equimodal.engine._copies import engine_beside, fresh_optimizer
from equimodal.engine._features import FEATURES, departures
from equimodal.engine._optimizers import cancels_scale, is_scale_invariant, is_schedule_free
from equimodal.engine._plain import PlainEngine
from equimodal.engine._processes import ExactSampler, all_sum, average_statistics, is_distributed
from equimodal.engine._protocol import Descent, Engine, Objective, Phase, Survey, UpdateScale
from equimodal.engine._random_state import load_random_state, save_random_state
from equimodal.engine._recording import is_compiled, recompiles, recorded_inputs, watch
from equimodal.engine._sharding import is_sharded, local, reshard, total_norm
from equimodal.engine._sharpness import RunningStatistics, Sharpness, paused_statistics

__all__ = [
    "FEATURES",
    "Descent",
    "Engine",
    "ExactSampler",
    "Objective",
    "Phase",
    "PlainEngine",
    "RunningStatistics",
    "Sharpness",
    "Survey",
    "UpdateScale",
    "all_sum",
    "average_statistics",
    "cancels_scale",
    "departures",
    "engine_beside",
    "fresh_optimizer",
    "is_compiled",
    "is_distributed",
    "is_scale_invariant",
    "is_schedule_free",
    "is_sharded",
    "load_random_state",
    "local",
    "paused_statistics",
    "recompiles",
    "recorded_inputs",
    "reshard",
    "save_random_state",
    "total_norm",
    "watch",
]
