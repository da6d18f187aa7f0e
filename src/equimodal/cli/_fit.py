"""``equimodal fit``."""

from __future__ import annotations

import dataclasses
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list
from equimodal.cli._progress import Progress
from equimodal.cli._shared import MODEL_NOTES, TRAINING_NOTES, add_metrics, add_running, add_trust, loggers, shown
from equimodal.data.tables import load_table
from equimodal.errors import EquimodalWarning, StorageError
from equimodal.studies import LoaderConfig, ModelConfig, TrainingConfig
from equimodal.studies.tables import BUDGET, fit_table

_ABOUT = """Train on a table of your own (.csv, .tsv, .parquet): numbers, categories and dates are one modality, each
column of text or of paths of pictures, sound, videos or .npy arrays is one of its own. Leaves a folder that predicts
new rows: equimodal predict RUN NEW.csv. Example: equimodal fit products.csv --target category --out runs/products"""


def run(argv: Sequence[str], context: Context) -> int:
    """Show what the table holds, train, and say how good it is."""
    from equimodal.report import render_report
    from equimodal.studies.comparisons import study_of_run

    values = _parser().parse(argv)
    table, target, dry = values.pop("table"), values.pop("target"), values.pop("dry")
    if target is None:
        raise UsageError("equimodal fit: error: --target: expected the column to predict. Found none.")
    data = {name: values[name] for name in _DATA if values[name] is not None}
    data["shares"] = _numbers(data["shares"])
    if dry:
        print(load_table(table, target, seed=values["seed"], **data).report)
        return 0
    folder = Path(values["out"]) if values["out"] else _new_folder(Path(table).stem)
    with Progress(context.quiet) as progress:
        made = fit_table(
            table, target, folder, method=values["method"], options=values["options"] or {},
            model=ModelConfig(**values["model"]), training=TrainingConfig(**values["training"]), seed=values["seed"],
            metrics=values["metrics"], logger=loggers(values["logger"]), loader=LoaderConfig(**values["loader"]),
            progress=lambda e: progress(e["epoch"], e["epochs"], f"validation {shown(e['score'])}"), **data,
        )  # fmt: skip
    print(made.report)
    (name, score), constant = next(iter(made.test.items())), made.test["constant"]
    both = [f"{100 * v:.1f} %" if name == "accuracy" else f"{v:.4g}" for v in (score, constant)]
    print(f"test {'accuracy' if name == 'accuracy' else 'mean absolute error'}: {both[0]} (best constant: {both[1]})")
    try:
        print(f"report: {render_report(study_of_run(folder), folder / 'report.html')}")
    except StorageError as error:  # the run is whole all the same
        again = f"Make the page again: equimodal report {shlex.quote(str(folder))}"
        warnings.warn(f"The run is finished, its page is not. {error} {again}.", EquimodalWarning, stacklevel=2)
    print(f"predict new rows: equimodal predict {shlex.quote(str(folder))} NEW.csv --out predictions.csv")
    print(folder)
    return 0


_DATA = (
    "columns", "root", "group", "split", "shares", "task", "log_target", "class_weight", "unlabelled", "image_size",
    "audio_seconds", "video_frames", "vocabulary", "tokenizer", "text_length", "sequence_length",
)  # fmt: skip


def _parser() -> CommandParser:
    parser = CommandParser("fit", _ABOUT, "TABLE")
    parser.add("table", str, text="A .csv, .tsv or .parquet file.")
    parser.add("--target", str | None, None, "Column to predict.")
    parser.add("--out", str | None, None, "Folder to leave; default: a new one in runs/.")
    parser.flag("--dry", "Only show what the table holds and how it would be read.")
    kinds = "column: number, category, date, text, image, audio, video, array or ignore; or modality: [columns]."
    parser.add("--columns", dict[str, Any] | None, None, f"What columns are, where the proposal is wrong. {kinds}")
    parser.add("--root", str | None, None, "Folder that relative paths begin in; default that of the table.")
    parser.add("--group", str | None, None, "Column whose equal values stay in one part (patient, speaker ...).")
    parser.add("--split", str | None, None, "Column with the words train, validation, test; default: drawn by --seed.")
    parser.add("--shares", comma_list, ["0.7", "0.15", "0.15"], "Of training, validation and test rows.")
    parser.add("--seed", int, 0, "Decides the split, initial weights and the order of the batches.")
    parser.add("--task", Literal["auto", "classification", "regression"], "auto", "Of the target.")
    parser.add("--log_target", bool, False, "Learn the logarithm of a number.")
    parser.add("--class_weight", Literal["balanced"] | None, None, "Rare classes count as much as frequent ones.")
    parser.add("--unlabelled", Literal["refuse", "drop"], "refuse", "What becomes of rows without a target.")
    parser.add("--image_size", int, 64, "Height and width of pictures and videos.")
    parser.add("--audio_seconds", float, 4.0, "Length of sound.")
    parser.add("--video_frames", int, 8, "Frames that are taken of a video.")
    parser.add("--vocabulary", int, 4000, "Most ids of the tokenizer of texts.")
    parser.add("--tokenizer", str | None, None, "Folder with a tokenizer.json; default: one is learnt.")
    parser.add("--text_length", int, 128, "Most ids per text.")
    parser.add("--sequence_length", int, 1000, "Most steps of sequences of several lengths.")
    parser.add("--method", str | None, None, "Name of the method; default the one to begin with.")
    parser.add("--options", dict[str, Any] | None, None, "Its options, as {weight: 0.5}: equimodal describe METHOD.")
    parser.add_all("model.", ModelConfig, "model", notes=MODEL_NOTES)
    parser.add_all("training.", TrainingConfig, "training; it ends early, see patience", notes=TRAINING_NOTES)
    add_trust(parser)
    add_metrics(parser)
    add_running(parser)
    parser.defaults({"logger": ["none"], "training": dataclasses.asdict(BUDGET)})
    return parser


def _numbers(texts: Sequence[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise UsageError(
            f"equimodal fit: error: --shares: expected numbers, as 0.7,0.15,0.15. Found {texts}."
        ) from None


def _new_folder(name: str) -> Path:
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
