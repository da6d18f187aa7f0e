"""Tuning: a search over compositions with a budget in joint steps, controls first."""

from equimodal.studies.tuning._config import TuneConfig
from equimodal.studies.tuning._ensemble import greedy_selection
from equimodal.studies.tuning._importance import importance
from equimodal.studies.tuning._space import option_space
from equimodal.studies.tuning._tune import tune

__all__ = ["TuneConfig", "greedy_selection", "importance", "option_space", "tune"]
