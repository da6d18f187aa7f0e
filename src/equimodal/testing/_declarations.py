"""Properties of what a class says about itself: every fact, the source of every default, its options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

from equimodal.engine import FEATURES, departures
from equimodal.errors import EquimodalError, MethodError
from equimodal.methods import Method, MethodInfo
from equimodal.tasks import Classification
from equimodal.testing._cases import Case, choices_of, required_of
from equimodal.testing._expect import expect, expect_error
from equimodal.testing._models import CLASSES, toy_model
from equimodal.testing._property import Property

WITHOUT_SOURCE = (
    "seed",
    "heads",
    "models",
    "head",
    "classifiers",
    "sharpness",
    "calibrated",
    "variant",
    "inference",
    "unimodal",
    "modality",
)
"""Options whose default needs no source: parts that can be replaced, and what the base explains."""


def info_says_everything(case: Case) -> None:
    """The class has an ``info`` and a docstring of its own; no required field is empty; conditions name options."""
    info = vars(case.method).get("info")
    expect(isinstance(info, MethodInfo), f"`info`: expected a MethodInfo of the class's own. Found {info!r}.")
    expect(inspect.cleandoc(case.method.__doc__ or ""), "docstring: expected one. Found none.")
    for field in dataclasses.fields(case.method.info):
        value = getattr(case.method.info, field.name)
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        expect(value or optional, f"`info.{field.name}`: expected an entry. Found none.")
        if isinstance(value, bool):
            continue
        if field.name == "rows":  # name -> options
            value = tuple(value)
        for entry in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]:
            blank = not isinstance(entry, str) or (not entry.strip() and not optional)
            expect(not blank, f"`info.{field.name}`: expected text. Found {entry!r}.")


def engine_departures_are_well_formed(case: Case) -> None:
    """Each entry of ``info.engine`` names features and an option, and begins with ``refused:`` or ``differs:``."""
    for key, text in case.method.info.engine.items():
        features, _, condition = key.partition(": ")
        unknown = sorted(set(features.split(", ")) - set(FEATURES))
        expect(not unknown, f"`info.engine`: expected features of {', '.join(FEATURES)}. Found {unknown}.")
        kind, _, sentence = text.partition(": ")
        expect(kind in ("refused", "differs"), f"`info.engine[{key!r}]`: expected 'refused: ' or 'differs: '.")
        expect(sentence and not sentence.endswith("."), f"`info.engine[{key!r}]`: expected a sentence without its dot.")
        if condition:
            departures(case.method, features.split(", ")[0])  # raises where there is no such option


def defaults_have_a_source(case: Case) -> None:
    """The source of every default is named, and a number in it is the default."""
    options = _options(case.method)
    defaults = case.method.info.defaults
    unknown = sorted(set(defaults) - set(options))
    expect(not unknown, f"`info.defaults`: expected options of the constructor. Found {unknown}.")
    required = required_of(case.method)
    without = sorted(set(options) - set(defaults) - set(WITHOUT_SOURCE) - set(required))
    expect(not without, f"expected the source of every default (`info.defaults`, or in the hint). Missing: {without}.")
    for name, source in defaults.items():
        number = re.match(r"-?\d+(\.\d+)?(e-?\d+)?", source)
        value = options[name].default
        if number and isinstance(value, (int, float)) and not isinstance(value, bool):
            expect(float(number.group()) == value, f"`{name}` is {value} by default, and its source says {source!r}.")


def options_are_documented(case: Case) -> None:
    """The docstring says what every option is; of what the base has, the base's says it."""
    texts = "\n".join(inspect.cleandoc(c.__doc__ or "") for c in case.method.__mro__ if issubclass(c, Method))
    names = [n for n in inspect.signature(case.method.__init__).parameters if n != "self"]
    missing = [n for n in names if not re.search(rf"^\s+{n}: ", texts, re.MULTILINE)]
    expect(not missing, f"docstring: expected an entry for each argument under `Args:`. Missing: {missing}.")


def options_are_keywords(case: Case) -> None:
    """Options are given by name, and unknown ones are errors."""
    options = inspect.signature(case.method.__init__).parameters
    by_position = [n for n, p in options.items() if p.kind is not p.KEYWORD_ONLY]
    expect(by_position[:3] == ["self", "model", "task"], "expected (self, model, task, ...) as first arguments.")
    expect(len(by_position) == 3, f"expected options after a `*`. Found {by_position[3:]} before it.")
    with expect_error(TypeError, "unexpected keyword", "an option with a typing error"):
        case.make(2, temprature=1.0)


def choices_are_checked(case: Case) -> None:
    """A value that is none of an option's choices is refused by the option's name."""
    for name, values in choices_of(case.method).items():
        if any(isinstance(value, str) for value in values):
            wrong: dict[str, Any] = {name: "no such choice"}
            with expect_error(EquimodalError, f"`{name}`", f"{name}='no such choice'"):
                case.on(toy_model(max(2, case.method.min_modalities)), **wrong)


def an_unknown_task_is_refused(case: Case) -> None:
    """A task that ``info.tasks`` does not have is refused by name."""

    class Ranking(Classification):
        name = "ranking"

    listed = case.method.info.tasks[0]
    with expect_error(MethodError, rf"`task`.*{listed}", "a task that is not declared"):
        case.on(toy_model(max(2, case.method.min_modalities)), Ranking(CLASSES))


def _options(method: type[Method]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(method.__init__).parameters
    return {n: p for n, p in parameters.items() if n not in ("self", "model", "task")}


PROPERTIES = (
    Property(info_says_everything, "method", every_setting=False),
    Property(engine_departures_are_well_formed, "method", every_setting=False),
    Property(defaults_have_a_source, "method", every_setting=False),
    Property(options_are_documented, "method", every_setting=False),
    Property(options_are_keywords, "method", every_setting=False),
    Property(choices_are_checked, "method", every_setting=False),
    Property(an_unknown_task_is_refused, "method", every_setting=False),
)
