"""A figure as the bytes of a file, which are the same whenever it is drawn."""

from __future__ import annotations

import io
import warnings
from typing import Any


def figure_bytes(figure: Any, ending: str) -> bytes:
    """A matplotlib figure as ``.svg``, ``.pdf`` or ``.png`` without a date.

    Letters that the font lacks are boxes: the tables have them all.
    """
    metadata: dict[str, Any] = {
        ".svg": {"Date": None, "Creator": None}, ".pdf": {"CreationDate": None, "ModDate": None}, ".png": {},
    }[ending]  # fmt: skip
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format=ending[1:], metadata=metadata)
    return buffer.getvalue()
