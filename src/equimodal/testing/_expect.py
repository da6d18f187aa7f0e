"""What a property says when it does not hold, and when it says nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from equimodal.errors import PropertyError


class NotApplicable(Exception):  # noqa: N818 (no error: the property says nothing about this case)
    """Raised by a property that says nothing about a case; the message is the reason."""


def expect(condition: object, message: str) -> None:
    """Raise unless the condition holds.

    Raises:
        PropertyError: with the message.
    """
    if not condition:
        raise PropertyError(message)


def expect_finite(values: Mapping[str, Tensor] | Tensor, where: str) -> None:
    """Raise if any number is NaN or infinite.

    Raises:
        PropertyError: with the names.
    """
    named = {where: values} if isinstance(values, Tensor) else values
    bad = [name for name, t in named.items() if not bool(torch.isfinite(t).all())]
    expect(not bad, f"{where}: expected finite numbers. Found NaN or infinity in {bad[:5]}.")


def expect_identical(a: Mapping[str, Tensor], b: Mapping[str, Tensor], where: str = "weights") -> None:
    """Raise unless all tensors are equal to the last bit.

    Raises:
        PropertyError: with the first names that differ and by how much.
    """
    expect(a.keys() == b.keys(), f"{where}: expected the same names. Found {sorted(a.keys() ^ b.keys())[:5]} in one.")
    different = [n for n in a if not torch.equal(a[n], b[n])]
    if different:
        gap = max(_gap(a[n], b[n]) for n in different)
        raise PropertyError(
            f"{where}: expected equal numbers to the last bit. Found {different[:5]} to differ by {gap:g}."
        )


def expect_near(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float = 1e-9, where: str = "weights"
) -> None:
    """Raise unless all tensors are equal up to an absolute tolerance.

    Raises:
        PropertyError: with the name that differs most and by how much.
    """
    expect(a.keys() == b.keys(), f"{where}: expected the same names. Found {sorted(a.keys() ^ b.keys())[:5]} in one.")
    gaps = {n: _gap(a[n], b[n]) for n in a if a[n].numel()}
    worst = max(gaps, key=lambda n: gaps[n], default=None)
    if worst is not None and not gaps[worst] <= tolerance:
        raise PropertyError(
            f"{where}: expected equal numbers within {tolerance:g}. Found {worst} to differ by {gaps[worst]:g}."
        )


@contextmanager
def expect_error(kinds: type[Exception] | tuple[type[Exception], ...], pattern: str, what: str) -> Iterator[None]:
    """Raise unless the block raises an error of one of the kinds whose message matches the pattern.

    Raises:
        PropertyError: nothing was raised, or another kind or message.
    """
    names = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
    try:
        yield
    except kinds as error:
        expect(re.search(pattern, str(error)), f"{what}: expected a message that matches {pattern!r}. Found: {error}")
        return
    except Exception as error:
        raise PropertyError(f"{what}: expected {names}. Found {type(error).__name__}: {error}") from error
    raise PropertyError(f"{what}: expected {names}. Found no error.")


def same_tree(a: Any, b: Any) -> bool:
    """Whether two nestings of mappings, sequences and tensors are equal to the last bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_tree(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same_tree(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def subset(values: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The entries of these names."""
    wanted = set(names)
    return {n: t for n, t in values.items() if n in wanted}


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference; infinite where shapes differ or a number is NaN."""
    if a.shape != b.shape:
        return math.inf
    gap = float((a.detach().double() - b.detach().double()).abs().max()) if a.numel() else 0.0
    return math.inf if math.isnan(gap) else gap
