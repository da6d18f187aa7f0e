"""Which part of the recipe is worth what, and what might be added: on constructed and on real data.

    python benchmarks/recipe_parts.py run --data-dir DIR --out runs/parts [--sets ...] [--variants ...] [--seeds 5]
    python benchmarks/recipe_parts.py report --out runs/parts

Trainings, all of the default method with a constant weight and changed in one thing: :data:`VARIANTS`. Each is read by
the fitted pool, the joint head alone, the choice of ``auto``, and a gate that leaves the pool for the joint head or the
best single expert only where the paired 95 % interval on validation data lies above zero. Constructed sets are those of
``benchmarks/stress.py``, real ones have the budgets of their recipes. A finished cell is not run again. ``report``
writes ``benchmarks/results/recipe_parts.json`` and the table of ``docs/ablations.md`` between its markers.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from equimodal import PlainEngine, Sharpness
from equimodal.batch import Batch
from equimodal.data import Dataset, load, loader
from equimodal.diagnostics import Outcomes, paired_difference, rule_outcomes
from equimodal.engine import Objective
from equimodal.methods import EpochContext, ExpertPool, Method, get
from equimodal.model import Multimodal
from equimodal.studies import ModelConfig, TrainingConfig, recipe, task_options
from equimodal.studies.setup import build_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import stress
from benchmarks.real import between

RESULT, PAGE = Path("benchmarks/results/recipe_parts.json"), Path("docs/ablations.md")
CONSTRUCTED = {f"{task}/{regime}": (task, regime) for task in stress.SIZES for regime in stress.REGIMES}
REAL = {
    "mosi": ("mosi", None), "mfeat": ("mfeat", None), "wikidoc": ("wikidoc", None), "mosi score": ("mosi", "score"),
    "ravdess": ("ravdess", None), "utdmhad": ("utdmhad", None), "lggmri": ("lggmri", None),
}  # fmt: skip
EPOCHS = {"lggmri": 6}


# ---- trainings ------------------------------------------------------------------------------------------------------


class Bounded(ExpertPool):
    """The joint loss may pull at an encoder's features no harder than the modality's own loss does."""

    def _objective(self, member: Multimodal, heads: nn.Module, prefix: str, batch: Batch) -> Objective:
        features = member.encode(batch.inputs, batch.present)
        cut = {m: z.detach().requires_grad_() for m, z in features.items()}
        joint = self.loss(member.head(member.fuse(cut, batch.present)), batch)
        own = {m: self.loss(z, batch, m) for m, z in heads(cut).items()}
        total = joint + self.weight * sum(own.values())
        names = list(cut)
        pulls = torch.autograd.grad(joint, [cut[m] for m in names], retain_graph=True, allow_unused=True)
        bounded: Tensor | float = 0.0
        for m, pull in zip(names, pulls, strict=True):
            (mine,) = torch.autograd.grad(own[m], cut[m], retain_graph=True)
            mine = self.weight * mine
            if pull is None:
                pull = torch.zeros_like(mine)
            factor = (mine.norm() / pull.norm().clamp(min=1e-12)).clamp(max=1.0)
            # a loss whose gradient with respect to the features is exactly this one, and whose value is zero
            gradient = (mine + factor * pull).detach()
            bounded = bounded + ((features[m] - features[m].detach()) * gradient).sum()
        losses = {"fused": joint.detach(), **{f"unimodal/{m}": z.detach() for m, z in own.items()}}
        return Objective(cast(Tensor, total + bounded), losses)


class Apart(ExpertPool):
    """In the last third of the epochs an encoder learns from its own loss only; the joint head reads its features."""

    apart = False

    def on_train_epoch_start(self, context: EpochContext) -> None:
        super().on_train_epoch_start(context)
        self.apart = context.epoch >= math.ceil(2 * (context.epochs or 1) / 3)

    def _objective(self, member: Multimodal, heads: nn.Module, prefix: str, batch: Batch) -> Objective:
        features = member.encode(batch.inputs, batch.present)
        read = {m: z.detach() if self.apart else z for m, z in features.items()}
        total = self.loss(member.head(member.fuse(read, batch.present)), batch)
        losses = {f"{prefix}fused": total.detach()}
        for m, z in heads(features).items():
            own = self.loss(z, batch, m)
            total = total + self.weight * own
            losses[f"{prefix}unimodal/{m}"] = own.detach()
        return Objective(total, losses)


class Fading(ExpertPool):
    """The weight of the unimodal losses goes from 1 to 0 in the course of training."""

    def on_train_epoch_start(self, context: EpochContext) -> None:
        super().on_train_epoch_start(context)
        self.weight = 1 - context.epoch / max((context.epochs or 1) - 1, 1)


VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "the recipe": (ExpertPool, {}),
    "no smoothing": (ExpertPool, {"smoothing": 0.0}),
    "weight 0.3": (ExpertPool, {"weight": 0.3}),
    "weight 0.1": (ExpertPool, {"weight": 0.1}),
    "weight 3": (ExpertPool, {"weight": 3.0}),
    "weight 1 to 0": (Fading, {}),
    "weight 0 to 1": (ExpertPool, {"schedule": "growing"}),
    "bounded joint pull": (Bounded, {}),
    "apart at the end": (Apart, {}),
    "averaged weights": (ExpertPool, {}),
    "two members": (ExpertPool, {"members": 2}),
    "two members, half the epochs": (ExpertPool, {"members": 2}),
    "two snapshots of one run": (ExpertPool, {}),
    "sharpness (MIE), momentum": (ExpertPool, {"sharpness": Sharpness("momentum", radius=0.05)}),
    "Joint": (get("Joint"), {}),
    "Ensemble": (get("Ensemble"), {}),
    "MLA": (get("MLA"), {}),
    "CGGM": (get("CGGM"), {}),
    "MIE": (get("MIE"), {}),
}


def setup(name: str, data_dir: Path) -> tuple[Dataset, ModelConfig, TrainingConfig]:
    if name in CONSTRUCTED:
        data: Any = stress.data_of(*CONSTRUCTED[name])
        model = ModelConfig(feature_size=stress.WIDTH, size="small", head_hidden=32 if data.dials.synergy > 0 else 0)
        training = TrainingConfig(epochs=stress.EPOCHS, batch_size=stress.BATCH[data.task.name], lr=stress.RATE,
                                  weight_decay=0.01)  # fmt: skip
        return data, model, training
    file, target = REAL[name]
    path = str(data_dir / f"{file}.npz")
    data = load(path, target=target, task=task_options(path, target)) if target else load(path)
    model, training = recipe(path, target)
    training.epochs = EPOCHS.get(name, training.epochs)
    return data, model, training


def trained(variant: str, setting: tuple[Dataset, ModelConfig, TrainingConfig], seed: int) -> Method:
    data, config, budget = setting
    kind, options = VARIANTS[variant]
    torch.manual_seed(seed)
    model = build_model(data, config)
    torch.manual_seed(seed + 1_000_003)
    fixed = {"schedule": "constant"} if issubclass(kind, ExpertPool) else {}
    method = kind(model, data.task, **{**fixed, **options})
    optimizer = torch.optim.AdamW(method.parameter_groups(budget.lr), lr=budget.lr, weight_decay=budget.weight_decay)
    epochs = max(budget.epochs // 2, 1) if variant == "two members, half the epochs" else budget.epochs
    cycle = max(epochs // 2, 1) if variant == "two snapshots of one run" else epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda e: 0.5 * (1 + math.cos(math.pi * (e % cycle) / cycle))
    )
    engine = PlainEngine(optimizer)
    batches = loader(data.train, budget.batch_size, shuffle=True, seed=seed, drop_last=True)
    mean = AveragedModel(method, use_buffers=True) if variant == "averaged weights" else None
    snapshot: Method | None = None
    for epoch in range(epochs):
        method.train()
        context = EpochContext(epoch, epochs=epochs, steps=len(batches), loader=batches, engine=engine)
        method.on_train_epoch_start(context)
        for batch in batches:
            method.training_step(batch, engine)
        method.on_train_epoch_end(context)
        schedule.step()
        if mean is not None and epoch >= epochs * 3 // 4:
            mean.update_parameters(method)
        if epoch + 1 == cycle < epochs:
            snapshot = copy.deepcopy(method)
    if snapshot is not None:
        return both(method, snapshot)
    return method if mean is None else cast(Method, mean.module)


def both(last: Method, first: Method) -> Method:
    """One pool of two trained models."""
    pool = ExpertPool(last.model, last.task, members=2, models=[first.model])
    for heads, trained_heads in zip(pool.heads, (last.heads[0], first.heads[0]), strict=True):  # type: ignore[index]
        heads.load_state_dict(trained_heads.state_dict())
    return pool


# ---- readings -------------------------------------------------------------------------------------------------------


def readings(method: Method, data: Dataset) -> dict[str, Outcomes]:
    """What every test sample earned by each reading; every choice is made on validation data."""
    method.eval()
    validation, test = loader(data.validation, 256), loader(data.test, 256)
    seen, final = rule_outcomes(method, validation, validation), rule_outcomes(method, validation, test)
    method.fit_inference(validation)
    found = {"pool": final["skill"][1], "own rule": final[method.inference.rule][1]}
    alone = [r for r in seen if r.startswith("alone:") and "+" not in r]
    single = max(alone, key=lambda r: seen[r][0]) if alone else None
    for label, rule in (("joint head", "fused"), ("best single on validation", single)):
        if rule in final:
            found[label] = final[rule][1]
    chosen = "skill"
    for rule in (single, "fused"):
        if rule is None or rule not in seen:
            continue
        ahead = paired_difference([seen[rule][1]], [seen["skill"][1]], groups=groups_of(data))
        better_so_far = chosen == "skill" or seen[rule][0] > seen[chosen][0]
        chosen = rule if ahead.better and better_so_far else chosen
    found["gate"] = final[chosen][1]
    return found


def groups_of(data: Dataset) -> Sequence[object] | None:
    codes = data.validation.group_labels
    return None if codes is None else codes[data.validation.rows].tolist()


def cells(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int, Path]]:
    for name in arguments.sets.split(","):
        for variant in arguments.variants.split(";"):
            for seed in range(arguments.seeds):
                yield name, variant, seed, arguments.out / name.replace("/", "-") / variant / f"{seed}.npz"


def run(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known: dict[str, Any] = {}
    for name, variant, seed, path in cells(arguments):
        if path.exists():
            continue
        known = known if name in known else {name: setup(name, arguments.data_dir)}
        start = time.process_time()
        found = readings(trained(variant, known[name], seed), known[name][0])
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"{r}/{k}": v for r, o in found.items() for k, v in (("n", o.numerator), ("d", o.denominator))}
        np.savez_compressed(path, seconds=time.process_time() - start, **arrays)
        print(f"{name}, {variant}, {seed}: {time.process_time() - start:.1f} s", flush=True)
    return 0


# ---- report ---------------------------------------------------------------------------------------------------------


def stored(path: Path) -> dict[str, Outcomes]:
    with np.load(path) as arrays:
        return {k.removesuffix("/n"): Outcomes(arrays[k], arrays[k.removesuffix("n") + "d"]) for k in arrays.files
                if k.endswith("/n")}  # fmt: skip


def report(arguments: argparse.Namespace) -> int:
    found: dict[str, dict[str, dict[int, dict[str, Outcomes]]]] = {}
    for name, variant, seed, path in cells(arguments):
        if path.exists():
            found.setdefault(name, {}).setdefault(variant, {})[seed] = stored(path)
    results: dict[str, Any] = {}
    for name, by_variant in found.items():
        base = by_variant.get("the recipe", {})
        for variant, by_seed in by_variant.items():
            for reading in next(iter(by_seed.values())):
                seeds = [s for s in by_seed if s in base and reading in by_seed[s]]
                if not seeds:
                    continue
                ours = [by_seed[s][reading] for s in seeds]
                difference = paired_difference(ours, [base[s]["pool"] for s in seeds])
                results.setdefault(f"{variant}: {reading}", {})[name] = {
                    "score": float(np.mean([float(o.score()) for o in ours])), "difference": asdict(difference),
                    "seeds": len(seeds),
                }  # fmt: skip
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines = table(results, list(found))
    print("\n".join(lines))
    PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "recipe parts", lines), encoding="utf-8")
    return 0


def table(results: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for label, by_set in results.items():
        variant, _, reading = label.rpartition(": ")
        if reading == "own rule" or (reading != "pool" and variant not in ("the recipe", "Joint")):
            continue  # all of them are in the stored result
        shown = []
        for name in names:
            entry = by_set.get(name)
            if entry is None:
                shown.append("-")
                continue
            d, points = entry["difference"], "regression" not in name and "score" not in name
            factor, digits = (100, 1) if points else (1, 3)
            mark = "▲" if d["low"] > 0 else "▼" if d["high"] < 0 else ""
            if label == "the recipe: pool":
                shown.append(f"{factor * abs(entry['score']):.{digits}f}")
            else:
                shown.append(f"{factor * d['mean']:+.{digits}f}{mark}")
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="the folder with the .npz files")
    parser.add_argument("--out", type=Path, default=Path("runs/parts"))
    parser.add_argument("--sets", default=",".join((*CONSTRUCTED, *REAL)))
    parser.add_argument("--variants", default=";".join(VARIANTS), help="separated by semicolons")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    return run(arguments) if arguments.command == "run" else report(arguments)


if __name__ == "__main__":
    sys.exit(main())
