"""What a file is that is not what it should be, by its first bytes."""

from __future__ import annotations

import re
from pathlib import Path

_PAGE = re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_REPLY = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<Error>|\s*\{\s*\"(?:error|message|detail|errors)\"\s*:", re.IGNORECASE)
_KINDS = (
    (b"PK\x03\x04", "a zip archive"), (b"PK\x05\x06", "an empty zip archive"), (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"), (b"\xfd7zXZ\x00", "an xz file"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"), (b"\x28\xb5\x2f\xfd", "a zstandard file"), (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"GIF8", "a GIF image"), (b"BM", "a BMP image"),
    (b"II*\x00", "a TIFF image"), (b"MM\x00*", "a TIFF image"), (b"OggS", "an Ogg file"), (b"fLaC", "a FLAC sound"),
    (b"ID3", "an mp3 sound"), (b"\x1aE\xdf\xa3", "a Matroska video"), (b"FLV", "a Flash video"),
    (b"\x89HDF", "an HDF5 file"), (b"\x93NUMPY", "a single NumPy array (.npy)"),
    (b"SQLite format 3", "an SQLite database"), (b"\x7fELF", "a program"), (b"MZ", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"), (b"CDF", "a NetCDF file"), (b"MATLAB 5.0", "a MATLAB file"),
    (b"PAR1", "a Parquet table"), (b"ARROW1", "an Arrow table"),
)  # fmt: skip


def no_data(head: bytes) -> str:
    """What a download left instead of the file: a Git LFS pointer, a web page, an error; else nothing.

    Args:
        head: at least the first 200 bytes of the file, or all of it.

    Example:
        >>> no_data(b"<!DOCTYPE html><html>"), no_data(b"RIFF")
        ('a web page', '')
    """
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the file; get it with: git lfs pull"
    if _PAGE.match(head):
        return "a web page"
    if _REPLY.match(head):
        return "an error message of a server"
    return ""


def kind_of_file(path: Path) -> str:
    r"""What a file looks like, in words; nothing is read beyond its beginning.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.npz"
        ...     _ = file.write_bytes(b"a,b\n1,2\n")
        ...     kind_of_file(file)
        "a text that begins with 'a,b'"
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        return "an empty file"
    found = no_data(head)
    if found:
        return found
    for begin, kind in _KINDS:
        if head.startswith(begin):
            return "weights of torch (.pt)" if begin == b"PK\x03\x04" and b"data.pkl" in head else kind
    if head[:4] == b"RIFF":
        return {b"WAVE": "a wav sound", b"AVI ": "an AVI video", b"WEBP": "a WebP image"}.get(head[8:12], "a RIFF file")
    if head[4:8] == b"ftyp":
        return "an mp4 video"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickle"
    if not head.strip(b"\x00"):
        return "zeros alone, as an interrupted copy leaves"
    try:
        text = head.decode("utf-8") if len(head) < 4096 else head[:-4].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        return f"a file that begins with {head[:8]!r}"
    if "\x00" in text:
        return f"a file that begins with {head[:8]!r}"
    return f"a text that begins with {text.strip().splitlines()[0][:30] if text.strip() else ''!r}"
