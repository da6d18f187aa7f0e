"""``equimodal predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, comma_list, long_forms
from equimodal.studies import DataConfig, predict_run, write_predictions

_ABOUT = """Probabilities of a finished run for each sample, from any subset of the modalities. Inputs are prepared with
the statistics of the run's own training data. Example: equimodal predict runs/one --split test --out predictions.csv"""


def run(argv: Sequence[str], _: Context) -> int:
    """Predict and write."""
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
    values = parser.parse(long_forms(argv))
    if Path(values["out"]).suffix not in (".npz", ".csv"):
        raise UsageError(f"equimodal predict: error: --out: expected a name.npz or name.csv. Found {values['out']!r}.")
    given = values["data"]
    other = DataConfig(given["name"], given["card"], given["protocol"]) if given["name"] else None
    table = predict_run(values["run_dir"], other, values["split"], values["modalities"])
    print(write_predictions(table, Path(values["out"])))
    return 0
