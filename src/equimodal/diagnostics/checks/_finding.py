"""What checks say: findings, what could not be checked and why, and all of it together."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from equimodal._utils.printing import printable
from equimodal.errors import MethodError

Severity = Literal["error", "warning", "note"]
"""``error``: the numbers do not mean what they seem to. ``warning``: something is lost. ``note``: worth knowing."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that a check has found.

    Args:
        code: of the check, such as ``"EQ003"``.
        title: what is wrong, in a few words.
        severity: ``"error"``, ``"warning"`` or ``"note"``.
        number: what was measured.
        threshold: what the number (or the end of its interval) was compared with.
        reason: what was compared with what, with numbers.
        next_step: what to do; it names a command or a function.
        page: where more is said, a path below the documentation's repository.
        interval: lower and upper end of the 95 % interval of ``number``, where there is one.
        where: what it is about: a modality, an entry of a comparison, a part of the data.
    """

    code: str
    title: str
    severity: Severity
    number: float
    threshold: float
    reason: str
    next_step: str
    page: str
    interval: tuple[float, float] | None = None
    where: str = ""

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self), "interval": None if self.interval is None else list(self.interval)}


@dataclass(frozen=True)
class Unchecked:
    """A check that was not made.

    Args:
        code: of the check.
        title: its title.
        why: what is missing, or why it does not apply.
        where: what it would have been about.
    """

    code: str
    title: str
    why: str
    where: str = ""

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dict(vars(self))


class NotMeasured(Exception):  # noqa: N818 (no error: a check that cannot be made says so)
    """What a check needs is not there; the text says what, and how to give it."""


class NotApplicable(NotMeasured):
    """The check means nothing for this model; the text says why."""


@dataclass(frozen=True)
class Report:
    """What all checks say of one model, run or comparison.

    Args:
        subject: what was looked at.
        findings: worst first.
        passed: codes of the checks that found nothing.
        unchecked: the checks that were not made, with the reason of each.
        ignored: codes that were muted.

    Example:
        >>> Report("my model", passed=("EQ001",)).codes
        ()
    """

    subject: str
    findings: tuple[Finding, ...] = ()
    passed: tuple[str, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    ignored: tuple[str, ...] = field(default=())

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the findings, each once, by the alphabet."""
        return tuple(sorted({f.code for f in self.findings}))

    def of(self, code: str) -> tuple[Finding, ...]:
        """The findings of one check."""
        return tuple(f for f in self.findings if f.code == code)

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "subject": self.subject,
            "findings": [f.record() for f in self.findings],
            "passed": list(self.passed),
            "unchecked": [u.record() for u in self.unchecked],
            "ignored": list(self.ignored),
        }

    @property
    def headline(self) -> str:
        """How much was found, in one line."""
        counts = {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}
        found = ", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts.items() if n) or "nothing found"
        rest = [f"{len(self.passed)} passed", f"{len(self.unchecked)} not checked"]
        rest += [f"{len(self.ignored)} muted"] if self.ignored else []
        return f"{printable(self.subject)}: {found}; {', '.join(rest)}."

    def __str__(self) -> str:
        lines = [self.headline]
        for f in self.findings:
            where = f" ({printable(f.where)})" if f.where else ""
            lines.append(f"\n{f.severity} [{f.code}] {f.title}{where}")
            lines += textwrap.wrap(printable(f.reason), _WIDTH, initial_indent="  ", subsequent_indent="  ")
            lines += textwrap.wrap(
                f"next: {printable(f.next_step)}", _WIDTH, initial_indent="  ", subsequent_indent="        "
            )
            lines.append(f"  more: {f.page}; mute: --ignore {f.code}")
        if self.unchecked:
            lines.append("\nnot checked:")
            for why, codes in _by_reason(self.unchecked).items():
                lines += textwrap.wrap(
                    f"{', '.join(codes)}: {printable(why)}", _WIDTH, initial_indent="  ", subsequent_indent="    "
                )
        return "\n".join(lines)


def _by_reason(unchecked: tuple[Unchecked, ...]) -> dict[str, list[str]]:
    """Reason -> codes, so that one reason is said once."""
    found: dict[str, list[str]] = {}
    for u in unchecked:
        codes = found.setdefault(u.why + (f" ({u.where})" if u.where else ""), [])
        if u.code not in codes:
            codes.append(u.code)
    return found


def check_severity(value: str) -> None:
    """Refuse a severity that is none.

    Raises:
        MethodError: it is not among :data:`SEVERITIES`.
    """
    if value not in SEVERITIES:
        raise MethodError(f"`severity`: expected one of {', '.join(SEVERITIES)}. Found {value!r}.")
