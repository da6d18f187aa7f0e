"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from equimodal.errors import StorageError


def write_bytes(path: Path, content: bytes, hint: str) -> Path:
    """Write ``content`` to ``path`` at once, making its folder: on a full disk or a kill, what was there before stays.

    Args:
        path: the file.
        content: all of it.
        hint: the end of the message if it fails: what to do next.

    Raises:
        StorageError: it could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder) / "new" / "a.txt", b"whole", "Choose another place.").read_text()
        'whole'
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"`{path}`: could not be written ({error.strerror or error}). {hint}") from error
    return path
