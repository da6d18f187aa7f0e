"""``equimodal predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list, long_forms
from equimodal.cli._progress import Progress
from equimodal.cli._shared import add_trust
from equimodal.data.tables import count_rows
from equimodal.studies import DataConfig, predict_run, write_predictions

_ABOUT = """Probabilities of a finished run for each sample, from any subset of the modalities. Inputs are prepared with
the statistics of the run's own training data. Of a run of equimodal fit: equimodal predict RUN NEW.csv --out
predictions.csv predicts a table of new rows. Example: equimodal predict runs/one --split test --out predictions.csv"""


def run(argv: Sequence[str], context: Context) -> int:
    """Predict and write."""
    if len(argv) > 1 and not argv[0].startswith("-") and not argv[1].startswith("-"):
        return _table(argv, context)
    parser = CommandParser("predict", _ABOUT, "RUN_DIR", config=False)
    parser.add("run_dir", str, text="Folder of a finished run.")
    parser.add(
        "--data.name",
        str | None,
        None,
        "Dataset or bundle with the run's modalities; default: the run's. [short: --data]",
    )
    parser.add("--data.card", str | None, None, "Card of that bundle. [short: --card]")
    parser.add("--data.protocol", str | None, None, "Split protocol of that data. [short: --protocol]")
    parser.add("--split", comma_list, ["test"], "Parts to predict, of train,validation,test.")
    parser.add("--modalities", comma_list, None, "Use these only, as audio,image; default: all that a sample has.")
    parser.add("--out", str, "predictions.npz", "File to write: .npz or .csv.")
    add_trust(parser)
    values = parser.parse(long_forms(argv))
    if Path(values["out"]).suffix not in (".npz", ".csv"):
        raise UsageError(f"equimodal predict: error: --out: expected a name.npz or name.csv. Found {values['out']!r}.")
    given = values["data"]
    other = DataConfig(given["name"], given["card"], given["protocol"]) if given["name"] else None
    table = predict_run(values["run_dir"], other, values["split"], values["modalities"])
    print(write_predictions(table, Path(values["out"])))
    return 0


def _table(argv: Sequence[str], context: Context) -> int:
    """Predict the rows of a table."""
    from equimodal.studies import load

    parser = CommandParser("predict", _ABOUT, "RUN_DIR TABLE", config=False)
    parser.add("run_dir", str, text="Folder of a run of equimodal fit.")
    parser.add("table", str, text="A .csv, .tsv or .parquet file with new rows; it needs no target.")
    parser.add("--out", str, "predictions.csv", "File to write.")
    parser.add("--modalities", comma_list, None, "Use these only, as text,photo; default: all that a row has.")
    parser.add("--root", str | None, None, "Folder that relative paths begin in; default that of the table.")
    add_trust(parser)
    values = parser.parse(argv)
    if Path(values["out"]).suffix != ".csv":
        raise UsageError(f"equimodal predict: error: --out: expected a name.csv. Found {values['out']!r}.")
    made = load(values["run_dir"])
    path = Path(values["table"])
    with Progress(context.quiet, unit="rows") as progress:
        total = count_rows(path) if path.is_file() else 0
        written = made.predict_file(
            path, values["out"], modalities=values["modalities"], root=values["root"],
            progress=lambda done: progress(done, max(done, total), "predicting"),
        )  # fmt: skip
    print(written)
    return 0
