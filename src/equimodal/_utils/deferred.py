"""Packages that others import for one or two names, loaded when something more of them is used.

Lightning imports all of torchmetrics, and so SciPy and Matplotlib, for two classes. Lightning and the optimizers of
torch import the compiler of torch, and so SymPy, to say that it need not look. Together that is more than half of the
time in which a command starts. Here such a package is put in its place at once, and its own code runs as soon as
anything but these names is asked for, or a module inside it is imported: nothing is left out, or called absent.

Only processes of our own do this: the command line, and the server from which workers are started.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial, wraps
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
_lock = threading.RLock()
_loading: set[str] = set()


def defer_imports() -> None:
    """Defer what is deferred, from now on; what is imported already stays as it is."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def is_deferred(name: str) -> bool:
    """Whether a package is there and its code has not run.

    Args:
        name: of the package.
    """
    return type(sys.modules.get(name)) is _Deferred


class _Deferred(ModuleType):
    """A module whose code runs when anything but its first names is asked for."""

    def __getattr__(self, name: str) -> Any:
        own, first = self.__name__, _FIRST[self.__name__]
        if name in first and own not in _loading:
            return first[name]()
        if name == "__path__":  # asked for by every import from a module; those inside which there are others have it
            raise AttributeError(f"module {own!r} has no attribute {name!r}")
        _load(self)
        return getattr(self, name)


def _load(module: _Deferred) -> None:
    """Run the code of a module; another thread waits for it, this one sees what is there so far, as in any import."""
    name, spec = module.__name__, module.__spec__
    with _lock:
        if not is_deferred(name) or spec is None or not isinstance(spec.loader, _Later):
            return
        if name in _loading:
            raise AttributeError(f"module {name!r} is not loaded yet")
        _loading.add(name)
        try:
            spec.loader.run(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        finally:
            _loading.discard(name)
        module.__class__ = ModuleType


def _load_named(name: str) -> None:
    module = sys.modules.get(name)
    if isinstance(module, _Deferred):
        _load(module)


class _Later:
    """The loader of a module that is deferred."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        """Its code runs later."""
        module.__class__ = _Deferred

    def run(self, module: ModuleType) -> None:
        """Now."""
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader


class _Known:
    """The loader of a module that its package has imported in the meantime."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """It."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """It has run."""
        module.__spec__ = self._spec


class _Finder:
    """Finds the modules that are deferred, and notices who needs all of them."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """A specification where the module is one of ours; else the other finders are asked."""
        package, _, child = name.rpartition(".")
        if is_deferred(package) and package not in _loading and child not in _ALONE.get(package, ()):
            _load_named(package)
            there = sys.modules.get(name)
            return None if there is None else ModuleSpec(name, _Known(there))  # type: ignore[arg-type]
        if name not in _FIRST:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader)  # type: ignore[assignment]
        return spec


def _taken(package: str, modules: Sequence[str], name: str) -> Any:
    """A name from the last of some modules inside a package, for which the package itself need not run."""
    before = set(sys.modules)
    try:
        return getattr([import_module(f"{package}.{module}") for module in modules][-1], name)
    except (ImportError, AttributeError):  # of a version that is made otherwise
        for half in [n for n in sys.modules if n.startswith(f"{package}.") and n not in before]:
            del sys.modules[half]
    _load_named(package)
    return getattr(sys.modules[package], name)


def _forward(package: str, name: str) -> Any:
    """A function that calls the one of the package."""

    def call(*arguments: Any, **options: Any) -> Any:
        _load_named(package)
        return getattr(sys.modules[package], name)(*arguments, **options)

    return call


class _Instances(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        """Nothing is compiled while the compiler is not loaded."""
        return not is_deferred(COMPILER) and isinstance(instance, sys.modules[COMPILER].OptimizedModule)


class _OptimizedModule(metaclass=_Instances):
    """Stands for the class of compiled modules."""


def _disable(function: Any, *options: Any, **named: Any) -> Any:
    """``function``, which the compiler leaves alone once it is loaded."""
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*arguments: Any, **given: Any) -> Any:
        if is_deferred(COMPILER):
            return function(*arguments, **given)
        if not disabled:
            disabled.append(sys.modules[COMPILER].disable(function, *options, **named))
        return disabled[0](*arguments, **given)

    return call


def _graph_break(*_: Any, **__: Any) -> None:
    """There is no graph."""


_PLOT = "torchmetrics.utilities.plot"
_FIRST: dict[str, dict[str, Callable[[], Any]]] = {
    "torchmetrics": {
        "Metric": partial(_taken, "torchmetrics", ("utilities", "metric"), "Metric"),
        "MetricCollection": partial(_taken, "torchmetrics", ("utilities", "collections"), "MetricCollection"),
        "__version__": partial(_taken, "torchmetrics", ("__about__",), "__version__"),
        "_logger": partial(logging.getLogger, "torchmetrics"),
    },
    "torchmetrics.functional": {},
    _PLOT: {
        "_AX_TYPE": lambda: Any,
        "_PLOT_OUT_TYPE": lambda: Any,
        "_CMAP_TYPE": lambda: Any,
        **{n: partial(_forward, _PLOT, n) for n in ("plot_single_or_multi_val", "plot_confusion_matrix", "plot_curve")},
    },
    COMPILER: {
        "OptimizedModule": lambda: _OptimizedModule,
        "disable": lambda: _disable,
        "graph_break": lambda: _graph_break,
    },
}
"""Module -> the names that it gives without running."""

_ALONE = {
    "torchmetrics": {
        "__about__", "aggregation", "classification", "collections", "functional", "metric", "regression", "utilities",
        "wrappers",
    },
    "torchmetrics.functional": {"classification", "regression"},
}  # fmt: skip
"""Package -> modules inside it that are imported without it."""
