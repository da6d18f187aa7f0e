"""Numbered checks of a trained model: what is wrong, by which number, and what to do about it."""

from equimodal.diagnostics.checks import _data as _data
from equimodal.diagnostics.checks import _gradients as _gradients
from equimodal.diagnostics.checks import _outputs as _outputs
from equimodal.diagnostics.checks import _scores as _scores
from equimodal.diagnostics.checks import _steps as _steps
from equimodal.diagnostics.checks import _subsets as _subsets
from equimodal.diagnostics.checks import _training as _training
from equimodal.diagnostics.checks._check import check, run_checks
from equimodal.diagnostics.checks._check import in_order as in_order
from equimodal.diagnostics.checks._check import muted_codes as muted_codes
from equimodal.diagnostics.checks._finding import (
    SEVERITIES,
    Finding,
    NotApplicable,
    NotMeasured,
    Report,
    Severity,
    Unchecked,
)
from equimodal.diagnostics.checks._registry import Check, checks, get, register
from equimodal.diagnostics.checks._registry import control as control
from equimodal.diagnostics.checks._subject import Records, Subject

__all__ = [
    "SEVERITIES",
    "Check",
    "Finding",
    "NotApplicable",
    "NotMeasured",
    "Records",
    "Report",
    "Severity",
    "Subject",
    "Unchecked",
    "check",
    "checks",
    "get",
    "register",
    "run_checks",
]
