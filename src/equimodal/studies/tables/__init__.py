"""From a table to a run, and from a run to predictions for new rows."""

from equimodal.studies.tables._fit import BUDGET, encoders_for, fit_table, train_table
from equimodal.studies.tables._graph import TableColumns, TableModel
from equimodal.studies.tables._predictor import PREPARATION, Predictor, load

__all__ = [
    "BUDGET",
    "PREPARATION",
    "Predictor",
    "TableColumns",
    "TableModel",
    "encoders_for",
    "fit_table",
    "load",
    "train_table",
]
