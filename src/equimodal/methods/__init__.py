"""The methods. Every class takes ``(model, task, **hyperparameters)``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from equimodal.methods._registry import MethodSummary, available, controls, default_method, get, overview
from equimodal.methods._registry import built_in as built_in

if TYPE_CHECKING:
    from equimodal.engine import evaluating as evaluating
    from equimodal.methods._base import EpochContext as EpochContext
    from equimodal.methods._base import Method as Method
    from equimodal.methods._base import Stateful as Stateful
    from equimodal.methods._base import StepReport as StepReport
    from equimodal.methods._base import refuse_incomplete as refuse_incomplete
    from equimodal.methods._info import ROLES as ROLES
    from equimodal.methods._info import MethodInfo as MethodInfo
    from equimodal.methods._options import Within as Within
    from equimodal.methods._options import check_options as check_options
    from equimodal.methods._options import options_of as options_of
    from equimodal.methods._outputs import Outputs as Outputs
    from equimodal.methods._outputs import outputs_on as outputs_on
    from equimodal.methods._predictor import BatchLike as BatchLike
    from equimodal.methods._validation import Validation as Validation
    from equimodal.methods._validation import ValidationSums as ValidationSums
    from equimodal.methods._validation import measure as measure
    from equimodal.methods._validation import part_of as part_of

    # isort: split
    # imports of the methods, written by `make pages`
    from equimodal.methods._agm import AGM as AGM
    from equimodal.methods._aug import AUG as AUG
    from equimodal.methods._awc import AWC as AWC
    from equimodal.methods._cggm import CGGM as CGGM
    from equimodal.methods._data_remixing import DataRemixing as DataRemixing
    from equimodal.methods._dgl import DGL as DGL
    from equimodal.methods._diagnosing_relearning import DiagnosingRelearning as DiagnosingRelearning
    from equimodal.methods._ensemble import Ensemble as Ensemble
    from equimodal.methods._expert_pool import ExpertPool as ExpertPool
    from equimodal.methods._g2d import G2D as G2D
    from equimodal.methods._gblend import GBlend as GBlend
    from equimodal.methods._info_reg import InfoReg as InfoReg
    from equimodal.methods._joint import Joint as Joint
    from equimodal.methods._lfm import LFM as LFM
    from equimodal.methods._masam import MASAM as MASAM
    from equimodal.methods._mcr import MCR as MCR
    from equimodal.methods._midas import MIDAS as MIDAS
    from equimodal.methods._mie import MIE as MIE
    from equimodal.methods._mla import MLA as MLA
    from equimodal.methods._mlb import MLB as MLB
    from equimodal.methods._mmpareto import MMPareto as MMPareto
    from equimodal.methods._modality_dropout import ModalityDropout as ModalityDropout
    from equimodal.methods._multi_loss import MultiLoss as MultiLoss
    from equimodal.methods._multi_task import MultiTask as MultiTask
    from equimodal.methods._ogm import OGM as OGM
    from equimodal.methods._opm import OPM as OPM
    from equimodal.methods._pmr import PMR as PMR
    from equimodal.methods._pretrain_finetune import PretrainFinetune as PretrainFinetune
    from equimodal.methods._qmf import QMF as QMF
    from equimodal.methods._recon_boost import ReconBoost as ReconBoost
    from equimodal.methods._smv import SMV as SMV
    from equimodal.methods._tmc import TMC as TMC
    from equimodal.methods._umt import UMT as UMT
    from equimodal.methods._unimodal import Unimodal as Unimodal
    from equimodal.methods._weak_first import WeakFirst as WeakFirst
    # end of the imports

_HOMES = {
    "BatchLike": "_predictor",
    "EpochContext": "_epochs",
    "Method": "_base",
    "MethodInfo": "_info",
    "ROLES": "_info",
    "Stateful": "_base",
    "StepReport": "_base",
    "Within": "_options",
    "Validation": "_validation",
    "ValidationSums": "_validation",
    "check_options": "_options",
    "measure": "_validation",
    "options_of": "_options",
    "part_of": "_validation",
    "evaluating": "_predictor",
    "Outputs": "_outputs",
    "outputs_on": "_outputs",
    "refuse_incomplete": "_base",
}
"""General names, and the file that each is from. The methods are found by the registry."""

__all__ = [
    "EpochContext",
    "Method",
    "MethodInfo",
    "MethodSummary",
    "Stateful",
    "StepReport",
    "Validation",
    "Within",
    "available",
    "check_options",
    "controls",
    "default_method",
    "get",
    "measure",
    "overview",
    "refuse_incomplete",
]
# names of the methods, written by `make pages`
__all__ += [
    "AGM",
    "AUG",
    "AWC",
    "CGGM",
    "DGL",
    "G2D",
    "LFM",
    "MASAM",
    "MCR",
    "MIDAS",
    "MIE",
    "MLA",
    "MLB",
    "OGM",
    "OPM",
    "PMR",
    "QMF",
    "SMV",
    "TMC",
    "UMT",
    "DataRemixing",
    "DiagnosingRelearning",
    "Ensemble",
    "ExpertPool",
    "GBlend",
    "InfoReg",
    "Joint",
    "MMPareto",
    "ModalityDropout",
    "MultiLoss",
    "MultiTask",
    "PretrainFinetune",
    "ReconBoost",
    "Unimodal",
    "WeakFirst",
]
# end of the names

if not TYPE_CHECKING:  # a type checker reads the imports above, and knows what is no name

    def __getattr__(name: str) -> Any:
        """Import a name when it is first used: ``equimodal list`` starts without torch, one method without thirty."""
        if name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        elif name in built_in():
            value = get(name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted(__all__)
