"""Tables of the user's own: columns of a frame as modalities, and the way that new rows go."""

from equimodal.data.tables._frame import TableDataset, from_dataframe, load_table
from equimodal.data.tables._kinds import KINDS, Group, Proposal, propose
from equimodal.data.tables._preparation import Preparation
from equimodal.data.tables._report import TableReport
from equimodal.data.tables._table import FORMATS, Table, as_table, count_rows, read_pieces, read_table
from equimodal.data.tables._target import unit_options

__all__ = [
    "FORMATS",
    "KINDS",
    "Group",
    "Preparation",
    "Proposal",
    "Table",
    "TableDataset",
    "TableReport",
    "as_table",
    "count_rows",
    "from_dataframe",
    "load_table",
    "propose",
    "read_pieces",
    "read_table",
    "unit_options",
]
