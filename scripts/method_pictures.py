"""One picture per method: its validation curve on avdigits, for the method's page.

    EQUIMODAL_DATA=DIR python scripts/method_pictures.py [--methods MLA,CGGM] [--epochs 6] [--redraw]

`DIR` holds `avdigits.npz`. Every method of the registry is trained once, with its defaults, the same encoders, seed,
optimizer and number of epochs, and validated after each epoch: the score of its prediction, and of each modality's own
output where it has one. The predictions of `Joint` and `Ensemble` are drawn in grey for comparison. The numbers are
kept in `benchmarks/results/method_pictures.json`; `--redraw` draws them again without training. One seed shows how a
method behaves, not which is better: for that see docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

from equimodal import PlainEngine
from equimodal.data import Dataset, load, loader
from equimodal.errors import EquimodalError
from equimodal.methods import EpochContext, Method, available, get, measure
from equimodal.studies import companion_options, recipe
from equimodal.studies.setup import build_model

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURES = ROOT / "benchmarks/results/method_pictures.json", ROOT / "docs/images/methods"
SEED = 0
CONTROLS = ("Joint", "Ensemble")
Curves = dict[str, list[float]]  # name of the output -> validation score after each epoch


# ---- training -------------------------------------------------------------------------------------------------------


def train(name: str, data: Dataset, path: str, epochs: int, **options: Any) -> tuple[Curves, Method]:
    """The method after a plain loop, and its validation scores."""
    settings, training = recipe(path)
    torch.manual_seed(SEED)
    model = build_model(data, settings)
    torch.manual_seed(SEED + 1)
    method = get(name)(model, data.task, **options)
    optimizer = torch.optim.AdamW(
        method.parameter_groups(training.lr), lr=training.lr, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.5 * (1 + math.cos(math.pi * e / epochs)))
    engine = PlainEngine(optimizer)
    batches = loader(data.train, training.batch_size, seed=SEED, drop_last=True)
    validation = loader(data.validation, 256)
    curves: Curves = {}
    for epoch in range(epochs):
        method.train()
        context = EpochContext(
            epoch, epochs=epochs, steps=len(batches), loader=batches, engine=engine, validation=validation
        )
        method.on_train_epoch_start(context)
        for batch in batches:
            method.training_step(batch, engine)
        method.on_train_epoch_end(context)
        found = measure(method, validation)
        method.on_validation_end(found)
        schedule.step()
        for output, score in {"prediction": found.score, **found.scores}.items():
            curves.setdefault(output, []).append(round(score, 4))
    return curves, method


def curves_of(name: str, data: Dataset, path: str, epochs: int) -> Curves:
    """Of a method; teachers are an ensemble trained before, a method of one modality is trained on each."""
    if get(name).info.role == "single":
        return {m: train(name, data, path, epochs, modality=m)[0]["prediction"] for m in data.modalities}
    teachers = train("Ensemble", data, path, epochs)[1] if companion_options(name) else None
    options = {option: dict.fromkeys(data.modalities, teachers) for option in companion_options(name)}
    return train(name, data, path, epochs, **options)[0]


# ---- drawing --------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 132, 16, 44
COLORS = {"prediction": "#1d4ed8", "image": "#b45309", "audio": "#047857"}
DASHES = {"prediction": "", "image": "6 3", "audio": "2 3"}


def picture(name: str, curves: Mapping[str, Sequence[float]], controls: Mapping[str, Sequence[float]]) -> str:
    """The curves as an SVG with a title and a description."""
    epochs = max(len(c) for c in curves.values())

    def x(epoch: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(epochs - 1, 1)

    def y(score: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - score)

    said = "; ".join(f"{output} {values[-1]:.2f}" for output, values in curves.items())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="t d" font-family="system-ui, sans-serif" font-size="12">',
        f'<title id="t">{escape(name)}: validation accuracy over epochs on avdigits</title>',
        f'<desc id="d">After the last epoch: {escape(said)}.</desc>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#fff"/>',
    ]
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(f'<path d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#4b5563">{100 * tick:.0f}</text>'
        )
    parts += [
        f'<text x="{x(epoch):.1f}" y="{HEIGHT - 26}" text-anchor="middle" fill="#4b5563">{epoch}</text>'
        for epoch in range(1, epochs + 1)
    ]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#4b5563">epoch</text>')
    parts.append(
        f'<text transform="translate(12 {TOP + (HEIGHT - TOP - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle" '
        f'fill="#4b5563">validation accuracy, %</text>'
    )
    drawn = [(label, values, "#9ca3af", "") for label, values in controls.items() if label != name]
    drawn += [(output, values, COLORS[output], DASHES[output]) for output, values in curves.items()]
    for label, values, color, dash in drawn:
        points = " ".join(f"{x(e):.1f},{y(s):.1f}" for e, s in enumerate(values, 1))
        style = f' stroke-dasharray="{dash}"' if dash else ""
        width = 2.5 if label == "prediction" else 1.8
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{width}"{style}/>')
        parts += [f'<circle cx="{x(e):.1f}" cy="{y(s):.1f}" r="2.5" fill="{color}"/>' for e, s in enumerate(values, 1)]
    heights = spread([y(values[-1]) for _, values, _, _ in drawn])
    for (label, values, color, _), height in zip(drawn, heights, strict=True):
        shown = name if label == "prediction" else label
        ink = "#6b7280" if color == "#9ca3af" else color
        parts.append(
            f'<text x="{WIDTH - RIGHT + 8}" y="{height + 4:.1f}" fill="{ink}">'
            f"{escape(shown)} {100 * values[-1]:.1f}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def spread(heights: Sequence[float], least: float = 15) -> list[float]:
    """The heights of labels, moved so far apart that none covers another."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + least)
    excess = max(0.0, placed[order[-1]] - (HEIGHT - BOTTOM))
    return [height - excess for height in placed]


def draw(results: Mapping[str, Any]) -> None:
    """All pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    controls = {n: results["curves"][n]["prediction"] for n in CONTROLS if n in results["curves"]}
    for name, curves in results["curves"].items():
        (PICTURES / f"{name.lower()}.svg").write_text(picture(name, curves, controls), encoding="utf-8")


# ---- the command ----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, keep the numbers, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="", help="names, with commas; all by default")
    parser.add_argument("--epochs", type=int, default=6, help="the budget of the recipe by default")
    parser.add_argument("--redraw", action="store_true", help="draw the numbers that are kept; train nothing")
    chosen = parser.parse_args(arguments)
    results: dict[str, Any] = {"epochs": chosen.epochs, "seed": SEED, "curves": {}, "torch": torch.__version__}
    if RESULTS.exists():
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))
        results = kept if kept["epochs"] == chosen.epochs else results
    folder = os.environ.get("EQUIMODAL_DATA", "")
    if not chosen.redraw and not folder:
        print("Set EQUIMODAL_DATA to the folder that holds avdigits.npz, or pass --redraw.", file=sys.stderr)
        return 2
    if not chosen.redraw:
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "avdigits.npz")
        data = load(path)
        names = chosen.methods.split(",") if chosen.methods else [*CONTROLS, *available(outside=False)]
        for name in dict.fromkeys(names):
            if name in results["curves"] and not chosen.methods:
                continue
            try:
                results["curves"][name] = curves_of(name, data, path, chosen.epochs)
            except EquimodalError as error:
                print(f"{name}: no picture. {error}", file=sys.stderr, flush=True)
                continue
            print(name, {k: v[-1] for k, v in results["curves"][name].items()}, flush=True)
            RESULTS.write_text(json.dumps(results, sort_keys=True) + "\n", encoding="utf-8")
    draw(results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
