"""Parts that several methods are made of: heads, phases of a branch, modulation, stages, mixup, numbers per sample."""

from equimodal.methods.parts._boosted import BoostedHeads
from equimodal.methods.parts._branches import BranchMethod, ProjectingMethod, training_samples
from equimodal.methods.parts._companions import Companions
from equimodal.methods.parts._direction import Direction
from equimodal.methods.parts._epoch_plan import PlannedLoader, planned_loader
from equimodal.methods.parts._epoch_scores import EpochScores, ranked_scores
from equimodal.methods.parts._fixed import FixedHead, zero_features
from equimodal.methods.parts._game import PermutationGame
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
from equimodal.methods.parts._loss_memory import LossMemory
from equimodal.methods.parts._misalignment import Misalignment
from equimodal.methods.parts._mixup import Mixup
from equimodal.methods.parts._modulation import Target, scale_encoders
from equimodal.methods.parts._probe_run import ProbeRun, probe_run
from equimodal.methods.parts._progress import ScoreProgress
from equimodal.methods.parts._samples import SampleTable
from equimodal.methods.parts._stages import Stages, reset_optimizer
from equimodal.methods.parts._taught import feature_gap, mean_over_batch

__all__ = [
    "BoostedHeads",
    "BranchMethod",
    "Companions",
    "Direction",
    "EpochScores",
    "FixedHead",
    "Heads",
    "LossMemory",
    "Misalignment",
    "Mixup",
    "PermutationGame",
    "PlannedLoader",
    "ProbeRun",
    "ProjectingMethod",
    "SampleTable",
    "ScoreProgress",
    "Stages",
    "Target",
    "adapted",
    "branch_phase",
    "check_way",
    "default_head",
    "detached",
    "equal_width",
    "feature_gap",
    "like_model",
    "linear_heads",
    "mean_over_batch",
    "output_layer",
    "planned_loader",
    "probe_run",
    "published_head",
    "ranked_scores",
    "reset_optimizer",
    "scale_encoders",
    "training_samples",
    "unimodal_phase",
    "usual_way",
    "zero_features",
]
