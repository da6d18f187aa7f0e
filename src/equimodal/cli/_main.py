"""Chooses the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TextIO

from equimodal._utils.outside import reason, shortened
from equimodal._utils.printing import printed_streams
from equimodal.cli._errors import Interrupted, UsageError
from equimodal.errors import EquimodalError, EquimodalWarning, UnknownNameError, did_you_mean

COMMANDS = {
    "demo": "train five methods on the embedded data, print a table, write an HTML report",
    "fit": "train on a table of your own, of numbers, texts, and paths of pictures, sound and arrays",
    "train": "one run: a method on a dataset, with checkpoints and records in one folder",
    "compare": "methods x seeds on one dataset, with the controls, restartable",
    "tune": "search for the best composition with a budget, controls first, and say whether it beats them",
    "report": "a finished comparison as page, LaTeX, Markdown, CSV, JSON or a pack for reviewers; several, ranked",
    "reproduce": "re-make a published table from raw data: its cells, what they cost, and the runs",
    "evaluate": "scores of a finished run, per modality and per subset of modalities",
    "check": "what is wrong with a trained model: numbered findings with numbers and next steps",
    "predict": "probabilities of a finished run for any subset of modalities, or of a table of new rows",
    "export": "the inference model of a finished run as one file: torch.export or ONNX",
    "list": "the methods and datasets",
    "describe": "a method: paper, equations, options with symbol and source of each default, deviations",
    "data": "prepare a dataset from its raw download and check it; bundle, unpack or describe data",
}


_ASKED_TO_END = (75, 130, 141)


@dataclass(frozen=True)
class Context:
    """What every command is told besides its own arguments.

    Args:
        quiet: print results only, no progress.
    """

    quiet: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code.

    0 success, 1 the library refused or failed (one line says why), 2 wrong usage, 75 asked to end and saved,
    130 interrupted, 141 the reader of the output went away.

    Args:
        argv: the arguments after the program's name; default those of the process.

    Example:
        >>> main(["--version"])
        equimodal 0.1.0
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = _take(arguments, "--debug")
    context = Context(quiet=_take(arguments, "--quiet"))
    _never_fail_on_letters(sys.stdout)
    _never_fail_on_letters(sys.stderr)
    with printed_streams(), _short_warnings(debug):
        try:
            return _run(arguments, context)
        except UsageError as error:
            return _fail(_one_line(error), 2, debug)
        except UnknownNameError as error:
            return _fail(f"error: {_one_line(error)}", 2, debug)
        except Interrupted as stop:
            return _fail(f"\ninterrupted: {stop}", 130, debug=False)
        except KeyboardInterrupt:
            return _fail("\ninterrupted", 130, debug=False)
        except BrokenPipeError:
            # whoever read the output has seen enough; nothing more must be written at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except EquimodalError as error:
            return _fail(f"error: {_one_line(error)}", 1, debug)
        except OSError as error:
            place = f"`{shortened(error.filename)}`: " if error.filename else ""
            return _fail(f"error: {place}expected a file or folder that can be used. Found: {reason(error)}.", 1, debug)
        except Exception as error:  # noqa: BLE001 (no input ends in a traceback; with --debug it is shown)
            return _fail(_unexpected(error), 1, debug)


def command() -> NoReturn:
    """The command of the shell: :func:`main`, then the end of the process.

    A command that was asked to end does so at once. Ordinary ends wait for threads and for what numeric libraries do at
    exit, and an interruption can leave either in a state that never ends.
    """
    from equimodal._utils.deferred import defer_imports

    defer_imports()  # the process is this command's own
    code = main()
    if code in _ASKED_TO_END:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # the last where there is no such stream
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _run(arguments: list[str], context: Context) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from equimodal import __version__

        print(f"equimodal {__version__}")
        return 0
    name = arguments.pop(0)
    if name not in COMMANDS:
        raise UsageError(
            f"error: unknown command {name!r}.{did_you_mean(name, COMMANDS)} Commands: {', '.join(COMMANDS)}."
        )
    module = importlib.import_module(f"equimodal.cli._{name}")
    try:
        code = _called(name, module, arguments, context)
    except SystemExit as stop:  # --help and --print_config of the argument parser
        if isinstance(stop.code, str):
            raise UsageError(f"error: {stop.code}") from stop
        return stop.code or 0
    sys.stdout.flush()
    return code


def _called(name: str, module: Any, arguments: list[str], context: Context) -> int:
    """The command, with what the user names as code of their own."""
    code: int
    if not any(a.partition("=")[0] in ("--encoder", "--model", "--trust") for a in arguments):
        code = module.run(arguments, context)
        return code
    from equimodal.cli._trust import COMMANDS as TRUSTING
    from equimodal.cli._trust import own_code
    from equimodal.studies import trusting

    if name not in TRUSTING:
        code = module.run(arguments, context)
        return code
    rest, modules = own_code(name, arguments)
    with trusting(modules):
        code = module.run(rest, context)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: equimodal COMMAND [options]", "", "Train multimodal models so that every modality is learnt.", ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "equimodal COMMAND --help shows its options. Everywhere: --quiet (no progress), --debug (tracebacks).",
        "Start with: equimodal demo",
    ]
    return "\n".join(lines)


def _take(arguments: list[str], flag: str) -> bool:
    found = flag in arguments
    arguments[:] = [a for a in arguments if a != flag]
    return found


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        print(message, file=sys.stderr)
    return code


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _unexpected(error: Exception) -> str:
    """One line for what no check has foreseen."""
    text = _one_line(error)
    asked = re.search(r"(?:you tried to allocate|Tried to allocate) ([\d.]+) ?(\w+)", text)
    if isinstance(error, MemoryError) or asked or type(error).__name__ == "OutOfMemoryError":
        size = f" of {asked[1]} {asked[2]}" if asked else ""
        return f"error: expected memory{size} that this machine can give. Found less. Choose smaller sizes or batches."
    return (
        f"error: unforeseen {type(error).__name__}: {shortened(text, 300)}. Add --debug for the traceback, and please "
        "report it with that as an issue of equimodal."
    )


def _never_fail_on_letters(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if callable(reconfigure):  # a terminal that lacks a letter shows a question mark
        reconfigure(errors="replace")


@contextlib.contextmanager
def _short_warnings(debug: bool) -> Iterator[None]:
    """Warnings of this library as one line each; those of others only with --debug."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", EquimodalWarning)

        def show(message: Warning | str, *_: object, **__: object) -> None:
            print(f"warning: {message}", file=sys.stderr)

        warnings.showwarning = show
        yield
