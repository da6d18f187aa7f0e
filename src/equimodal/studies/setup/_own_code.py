"""Encoders and models of the user, by import path; what a file names is never imported unless the user names it too."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from equimodal._utils.calls import read_call
from equimodal._utils.outside import reason, shortened
from equimodal.errors import MethodError, ModelError

_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())
_closed: ContextVar[Path | None] = ContextVar("closed", default=None)


@contextlib.contextmanager
def trusting(modules: Collection[str], folder: Path | str | None = None) -> Iterator[None]:
    """Allow, in the block, the import of modules that the caller names, for encoders and models of a configuration.

    ``RunConfig.model.own_encoders`` and ``own_model`` are import paths. They are used by :func:`run`, :func:`load_run`,
    :func:`predict_run` and all others that build a model, only inside such a block: a run folder that came from
    elsewhere decides nothing about what is imported. ``equimodal train --encoder``, ``--model`` and ``--trust`` do it
    for a command.

    Args:
        modules: their names; a name stands for the modules inside it too.
        folder: of a run; no module in it is imported, whatever its name.

    Example:
        >>> with trusting(["mymodule"]):
        ...     trusted_modules()
        ['mymodule']
    """
    allowed = _trusted.set(_trusted.get() | {str(m) for m in modules})
    closed = _closed.set(_closed.get() if folder is None else Path(folder).resolve())
    try:
        yield
    finally:
        _closed.reset(closed)
        _trusted.reset(allowed)


def trusted_modules() -> list[str]:
    """The modules that may be imported here, for processes that this one starts."""
    return sorted(_trusted.get())


def check_trust(encoders: Mapping[str, str], model: str | None) -> None:
    """Refuse code of the user, before anything is built, that nobody has named as trusted.

    Args:
        encoders: ``own_encoders`` of a configuration.
        model: its ``own_model``.

    Raises:
        MethodError: with the name of the module.
    """
    named = {f"model.own_encoders.{m}": text for m, text in encoders.items()}
    for where, text in (named | ({} if model is None else {"model.own_model": model})).items():
        _check_trust(module_of(text, where), where)


def module_of(text: str, where: str) -> str:
    """The module in ``package.module:name(option=value)``.

    Raises:
        MethodError: the text is no import path.
    """
    name, _ = read_call(text, where)
    module, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise MethodError(
            f"`{where}`: expected an import path, as mymodule:MyEncoder(width=64). Found {shortened(text, 80)!r}."
        )
    return module


def own_object(text: str, where: str, *arguments: Any) -> Any:
    """What the user's ``module:name`` returns for the arguments and the options in the text.

    Raises:
        MethodError: nobody has named the module as trusted, it cannot be found, it is in the folder of the run, or it
            has no such name.
        ModelError: the call fails.
    """
    module = module_of(text, where)
    name, options = read_call(text, where)
    attribute = name.partition(":")[2]
    _check_trust(module, where)
    with _current_folder():
        _check_place(module, where)
        try:
            found: Any = importlib.import_module(module)
        except Exception as error:
            raise MethodError(
                f"`{where}`: expected a module {module!r} that can be imported. Found "
                f"{type(error).__name__}: {shortened(' '.join(str(error).split()), 200)}. Call from its folder, or "
                "install it."
            ) from error
    if not hasattr(found, attribute):
        raise MethodError(f"`{where}`: expected {attribute!r} in {module!r}. Found no such name.")
    found = getattr(found, attribute)
    home = getattr(found, "__module__", None)
    if not callable(found) or not isinstance(home, str) or not _is_trusted(home):
        # else `mymodule:run` would call what the module has from elsewhere, as `from subprocess import run`
        what = f"one of {home!r}" if callable(found) else type(found).__name__
        raise MethodError(
            f"`{where}`: expected a class or function that {module!r} defines itself. Found {what}. Define one there, "
            "which may call it."
        )
    try:
        return found(*arguments, **options)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        said = shortened(" ".join(str(error).split()), 200)
        raise ModelError(f"`{where}`: {shortened(text, 80)} raised {type(error).__name__}: {said}.") from error


def _is_trusted(module: str) -> bool:
    parts = module.split(".")
    return any(".".join(parts[: n + 1]) in _trusted.get() for n in range(len(parts)))


def _check_trust(module: str, where: str) -> None:
    if _is_trusted(module):
        return
    trusted = _trusted.get()
    raise MethodError(
        f"`{where}`: expected that you name the module {module!r}, which is code and is not imported because a file "
        f"says so. Found {'only ' + ', '.join(sorted(trusted)) if trusted else 'no module that is trusted'}. If it is "
        f"your own: --trust {module}, in Python: with equimodal.studies.trusting([{module!r}])."
    )


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Modules of the folder in which the command was called can be imported, after all others."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _check_place(module: str, where: str) -> None:
    """Refuse a module in the folder of the run; only the outermost package is looked for, which imports nothing."""
    closed, top = _closed.get(), module.partition(".")[0]
    if closed is None:
        return
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, OSError) as error:
        raise MethodError(f"`{where}`: the module {top!r} cannot be looked for: {reason(error)}.") from error
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    if any(place is not None and Path(place).resolve().is_relative_to(closed) for place in places):
        raise MethodError(
            f"`{where}`: expected a module of your own. Found {top!r} in the folder of the run, `{closed}`, whose "
            "files are never imported. Call from another folder."
        )
