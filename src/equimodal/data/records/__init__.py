"""Collections of rows: Parquet, Hugging Face, WebDataset, sequences of mappings; read when a batch asks for them."""

from equimodal.data.records._field import Field
from equimodal.data.records._from_rows import from_rows

__all__ = ["Field", "from_rows"]
