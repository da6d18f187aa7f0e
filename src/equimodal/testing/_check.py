"""All properties, and what they say of one class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from equimodal.errors import MethodError, PropertyError, unknown_name
from equimodal.methods import Method
from equimodal.testing import _absence, _compiled, _declarations, _engine_features, _inputs, _tasks, _training, _waits
from equimodal.testing._cases import Case, Shared, settings_of
from equimodal.testing._expect import NotApplicable
from equimodal.testing._processes import WORK, jobs_of, judge, run_jobs
from equimodal.testing._property import Check, Property

PROPERTIES: dict[str, Property] = {
    p.name: p
    for module in (_declarations, _training, _absence, _inputs, _tasks, _engine_features, _waits, _compiled)
    for p in module.PROPERTIES
}
"""Name -> property, of all that need one process."""


@dataclass
class Report:
    """What :func:`check_method` looked at.

    Args:
        method: name of the class.
        held: properties with case and variant, such as ``"accumulation[MLA-projector=flat-3]"``.
        not_applicable: the same -> the reason, which the class declares.
        failed: the same -> what was expected and what was found.
    """

    method: str
    held: list[str] = field(default_factory=list)
    not_applicable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        numbers = f"{len(self.held)} held, {len(self.not_applicable)} not applicable, {len(self.failed)} failed"
        lines = [f"{self.method}: {numbers}"]
        for title, entries in (("not applicable", self.not_applicable), ("failed", self.failed)):
            if entries:
                by_text: dict[str, list[str]] = {}
                for name, text in entries.items():
                    by_text.setdefault(text, []).append(name)
                lines += ["", f"{title}:", *(f"  {_shortened(names)}: {text}" for text, names in by_text.items())]
        return "\n".join(lines)


def _shortened(names: Sequence[str]) -> str:
    properties = list(dict.fromkeys(name.partition("[")[0] for name in names))
    return names[0] if len(names) == 1 else f"{', '.join(properties)} ({len(names)} times)"


def checks_of(property_: Property, cases: Sequence[Case]) -> Iterator[Check]:
    """The property with each of its variants, on each case or, where the options do not matter, on the first only."""
    for case in cases if property_.every_setting else cases[:1]:
        for variant in property_.variants:
            yield Check(property_, case, variant)


def check_method(
    method: type[Method],
    *,
    settings: Sequence[Mapping[str, Any]] | None = None,
    shared: Shared | None = None,
    only: Sequence[str] | None = None,
    compile: bool = True,  # noqa: A002 (what it does)
    processes: bool = False,
    raises: bool = True,
) -> Report:
    """Look whether a class has the properties that every registered method has, on toy models, on the CPU.

    What a class declares counts: a task that ``info.tasks`` leaves out must be refused, an engine feature that
    ``info.engine`` refuses must be refused, and both are then right. A task or feature that is declared must work.

    Args:
        method: the class; it need not be registered.
        settings: options to look at, as mappings; default the constructor's defaults and every other choice of each
            option, see :func:`settings_of`.
        shared: called with model and task; returns options that every setting gets: required ones, or small modules in
            place of large ones.
        only: names of properties; default all.
        compile: also compile encoders and losses (the slowest part).
        processes: also with two processes. The class must then stand in a module, and a script that calls this must be
            guarded by ``if __name__ == "__main__":``.
        raises: raise if anything failed.

    Returns:
        Which properties held, which say nothing about the class and why, which failed. ``print`` shows it.

    Raises:
        PropertyError: with every property that failed, its case and the numbers, unless ``raises`` is off.
        MethodError: ``method`` is not a subclass of Method, or ``only`` names what needs ``processes``.
        UnknownNameError: ``only`` has a name that no property has.

    Example:
        >>> from equimodal.methods import Joint
        >>> print(check_method(Joint, settings=[{}], only=["names_do_not_matter", "accumulation"]))
        Joint: 3 held, 0 not applicable, 0 failed
    """
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise MethodError(f"`method`: expected a subclass of equimodal.methods.Method. Found {method!r}.")
    names = [*PROPERTIES, *WORK]
    for name in only or ():
        if name not in names:
            raise unknown_name("property", name, names)
        if name in WORK and not processes:
            raise MethodError(f"`only`: {name!r} needs two processes. Found processes=False. Give processes=True.")
    options = settings_of(method, shared) if settings is None else settings
    cases = [Case(method, dict(entry), shared) for entry in options]
    report = Report(method.__name__)
    for property_ in PROPERTIES.values():
        wanted = property_.name in only if only else compile or property_.group != "compile"
        for check in checks_of(property_, cases) if wanted else ():
            _note(report, str(check), check.run)
    if processes:
        _check_processes(report, cases, only)
    if report.failed and raises:
        raise PropertyError(str(report))
    return report


def _check_processes(report: Report, cases: Sequence[Case], only: Sequence[str] | None) -> None:
    jobs = [job for case in cases for job in jobs_of(case) if not only or job.name in only]
    if not jobs:
        return
    try:
        results = run_jobs(jobs)
    except Exception as error:  # noqa: BLE001 (whatever ended one of the processes, or kept it from starting)
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        report.failed |= {str(job): f"a process ended early, perhaps in another job: {reason[0]}" for job in jobs}
        return
    for job, *outcomes in zip(jobs, *results, strict=True):
        _note(report, str(job), lambda j=job, o=outcomes: judge(j, o))


def _note(report: Report, name: str, action: Any) -> None:
    try:
        action()
    except NotApplicable as reason:
        report.not_applicable[name] = str(reason)
    except PropertyError as error:
        report.failed[name] = str(error).removeprefix(f"{name}: ")
    else:
        report.held.append(name)
