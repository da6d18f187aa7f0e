"""Parts that several methods are made of: heads, phases of a branch, modulation, stages, mixup, numbers per sample."""

from equimodal.methods.parts._aggregation import AggregatorName, LossRates, Weighting, gram_weighting
from equimodal.methods.parts._branches import BranchMethod, ProjectingMethod, training_samples
from equimodal.methods.parts._companions import Companions
from equimodal.methods.parts._direction import Direction
from equimodal.methods.parts._epoch_plan import PlannedLoader, planned_loader
from equimodal.methods.parts._fixed import FixedHead, zero_features
from equimodal.methods.parts._heads import (
    Heads,
    adapted,
    branch_phase,
    check_way,
    default_head,
    detached,
    equal_width,
    like_model,
    linear_heads,
    output_layer,
    published_head,
    unimodal_phase,
    usual_way,
)
from equimodal.methods.parts._mixup import Mixup
from equimodal.methods.parts._modulation import Target, scale_encoders
from equimodal.methods.parts._probe_run import ProbeRun, probe_run
from equimodal.methods.parts._progress import ScoreProgress
from equimodal.methods.parts._samples import SampleTable
from equimodal.methods.parts._stages import Stages, reset_optimizer

__all__ = [
    "AggregatorName",
    "BranchMethod",
    "Companions",
    "Direction",
    "FixedHead",
    "Heads",
    "LossRates",
    "Mixup",
    "PlannedLoader",
    "ProbeRun",
    "ProjectingMethod",
    "SampleTable",
    "ScoreProgress",
    "Stages",
    "Target",
    "Weighting",
    "adapted",
    "branch_phase",
    "check_way",
    "default_head",
    "detached",
    "equal_width",
    "gram_weighting",
    "like_model",
    "linear_heads",
    "output_layer",
    "planned_loader",
    "probe_run",
    "published_head",
    "reset_optimizer",
    "scale_encoders",
    "training_samples",
    "unimodal_phase",
    "usual_way",
    "zero_features",
]
