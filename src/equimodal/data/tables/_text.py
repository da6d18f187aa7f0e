"""Free text as token ids, by a tokenizer learnt from the training texts or one of a folder; kept as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
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


def read_tokenizer(path: str | Path) -> tuple[dict[str, Any], int]:
    """A tokenizer of the Hugging Face libraries as plain values, and its id of padding.

    Args:
        path: a ``tokenizer.json``, or a folder that holds one. Nothing is downloaded, and nothing in it runs.

    Raises:
        DataError: no such file, one that describes no tokenizer, or one without padding.
    """
    path = Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    step = "Save it so: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)."
    if not file.is_file():
        raise DataError(f"`tokenizer`: expected a folder with tokenizer.json. Found no file {file}. {step}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"`tokenizer`: expected JSON in {file}. Found: {error}. {step}") from error
    if not isinstance(values, dict):
        raise DataError(f"`tokenizer`: expected what tokenizers writes in {file}. Found {type(values).__name__}.")
    known = values.get("padding")
    loaded = load_tokenizer(values)
    names = [known.get("pad_token")] if isinstance(known, Mapping) else []
    found = [loaded.token_to_id(str(n)) for n in (*names, "[PAD]", "<pad>", "<|pad|>", "<|endoftext|>") if n]
    padding = next((i for i in found if i is not None), None)
    if padding is None:
        raise DataError(f"`tokenizer`: expected one with a token for padding, as [PAD] or <pad>. Found none in {file}.")
    return values, int(padding)


def load_tokenizer(values: Mapping[str, Any], length: int | None = None) -> Any:
    """The tokenizer of plain values; it cuts texts at ``length`` ids.

    Raises:
        DataError: they describe none.
    """
    library = _library()
    try:
        made = library.Tokenizer.from_str(json.dumps(values))
    except Exception as error:  # the library raises plain `Exception`
        raise DataError(f"`tokenizer`: expected what tokenizers writes. Found: {error}. Restore the file.") from error
    made.no_padding()
    made.no_truncation()
    if length is not None:
        made.enable_truncation(length)
    return made


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text; without any it is one padding."""
    return [found.ids for found in tokenizer.encode_batch([text[:LONGEST_CELL] for text in texts])]


def id_array(ids: Sequence[Sequence[int]], length: int, padding: int = PADDING) -> Array:
    """(N, length) int64: longer texts are cut, shorter ones padded."""
    array = np.full((len(ids), length), padding, np.int64)
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
