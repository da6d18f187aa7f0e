"""``equimodal evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from equimodal.cli._errors import UsageError
from equimodal.cli._main import Context
from equimodal.cli._parser import CommandParser
from equimodal.cli._robustness import (
    check_curves,
    check_reference,
    curve_lines,
    curve_records,
    curves_of,
    levels_list,
    noise_list,
    number,
    percents,
    subsets,
)
from equimodal.cli._shared import add_metrics, add_trust, measured, of_samples
from equimodal.data import Missing, loader, take_away
from equimodal.diagnostics import FORMATS, draw_curves, evaluate
from equimodal.diagnostics.noise import NOISES
from equimodal.methods import Method
from equimodal.studies import load_run
from equimodal.studies.runs import ELSEWHERE, write_json

_ABOUT = """Scores of a finished run on its test or validation data: as they are, from every subset of the modalities,
with modalities missing, with noise. Example: equimodal evaluate runs/one --subsets --missing-rates 0.1,...,0.9"""


def run(argv: Sequence[str], _: Context) -> int:
    """Evaluate and print."""
    values = _parser().parse(argv)
    _check_used(argv, values)
    if values["figure"] and Path(values["figure"]).suffix.lower() not in FORMATS:
        raise UsageError(f"equimodal evaluate: error: --figure: expected a file {', '.join(FORMATS)}. "
                         f"Found {values['figure']!r}.")  # fmt: skip
    config, data, method = load_run(values["run_dir"])
    check_curves(method, values)
    size = max(256, config.training.batch_size)
    split = data.test if values["split"] == "test" else data.validation
    less = values["data"]
    if less["missing"] or less["missing_file"]:
        split = take_away(split, Missing(less["missing"] or "", less["missing_file"], less["missing_seed"]))
    batches = loader(split, size)
    found = evaluate(method, batches, [*config.metrics, *values["metrics"]] or True, True, data.classes)
    record: dict[str, Any] = {"run": values["run_dir"], "split": values["split"], **vars(found)}
    lines = [
        f"{type(method).__name__} on {data.name}, protocol {data.protocol.name}, {values['split']} split: "
        f"{found.samples} samples"
    ]
    lines += [f"  {m}: absent in {int((~mask).sum())} of {len(mask)} samples" for m, mask in split.present.items()]
    lines.append(
        f"  {_score_name(method)}: {number(method, found.score)}, by rule {found.rule!r}; loss {found.loss:.4f}"
    )
    lines += [f"  {name}: {value:.4f}" for name, value in found.metrics.items()]
    lines += [
        f"  own output of {modality}: {number(method, value)}{of_samples(found.counts, modality, found.samples)}"
        for modality, value in found.unimodal.items()
    ]
    if values["subsets"]:
        more, record["subsets"] = subsets(method, batches, values["subset_limit"])
        lines += more
    if values["missing_rates"] or values["noise"]:
        missing, noise = curves_of(method, data, batches, values)
        against = _reference(values, data, split) if values["reference"] else ([], [])
        draws = f"mean of {values['draws']} draw{'s' if values['draws'] > 1 else ''}"
        for name, title, curves, other in (
            ("missing", f"Missing at random by rate, {draws}", missing, against[0]),
            ("noise", f"Noise by level ({_kinds(noise)}), {draws}", noise, against[1]),
        ):
            if curves:
                record[name] = curve_records(curves, other)
                lines += curve_lines(title, method, curves, other)
    print("\n".join(lines))  # when all of it is there: what is refused prints no part of a result
    if values["figure"]:
        print(_figure(values, method, [*missing, *noise], [*against[0], *against[1]]))
    if values["out"]:
        print(write_json(Path(values["out"]), record, ELSEWHERE))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("evaluate", _ABOUT, "RUN_DIR", config=False)
    parser.add("run_dir", str, text="Folder of a finished run.")
    parser.add("--split", Literal["test", "validation"], "test", "Which samples to score.")
    parser.add("--data.missing", str | None, None,
               "Take modalities away from these samples, as audio=0.5,text=0.1. [short: --missing]")  # fmt: skip
    parser.add("--data.missing_file", str | None, None, "Mask of what is present. [short: --missing-file]")
    parser.add("--data.missing_seed", int, 0, "Which samples lose modalities. [short: --missing-seed]")
    add_metrics(parser)
    add_trust(parser)
    parser.flag("--subsets", "Score every subset of the modalities too.")
    parser.add("--subset-limit", int, 255, "Number of subsets above which some are left out.")
    parser.add("--missing-rates", levels_list, None, "Scores with modalities missing at these rates: 0.1,...,0.9.")
    parser.add("--noise", noise_list, None,
               "Scores with noise on these modalities: audio, or audio,text=drop_steps, or all. Kinds: "
               f"{', '.join(NOISES)}.")  # fmt: skip
    parser.add("--levels", levels_list, levels_list("0.1,...,1"),
               "Levels of the noise, up to 1: probabilities, or strengths; of Gaussian noise: deviations of the "
               "training data, without end.")  # fmt: skip
    parser.add("--draws", int, 5, "How often modalities or noise are drawn.")
    parser.add("--seed", int, 0, "Of the draws.")
    parser.add("--reference", str | None, None, "A run on the same data, for the robustness relative to it.")
    parser.add("--figure", str | None, None, "Draw the curves to this .png, .svg or .pdf file.")
    parser.add("--out", str | None, None, "Write the numbers to this .json file too.")
    return parser


def _check_used(argv: Sequence[str], values: dict[str, Any]) -> None:
    """Refuse options of curves where none is asked for."""
    given = {argument.partition("=")[0] for argument in argv}
    for option, needs in {
        "--figure": ("--missing-rates", "--noise"),
        "--reference": ("--missing-rates", "--noise"),
        "--draws": ("--missing-rates", "--noise"),
        "--levels": ("--noise",),
    }.items():
        if option in given and not any(values[n.strip("-").replace("-", "_")] for n in needs):
            raise UsageError(
                f"equimodal evaluate: error: {option}: expected {' or '.join(needs)} beside it, without which it "
                "changes nothing. Add that, or leave it out."
            )


def _score_name(method: Method) -> str:
    """What the score is: a share is called score, an error by its name."""
    return "score" if percents(method) else measured({"metric": {"name": method.task.main_metric}})


def _reference(values: dict[str, Any], data: Any, split: Any) -> tuple[Any, Any]:
    """The same curves of the reference run, on the same samples."""
    config, other, method = load_run(values["reference"])
    check_reference(data, other, values["reference"])
    return curves_of(method, other, loader(split, max(256, config.training.batch_size)), values)


def _kinds(curves: Sequence[Any]) -> str:
    return ", ".join(dict.fromkeys(c.kind for c in curves if "+" not in c.kind))


def _figure(values: dict[str, Any], method: Any, own: Sequence[Any], other: Sequence[Any]) -> Path:
    label, reference = type(method).__name__, Path(str(values["reference"])).name
    shown = {label: own, (reference if reference != label else f"{reference} (reference)"): other} if other else own
    return draw_curves(shown, values["figure"], f"{'score' if values['split'] == 'test' else 'validation score'}")
