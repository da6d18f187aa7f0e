"""Parts that several methods are made of: heads, phases of one branch, stages, mixup."""

from equimodal.methods.parts._cggm_direction import Direction, Seen, column_blocks
from equimodal.methods.parts._companions import Companions
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
from equimodal.methods.parts._shares import LossShares, own_rows
from equimodal.methods.parts._stages import Stages, reset_optimizer

__all__ = [
    "Companions",
    "Direction",
    "Heads",
    "LossShares",
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
    "published_head",
    "reset_optimizer",
    "unimodal_phase",
    "usual_way",
]
