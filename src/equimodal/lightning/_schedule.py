"""When a learning-rate scheduler steps, and on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from equimodal.errors import MethodError, UnsupportedError, unknown_name

SchedulerFactory = Callable[[Optimizer], LRScheduler | Mapping[str, Any]]
_FIELDS = ("scheduler", "interval", "frequency", "monitor", "name")


@dataclass(frozen=True)
class Schedule:
    """A scheduler with its moments.

    Args:
        scheduler: steps the rates.
        interval: ``"epoch"`` or ``"step"``, an update.
        frequency: every so many of them.
        monitor: what :class:`~torch.optim.lr_scheduler.ReduceLROnPlateau` looks at; empty for other schedulers.
        name: for callbacks of the Trainer that log rates.
    """

    scheduler: LRScheduler
    interval: str = "epoch"
    frequency: int = 1
    monitor: str = ""
    name: str | None = None

    @classmethod
    def of(cls, made: Any) -> Schedule:
        """What a factory returned: a scheduler, or a mapping as the Trainer knows it.

        Raises:
            MethodError: a field has a value that it cannot have.
            UnknownNameError: no such field.
            UnsupportedError: ReduceLROnPlateau after every update.
        """
        given = dict(made) if isinstance(made, Mapping) else {"scheduler": made}
        for name in given:
            if name not in _FIELDS:
                raise unknown_name("field of `scheduler`", str(name), _FIELDS)
        scheduler = given.get("scheduler")
        if not isinstance(scheduler, LRScheduler):
            raise MethodError(
                "`scheduler`: expected a function of the optimizer that makes a torch.optim.lr_scheduler, or a mapping "
                f"with one as 'scheduler'. Found {type(scheduler).__name__}."
            )
        interval, frequency = given.get("interval", "epoch"), given.get("frequency", 1)
        if interval not in ("epoch", "step"):
            raise MethodError(f"`scheduler['interval']`: expected 'epoch' or 'step'. Found {interval!r}.")
        if isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1:
            raise MethodError(f"`scheduler['frequency']`: expected a whole number >= 1. Found {frequency!r}.")
        monitor = given.get("monitor") or ""
        if isinstance(scheduler, ReduceLROnPlateau):
            if interval == "step":
                raise UnsupportedError(
                    "`scheduler['interval']`: expected 'epoch' for ReduceLROnPlateau, as what it looks at is measured "
                    "once per epoch. Found 'step'."
                )
            monitor = monitor or ("validation/score" if scheduler.mode == "max" else "validation/loss")
        elif monitor:
            raise MethodError(
                f"`scheduler['monitor']`: expected none for {type(scheduler).__name__}, which looks at nothing. Found "
                f"{monitor!r}."
            )
        return cls(scheduler, interval, frequency, monitor, given.get("name"))

    def config(self) -> dict[str, Any]:
        """For the Trainer, which keeps its state; the steps are made here."""
        return {
            "scheduler": self.scheduler, "interval": self.interval, "frequency": self.frequency, "name": self.name
        }  # fmt: skip

    def after(self, interval: str, number: int, values: Mapping[str, Any]) -> None:
        """Step, where it is time to.

        Args:
            interval: what has ended.
            number: how many of them have.
            values: name -> what was measured.

        Raises:
            MethodError: what the scheduler looks at is not among ``values``.
        """
        if interval != self.interval or number % self.frequency:
            return
        if not self.monitor:
            self.scheduler.step()
        elif self.monitor in values:
            cast("ReduceLROnPlateau", self.scheduler).step(float(values[self.monitor]))
        else:
            raise MethodError(
                f"`scheduler`: expected a value of {self.monitor!r} for ReduceLROnPlateau. Found "
                f"{sorted(values) or 'none'}. Pass validation data to the Trainer, or name another: scheduler=lambda "
                "o: {'scheduler': ReduceLROnPlateau(o), 'monitor': NAME}; values of the training need log=True."
            )
