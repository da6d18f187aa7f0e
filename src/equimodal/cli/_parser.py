"""Argument parsers from signatures (jsonargparse): YAML in with --config, resolved YAML out with --print_config."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimodal._utils.calls import split_calls
from equimodal._utils.plain_yaml import read_yaml
from equimodal._utils.schema import check
from equimodal.cli._errors import UsageError
from equimodal.cli._signature import Option, options_of
from equimodal.errors import DataError, did_you_mean, missing_extra

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

SHORT = {
    "--data": "--data.name", "--card": "--data.card", "--protocol": "--data.protocol", "--target": "--data.target",
    "--missing": "--data.missing", "--augment": "--training.augment", "--fusion": "--model.fusion",
    "--missing-file": "--data.missing_file", "--missing-seed": "--data.missing_seed", "--devices": "--training.devices",
    "--rate": "--training.lr",
}  # fmt: skip
"""Short forms, and what they stand for."""


class CommandParser:
    """A jsonargparse parser for one command.

    Args:
        command: its name.
        about: one sentence.
        arguments: its positional arguments, for the usage line.
        config: offer ``--config`` and ``--print_config``.
    """

    def __init__(self, command: str, about: str, arguments: str = "", *, config: bool = True) -> None:
        try:
            from jsonargparse import ArgumentParser, set_loader
        except ImportError as error:
            raise missing_extra("jsonargparse", "cli", "The command line") from error
        self.prog = f"equimodal {command}"
        self.see = f"{self.prog} --help"
        self.known: list[str] = []

        # the same dialect on the command line as in every file
        set_loader("yaml", _values, exceptions=(DataError,))

        class Plain(ArgumentParser):
            def format_help(self, *rest: Any) -> str:
                """Without the backspace that jsonargparse prints before ``[=flags]``."""
                return str(super().format_help(*rest)).replace(" \b[", "[")

        self._parser: ArgumentParser = Plain(
            prog=self.prog, description=about, exit_on_error=False, default_env=False, allow_abbrev=False,
            usage=f"{self.prog} {arguments} [options]".replace("  ", " "),
        )  # fmt: skip
        if config:
            self._parser.add_argument("--config", action="config", help="YAML file with any of these options.")

    def add(
        self, name: str, hint: Any = str, default: Any = None, text: str = "", group: Any = None, *, many: bool = False
    ) -> None:
        """One argument; without dashes it is positional, and with ``many`` a list of at least one."""
        to = self._parser if group is None else group
        settings: dict[str, Any] = {"help": text} | ({"nargs": "+"} if many else {})
        if name.startswith("-"):
            settings["default"] = default
            self.known.append(name.lstrip("-"))
        to.add_argument(name, type=_Read(hint) if inspect.isfunction(hint) else hint, **settings)

    def flag(self, name: str, text: str) -> None:
        """An argument that is on when it is there."""
        self._parser.add_argument(name, action="store_true", help=text)
        self.known.append(name.lstrip("-"))

    def add_all(
        self,
        prefix: str,
        source: Callable[..., Any] | Mapping[str, Option],
        title: str,
        skip: Iterable[str] = (),
        notes: Mapping[str, str] | None = None,
    ) -> None:
        """Every option of a signature as ``--PREFIX.NAME``; ``notes`` are added to their help."""
        group = self._parser.add_argument_group(title)
        for name, option in (source if isinstance(source, Mapping) else options_of(source)).items():
            if name in skip:
                continue
            note = f" [{notes[name]}]" if notes and name in notes else ""
            self.add(f"--{prefix}{name}", option.hint, option.default, option.text + note, group)

    def defaults(self, values: Mapping[str, Any]) -> None:
        """Other defaults, nested as in a configuration file; fields that this command does not have are left out."""
        self._parser.set_defaults(dict(_flat(values, self.known)))

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values, nested.

        Raises:
            UsageError: one line, with the nearest known option where one is unknown.
        """
        try:
            values: dict[str, Any] = self._parser.parse_args(long_forms(argv, self.known)).as_dict()
        except argparse.ArgumentError as error:
            raise self._usage(str(error)) from error
        except OverflowError as error:  # a whole number with hundreds of digits where a float belongs
            named = next((a for a in argv if re.search(r"\d{300}", a)), "--config")
            place = named.partition("=")[0].lstrip("-")
            raise self._usage(f"`{place}`: expected a number that a computer can hold. Found a longer one") from error
        values.pop("config", None)
        return values

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Nested values that did not come from a command line, with their types checked."""
        try:
            checked: dict[str, Any] = self._parser.parse_object(dict(values)).as_dict()
        except argparse.ArgumentError as error:
            raise self._usage(str(error)) from error
        return checked

    def _usage(self, message: str) -> UsageError:
        # jsonargparse says only in the text of its errors which option or key they are about
        text = " ".join(message.split())
        unknown = re.search(r"unrecognized arguments: (.*)", text) or re.search(r"Option '(\S+)' is not accepted", text)
        inside = re.search(r"Parser key \"(\S+)\":.*Got value: NestedArg\(key='([^']+)'", text)
        if unknown or inside:
            name = unknown[1].split()[0].split("=")[0] if unknown else f"--{inside[1]}.{inside[2]}" if inside else ""
            dashes = "--" if name.startswith("--") else ""
            hint = did_you_mean(name, [dashes + known for known in self.known]) + self._free(name)
            kind = "option" if name.startswith("-") else "field or argument"
            text = f"unknown {kind} {name!r}.{hint}"
        text = re.sub(r"Parser key \"(\S+)\":", r"`\1`:", text)
        text = re.sub(r"Expected a typing\.Literal\[(.*?)\]", r"Expected one of \1", text)
        text = re.sub(r"<class '(\w+)'>", r"\1", text).rstrip(".")
        union = re.search(
            r": Does not validate against any of the Union subtypes.*?Errors: - (.*) Given value: (.*)$", text
        )
        if union:
            kinds = [k.removeprefix("Expected ") for k in re.sub(r" Given value type:.*", "", union[1]).split(" - ")]
            kinds = ["nothing" if k == "a NoneType" else re.sub(r"^(.*?)\. Got value.*$", r"\1", k) for k in kinds]
            text = f"{text[: union.start()]}: Expected {', or '.join(kinds)}. Got value: {union[2]}"
        choice = re.search(r"Expected one of (.*?)\. Got value: '?([^'\s]+)", text)
        if choice:
            allowed = re.findall(r"'([^']+)'", choice[1])
            text = f"{text}.{did_you_mean(choice[2], allowed)}"
        return UsageError(f"{self.prog}: error: {text}{'' if text.endswith('?') else '.'} See: {self.see}")

    def _free(self, name: str) -> str:
        """Where options go that a dataset, a fusion or a method knows, if ``name`` is below something that has some."""
        field, _, option = name.lstrip("-").rpartition(".")
        places = [f"{p}.{option}" for p in (f"{field}.options", f"{field}_options") if p in self.known]
        places += [known for known in self.known if known == f"options.{option}"]
        return f" Its own options are given as --{places[0]}." if field and option and places else ""


def _values(text: str, **_: Any) -> Any:
    """YAML of a command line or of a configuration; ``{a}``, which is no mapping to values, stays text."""
    value = read_yaml(text, "YAML", "The command line")
    return text if isinstance(value, dict) and value and all(v is None for v in value.values()) else value


class _Read:
    """A function that reads an argument, with its name for help texts."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __call__(self, value: Any) -> Any:
        return self._function(value)

    def __repr__(self) -> str:
        return self._function.__name__.replace("_", " ")


def long_forms(argv: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    """``argv`` with the short forms written out, except those that are options of ``known`` themselves."""
    written = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        own = name.lstrip("-") in known
        written.append((name if own else SHORT.get(name, name)) + equals + value)
    return written


def peek(argv: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """What the command line, or the YAML files it names, say about ``names``; nothing else is looked at.

    The options of a method, and the budget of a dataset, are known only after this.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    for name in names:
        parser.add_argument(f"--{name}")
    try:
        found = vars(parser.parse_known_args(long_forms(argv))[0])
    except argparse.ArgumentError as error:
        raise UsageError(f"error: {error}") from error
    said: dict[str, str] = {}
    for path in found.pop("config"):
        if Path(path).is_file():  # the real parser complains about the others
            said |= {k: str(v) for k, v in _flat(read_config(Path(path)), names) if v is not None}
    return said | {k: v for k, v in found.items() if v is not None}


def read_config(path: Path, kind: type[Any] | None = None) -> dict[str, Any]:
    """The mapping in a YAML file, whose fields are those of ``kind``."""
    from equimodal.studies.runs import read_yaml

    try:
        found = read_yaml(path)
        check(found, kind, file=f"`{path}`", step="Restore it, or choose another folder.")
        return found
    except DataError as error:
        raise UsageError(f"error: {error}") from error


def comma_list(value: Any) -> list[str]:
    """``"a,b"`` or a YAML list."""
    items = value if isinstance(value, list) else str(value).strip("[]").split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def call_list(value: Any) -> list[str]:
    """``"f1,fbeta(beta=2.0)"`` or a YAML list; commas inside brackets do not count."""
    return [str(item).strip() for item in (value if isinstance(value, list) else split_calls(str(value).strip("[]")))]


def whole_numbers(value: Any) -> list[int]:
    """``"0,1,2"`` or a YAML list."""
    try:
        return [int(item) for item in comma_list(value)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers, such as 0,1,2. Found {value!r}") from None


def _flat(values: Mapping[str, Any], known: Iterable[str], prefix: str = "") -> Iterable[tuple[str, Any]]:
    known = list(known)
    for name, value in values.items():
        full = f"{prefix}{name}"
        if full in known:
            yield full, value
        elif isinstance(value, Mapping):
            yield from _flat(value, known, f"{full}.")
