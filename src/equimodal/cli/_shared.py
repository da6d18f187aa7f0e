"""Arguments that several commands share: data, model, training, and the options of a method."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Any

from equimodal import studies
from equimodal.cli._parser import CommandParser, call_list, comma_list
from equimodal.cli._signature import Option, options_of
from equimodal.engine import Sharpness
from equimodal.inference import rule_names
from equimodal.methods import available, get
from equimodal.studies import DataConfig, LoaderConfig, ModelConfig, TrainingConfig, method_options
from equimodal.studies.setup import LOGGERS, build_data, companion_options

_DATA_NOTES = {
    "name": "short: --data", "card": "short: --card", "protocol": "short: --protocol", "target": "short: --target",
    "missing": "short: --missing",
    "missing_file": "short: --missing-file", "missing_seed": "short: --missing-seed",
}  # fmt: skip
MODEL_NOTES = {
    "fusion": "short: --fusion", "own_encoders": "short: --encoder MODALITY=MODULE:NAME(OPTION=VALUE)",
    "own_model": "short: --model MODULE:NAME(OPTION=VALUE)",
}  # fmt: skip
TRAINING_NOTES = {"devices": "short: --devices", "lr": "short: --rate"}


def featured() -> list[str]:
    """The methods of a comparison that names none."""
    return [name for name in available(outside=False) if get(name).info.featured]


def add_parts(parser: CommandParser, data: bool = True) -> None:
    """Data, model and training, as in a run's ``config.yaml``."""
    if data:
        parser.add_all("data.", DataConfig, "data", notes=_DATA_NOTES)
    parser.add_all("model.", ModelConfig, "model", notes=MODEL_NOTES)
    parser.add_all("training.", TrainingConfig, "training (the same for every method of a comparison)",
                   notes=TRAINING_NOTES)  # fmt: skip


def add_metrics(parser: CommandParser) -> None:
    """``--metrics``."""
    text = "Further metrics of torchmetrics, as f1,auroc,calibration_error or fbeta(beta=2.0)."
    parser.add("--metrics", call_list, [], text)


def add_trust(parser: CommandParser) -> None:
    """``--trust``, which is taken off the command line before it is parsed."""
    text = "Modules of yours that may be imported, as mymodule; those that a file names are not."
    parser.add("--trust", str | None, None, text)


def add_running(parser: CommandParser) -> None:
    """What a single run is watched by, and what prepares its batches."""
    parser.add("--logger", comma_list, ["tensorboard"], f"Loggers, of {', '.join(LOGGERS)}; several with commas.")
    parser.add_all("loader.", LoaderConfig, "preparing batches")


def loggers(names: list[str]) -> list[str]:
    """The names; ``none`` is no logger."""
    return [] if names == ["none"] else names


def recipe(name: str, target: str | None = None) -> dict[str, Any]:
    """Model, training and options of the task that suit a dataset, as defaults; the general ones for an unknown one."""
    model, training = studies.recipe(name, target)
    return {"model": vars(model), "training": vars(training), "data": {"task": studies.task_options(name, target)}}


def recommended(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a method recommends for the task of the data that the arguments describe."""
    return get(name).recommended(build_data(DataConfig(**data)).task)


def cli_options(name: str) -> tuple[dict[str, Option], list[str]]:
    """The options of a method that a command line can give, and the names of those that only Python can."""
    every = options_of(get(name))
    plain: dict[str, Option] = {}
    python_only = []
    for option in method_options(name):
        found = every[option]
        if option == "sharpness":
            for key, part in options_of(Sharpness).items():
                default = None if key == "mode" else part.default
                plain[f"sharpness.{key}"] = Option(f"sharpness.{key}", part.hint, default, part.text)
        elif option == "inference":  # a command line can give a name
            names: Any = typing.Literal[rule_names()]
            hint = names | None if type(None) in typing.get_args(found.hint) else names
            plain[option] = Option(option, hint, found.default, found.text)
        elif option in companion_options(name):
            python_only.append(f"{option} (or finished runs, under `uses`)")
        elif re.search(r"\bnn\.Module\b|\bmodule\.Module\b", str(found.hint)):
            names = [a for a in typing.get_args(found.hint) if typing.get_origin(a) is typing.Literal]
            if names:  # a name or an object: a command line can give the name
                plain[option] = Option(option, names[0] | None, found.default, found.text)
            else:
                python_only.append(option)
        else:
            plain[option] = found
    return plain, python_only


def add_method_options(parser: CommandParser, name: str, prefix: str = "options.") -> None:
    """``--options.NAME`` for every option of the method's constructor, with the source of its default."""
    method = get(name)
    title = f"options of {method.__name__} (more: equimodal describe {method.__name__})"
    notes = {option: f"source: {source}" for option, source in method.info.defaults.items()}
    parser.add_all(prefix, cli_options(name)[0], title, notes=notes)


def clean_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a constructor takes them: sharpness that is switched off is left out."""
    cleaned = dict(options)
    if isinstance(cleaned.get("sharpness"), Mapping) and cleaned["sharpness"].get("mode") is None:
        del cleaned["sharpness"]
    return cleaned


def check_options(label: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an entry of a comparison gives, with their types checked; others keep their defaults."""
    parser = CommandParser(f"compare: entry {label!r}", "", config=False)
    parser.see = f"equimodal describe {name}"
    add_method_options(parser, name)
    checked: dict[str, Any] = parser.check({"options": dict(options)})["options"]
    return clean_options({key: checked[key] for key in options})


def shown(value: float | None) -> str:
    """A score for people: a share as percent; minus an error as the error."""
    if value is None or value != value:
        return "-"
    return percent(value) if 0 <= value <= 1 else f"{abs(value):.3f}"


def measured(metrics: Mapping[str, Any]) -> str:
    """What the test score of a run is, such as ``accuracy`` or ``MAE``."""
    name = str(metrics.get("metric", {}).get("name", "score"))
    return name.upper() if len(name) <= 3 else name.replace("_", " ")


def percent(value: float | None) -> str:
    """A score for people."""
    return "-" if value is None else f"{100 * value:.1f} %"


def of_samples(counts: Mapping[str, int], modality: str, samples: int | None) -> str:
    """Which samples the output of a modality is scored over, where these are not all."""
    count = counts.get(modality)
    return (
        "" if samples is None or count is None or count == samples else f" (the {count} of {samples} samples with it)"
    )
