"""The short way against the long one: four real tables by `fit_table`, and as bundles that are made by hand.

    python benchmarks/tables.py run --data-dir DIR --out runs/tables [--tables ...] [--seeds 0,1,2]
    python benchmarks/tables.py report --data-dir DIR --out runs/tables

By hand means: arrays that are prepared without `equimodal.data.tables` (means and deviations by the bundle, pictures
by Pillow, the words and their numbers that the dataset itself brings), then `from_arrays` and `run`. Method, encoders,
budget, split and seeds are the same. ``run`` is restartable. ``report`` writes ``benchmarks/results/tables.json`` and
the table of ``docs/your-data.md`` between its markers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from equimodal.data import Dataset, from_arrays
from equimodal.methods import default_method
from equimodal.studies import DataConfig, ModelConfig, RunConfig, TrainingConfig, fit_table, run

PAGE, RESULT = Path("docs/your-data.md"), Path("benchmarks/results/tables.json")
MARGIN = 1.0  # points
PARTS = np.array(["train", "validation", "test"])
TRAINING = TrainingConfig(epochs=25, batch_size=64, lr=1e-3, patience=6, device="cpu")
NUMBERS: dict[str, Any] = {"dropout": 0.1}


@dataclass
class Job:
    """A table, and the same content by hand.

    Args:
        frame: with the columns ``label`` and ``part``.
        options: of the short way, `columns` for the most part.
        bundle: the long way.
        encoders: of the bundle; those that the short way takes by itself.
    """

    frame: pd.DataFrame
    options: dict[str, Any]
    bundle: Dataset
    encoders: dict[str, dict[str, Any]] = field(default_factory=dict)


def wikidoc(folder: Path, _: Path) -> Job:
    """Image and text of Wikipedia articles, as 128 and 10 numbers (Pereira et al. 2010): 138 columns."""
    with np.load(folder / "wikidoc.npz") as file:
        image, text = file["image"].astype(np.float64), file["text"].astype(np.float64)
        label, split = file["y"].astype(np.int64), file["split"]
    columns = {"image": [f"bin{i}" for i in range(128)], "text": [f"topic{i}" for i in range(10)]}
    frame = pd.DataFrame(dict(zip([n for own in columns.values() for n in own], [*image.T, *text.T], strict=True)))
    frame["label"], frame["part"] = [f"kind {i}" for i in label], PARTS[split]
    bundle = from_arrays({"image": image, "text": text}, label, PARTS[split])
    return Job(frame, {"columns": columns}, bundle, {"image": NUMBERS, "text": NUMBERS})


def written(grey: Any, work: Path) -> Any:
    """Grey pictures (N, H, W) as ROW.png in a folder; returns them as the long way takes them, (N, 3, 16, 16)."""
    work.mkdir(parents=True, exist_ok=True)
    pictures = np.zeros((len(grey), 3, 16, 16), np.float32)
    for row, own in enumerate(grey):
        picture = Image.fromarray(own).convert("RGB")
        picture.save(work / f"{row}.png")
        pictures[row] = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return pictures


def digits(_: Path, work: Path) -> Job:
    """Scikit-learn's handwritten digits: paths of pictures, 30 % of them absent, and the ink of ten parts."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels, label = (found.images * 15.9).astype(np.uint8), found.target
    random = np.random.default_rng(0)
    absent, part = random.random(len(label)) < 0.3, random.choice(PARTS, len(label), p=[0.7, 0.15, 0.15])
    ink = np.concatenate([found.images.sum(2)[:, ::2], found.images.sum(1)[:, 1:7]], axis=1)
    pictures = written(pixels, work)
    frame = pd.DataFrame({f"ink{i}": column for i, column in enumerate(ink.T)})
    frame["photo"] = [None if gap else f"{row}.png" for row, gap in enumerate(absent)]
    frame["label"], frame["part"] = [f"digit {i}" for i in label], part
    bundle = from_arrays(
        {"table": ink, "photo": pictures}, label, part, present={"photo": ~absent},
        standardise={"table": "per-feature", "photo": "per-channel"},
    )  # fmt: skip
    return Job(frame, {"root": work, "image_size": 16}, bundle, {"table": NUMBERS})


def numerals(folder: Path, work: Path) -> Job:
    """UCI's handwritten numerals: pictures of 16 x 15 averages, 30 % of them absent, and two groups of numbers."""
    with np.load(folder / "mfeat.npz") as file:
        pixels, zernike, shape = (file[name].astype(np.float64) for name in ("pix", "zer", "mor"))
        label, split = file["y"].astype(np.int64), file["split"]
    absent = np.random.default_rng(0).random(len(label)) < 0.3
    grey = np.clip(pixels.reshape(-1, 16, 15) * (255 / pixels.max()), 0, 255).astype(np.uint8)
    pictures = written(grey, work)
    groups = {"zernike": zernike, "shape": shape}
    columns = {m: [f"{m}{i}" for i in range(x.shape[1])] for m, x in groups.items()}
    frame = pd.DataFrame({name: x[:, i] for m, x in groups.items() for i, name in enumerate(columns[m])})
    frame["photo"] = [None if gap else f"{row}.png" for row, gap in enumerate(absent)]
    frame["label"], frame["part"] = [f"numeral {i}" for i in label], PARTS[split]
    bundle = from_arrays(
        {**groups, "photo": pictures}, label, PARTS[split], present={"photo": ~absent},
        standardise={"zernike": "per-feature", "shape": "per-feature", "photo": "per-channel"},
    )  # fmt: skip
    options = {"root": work, "image_size": 16, "columns": {**columns, "photo": "image"}}
    return Job(frame, options, bundle, {"zernike": NUMBERS, "shape": NUMBERS})


def mosi(folder: Path, _: Path) -> Job:
    """CMU-MOSI: transcripts, of which 30 % are absent, and numbers of voice and face; positive or negative."""
    about = json.loads((folder / "mosi.json").read_text())
    with np.load(folder / "mosi.npz") as file:
        tokens, audio, video = file["tokens"].astype(np.int64), file["audio"], file["video"]
        label, split = file["y"].astype(np.int64), file["split"]
    absent = np.random.default_rng(0).random(len(label)) < 0.3
    columns = {
        "audio": [f"voice{i}" for i in range(audio.shape[1])],
        "video": [f"face{i}" for i in range(video.shape[1])],
    }
    names = [n for own in columns.values() for n in own]
    frame = pd.DataFrame(dict(zip(names, [*audio.T, *video.T], strict=True)))
    frame["words"] = [None if gap else text for gap, text in zip(absent, about["text"], strict=True)]
    frame["label"], frame["part"] = np.array(["negative", "positive"])[label], PARTS[split]
    have = ~absent & (tokens != 0).any(1)
    bundle = from_arrays(
        {"audio": audio, "video": video, "words": tokens}, label, PARTS[split], kinds={"words": "tokens"},
        present={"words": have},
    )  # fmt: skip
    words = {"encoder": "conv1d", "vocabulary": int(tokens.max()) + 1}
    return Job(frame, {"columns": {**columns, "words": "text"}}, bundle,
               {"audio": NUMBERS, "video": NUMBERS, "words": words})  # fmt: skip


TABLES: dict[str, Callable[[Path, Path], Job]] = {
    "wikidoc": wikidoc, "digits": digits, "numerals": numerals, "mosi": mosi,
}  # fmt: skip


def short_way(job: Job, folder: Path, seed: int) -> float:
    """Test accuracy of the table."""
    made = fit_table(job.frame, "label", folder, split="part", seed=seed, model=ModelConfig(size="small"),
                     training=TRAINING, **job.options)  # fmt: skip
    return made.test["accuracy"]


def long_way(job: Job, folder: Path, seed: int) -> float:
    """Test accuracy of the bundle."""
    model = ModelConfig(size="small", encoders=job.encoders)
    config = RunConfig(default_method(), {}, DataConfig("bundle"), model, TRAINING, seed, probe=False)
    return float(run(config, folder, data=job.bundle, loggers=False)["test"]["score"])


def measure(arguments: argparse.Namespace) -> int:
    for name in arguments.tables.split(","):
        job = TABLES[name](arguments.data_dir, arguments.out / name / "files")
        for seed in (int(s) for s in arguments.seeds.split(",")):
            for way, function in (("short", short_way), ("long", long_way)):
                folder = arguments.out / name / f"{way}-{seed}"
                if (folder / "score.json").exists():
                    continue
                started = time.time()
                score = function(job, folder, seed)
                seconds = time.time() - started
                (folder / "score.json").write_text(json.dumps({"accuracy": score, "seconds": seconds}))
                print(f"{name} {way} seed {seed}: {100 * score:.1f} % in {seconds:.0f} s", flush=True)
    return 0


def finished(arguments: argparse.Namespace, name: str, way: str) -> list[float]:
    """Scores in the order of the seeds."""
    folders = sorted((arguments.out / name).glob(f"{way}-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return [json.loads((folder / "score.json").read_text())["accuracy"] for folder in folders]


def report(arguments: argparse.Namespace) -> int:
    found: dict[str, Any] = {}
    for name in arguments.tables.split(","):
        ways = {way: finished(arguments, name, way) for way in ("short", "long")}
        job = TABLES[name](arguments.data_dir, arguments.out / name / "files")
        means = {way: 100 * statistics.mean(scores) for way, scores in ways.items()}
        apart = [100 * (a - b) for a, b in zip(ways["short"], ways["long"], strict=True)]
        found[name] = {
            "rows": len(job.frame),
            "modalities": list(job.bundle.modalities),
            "accuracy": ways,
            "mean": {way: round(mean, 2) for way, mean in means.items()},
            "difference": round(statistics.mean(apart), 2) + 0.0,  # no -0.0
            "standard_error": round(statistics.stdev(apart) / len(apart) ** 0.5, 2),
            "within_margin": means["short"] >= means["long"] - MARGIN,
        }
    about = {"method": default_method(), "epochs": TRAINING.epochs, "margin_points": MARGIN, "accuracy": "on test rows"}
    RESULT.write_text(json.dumps({**about, "tables": found}, indent=1) + "\n")
    lines = ["| table | rows | modalities | seeds | `fit_table`, % | by hand, % | difference, points |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, own in found.items():
        scores = " | ".join(f"{own['mean'][way]:.1f}" for way in ("short", "long"))
        about_it = f"{own['rows']} | {', '.join(own['modalities'])} | {len(own['accuracy']['short'])}"
        lines.append(f"| {name} | {about_it} | {scores} | {own['difference']:+.1f} ± {own['standard_error']:.1f} |")
    begin, end = "<!-- tables: begin -->", "<!-- tables: end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    text = "\n".join(lines)
    PAGE.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")
    return 0 if all(own["within_margin"] for own in found.values()) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/tables"))
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    return {"run": measure, "report": report}[arguments.command](arguments)


if __name__ == "__main__":
    sys.exit(main())
