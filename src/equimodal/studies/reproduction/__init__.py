"""Published tables, re-made: what they say, which of it can be run here, what that costs, and the runs."""

from equimodal.studies.reproduction._plan import Cell, Plan, plan_of
from equimodal.studies.reproduction._run import reproduce
from equimodal.studies.reproduction._source import Source, joint_step_seconds, source_of
from equimodal.studies.reproduction._table import Column, PublishedTable, Row, published_table, published_tables

__all__ = [
    "Cell",
    "Column",
    "Plan",
    "PublishedTable",
    "Row",
    "Source",
    "joint_step_seconds",
    "plan_of",
    "published_table",
    "published_tables",
    "reproduce",
    "source_of",
]
