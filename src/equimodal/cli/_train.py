"""``equimodal train``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equimodal.cli._errors import Interrupted, UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser, peek, read_config
from equimodal.cli._progress import Progress
from equimodal.cli._shared import (
    add_method_options,
    add_metrics,
    add_parts,
    add_running,
    add_trust,
    clean_options,
    loggers,
    measured,
    of_samples,
    recipe,
    recommended,
    shown,
)
from equimodal.methods import get
from equimodal.studies import RunConfig, suggest_rate
from equimodal.studies import run as run_study

_ABOUT = """Train a method, choose the epoch on validation data, report on test data. Leaves one folder with the
resolved configuration, environment, history, metrics, checkpoints and weights. Example: equimodal train --method
NAME --data avdigits --training.epochs 20 --seed 1"""


_COMMON = ("score", "loss", "unimodal", "samples", "unimodal_samples")


def run(argv: Sequence[str], context: Context) -> int:
    """Train, or continue with ``--resume``."""
    said = peek(argv, ("method", "data.name", "data.target", "out"))
    stored = _stored(said.get("out"), argv)
    method = get(said.get("method") or stored.get("method") or RunConfig().method).__name__
    name = said.get("data.name") or stored.get("data", {}).get("name") or "avdigits"
    target = said.get("data.target") or stored.get("data", {}).get("target")
    advice: dict[str, Any] = {}
    if "--recommended" in argv:
        first = _parser(method, name, target, stored, {}).parse([a for a in argv if not a.startswith("--print_config")])
        advice = recommended(method, first["data"])
    values = _parser(method, name, target, stored, advice).parse(argv)
    out, resume, _ = values.pop("out"), values.pop("resume"), values.pop("recommended")
    find = values.pop("find_rate")
    del values["trust"]
    values |= {
        "method": method,
        "options": clean_options(values.get("options", {})),
        "uses": _uses(values["uses"] or {}),
        "logger": loggers(values["logger"]),
    }
    config = RunConfig.from_dict(values)
    if find:
        return _suggest(config, Path(out or "."))
    folder = Path(out) if out else _new_folder(f"{method}-{Path(name).stem}-seed{config.seed}")
    return _train(config, folder, resume, context)


def _suggest(config: RunConfig, folder: Path) -> int:
    found = suggest_rate(config, folder=folder)
    print(f"{len(found.rates)} steps of {config.method} with rates from {found.rates[0]:.1e} to {found.rates[-1]:.1e}: "
          f"training loss {found.losses[0]:.4g}, lowest (smoothed) {min(found.smoothed):.4g}")  # fmt: skip
    print(f"rule: {found.rule}")
    print("use it with --rate NUMBER; --rate auto finds and takes it")
    print(f"{found.suggestion:.2e}")
    return 0


def _train(config: RunConfig, folder: Path, resume: bool, context: Context) -> int:
    try:
        with Progress(context.quiet) as progress:
            metrics = run_study(
                config,
                folder,
                resume=resume,
                progress=lambda e: progress(e["epoch"], e["epochs"], f"validation {shown(e['score'])}"),
            )
    except KeyboardInterrupt:
        raise Interrupted(
            f"everything up to the last whole epoch is kept. Continue with: "
            f"equimodal train --resume --out {shlex.quote(str(folder))}"
        ) from None
    if not metrics:  # of several processes, not the first
        return 0
    chosen = metrics["selection"]
    print(f"{metrics['method']} on {metrics['data']} ({metrics['protocol']}), seed {metrics['seed']}")
    print(f"  selected: epoch {chosen['epoch'] + 1}, by {chosen['by']}, validation {shown(chosen['score'])}")
    trained, planned = chosen.get("trained"), chosen.get("planned")
    if trained is not None and planned is not None and trained < planned:
        print(f"  ended early: after {trained} of {planned} epochs, by training.patience {config.training.patience}")
    print(f"  test {measured(metrics)}: {shown(metrics['test']['score'])}, by rule {metrics['rule']!r}")
    others = {n: v for n, v in metrics["test"].items() if n not in (*_COMMON, metrics["metric"]["name"])}
    if others:
        print(
            "  test "
            + ", ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in others.items())
        )
    for title, scores in (("own output of", metrics["test"]["unimodal"]), ("probe of", metrics.get("probe", {}))):
        for modality, score in scores.items():
            over = of_samples(metrics["test"].get("unimodal_samples", {}), modality, metrics["test"].get("samples"))
            print(f"  {title} {modality}: {shown(score)}{over}")
    print(folder)
    return 0


def _parser(
    method: str, name: str, target: str | None, stored: dict[str, Any], advice: dict[str, Any]
) -> CommandParser:
    parser = CommandParser("train", _ABOUT)
    parser.add("--method", str, method, "Name of the method; equimodal list shows them.")
    parser.add("--seed", int, 0, "Decides initial weights, order of the batches and dropout.")
    parser.add("--probe", bool, True, "Fit linear probes on every encoder's features at the end.")
    text = "Option of the method -> folder of a finished run, or companion -> folder: what it uses of other runs."
    parser.add("--uses", dict[str, Any] | None, None, text)
    parser.add("--out", str | None, None, "Folder to leave; default: a new one in runs/.")
    parser.flag("--resume", "Continue the run in --out; its configuration is the default for every option.")
    parser.flag(
        "--recommended", "Take the options that the method recommends for the task; those that are given count."
    )
    parser.flag("--find-rate", "Only test learning rates on the training data, and print a suggestion.")
    add_trust(parser)
    add_metrics(parser)
    add_running(parser)
    add_method_options(parser, method)
    add_parts(parser)
    parser.defaults(recipe(name, target))
    parser.defaults({"options": advice})
    parser.defaults(stored)
    return parser


def _stored(out: str | None, argv: Sequence[str]) -> dict[str, Any]:
    if "--resume" not in argv:
        return {}
    if out is None:
        raise UsageError("equimodal train: error: --resume needs the folder of the run: --resume --out DIR")
    known = Path(out) / "config.yaml"
    if known.is_file():
        return read_config(known, RunConfig)
    if set(argv) <= {"--resume", "--out", out, f"--out={out}"}:  # with a method or data, a job's first start
        raise UsageError(
            f"equimodal train: error: --resume: no run in `{out}` "
            f"({'no config.yaml' if Path(out).exists() else 'no such folder'}). Check the path, or say what to train, "
            "as --method and --data."
        )
    return {}


def _uses(values: dict[str, Any]) -> dict[str, Any]:
    """``--uses.OPTION.NAME FOLDER`` as in a file: option -> name -> folder. Names may hold dots, options do not."""
    uses: dict[str, Any] = {}
    for key, value in values.items():
        option, dot, name = key.partition(".")
        part = {name: value} if dot else value
        known = uses.get(option)
        uses[option] = {**known, **part} if isinstance(known, dict) and isinstance(part, dict) else part
    return uses


def _new_folder(name: str) -> Path:
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
