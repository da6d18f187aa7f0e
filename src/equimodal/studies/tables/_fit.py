"""A run on a table: encoders by kind, early stopping, and the preparation beside the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equimodal.data import TableDataset, from_dataframe
from equimodal.data import loader as batches_of
from equimodal.data.tables import load_table
from equimodal.errors import DataError
from equimodal.methods import Method, default_method
from equimodal.studies.runs import Progress, fit, is_sealed, own_randomness, run, seal, write_json
from equimodal.studies.setup import (
    DataConfig,
    LoaderConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    resolved_options,
    seeded,
)
from equimodal.studies.tables._predictor import PREPARATION, TABLE, Predictor, load

BUDGET = TrainingConfig(epochs=40, batch_size=64, lr=1e-3, patience=8)
"""Default of a run on a table: it ends after 8 epochs without a better validation score."""


def fit_table(
    table: Any,
    target: str,
    folder: str | Path,
    *,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    seed: int = 0,
    metrics: Sequence[str] = (),
    logger: Sequence[str] = (),
    loader: LoaderConfig | None = None,
    progress: Progress | None = None,
    **data_options: Any,
) -> Predictor:
    """Train on a table, and leave a run folder that predicts new rows without the training data.

    The folder is that of :func:`equimodal.studies.run`, and holds ``preparation.json`` (columns, categories,
    statistics, tokenizer, sizes, versions) and ``table.json`` (what was found in the table, the test score, and that of
    the best constant) too. Nothing in it is a pickle. All scores are in the unit of the target; a loss is of the
    numbers that are trained on, which are standardised.

    Args:
        table: a frame of pandas or polars, or the path of a .csv, .tsv or .parquet file.
        target: column to predict.
        folder: where to leave the run; must hold none that is finished. One that was interrupted is continued.
        method: default the one to begin with, :func:`~equimodal.methods.default_method`.
        options: its hyperparameters.
        model: default encoders by kind: MLP for ``table``, :class:`~equimodal.encoders.TextConv` for text,
            :class:`~equimodal.encoders.Conv2d` for pictures, :class:`~equimodal.encoders.Conv1d` for sound.
        training: default 40 epochs of AdamW that end after 8 without a better validation score.
        seed: decides the split, initial weights and the order of the batches.
        metrics: names of further metrics for the record, see :func:`equimodal.tasks.named_metrics`.
        logger: names of loggers, of csv, tensorboard, wandb and mlflow.
        loader: workers that prepare batches.
        progress: called after every epoch.
        **data_options: of :func:`equimodal.data.from_dataframe`: columns, root, group, split, task ...

    Returns:
        The predictor, as :func:`equimodal.load` gives it of the folder.

    Raises:
        DataError: the table cannot be used, or the folder holds a run that is finished, or another one.
        MissingExtraError: the extras ``table`` and ``cli`` are not installed.
    """
    folder = Path(folder)
    if (folder / TABLE).exists() and is_sealed(folder, TABLE):
        raise DataError(
            f"`{folder}`: expected an empty folder. Found the run of {folder / 'config.yaml'}. Choose another."
        )
    is_path = isinstance(table, (str, Path))
    known = {"seed": seed, **data_options}
    data = load_table(table, target, **known) if is_path else from_dataframe(table, target, **known)
    config = RunConfig(
        method or default_method(),
        dict(options or {}),
        _data_config(str(table) if is_path else data.name, target, known),
        encoders_for(data, model or ModelConfig()),
        training or dataclasses.replace(BUDGET),
        seed,
        probe=False,
        metrics=list(metrics),
        logger=list(logger),
        loader=loader or LoaderConfig(),
    )
    found = run(config, folder, resume=True, data=data, progress=progress)
    write_json(folder / PREPARATION, data.preparation.to_dict())
    seal(folder, (PREPARATION,))
    made = load(folder)
    scores = test_scores(found, data)
    unit = None if made.classes else f"of the column {target!r}; `loss` is of standardised numbers"
    about = {"report": data.report.to_dict(), "test": scores, "unit": unit, "text": str(data.report)}
    write_json(folder / TABLE, about)
    seal(folder, (TABLE,))
    made.test, made.report = scores, str(data.report)
    return made


def train_table(data: TableDataset, config: RunConfig, folder: Path) -> Method:
    """Train on a dataset that may have no test part; returns the trained method, and leaves no run behind."""
    config = dataclasses.replace(
        config, model=encoders_for(data, config.model), options=resolved_options(config.method, config.options)
    )
    with own_randomness():
        method = seeded(config, data)
        fit(method, data.train, data.validation, config, folder, loggers=False)
        method.fit_inference(batches_of(data.validation, 256))
    return method.eval()


def encoders_for(data: TableDataset, model: ModelConfig) -> ModelConfig:
    """The configuration with what the modalities of a table need: the vocabulary of a text, a stride for sound."""
    encoders = {name: dict(own) for name, own in model.encoders.items()}
    for name, own in data.preparation.modalities.items():
        given = encoders.get(name, {})
        if own["kind"] == "text":
            given = {"encoder": "conv1d", **given}
            given.setdefault("vocabulary", own["state"]["vocabulary"])
            if data.preparation.padding(name):
                given.setdefault("padding", data.preparation.padding(name))
        elif own["kind"] == "audio":
            given = {"stride": 2, **given}
        elif own["kind"] == "table":
            given = {"dropout": 0.1, **given}
        if given:
            encoders[name] = given
    return dataclasses.replace(model, encoders=encoders)


def test_scores(metrics: Mapping[str, Any], data: TableDataset) -> dict[str, float]:
    """Accuracy, or mean absolute error in the unit of the target, on the test rows; of the best constant too."""
    train, test = data.train.target, data.test.target
    score = float(metrics["test"]["score"])
    if data.preparation.target["task"] == "classification":
        return {"accuracy": score, "constant": float((test == train.bincount().argmax()).double().mean())}
    return {"mae": -score, "constant": float((test - train.quantile(0.5)).abs().double().mean())}


def _data_config(name: str, target: str, options: Mapping[str, Any]) -> DataConfig:
    options = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    options = {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    return DataConfig(name=name, target=target, options=options)
