"""Reading of pickled feature files without running what is in them: arrays, containers, text and numbers only."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from equimodal.data.prepare import UnreadableError
from equimodal.data.prepare.readers._gate import check_file, instead
from equimodal.errors import DataError

Array = npt.NDArray[Any]
_KINDS = "biufSU"
_DEPTH = 20
# what the reader raises on bytes that are no pickle, or half of one
_BROKEN = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, MemoryError, OverflowError,
    TypeError, UnicodeDecodeError, ValueError,
)  # fmt: skip


class _RefusedError(DataError):
    """The pickle asks for something that is no array, container, text or number."""


class _DType:
    """Stands for ``numpy.dtype`` while a pickle is read: what was asked for, checked, and nothing else."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin-1") if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if (
            not isinstance(state, tuple)
            or len(state) < 3
            or state[1] not in ("<", ">", "|", "=", b"<", b">", b"|", b"=")
        ):
            raise _RefusedError(f"expected the byte order of a dtype. Found {str(state)[:60]}")
        self.order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if len(state) > 3 and any(part is not None for part in state[2:5]):
            raise _RefusedError("expected a plain dtype. Found one with fields or a shape of its own")

    def __call__(self) -> np.dtype[Any]:
        """The dtype: numbers, text or objects."""
        code = self.code
        if not isinstance(code, str):
            raise _RefusedError(f"expected the name of a dtype. Found {type(code).__name__}")
        try:
            found = np.dtype(code)
        except TypeError as error:
            raise _RefusedError(f"expected a dtype that NumPy knows. Found {code[:20]!r}") from error
        if found.kind not in _KINDS + "O" or found.fields is not None or found.subdtype is not None:
            raise _RefusedError(f"expected numbers, text or objects. Found dtype {code[:20]!r}")
        return found.newbyteorder(self.order) if self.order in "<>" else found  # type: ignore[arg-type]


class _NDArray:
    """Stands for ``numpy.ndarray``: shape, dtype and raw content are kept apart until all of it is read."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _DType):
            raise _RefusedError("expected shape, dtype and content of an array")
        self.state = state[1:]

    def __call__(self, convert: Callable[[Any], Any]) -> Array:
        """The array; ``convert`` turns what an array of objects holds into plain values."""
        if not self.state:
            raise _RefusedError("expected the content of an array. Found none")
        shape, kind, fortran, content = self.state
        dtype = kind()
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in shape):
            raise _RefusedError(f"expected the shape of an array. Found {str(shape)[:60]}")
        if dtype.kind == "O":
            if not isinstance(content, list) or len(content) != int(np.prod(shape, dtype=object)):
                raise _RefusedError("expected a list as the content of an array of objects")
            flat = np.empty(len(content), dtype=object)
            for position, item in enumerate(content):
                flat[position] = convert(item)
        else:
            if isinstance(content, str):  # written by Python 2
                content = content.encode("latin-1")
            flat = _buffer(content, dtype, shape)
        return flat.reshape(shape, order="F" if fortran else "C")


def _buffer(content: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if not isinstance(content, (bytes, bytearray)):
        raise _RefusedError(f"expected bytes as the content of an array. Found {type(content).__name__}")
    expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(content) != expected or not dtype.itemsize:
        raise _RefusedError(f"expected {expected} bytes for an array {dtype} {shape}. Found {len(content)}")
    return np.frombuffer(content, dtype) if content else np.empty(0, dtype)


def _reconstruct(*_: Any) -> _NDArray:
    return _NDArray()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any = "C") -> _NDArray:
    found = _NDArray()
    found.__setstate__((1, shape, dtype, order == "F", bytes(content) if isinstance(content, bytearray) else content))
    return found


def _scalar(dtype: Any, content: Any = b"") -> _NDArray:
    found = _NDArray()
    found.__setstate__((1, (), dtype, False, content))
    return found


def _text_to_bytes(text: Any, encoding: Any = "latin-1") -> bytes:
    """``_codecs.encode``, by which Python 3 writes bytes in the old protocols."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(
            f"expected bytes written as latin-1 text. Found {type(text).__name__} in {str(encoding)[:20]!r}"
        )
    return text.encode("latin-1")


def _bytes(*arguments: Any) -> bytes:
    """``builtins.bytes()``, by which Python 3 writes empty bytes in protocol 2."""
    if arguments:
        raise _RefusedError("expected empty bytes")
    return b""


def _bytearray(content: Any = b"", encoding: Any = None) -> bytes:
    if encoding is not None:
        return _text_to_bytes(content, encoding)
    if not isinstance(content, bytes):
        raise _RefusedError("expected bytes")
    return content


class _Call:
    """One of the functions above as the only thing a pickle can hold of it: it can be called, and not be changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("expected no state for a function")


_ALLOWED: dict[tuple[str, str], _Call] = {
    ("numpy", "ndarray"): _Call(_reconstruct),
    ("numpy", "dtype"): _Call(_DType),
    ("_codecs", "encode"): _Call(_text_to_bytes),
    ("builtins", "bytes"): _Call(_bytes),
    ("__builtin__", "bytes"): _Call(_bytes),
    ("builtins", "bytearray"): _Call(_bytearray),
}
for _core in ("numpy.core", "numpy._core"):  # the names of NumPy 1 and of NumPy 2
    _ALLOWED[_core + ".multiarray", "_reconstruct"] = _Call(_reconstruct)
    _ALLOWED[_core + ".multiarray", "scalar"] = _Call(_scalar)
    _ALLOWED[_core + ".numeric", "_frombuffer"] = _Call(_from_buffer)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise _RefusedError(f"expected arrays, dictionaries, lists, text and numbers only. Found {module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("expected no reference to objects outside of the file")


def read_pickle(path: Path) -> Any:
    """What a pickle holds, as dictionaries, lists, tuples, text, numbers and NumPy arrays.

    Nothing in the file is executed: no module is imported, no class of it is made, and not even NumPy sees anything but
    the raw bytes of an array whose size was compared with its shape. Pickles of Python 2 and of NumPy 1 and 2 are read,
    in every protocol.

    Raises:
        DataError: the file asks for anything else, is truncated, or is no pickle.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "data.pkl"
        ...     _ = path.write_bytes(pickle.dumps({"train": {"id": ["a"], "text": np.ones((1, 2))}}))
        ...     read_pickle(path)["train"]["text"].shape
        (1, 2)
    """
    try:
        check_file(path)
    except UnreadableError as error:
        raise DataError(f"{path}: expected a pickle. Found {error}.") from error
    try:
        with path.open("rb") as file:
            return _plain(_Reader(file, encoding="latin-1").load(), 0)
    except _RefusedError as error:
        raise DataError(
            f"{path}: {error}. A pickle can run any program when it is read the usual way; this one was not run. Get "
            "the file from its authors again, or save its arrays with numpy.savez."
        ) from error
    except _BROKEN as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: expected a whole pickle. Found a truncated, corrupt or foreign file: {instead(path, error)}. "
            "Copy or download it again."
        ) from error


def _plain(value: Any, depth: int) -> Any:
    if depth > _DEPTH:
        raise _RefusedError(f"expected at most {_DEPTH} containers inside each other")
    convert: Callable[[Any], Any] = lambda inner: _plain(inner, depth + 1)  # noqa: E731
    if isinstance(value, _NDArray):
        found = value(convert)
        return found[()] if found.ndim == 0 else found
    if isinstance(value, dict):
        return {convert(key): convert(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(convert(entry) for entry in value)
    if value is None or type(value) in (str, bytes, bytearray, int, float, bool, complex):
        return value
    kind = type(value).__name__.strip("_")
    raise _RefusedError(f"expected arrays, dictionaries, lists, text and numbers only. Found {kind}")
