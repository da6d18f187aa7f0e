"""Which weights of a training are kept: those of one epoch, or the mean over the last ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from equimodal.errors import CheckpointError
from equimodal.methods import Method
from equimodal.studies.runs._records import read_checkpoint
from equimodal.studies.runs._stored import read_history

Selection = Literal["best", "last", "average"]
SELECTIONS: Mapping[str, str] = {
    "best": "epoch with the best validation score",
    "last": "last epoch",
    "average": "mean of the weights after the epochs of the last quarter",
}
"""What `training.selection` may be, in words."""
_BY = {"best": "best validation score", "last": "last epoch, nothing chosen", "average": SELECTIONS["average"]}
_AVERAGE = "WeightAverage"


def load_selected(method: Method, folder: Path, selection: str) -> dict[str, Any]:
    """Load what ``selection`` names into ``method``, from the checkpoints of a run.

    Args:
        method: built as the run was.
        folder: of the run.
        selection: one of :data:`SELECTIONS`.

    Returns:
        ``by``, ``epoch`` (from 0; of an average its last one) and ``score`` on validation data, where the history has
        it.

    Raises:
        CheckpointError: the checkpoint is not there, cannot be read, or has no average.
    """
    checkpoints = folder / "checkpoints"
    content = read_checkpoint(checkpoints / ("best.ckpt" if selection == "best" else "last.ckpt"))
    state = {k.removeprefix("method."): v for k, v in content["state_dict"].items() if k.startswith("method.")}
    epoch = int(content["epoch"])
    if selection == "average":
        mean: dict[str, Tensor] = content.get("callbacks", {}).get(_AVERAGE, {}).get("mean", {})
        if not mean:
            raise CheckpointError(
                f"`{checkpoints / 'last.ckpt'}`: expected an average of the weights, which the last quarter of the "
                f"epochs makes. Found none after epoch {epoch + 1}. Use selection last, or train to the end."
            )
        state |= {name: value for name, value in mean.items() if name in state}
    try:
        method.load_state_dict(state)
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"`{checkpoints}`: expected the state of this method and model. Found another: {said}. Build the method "
            "with the options it was trained with, or train again in another folder."
        ) from error
    scores = {r["epoch"]: r["validation"]["score"] for r in read_history(folder / "history.jsonl")}
    return {"by": _BY[selection], "epoch": epoch, "score": None if selection == "average" else scores.get(epoch)}
