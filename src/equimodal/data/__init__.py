"""Datasets, split protocols, the open bundle format, and batches.

``load(name_or_path)`` is the way in; ``dataset.train``, ``dataset.validation`` and ``dataset.test`` have types of
their own, so that the test split cannot reach training or model choice.
"""

from equimodal.data._avdigits import DEFAULT_NOISE, load_avdigits
from equimodal.data._bundle import load_bundle, load_card, shipped_cards
from equimodal.data._card import Card
from equimodal.data._dataset import Dataset
from equimodal.data._describe import describe
from equimodal.data._errors import SplitError
from equimodal.data._loader import Loader, loader
from equimodal.data._missing import ALL as ALL
from equimodal.data._missing import Missing, take_away
from equimodal.data._missing import kept as kept
from equimodal.data._missing import uniforms as uniforms
from equimodal.data._modality import Modality
from equimodal.data._padding import WithoutPadding as WithoutPadding
from equimodal.data._padding import first_samples as first_samples
from equimodal.data._padding import real_samples as real_samples
from equimodal.data._protocol import Protocol
from equimodal.data._registry import available, load
from equimodal.data._splits import Split, TestSplit, TrainSplit, ValidationSplit, require
from equimodal.data._synthetic import SyntheticDataset, synthetic
from equimodal.data._unpack import unpack_bundle
from equimodal.data._write import from_arrays, write_bundle
from equimodal.data.records import Field, from_rows
from equimodal.data.tables import TableDataset, from_dataframe

__all__ = [
    "DEFAULT_NOISE",
    "Card",
    "Dataset",
    "Field",
    "Loader",
    "Missing",
    "Modality",
    "Protocol",
    "Split",
    "SplitError",
    "SyntheticDataset",
    "TableDataset",
    "TestSplit",
    "TrainSplit",
    "ValidationSplit",
    "available",
    "describe",
    "from_arrays",
    "from_dataframe",
    "from_rows",
    "load",
    "load_avdigits",
    "load_bundle",
    "load_card",
    "loader",
    "require",
    "shipped_cards",
    "synthetic",
    "take_away",
    "unpack_bundle",
    "write_bundle",
]
