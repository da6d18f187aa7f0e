"""The registry: the files of this folder, and the methods of other installed packages. Nothing is imported early."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

from equimodal._utils.plugins import Plugins
from equimodal.errors import PluginError, unknown_name

if TYPE_CHECKING:
    from equimodal.methods._base import Method

GROUP = "equimodal.methods"
"""Entry-point group in which a package names its methods, as ``DWA = "my_package.dwa:DWA"``."""


@dataclass(frozen=True)
class MethodSummary:
    """One line of the registry.

    Args:
        name: of the class.
        title: its full name.
        control: whether it is a control.
        package: name and version of the package it is from; ``None`` for the methods of equimodal.

    Example:
        >>> MethodSummary("Joint", "Joint training", control=True).package is None
        True
    """

    name: str
    title: str
    control: bool
    package: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a built-in method stands, read from its file.

    Args:
        module: name of the file without its ending.
        title: from ``info``.
        control: from ``info``.
        default: from ``info``.
    """

    module: str
    title: str
    control: bool
    default: bool


@lru_cache(maxsize=1)
def built_in() -> Mapping[str, Source]:
    """Name -> place of every built-in method, by the alphabet; no file is imported.

    A method is a class in a file ``methods/_*.py`` with the line ``info = MethodInfo(title="...", ...)``.
    """
    sources: dict[str, Source] = {}
    for file in files("equimodal.methods").iterdir():
        if file.name.startswith("_") and file.name.endswith(".py"):
            text = file.read_text(encoding="utf-8")
            for node in ast.parse(text).body if "MethodInfo(" in text else ():
                info = _info(node) if isinstance(node, ast.ClassDef) else None
                if isinstance(node, ast.ClassDef) and info is not None:
                    control, default = bool(info.get("control", False)), bool(info.get("default", False))
                    title = str(info.get("title", ""))
                    sources[node.name] = Source(file.name.removesuffix(".py"), title, control, default)
    return dict(sorted(sources.items(), key=lambda entry: entry[0].lower()))


def _info(node: ast.ClassDef) -> dict[str, Any] | None:
    """What is read of the class's own ``info``; ``None`` where it has none."""
    known = ("title", "control", "default")
    for statement in node.body:
        call = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "MethodInfo":
            return {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg in known}
    return None


def _check(name: str, value: object) -> type[Method]:
    from equimodal.methods._base import Method
    from equimodal.methods._info import MethodInfo

    if not (isinstance(value, type) and issubclass(value, Method)):
        kind = value.__name__ if isinstance(value, type) else type(value).__name__
        raise PluginError(f"Expected a subclass of equimodal.methods.Method. Found {kind}. Point it to the class.")
    if not isinstance(getattr(value, "info", None), MethodInfo):
        raise PluginError("Expected a class with `info`, a MethodInfo. Found none. Add it to the class.")
    if value.__name__ != name:
        raise PluginError(
            f"Expected the name of the class. Found {name!r} for {value.__name__!r}. Give the entry point that name."
        )
    return value


_OUTSIDE: Plugins[type[Method]] = Plugins(GROUP, "method", _check, built_in)


def available(*, outside: bool = True) -> list[str]:
    """Names of all methods, controls first: those of equimodal, then those of other packages, each by the alphabet.

    Args:
        outside: also the methods of other installed packages, which are imported for it.

    Warns:
        PluginWarning: a package registers something that cannot be used. It is left out.

    Example:
        >>> [name for name in available(outside=False) if name in ("Joint", "CGGM", "MLA")]
        ['Joint', 'CGGM', 'MLA']
    """
    return [entry.name for entry in overview(outside=outside)]


def default_method() -> str:
    """Name of the method that a run trains which names none.

    Example:
        >>> default_method()
        'ExpertPool'
    """
    return next(name for name, source in built_in().items() if source.default)


def controls(*, outside: bool = True) -> list[str]:
    """Names of the controls; see :func:`available`."""
    return [entry.name for entry in overview(outside=outside) if entry.control]


def overview(*, outside: bool = True) -> list[MethodSummary]:
    """Name, title and package of all methods, in the order of :func:`available`.

    Args:
        outside: also the methods of other installed packages.

    Warns:
        PluginWarning: as for :func:`available`.

    Example:
        >>> next(entry.title for entry in overview(outside=False) if entry.name == "MLA")
        'Multimodal learning with alternating unimodal adaptation'
    """
    entries = [MethodSummary(name, source.title, source.control) for name, source in built_in().items()]
    if outside:
        methods, packages = _OUTSIDE.all(), _OUTSIDE.packages()
        entries += [MethodSummary(n, m.info.title, m.info.control, packages[n]) for n, m in methods.items()]
    return sorted(entries, key=lambda entry: not entry.control)


def get(name: str) -> type[Method]:
    """The method of that name; upper and lower case are the same.

    Raises:
        UnknownNameError: with the nearest known names.
        PluginError: it is of another package, which cannot be used.

    Warns:
        PluginWarning: a package registers another method under the name of one of equimodal's.

    Example:
        >>> get("mla").__name__
        'MLA'
    """
    for known, source in built_in().items():
        if known.lower() == name.lower():
            _OUTSIDE.warn_if_shadowed(name)
            module = import_module(f"equimodal.methods.{source.module}")
            return cast("type[Method]", getattr(module, known))
    method = _OUTSIDE.get(name)
    if method is None:
        raise unknown_name("method", name, [*built_in(), *_OUTSIDE.packages()])
    return method
