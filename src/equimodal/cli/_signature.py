"""Options from type hints, defaults and docstrings of what they are passed to."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

_SYMBOLS = {
    "alpha": "α", "kappa": "κ", "lambda": "λ", "rho": "ρ", "tau": "τ", "epsilon": "ε", "theta": "θ", "ge": "≥",
    "le": "≤", "in": "∈", "sum": "Σ", "times": "x", "bar": "mean ", "to": "→", "infty": "∞",
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One argument: its name, type, default (``inspect.Parameter.empty`` where it must be given) and help."""

    name: str
    hint: Any
    default: Any
    text: str

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def options_of(kind: Callable[..., Any]) -> dict[str, Option]:
    """The options of a dataclass, a class or a function, in the order of its signature."""
    # of a dataclass, a field may be inherited from another module, whose names its hint uses
    target = kind.__init__ if isinstance(kind, type) and not is_dataclass(kind) else kind  # type: ignore[misc]
    hints, texts = typing.get_type_hints(target), _texts(kind)
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        default = parameter.default
        if is_dataclass(kind):
            own = next(f for f in fields(kind) if f.name == name)
            default = own.default if own.default_factory is MISSING else own.default_factory()
            default = inspect.Parameter.empty if default is MISSING else default
        found[name] = Option(name, hints.get(name, Any), default, texts.get(name, ""))
    return found


def type_name(hint: Any) -> str:
    """A type as a reader of a help text wants it."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union) and type(None) not in arguments:
        return "|".join(type_name(a) for a in arguments)
    if origin is not None and type(None) in arguments:
        return "|".join([*(type_name(a) for a in arguments if a is not type(None)), "null"])
    if origin is not None:
        return re.sub(r"\b(?:collections\.abc|typing)\.", "", str(hint)).lower()
    return hint.__name__ if isinstance(hint, type) else str(hint)


def plain_text(markup: str) -> str:
    """Text without the markup of docstrings; formulas keep their symbols."""
    text = re.sub(r":[a-z]+:`~?([^`]*)`", lambda m: _formula(m[1]) if m[0].startswith(":math") else m[1], markup)
    text = re.sub(r"``([a-z]\w*)``", r"'\1'", text)  # a name among words, such as every
    text = re.sub(r"\[([A-Z]\w+\d{4})\]_?", r"\1", text.replace("``", ""))
    text = re.sub(r"\bequimodal\.(?=[A-Z])", "", text)
    return " ".join(text.split())


def _formula(latex: str) -> str:
    text = re.sub(r"\\([A-Za-z]+)", lambda m: _SYMBOLS.get(m[1], m[1]), latex.replace(r"\|", "‖"))
    text = re.sub(r"\{(\w+)\}", r"\1", re.sub(r"\\.", "", text))
    return text.replace("{", "(").replace("}", ")")


def _texts(kind: Callable[..., Any]) -> dict[str, str]:
    """Argument -> its text; what a class does not say itself is said by its bases."""
    import docstring_parser

    texts: dict[str, str] = {}
    for source in reversed(kind.__mro__[:-1]) if isinstance(kind, type) else [kind]:
        parsed = docstring_parser.parse(inspect.cleandoc(source.__doc__ or ""), docstring_parser.DocstringStyle.GOOGLE)
        texts |= {p.arg_name: plain_text(p.description or "") for p in parsed.params}
    return texts
