"""The checks by their code; a package of your own registers its checks here too."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

from equimodal._utils.arguments import check_number, one_of
from equimodal.diagnostics.checks._finding import Finding, Severity, check_severity
from equimodal.diagnostics.checks._subject import Subject
from equimodal.errors import MethodError, named
from equimodal.methods import ROLES, Within, controls
from equimodal.methods import get as method_named

C = TypeVar("C", bound="type[Check]")
_KNOWN: dict[str, type[Check]] = {}
_CODE = re.compile(r"[A-Z]{2,5}[0-9]{3}")


@dataclasses.dataclass(frozen=True)
class Check(ABC):
    """One question about a trained model; the fields of a subclass are its thresholds.

    A threshold is ``Annotated[float, Within(...), "its source"]`` with a default. The docstring of a subclass is its
    page: a sentence, and the parts ``Number:``, ``Why:`` and ``Next:``.

    Example:
        >>> import dataclasses
        >>> from equimodal.diagnostics.checks import Check
        >>> @dataclasses.dataclass(frozen=True)
        ... class FewModalities(Check):
        ...     '''The model has fewer than three modalities.'''
        ...     code, title, severity = "MY001", "Few modalities", "note"
        ...     def run(self, subject):
        ...         count = len(subject.modalities)
        ...         if count < 3:
        ...             yield self.finding(count, 3, f"{count} modalities", "Add one.")
        >>> FewModalities().page
        ''
    """

    code: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    page: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, within in self.ranges().items():
            check_number(name, getattr(self, name), **vars(within))

    @classmethod
    def ranges(cls) -> dict[str, Within]:
        """Threshold -> its range."""
        return {name: mark for name, marks in cls._marks().items() for mark in marks if isinstance(mark, Within)}

    @classmethod
    def sources(cls) -> dict[str, str]:
        """Threshold -> why it is what it is."""
        return {name: mark for name, marks in cls._marks().items() for mark in marks if isinstance(mark, str)}

    @classmethod
    def _marks(cls) -> dict[str, tuple[Any, ...]]:
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError:  # a class made where its names cannot be looked up: its thresholds have no ranges
            hints = {}
        return {f.name: getattr(hints.get(f.name), "__metadata__", ()) for f in dataclasses.fields(cls)}

    @abstractmethod
    def run(self, subject: Subject) -> Iterable[Finding]:
        """The findings, none where all is well.

        Raises:
            NotMeasured: something that is needed is not there.
        """

    def finding(
        self,
        number: float,
        threshold: float,
        reason: str,
        next_step: str,
        *,
        title: str | None = None,
        severity: Severity | None = None,
        interval: tuple[float, float] | None = None,
        where: str = "",
    ) -> Finding:
        """A finding of this check."""
        return Finding(
            self.code, title or self.title, severity or self.severity, float(number), float(threshold), reason,
            next_step, self.page, interval, where,
        )  # fmt: skip


def register(check: C) -> C:
    """Make a class known by its code; a decorator. ``equimodal check`` and :func:`check` then make the check too.

    Raises:
        MethodError: the code is malformed or taken, a part is missing, or a threshold has no default.
    """
    code = getattr(check, "code", "")
    if not _CODE.fullmatch(str(code)):
        raise MethodError(
            f"`code` of {check.__name__}: expected capitals and three digits, such as MY001. Found {code!r}."
        )
    if code in _KNOWN and _KNOWN[code].__qualname__ != check.__qualname__:
        raise MethodError(f"`code` of {check.__name__}: {code} is {_KNOWN[code].__name__}. Choose another one.")
    for part in ("title", "severity"):
        if not getattr(check, part, ""):
            raise MethodError(f"`{part}` of {check.__name__}: expected one. Found none. Add it to the class.")
    check_severity(check.severity)
    if not check.__doc__:
        raise MethodError(f"{check.__name__}: expected a docstring, which is the page of the check. Found none.")
    try:
        check()
    except TypeError as error:
        raise MethodError(f"{check.__name__}: expected a class with defaults for all its fields. {error}.") from error
    _KNOWN[code] = check
    return check


def checks() -> tuple[str, ...]:
    """The codes of all registered checks, by the alphabet.

    Example:
        >>> checks()[:3]
        ('EQ001', 'EQ002', 'EQ003')
    """
    return tuple(sorted(_KNOWN))


def get(code: str) -> type[Check]:
    """The check of that code.

    Raises:
        UnknownNameError: there is none; near ones are named.

    Example:
        >>> get("eq003").title
        'An ensemble of unimodal models is better'
    """
    return named("check", code, _KNOWN)


@functools.cache
def control(role: str) -> str:
    """The control that has a role in comparisons, by which next steps and pages name it.

    Args:
        role: one of :data:`equimodal.methods.ROLES`.
    """
    one_of("role", role, list(ROLES))
    return next(name for name in controls(outside=False) if method_named(name).info.role == role)
