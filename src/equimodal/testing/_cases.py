"""A method with one setting of its options, and the settings that follow from its signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal

import torch
from torch import nn

from equimodal.engine import PlainEngine, departures
from equimodal.errors import EquimodalError
from equimodal.methods import Method
from equimodal.model import MultimodalModel
from equimodal.tasks import Classification, Task
from equimodal.testing._expect import NotApplicable
from equimodal.testing._loops import adamw, sgd
from equimodal.testing._models import CLASSES, NAMES, WIDTH, plain_model, toy_model
from equimodal.testing._task_models import TASKS, task_model

Options = Mapping[str, Any]
Shared = Callable[[nn.Module, Task], Options]
"""Called with model and task; returns options that every setting of a method gets."""

OF_THE_BASE = ("self", "model", "task", "sharpness", "inference", "calibrated", "unimodal")
"""What every method may have in its signature and explains itself in :class:`~equimodal.methods.Method`."""
SIZES = {"a": 5, "b.c": 4, "keys": 3}
"""Modalities of the MLP model, on which the properties of engine features are tried."""


@dataclass(frozen=True)
class Case:
    """A method class and one setting of its options.

    Args:
        method: the class.
        options: of its constructor.
        shared: further options that depend on model and task, such as smaller heads; the same for every setting.
        wild: the setting is not claimed to learn, and is trained with a small learning rate; by default so for
            ``variant="released"``, which is whatever the authors' code computes.
    """

    method: type[Method]
    options: Options = field(default_factory=dict)
    shared: Shared | None = None
    wild: bool | None = None

    def __str__(self) -> str:
        return "-".join([self.method.__name__, *(f"{k}={v}" for k, v in self.options.items())])

    @property
    def is_wild(self) -> bool:
        """Whether the setting is not claimed to learn."""
        return self.options.get("variant") == "released" if self.wild is None else self.wild

    def accepts(self, option: str) -> bool:
        """Whether the constructor has an option of this name."""
        return option in inspect.signature(self.method.__init__).parameters

    def auto(self) -> dict[str, Any]:
        """``inference="auto"``, where the method has an inference rule."""
        return {"inference": "auto"} if self.accepts("inference") else {}

    def on(self, model: Any, task: Task | None = None, **more: Any) -> Method:
        """The method on a model, in float64 and training mode."""
        task = Classification(CLASSES) if task is None else task
        shared = {} if self.shared is None else self.shared(model, task)
        return self.method(model, task, **{**shared, **self.options, **more}).double().train()

    def make(self, count: int, seed: int = 0, names: Sequence[str] = NAMES, **more: Any) -> Method:
        """The method on :func:`toy_model`.

        Raises:
            NotApplicable: the class declares that it needs more modalities.
        """
        least = self.method.min_modalities
        if count < least:
            raise NotApplicable(f"needs {least} modalities (`min_modalities`)")
        return self.on(toy_model(count, seed, names), **more)

    def plain(self, seed: int = 0, norm: bool = False, sizes: Mapping[str, int] = SIZES, **more: Any) -> Method:
        """The method on :func:`plain_model`, with batch normalisation if asked for."""
        torch.manual_seed(seed)
        return self.on(plain_model(sizes, WIDTH, CLASSES, norm=norm), **more)

    def for_task(self, name: str, count: int, task: Task | None = None, **more: Any) -> Method:
        """The method on :func:`task_model`, without the options that all settings share.

        Raises:
            NotApplicable: the class does not declare the task.
        """
        task = TASKS[name]() if task is None else task
        if task.name not in self.method.info.tasks:
            raise NotApplicable(f"does not declare the task {task.name!r} (`info.tasks`)")
        model = task_model(name, task, count)
        shared = {} if self.shared is None else self.shared(model, task)
        return self.method(model, task, **{**shared, **self.options, **more}).double().train()

    def engine(self, method: nn.Module) -> PlainEngine:
        """AdamW; for a wild setting SGD with a small rate, whose factors AdamW would cancel."""
        return sgd(method, lr=1e-3, clip_norm=0.8) if self.is_wild else adamw(method, lr=2e-2, clip_norm=2.0)

    def departure(self, feature: str) -> Literal["refused", "differs"] | None:
        """What the class declares of an engine feature under these options; ``None`` where the claim holds."""
        kinds = {text.partition(":")[0] for text in departures(self.method, feature, self.options)}
        return "refused" if "refused" in kinds else "differs" if kinds else None

    def claims(self, feature: str) -> None:
        """Go on only where the class claims an engine feature as it stands.

        Raises:
            NotApplicable: it declares that it refuses the feature or differs under it.
        """
        kind = self.departure(feature)
        if kind is not None:
            raise NotApplicable(f"declares {feature!r} as {kind} (`info.engine`)")

    def allows_absent(self, method: Method) -> None:
        """Go on only where samples may lack modalities.

        Raises:
            NotApplicable: an option in force needs complete samples.
        """
        for option, why in self.method.info.complete.items():
            if getattr(method, option):
                raise NotApplicable(f"declares that `{option}` needs every modality (`info.complete`): {why}")


def settings_of(method: type[Method], shared: Shared | None = None) -> list[dict[str, Any]]:
    """The defaults, and every setting that differs from them in one choice, read from the signature.

    For each option: every other value of a ``Literal``, a ``bool`` flipped, and ``None`` where the hint allows it.
    Hints may be ``Annotated``. Numbers stay as they are. A setting that the constructor refuses by the option's name is
    left out.

    Args:
        method: the class.
        shared: further options, called with model and task.

    Returns:
        Options of each setting, the defaults (no options) first.

    Example:
        >>> from equimodal.methods import PretrainFinetune
        >>> settings_of(PretrainFinetune)
        [{}, {'freeze': True}]
    """
    settings: list[dict[str, Any]] = [{}]
    for name, values in choices_of(method).items():
        default = inspect.signature(method.__init__).parameters[name].default
        settings += [{name: value} for value in values if not _equal(value, default)]
    return [s for s in settings if not s or not _is_refused(method, s, shared)]


def required_of(method: type[Method]) -> list[str]:
    """The options that have no default, such as companions."""
    parameters = inspect.signature(method.__init__).parameters
    return [
        n for n, p in parameters.items() if n not in OF_THE_BASE and p.default is p.empty and p.kind is p.KEYWORD_ONLY
    ]


def choices_of(method: type[Method]) -> dict[str, list[Any]]:
    """Option -> the values that its hint names, of every option that has such values and is not the base's."""
    hints = typing.get_type_hints(method.__init__, include_extras=True)
    choices = {}
    for name, parameter in inspect.signature(method.__init__).parameters.items():
        if name not in OF_THE_BASE and parameter.default is not parameter.empty:
            choices[name] = _values(hints.get(name, Any))
    return {name: values for name, values in choices.items() if values}


def _values(hint: Any) -> list[Any]:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return [value for part in typing.get_args(hint) for value in _values(part)]
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    return [True, False] if hint is bool else [None] if hint is NoneType else []


def _equal(a: object, b: object) -> bool:
    return a is b or (type(a) is type(b) and a == b)


def _is_refused(method: type[Method], options: dict[str, Any], shared: Shared | None) -> bool:
    (name,) = options
    model: MultimodalModel = toy_model(max(2, method.min_modalities))
    try:
        Case(method, options, shared).on(model)
    except EquimodalError as error:
        return f"`{name}`" in str(error)
    return False
