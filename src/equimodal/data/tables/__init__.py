"""Tables of the user's own: columns of a frame as modalities, and the way that new rows go."""

from equimodal.data.tables._features import LARGEST, column_vector
from equimodal.data.tables._frame import TableDataset, from_dataframe, load_table
from equimodal.data.tables._kinds import KINDS, Group, Proposal, propose
from equimodal.data.tables._preparation import Preparation
from equimodal.data.tables._raw import raw_inputs
from equimodal.data.tables._report import TableReport
from equimodal.data.tables._split import NAMES as PART_NAMES
from equimodal.data.tables._table import FORMATS, Table, as_table, count_rows, read_pieces, read_table
from equimodal.data.tables._target import unit_options

__all__ = [
    "FORMATS",
    "KINDS",
    "LARGEST",
    "PART_NAMES",
    "Group",
    "Preparation",
    "Proposal",
    "Table",
    "TableDataset",
    "TableReport",
    "as_table",
    "column_vector",
    "count_rows",
    "from_dataframe",
    "load_table",
    "propose",
    "raw_inputs",
    "read_pieces",
    "read_table",
    "unit_options",
]
