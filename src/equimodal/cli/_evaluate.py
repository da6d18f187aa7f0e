"""``equimodal evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.cli._shared import percent
from equimodal.data import loader
from equimodal.diagnostics import evaluate, subset_scores
from equimodal.studies import load_run
from equimodal.studies._records import write_json

_ABOUT = "Scores of a finished run on its test or validation data. Example: equimodal evaluate runs/MLA --subsets"


def run(argv: Sequence[str], _: Context) -> int:
    """Evaluate and print."""
    parser = CommandParser("evaluate", _ABOUT, "RUN_DIR", config=False)
    parser.add("run_dir", str, text="Folder of a finished run.")
    parser.add("--split", Literal["test", "validation"], "test", "Which samples to score.")
    parser.flag("--subsets", "Score every subset of the modalities too.")
    parser.add("--out", str | None, None, "Write the numbers to this .json file too.")
    values = parser.parse(argv)
    config, data, method = load_run(values["run_dir"])
    size = max(256, config.training.batch_size)
    batches = loader(data.test, size) if values["split"] == "test" else loader(data.validation, size)
    found = evaluate(method, batches, metrics=True)
    record: dict[str, Any] = {"run": values["run_dir"], "split": values["split"], **vars(found)}
    print(f"{type(method).__name__} on {data.name}, protocol {data.protocol.name}, {values['split']} split: "
          f"{found.samples} samples")  # fmt: skip
    print(f"  score: {percent(found.score)}, by rule {found.rule!r}; loss {found.loss:.4f}")
    for name, value in found.metrics.items():
        print(f"  {name}: {value:.4f}")
    for modality, value in found.unimodal.items():
        print(f"  own output of {modality}: {percent(value)}")
    if values["subsets"]:
        scores = {" + ".join(subset): score for subset, score in subset_scores(method, batches).items()}
        record["subsets"] = scores
        for subset, value in scores.items():
            print(f"  given {subset}: {percent(value)}")
    if values["out"]:
        print(write_json(Path(values["out"]), record))
    return 0
