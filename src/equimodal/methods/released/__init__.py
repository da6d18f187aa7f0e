"""What the authors' repositories compute where it is not what their papers say; kept to reproduce published numbers."""

from equimodal.methods.released._cggm import CGGM_RELEASED, turn_of_weights
from equimodal.methods.released._mie import MIE_FEATURES, MIE_RELEASED, MeanFlat, perturbed_loss, require_one_process
from equimodal.methods.released._mla import MLA_RELEASED, batch_weights, fuse_by_batch, require_classification
from equimodal.methods.released._qmf import QMF_RELEASED, ranking_with_slack
from equimodal.methods.released._smv import SMV_RELEASED, draws_with_replacement

__all__ = [
    "CGGM_RELEASED",
    "MIE_FEATURES",
    "MIE_RELEASED",
    "MLA_RELEASED",
    "QMF_RELEASED",
    "SMV_RELEASED",
    "MeanFlat",
    "batch_weights",
    "draws_with_replacement",
    "fuse_by_batch",
    "perturbed_loss",
    "ranking_with_slack",
    "require_classification",
    "require_one_process",
    "turn_of_weights",
]
