"""Parts that several methods are made of: heads, phases of one branch, stages, mixup."""

from equimodal.methods.parts._cggm_direction import Direction, Seen, column_blocks
from equimodal.methods.parts._epoch_plan import PlannedLoader, planned_loader
from equimodal.methods.parts._heads import (
    Heads,
    adapted,
    branch_phase,
    check_way,
    default_head,
    detached,
    like_model,
    linear_heads,
    nothing,
    output_layer,
    published_head,
    unimodal_phase,
    usual_way,
)
from equimodal.methods.parts._mixup import check_mixable, mixup
from equimodal.methods.parts._probe_run import ProbeRun, probe_run
from equimodal.methods.parts._shares import LossShares, own_rows
from equimodal.methods.parts._stages import Stages, reset_optimizer

__all__ = [
    "Direction",
    "Heads",
    "LossShares",
    "PlannedLoader",
    "ProbeRun",
    "Seen",
    "Stages",
    "adapted",
    "branch_phase",
    "check_mixable",
    "check_way",
    "column_blocks",
    "default_head",
    "detached",
    "like_model",
    "linear_heads",
    "mixup",
    "nothing",
    "output_layer",
    "own_rows",
    "planned_loader",
    "probe_run",
    "published_head",
    "reset_optimizer",
    "unimodal_phase",
    "usual_way",
]
