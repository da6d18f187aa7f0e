"""Checks of finished runs and comparisons: from their records first, and from the model where its data are there."""

from equimodal.studies.checks._run import check_run
from equimodal.studies.checks._study import check_folder, check_study, findings_of

__all__ = ["check_folder", "check_run", "check_study", "findings_of"]
