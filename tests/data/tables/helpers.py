"""Small tables with every kind of column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd: Any = pytest.importorskip("pandas")
WORDS = ("red apple pie", "green sea water", "blue sky bird")


def frame(rows: int = 90, seed: int = 0) -> Any:
    """Numbers with gaps, categories, dates and text with gaps, that say the label."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, rows)
    table = pd.DataFrame(
        {
            "size": random.normal(size=rows) + label,
            "colour": random.choice(["x", "y", "z"], rows),
            "when": pd.date_range("2020-01-01", periods=rows).astype(str),
            "title": [f"{WORDS[k]} with number {i} in it" for i, k in enumerate(label)],
            "label": np.array(["p", "q", "r"])[label],
        }
    )
    table.loc[::7, "size"] = np.nan
    table.loc[::5, "title"] = ""
    return table


def with_images(folder: Path, rows: int = 40, missing: int = 4) -> Any:
    """A table with paths of pictures; every ``missing``-th cell is empty."""
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(1)
    label = np.arange(rows) % 2
    for i, kind in enumerate(label):
        pixels = random.integers(0, 100, (20, 24, 3)).astype(np.uint8)
        pixels[:, :, 0] += np.uint8(120 * kind)
        image.fromarray(pixels).save(folder / f"{i}.png")
    return pd.DataFrame(
        {
            "photo": ["" if i % missing == 0 else f"{i}.png" for i in range(rows)],
            "weight": random.normal(size=rows),
            "label": np.array(["cat", "dog"])[label],
        }
    )


def film(path: Path, brightness: list[int]) -> None:
    """One second per brightness, 8 frames of it each."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for level in brightness:
            for _ in range(8):
                frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
                for packet in stream.encode(frame):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def foreign_tokenizer(folder: Path, padding: str, place: int) -> Path:
    """A word tokenizer as `save_pretrained` leaves it, with what it puts around a text."""
    library = pytest.importorskip("tokenizers")
    words = ["[UNK]", "[CLS]", "[SEP]", "red", "apple", "green", "sea"]
    words.insert(place, padding)
    tokenizer = library.Tokenizer(library.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    around = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    tokenizer.post_processor = library.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    tokenizer.enable_padding(pad_id=place, pad_token=padding, length=50)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
