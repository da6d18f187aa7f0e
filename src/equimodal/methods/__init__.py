"""The methods. Every class takes ``(model, task, **hyperparameters)``."""

from equimodal.methods._base import BatchLike as BatchLike
from equimodal.methods._base import EpochContext, Method, MethodInfo, StepReport
from equimodal.methods._base import evaluating as evaluating
from equimodal.methods._cggm import CGGM
from equimodal.methods._complete import refuse_incomplete
from equimodal.methods._ensemble import Ensemble, Unimodal
from equimodal.methods._joint import Joint
from equimodal.methods._mie import MIE
from equimodal.methods._mla import MLA
from equimodal.methods._modality_dropout import ModalityDropout
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._pretrain_finetune import PretrainFinetune
from equimodal.methods._registry import available, controls, get
from equimodal.methods._validation import Validation, measure
from equimodal.methods._validation import ValidationSums as ValidationSums
from equimodal.methods._validation import part_of as part_of

__all__ = [
    "CGGM",
    "MIE",
    "MLA",
    "Ensemble",
    "EpochContext",
    "Joint",
    "Method",
    "MethodInfo",
    "ModalityDropout",
    "MultiLoss",
    "PretrainFinetune",
    "StepReport",
    "Unimodal",
    "Validation",
    "available",
    "controls",
    "get",
    "measure",
    "refuse_incomplete",
]
