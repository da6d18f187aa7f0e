"""A property: a function that raises where a case lacks it, and where it is looked at."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from equimodal.errors import OptimizerWarning, PropertyError, SmallValidationWarning
from equimodal.testing._cases import Case
from equimodal.testing._expect import NotApplicable

Group = Literal["method", "task", "engine", "compile", "processes"]


@dataclass(frozen=True)
class Property:
    """What every method must have.

    Args:
        check: called with a case and one of the variants; raises :class:`~equimodal.errors.PropertyError` where the
            property does not hold. Its name is the property's, its docstring says what holds.
        group: ``"method"`` (training, prediction, checkpoints, bad input, what the class says of itself), ``"task"``,
            ``"engine"`` (the engine features), ``"compile"`` or ``"processes"``.
        variants: further arguments, such as a number of modalities; the property is looked at with each.
        every_setting: look at every setting of the options, not only at the defaults.
    """

    check: Callable[..., None]
    group: Group
    variants: tuple[tuple[Any, ...], ...] = ((),)
    every_setting: bool = True

    @property
    def name(self) -> str:
        """Of the function."""
        return self.check.__name__


@dataclass(frozen=True)
class Check:
    """One property, one case, one variant."""

    property: Property
    case: Case
    variant: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.property.name}[{'-'.join([str(self.case), *map(str, self.variant)])}]"

    def run(self) -> None:
        """Look whether the property holds; the random state is as it was afterwards.

        Raises:
            NotApplicable: it says nothing about this case, for a reason that the class declares.
            PropertyError: it does not hold.
        """
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizerWarning)  # the engines here are not chosen to suit the method
            warnings.simplefilter("ignore", SmallValidationWarning)  # toy batches are small
            torch.manual_seed(0)
            try:
                self.property.check(self.case, *self.variant)
            except NotApplicable:
                raise
            except PropertyError as error:
                raise PropertyError(f"{self}: {error}") from error
            except Exception as error:
                reason = (str(error).strip() or "without a message").splitlines()[0]
                raise PropertyError(f"{self}: {type(error).__name__}: {reason}") from error
