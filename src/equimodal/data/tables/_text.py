"""Free text as token ids: a byte-level BPE tokenizer, learnt from the training texts and kept as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from equimodal.data.tables._table import Array
from equimodal.errors import DataError, missing_extra

PADDING = 0
LONGEST_CELL = 20_000
"""Characters of a cell that are read; what is behind them is left out."""


def learn_tokenizer(texts: Sequence[str], vocabulary: int) -> dict[str, Any]:
    """A tokenizer of at most ``vocabulary`` ids, as plain values; id 0 is padding.

    Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) of lower-case NFKC: it has no unknown characters.
    """
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.Sequence([library.normalizers.NFKC(), library.normalizers.Lowercase()])
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=["[PAD]"], show_progress=False,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator((t[:LONGEST_CELL] for t in texts), trainer)
    learnt: dict[str, Any] = json.loads(tokenizer.to_str())
    return learnt


def load_tokenizer(values: Mapping[str, Any]) -> Any:
    """The tokenizer of plain values.

    Raises:
        DataError: they describe none.
    """
    try:
        return _library().Tokenizer.from_str(json.dumps(values))
    except Exception as error:
        raise DataError(f"`tokenizer`: expected what equimodal wrote. Found: {error}. Restore the file.") from error


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text; without any it is one padding."""
    return [found.ids for found in tokenizer.encode_batch([text[:LONGEST_CELL] for text in texts])]


def id_array(ids: Sequence[Sequence[int]], length: int) -> Array:
    """(N, length) int64: longer texts are cut, shorter ones padded with 0."""
    array = np.full((len(ids), length), PADDING, np.int64)
    for row, own in enumerate(ids):
        array[row, : min(length, len(own))] = own[:length]
    return array


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise missing_extra("tokenizers", "table", "Columns of text") from error
    return tokenizers
