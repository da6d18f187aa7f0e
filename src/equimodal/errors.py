"""One family of errors and one of warnings, so that callers and tests can catch by kind.

Every message names the parameter, what was expected, what was found and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class EquimodalError(Exception):
    """Root of every error that this library raises on purpose."""


class BatchError(EquimodalError, ValueError):
    """A batch is malformed: sample counts, unknown modality, a sample without any modality."""


class NonFiniteError(EquimodalError, ValueError):
    """NaN or infinity in a present input, in the loss, in a gradient or in a decomposition."""


class TargetError(EquimodalError, ValueError):
    """A target has the wrong type, shape or range for the task."""


class ModelError(EquimodalError, ValueError):
    """Encoders, fusion or head do not fit together or do not fit the method."""


class MethodError(EquimodalError, ValueError):
    """A hyperparameter is out of range, or a method was used in an order it cannot support."""


class UnsupportedError(EquimodalError, ValueError):
    """A combination (method x task x fusion x engine feature) which is refused rather than run wrongly."""


class UnknownNameError(EquimodalError, KeyError):
    """A name is not in a registry; the message suggests the nearest known ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DataError(EquimodalError, ValueError):
    """A dataset, card or split is malformed; the message names file and field."""


class CheckpointError(EquimodalError, ValueError):
    """A checkpoint or weight file is truncated, corrupt, hostile or of another model."""


class StorageError(EquimodalError, OSError):
    """A file could not be written; what was there before is still there."""


class MissingExtraError(EquimodalError, ImportError):
    """An optional dependency is not installed; the message holds the install line."""


class PluginError(EquimodalError, ImportError):
    """A method or rule of another installed package cannot be used; the message names the package."""


class PropertyError(EquimodalError, AssertionError):
    """A method lacks a property that every method must have; the message names the property and the numbers."""


class EquimodalWarning(UserWarning):
    """Root of every warning of this library."""


class OptimizerWarning(EquimodalWarning):
    """The optimizer cancels what the method does, or does not have the parameters that the method trains."""


class ScheduleWarning(EquimodalWarning):
    """An epoch moment that a method relies on was not called."""


class DataWarning(EquimodalWarning):
    """The data can be used, but something about it will surprise (an absent class, a shared speaker)."""


class PluginWarning(EquimodalWarning):
    """Another installed package registers a method or rule that cannot be used; it is left out."""


class SmallValidationWarning(EquimodalWarning):
    """Too few validation samples to fit or choose an inference rule on; the message says what is done instead."""


class BelowSingleWarning(EquimodalWarning):
    """On validation data the prediction is below the best single output, by more than chance; another rule is named."""


def did_you_mean(found: object, known: Iterable[object], most: int = 1) -> str:
    """The end of a message about a name that is not known: the nearest known ones, if there are any.

    Args:
        found: the name, or several, of which the first counts; what is no text is near nothing.
        known: the names that there are.
        most: how many are suggested.

    Example:
        >>> did_you_mean("auido", ["audio", "video"]), did_you_mean("x", ["audio"])
        (" Did you mean 'audio'?", '')
    """
    name = found[0] if isinstance(found, (list, tuple)) and found else found
    if not isinstance(name, str):
        return ""
    by_case = {n.lower(): n for n in known if isinstance(n, str)}
    near = [by_case[n] for n in difflib.get_close_matches(name.lower()[:200], by_case, n=most, cutoff=0.5)]
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for ``name`` among ``known``, with the nearest names suggested."""
    names = sorted(known)
    hint = did_you_mean(name, names, most=3)
    return UnknownNameError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


def named(kind: str, name: str, known: Mapping[str, T]) -> T:
    """The entry of that name, upper and lower case being the same; else :func:`unknown_name` is raised."""
    for candidate, entry in known.items():
        if candidate.lower() == name.lower():
            return entry
    raise unknown_name(kind, name, known)


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """The error for an optional ``package``, with the line that installs it."""
    return MissingExtraError(
        f"{purpose} needs the package {package!r}, which is not installed. "
        f'Install it with: pip install "equimodal[{extra}]"'
    )
