"""YAML as plain values: one dialect for cards, configurations, studies and command lines."""

from __future__ import annotations

import contextlib
import re
from functools import cache
from typing import Any

from equimodal._utils.outside import DEPTH_LIMIT, size_text
from equimodal.errors import DataError, missing_extra

# YAML 1.2, core schema, without numbers that other programs read in another way (010, 0x1F, 1_000, 12:30 are texts)
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_DIGITS = 400  # of a number; Python refuses to print or read longer ones
_LENGTH = 4 << 20  # of a text
_VALUES = 50_000  # of a text, those that an alias repeats counted each time


def read_yaml(text: str, file: str, purpose: str, *, exact: bool = False) -> Any:
    """The plain values (mappings, lists, texts, numbers) in ``text``.

    Numbers are those of YAML 1.2 in decimal form, ``1e-3`` among them; ``no``, ``12:30``, ``010``, ``1_000`` and dates
    are texts. A key that stands twice in a mapping is refused, and so is what would grow beyond bounds: values more
    than 64 deep inside each other, more than 50,000 of them (an alias counts for all that it repeats), an alias of
    itself.

    Args:
        text: YAML.
        file: where it is from, for messages.
        purpose: what PyYAML is needed for, where it is not installed: ``"Reading a card"``.
        exact: a number that Python writes in another way (``1.50``, ``1e-3``) stays the text that it is, since it may
            be a name; :func:`number_of` reads it where a number belongs.

    Raises:
        DataError: no valid YAML, beyond these bounds, or a key of a mapping stands there twice.
        MissingExtraError: PyYAML is not installed.

    Example:
        >>> read_yaml("a: [1, x, 1e-3, 010, no]", "a.yaml", "Reading an example")
        {'a': [1, 'x', 0.001, '010', 'no']}
    """
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("pyyaml", "cli", purpose) from error
    if len(text) > _LENGTH:
        raise DataError(f"{file}: expected at most {size_text(_LENGTH)} of YAML. Found {size_text(len(text))}.")
    if text.count(",") + text.count("\n") > 4 * _VALUES:
        raise DataError(f"{file}: expected at most {_VALUES} values. Found more.")
    with contextlib.suppress(yaml.YAMLError, UnicodeEncodeError, RecursionError):
        return _read(text, file, exact, quick=True)
    try:  # again, by the parser that every machine has: what it says is the same everywhere
        return _read(text, file, exact, quick=False)
    except yaml.YAMLError as error:
        raise DataError(f"{file}: expected valid YAML. Found: {_told(error)}.") from error
    except RecursionError as error:
        raise DataError(f"{file}: expected YAML with fewer values inside each other.") from error


def _read(text: str, file: str, exact: bool, quick: bool) -> Any:
    loader = _loader(quick)(text)
    loader.file, loader.exact = file, exact
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _told(error: Any) -> str:
    """What is wrong, and where; nothing of the text is quoted, which may be of any file."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    said = re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "...", str(problem or type(error).__name__))
    return f"{said}{place}"


def number_of(value: Any) -> Any:
    """The number that ``value`` is, or that it is a text of in YAML; anything else as it is.

    Example:
        >>> number_of("1e-3"), number_of("010"), number_of(2)
        (0.001, '010', 2)
    """
    if isinstance(value, str) and len(value) <= _DIGITS:
        if _INT.match(value):
            return int(value)
        if _FLOAT.match(value):
            return _float(value)
    return value


def _float(text: str) -> float:
    last = text[-1].lower()
    return float(text.lower().replace(".", "") if last in "fn" else text)  # .inf and .nan


def text_of(value: Any, purpose: str, width: int = 80) -> str:
    r"""Plain values as YAML that this reader, and readers of YAML 1.1, read back as they were.

    Args:
        value: mappings, lists, texts and numbers.
        purpose: as in :func:`read_yaml`.
        width: longest line.

    Raises:
        DataError: something else than plain values.
        MissingExtraError: PyYAML is not installed.

    Example:
        >>> text_of({"names": ["1e-3", "010", "no"]}, "Writing an example")
        "names:\n- '1e-3'\n- '010'\n- 'no'\n"
    """
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("pyyaml", "cli", purpose) from error
    try:
        return str(yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=width))
    except yaml.representer.RepresenterError as error:
        raise DataError(f"expected plain values, which a file can hold. Found {error.args[-1]!r}.") from error


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Puts texts in quotes that some reader would take for something else."""

    _add_resolvers(Dumper)
    return Dumper


def _add_resolvers(kind: Any) -> None:
    for tag, pattern, first in (
        ("null", _NULL, ["~", "n", "N", ""]),
        ("bool", _BOOL, list("tTfF")),
        ("int", _INT, list("-+0123456789")),
        ("float", _FLOAT, list("-+.0123456789")),
    ):
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", pattern, first)


@cache
def _loader(quick: bool) -> Any:
    import yaml

    composer: Any = yaml.composer.Composer
    quick = quick and hasattr(yaml, "CSafeLoader")  # PyYAML has its parser in C; the composer of that counts nothing
    bases: tuple[Any, ...] = (composer, yaml.CSafeLoader) if quick else (yaml.SafeLoader,)

    class Loader(*bases):  # type: ignore[misc]
        """Makes plain values only."""

        def __init__(self, text: str) -> None:
            bases[-1].__init__(self, text)
            composer.__init__(self)

        file = ""
        exact = False
        depth = values = 0
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the name and type that PyYAML asks for)

        def compose_document(self) -> Any:
            """Start counting anew."""
            self.depth, self.values = 0, 0
            self.sizes: dict[int, int] = {}
            return super().compose_document()

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Count, before anything is made of it."""
            alias = self.check_event(yaml.AliasEvent)
            event: Any = self.peek_event()
            before, line = self.values, event.start_mark.line + 1
            self.depth += 1
            self.values += 1
            if self.depth > DEPTH_LIMIT:
                raise DataError(
                    f"{self.file}: line {line}: expected values at most {DEPTH_LIMIT} deep inside each other. Found "
                    "deeper ones."
                )
            node = super().compose_node(parent, index)
            if alias:
                if id(node) not in self.sizes:
                    raise DataError(f"{self.file}: line {line}: expected an alias of another value. Found its own.")
                self.values += self.sizes[id(node)]
            if self.values > _VALUES:
                raise DataError(f"{self.file}: line {line}: expected at most {_VALUES} values. Found more.")
            self.sizes[id(node)] = self.values - before
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """Refuses a key that is there twice, of which YAML would silently keep the last."""
            seen = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                try:
                    twice = key in seen
                    seen.add(key)
                except TypeError:
                    twice = False  # no key of a mapping; the error names it
                if twice:
                    line = key_node.start_mark.line + 1
                    raise DataError(f"{self.file}: line {line}: expected each field once. Found {key!r} a second time.")
            return super().construct_mapping(node, deep)

        def construct_number(self, node: Any) -> Any:
            """An int or float; a text where another spelling has to be kept."""
            text = self.construct_scalar(node)
            found = number_of(text)
            return text if self.exact and str(found) != text else found

    _add_resolvers(Loader)
    for tag in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{tag}", Loader.construct_number)
    return Loader
