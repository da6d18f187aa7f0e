"""Code of the user on a command line: ``--encoder``, ``--model``, and the modules that it may be imported from."""

from __future__ import annotations

import json
from collections.abc import Sequence

from equimodal.cli._errors import UsageError
from equimodal.studies.setup import module_of

FLAGS = ("--encoder", "--model", "--trust")
BUILDING = ("train", "compare", "fit")
COMMANDS = (*BUILDING, "evaluate", "predict", "export")


def own_code(command: str, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments with these flags written as fields of the configuration, and the modules that they name.

    Args:
        command: of those that build a model, or that read a run: there the flags only name modules.
        argv: its arguments.

    Raises:
        UsageError: a flag without a value, or ``--encoder`` without a modality.
        MethodError: no import path.
    """
    rest: list[str] = []
    modules: list[str] = []
    encoders: dict[str, str] = {}
    model = ""
    waiting = iter(argv)
    for argument in waiting:
        flag, equals, value = argument.partition("=")
        if flag not in FLAGS:
            rest.append(argument)
            continue
        value = value if equals else next(waiting, "")
        if not value or value.startswith("--"):
            raise UsageError(f"equimodal {command}: error: {flag}: expected a value. Found none.")
        if flag == "--trust":
            modules += [name.strip() for name in value.split(",") if name.strip()]
        elif flag == "--model":
            model = value
            modules.append(module_of(value, "--model"))
        else:
            modality, sign, path = value.partition("=")
            if not sign or not modality:
                raise UsageError(
                    f"equimodal {command}: error: --encoder: expected MODALITY=MODULE:NAME, as "
                    f"image=mymodule:MyEncoder(width=64). Found {value!r}."
                )
            encoders[modality] = path
            modules.append(module_of(path, f"--encoder {modality}"))
    if command in BUILDING:
        rest += ["--model.own_encoders", json.dumps(encoders)] if encoders else []
        rest += ["--model.own_model", model] if model else []
    return rest, modules
