"""What other installed packages add to a registry through an entry-point group: loaded late, and never in the way."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from equimodal.errors import PluginError, PluginWarning

T = TypeVar("T")


class Plugins(Generic[T]):
    """The entry points of one group.

    Nothing is imported before it is asked for. An entry point that cannot be used is an error where it is asked for by
    name, and a warning where all are asked for; the others work on.

    Args:
        group: name of the entry-point group.
        kind: what an entry is, for messages.
        check: called with the name and the loaded object; returns the entry, or raises :class:`PluginError` with what
            was expected, what was found and the next step.
        built_in: gives the names of the library's own entries, which win over all others.
    """

    def __init__(
        self, group: str, kind: str, check: Callable[[str, object], T], built_in: Callable[[], Iterable[str]]
    ) -> None:
        self.group, self.kind = group, kind
        self._check, self._built_in = check, built_in
        self._entries: dict[tuple[str, ...], T] = {}
        self._faults: dict[tuple[str, ...], str] = {}
        self._warned: set[str] = set()

    def packages(self) -> dict[str, str]:
        """Name -> package and version, of all names that exactly one package registers; nothing is loaded."""
        own = {name.lower() for name in self._built_in()}
        points = [p for p in self._points() if p.name.lower() not in own]
        names = [p.name.lower() for p in points]
        return {p.name: package_of(p) for p in points if names.count(p.name.lower()) == 1}

    def get(self, name: str) -> T | None:
        """The entry of that name, loaded; ``None`` where no package registers it. Upper and lower case are the same.

        Raises:
            PluginError: it cannot be loaded, is no such thing, or several packages register the name.
        """
        points = [p for p in self._points() if p.name.lower() == name.lower()]
        if len(points) > 1:
            packages = " and ".join(sorted(package_of(p) for p in points))
            raise PluginError(
                f"The {self.kind} {name!r} is registered by several packages: {packages}. None of them is used. "
                f"Uninstall all but one, or rename its entry point in the group {self.group!r}."
            )
        return self._load(points[0]) if points else None

    def all(self) -> dict[str, T]:
        """Name -> entry of everything that works; a :class:`PluginWarning` names each of the others, once."""
        own = {name.lower() for name in self._built_in()}
        entries: dict[str, T] = {}
        seen: set[str] = set()
        for point in self._points():
            name = point.name.lower()
            if name in own:
                self.warn_if_shadowed(point.name)
            elif name not in seen:
                seen.add(name)
                try:
                    entry = self.get(point.name)
                except PluginError as error:
                    self._warn(str(error))
                    continue
                if entry is not None:
                    entries[point.name] = entry
        return entries

    def warn_if_shadowed(self, name: str) -> None:
        """Warn, once, if a package registers ``name``, which is one of the library's own."""
        for point in self._points():
            if point.name.lower() == name.lower():
                self._warn(
                    f"The package {package_of(point)} registers the {self.kind} {point.name!r}, and equimodal has one "
                    "of that name. The one of equimodal is used. Rename the package's entry point in the group "
                    f"{self.group!r}."
                )

    def _points(self) -> tuple[EntryPoint, ...]:
        return _points(self.group, tuple(sys.path))

    def _load(self, point: EntryPoint) -> T:
        key = (point.name, point.value, package_of(point))
        origin = f"The package {key[2]} registers the {self.kind} {point.name!r} as {point.value!r}."
        if key not in self._entries and key not in self._faults:
            try:
                self._entries[key] = self._check(point.name, point.load())
            except PluginError as error:
                self._faults[key] = f"{origin} {error}"
            except (Exception, SystemExit) as error:  # noqa: BLE001 (the import of a foreign package may raise anything)
                reason = f"{type(error).__name__}: {error}".rstrip(".")
                self._faults[key] = f"{origin} It could not be imported ({reason}). Repair the package or uninstall it."
        if key in self._faults:
            raise PluginError(self._faults[key])
        return self._entries[key]

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, PluginWarning, stacklevel=4)


def package_of(point: EntryPoint) -> str:
    """Name and version of the package that an entry point is from."""
    return "unknown" if point.dist is None else f"{point.dist.name} {point.dist.version}"


@lru_cache(maxsize=32)
def _points(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group; another ``sys.path`` is another look."""
    return tuple(sorted(entry_points(group=group), key=lambda p: (p.name.lower(), package_of(p))))
