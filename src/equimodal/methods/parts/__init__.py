"""Parts that several methods are made of: heads, phases of a branch, modulation, stages, mixup, numbers per sample."""

from equimodal.methods.parts._aggregation import AggregatorName, LossRates, Weighting, gram_weighting
from equimodal.methods.parts._alone import train_alone
from equimodal.methods.parts._announced import lacking, unannounced, warn_unannounced
from equimodal.methods.parts._batch_term import BatchTerm
from equimodal.methods.parts._boosted import BoostedHeads
from equimodal.methods.parts._branches import (
    BranchMethod,
    HeadedMethod,
    ProjectingMethod,
    refuse_joint_head,
    training_samples,
)
from equimodal.methods.parts._companions import Companions
from equimodal.methods.parts._confidence import batch_confidences, confidence_sums, confidences, scoring_way
from equimodal.methods.parts._direction import Direction, columns_of_head
from equimodal.methods.parts._epoch_plan import (
    PlannedLoader,
    TrainingTable,
    full_pass,
    plan_copies,
    planned_loader,
    presence_of,
    rows_alone,
    training_table,
)
from equimodal.methods.parts._epoch_scores import EpochScores, ranked_scores, ranking_by, ranking_of
from equimodal.methods.parts._epoch_window import EpochWindow
from equimodal.methods.parts._fixed import FixedHead, zero_features
from equimodal.methods.parts._fused_ascent import fused_ascent, fused_grams, mean_own_parts
from equimodal.methods.parts._game import PermutationGame
from equimodal.methods.parts._gradient_noise import GradientNoise, Noise
from equimodal.methods.parts._heads import (
    SHARED,
    Heads,
    adapted,
    branch_phase,
    check_way,
    default_head,
    detached,
    encoder_parameters,
    equal_width,
    like_model,
    linear_heads,
    output_layer,
    published_head,
    required_way,
    unimodal_phase,
    usual_way,
)
from equimodal.methods.parts._learning_window import LearningWindow
from equimodal.methods.parts._loss_history import LossHistory
from equimodal.methods.parts._loss_memory import LossMemory
from equimodal.methods.parts._members import Members, mean_output, redrawn
from equimodal.methods.parts._misalignment import Misalignment
from equimodal.methods.parts._mixup import Mixup
from equimodal.methods.parts._modulation import Target, scale_encoders
from equimodal.methods.parts._own_losses import mean_own_losses, own_loss_sums
from equimodal.methods.parts._probe_run import ProbeRun, probe_run
from equimodal.methods.parts._progress import ScoreProgress
from equimodal.methods.parts._prototypes import ClassPrototypes
from equimodal.methods.parts._samples import SampleTable
from equimodal.methods.parts._separation import cluster_purities
from equimodal.methods.parts._soft_reset import SoftReset
from equimodal.methods.parts._stages import Stages, joint_phase, reset_optimizer, stage_alone
from equimodal.methods.parts._sums import per_modality, present_sum, weighted_objective, whole_sums
from equimodal.methods.parts._taught import feature_gap, mean_over_batch
from equimodal.methods.parts._worth import worth_of_right_sets

__all__ = [
    "SHARED",
    "AggregatorName",
    "BatchTerm",
    "BoostedHeads",
    "BranchMethod",
    "ClassPrototypes",
    "Companions",
    "Direction",
    "EpochScores",
    "EpochWindow",
    "FixedHead",
    "GradientNoise",
    "HeadedMethod",
    "Heads",
    "LearningWindow",
    "LossHistory",
    "LossMemory",
    "LossRates",
    "Members",
    "Misalignment",
    "Mixup",
    "Noise",
    "PermutationGame",
    "PlannedLoader",
    "ProbeRun",
    "ProjectingMethod",
    "SampleTable",
    "ScoreProgress",
    "SoftReset",
    "Stages",
    "Target",
    "TrainingTable",
    "Weighting",
    "adapted",
    "batch_confidences",
    "branch_phase",
    "check_way",
    "cluster_purities",
    "columns_of_head",
    "confidence_sums",
    "confidences",
    "default_head",
    "detached",
    "encoder_parameters",
    "equal_width",
    "feature_gap",
    "full_pass",
    "fused_ascent",
    "fused_grams",
    "gram_weighting",
    "joint_phase",
    "lacking",
    "like_model",
    "linear_heads",
    "mean_output",
    "mean_over_batch",
    "mean_own_losses",
    "mean_own_parts",
    "output_layer",
    "own_loss_sums",
    "per_modality",
    "plan_copies",
    "planned_loader",
    "presence_of",
    "present_sum",
    "probe_run",
    "published_head",
    "ranked_scores",
    "ranking_by",
    "ranking_of",
    "redrawn",
    "refuse_joint_head",
    "required_way",
    "reset_optimizer",
    "rows_alone",
    "scale_encoders",
    "scoring_way",
    "stage_alone",
    "train_alone",
    "training_samples",
    "training_table",
    "unannounced",
    "unimodal_phase",
    "usual_way",
    "warn_unannounced",
    "weighted_objective",
    "whole_sums",
    "worth_of_right_sets",
    "zero_features",
]
