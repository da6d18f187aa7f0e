"""``equimodal export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list
from equimodal.cli._shared import add_trust
from equimodal.studies import export_run, load
from equimodal.studies.tables import PREPARATION

_ABOUT = """The inference model of a finished run as one file that runs without this library: encoders, what the
inference rule needs, standardisation, probabilities. Of a run of equimodal fit the preparation of numbers, categories
and dates is in the file too, and its training data are not needed. Example: equimodal export runs/one --out one.onnx
--format onnx"""


def run(argv: Sequence[str], _: Context) -> int:
    """Export and say where."""
    parser = CommandParser("export", _ABOUT, "RUN_DIR", config=False)
    parser.add("run_dir", str, text="Folder of a finished run.")
    parser.add("--out", str, "model.pt2", "File to write: .pt2 for torch, .onnx for ONNX.")
    parser.add("--format", Literal["torch", "onnx"] | None, None, "Default: by the file's name.")
    parser.add("--modalities", comma_list, None, "The model takes these only, as audio,image; default: all.")
    parser.flag(
        "--presence", "The model also takes which samples have which modality; of a run of equimodal fit always."
    )
    add_trust(parser)
    values = parser.parse(argv)
    suffixes = {".pt2": "torch", ".onnx": "onnx"}
    found = suffixes.get(Path(values["out"]).suffix)
    if found is None or values["format"] not in (None, found):
        raise UsageError(
            "equimodal export: error: --out: expected a name.pt2 (torch) or name.onnx (onnx) that fits --format. Found "
            f"{values['out']!r}."
        )
    format_: Literal["torch", "onnx"] = "onnx" if found == "onnx" else "torch"
    if (Path(values["run_dir"]) / PREPARATION).is_file():
        print(load(values["run_dir"]).export(values["out"], format_, modalities=values["modalities"]))
        return 0
    print(export_run(values["run_dir"], values["out"], format_, values["modalities"], values["presence"]))
    return 0
