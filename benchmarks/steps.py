"""Cost of a small step against a bare loop of the same method, which is the limit.

    python benchmarks/steps.py [--rounds 30] [--encoders linear,gru] [--out benchmarks/results/steps.json]

Each bare loop below is what one writes for one method, one model and one batch: no checks, no reports, no options. It
ends with the same weights as the library after 12 steps (checked in every run), so the two compute the same. Steps are
interleaved and timed in processor time on one thread; a figure is the median over the rounds of the ratio in the same
round. ``kernels`` counts the calls that reach torch's dispatcher in one step, ``calls`` those of Python functions, both
free of noise. Beside that: what a modality costs with 32 of them next to 4, and the time of the scores of all subsets
of 12. The table of ``docs/benchmarks.md`` is written between its markers. Exit code 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.diagnostics import subset_table
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get

Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
CLASSES, WIDTH, INPUT, SIZE, STEPS_PER_EPOCH = 10, 64, 32, 32, 1000
# entry -> (method, options, bound with linear encoders, bound with recurrent ones); bounds of the time, in bare loops
ENTRIES: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "Joint": ("Joint", {}, 1.44, 1.16),
    "MultiLoss": ("MultiLoss", {}, 1.41, 1.17),
    "MLA": ("MLA", {}, 1.68, 1.23),
    "CGGM": ("CGGM", {"direction": "block"}, 1.44, 1.22),
    "MIE, sam none": ("MIE", {"sam": None}, 1.46, 1.23),
    "MIE, sam full": ("MIE", {"sam": "full"}, 1.40, 1.21),
}
KERNELS, CALLS, SUBSETS = 1.15, 2.5, 1.0  # bounds: kernels and calls in those of the bare loop; seconds for subsets
FEW, MANY, GROWTH = 4, 32, 1.1  # numbers of modalities, and the bound of the cost per modality between them
PAGE = Path("docs/benchmarks.md")


class Recurrent(nn.Module):
    """A GRU over eight steps of four numbers, read at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(INPUT // 8, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.gru(x.reshape(len(x), 8, -1))[1][-1]
        return last


def model(kind: str, count: int) -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {f"m{i}": nn.Linear(INPUT, WIDTH) if kind == "linear" else Recurrent() for i in range(count)}
    return MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), nn.Linear(WIDTH * count, CLASSES))


def batch(count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = {f"m{i}": torch.randn(SIZE, INPUT, generator=generator) for i in range(count)}
    return Batch(inputs, torch.randint(0, CLASSES, (SIZE,), generator=generator))


def sgd(parameters: Iterable[Any]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)


def method_of(name: str, options: dict[str, Any], kind: str, count: int) -> Method:
    torch.manual_seed(0)
    return get(name)(model(kind, count), Classification(CLASSES), **options).train()


def library_step(method: Method, data: Batch, optimizer_of: Optimizer = sgd) -> Callable[[], Any]:
    engine = PlainEngine(optimizer_of(method.parameters()))
    method.on_train_epoch_start(EpochContext(epoch=0, epochs=1, steps=STEPS_PER_EPOCH, engine=engine))
    return lambda: method.training_step(data, engine)


# ---- bare loops: they take their modules from a method that they do not step ----------------------------------------


def bare_joint(method: Any, data: Batch, optimizer_of: Optimizer = sgd) -> Callable[[], None]:
    encoders, head = [method.model.encoder(m) for m in method.modalities], method.model.head
    inputs, y = list(data.inputs.values()), data.target
    optimizer = optimizer_of(method.parameters())

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(head(torch.cat([f(x) for f, x in zip(encoders, inputs, strict=True)], 1)), y).backward()
        optimizer.step()

    return step


def bare_multi_loss(method: Any, data: Batch, optimizer_of: Optimizer = sgd) -> Callable[[], None]:
    encoders, head = [method.model.encoder(m) for m in method.modalities], method.model.head
    own = [method.heads[m] for m in method.modalities]
    inputs, y = list(data.inputs.values()), data.target
    optimizer = optimizer_of(method.parameters())

    def step() -> None:
        optimizer.zero_grad()
        features = [f(x) for f, x in zip(encoders, inputs, strict=True)]
        loss = cross_entropy(head(torch.cat(features, 1)), y)
        for h, z in zip(own, features, strict=True):
            loss = loss + cross_entropy(h(z), y)
        loss.backward()
        optimizer.step()

    return step


def bare_mla(method: Any, data: Batch, optimizer_of: Optimizer = sgd) -> Callable[[], None]:
    encoders, head = [method.model.encoder(m) for m in method.modalities], method.head
    inputs, y = list(data.inputs.values()), data.target
    output = next(m for m in head.modules() if isinstance(m, nn.Linear))
    optimizer = optimizer_of(method.parameters())
    projector, done = torch.eye(output.in_features), 0

    def step() -> None:
        nonlocal done, projector
        alpha = 0.1 ** (1 + done / STEPS_PER_EPOCH)
        done += 1
        for f, x in zip(encoders, inputs, strict=True):
            optimizer.zero_grad()
            h = f(x)
            cross_entropy(head(h), y).backward()
            output.weight.grad = output.weight.grad @ projector
            optimizer.step()
            mean = h.detach().mean(0)
            direction = projector @ mean
            projector = projector - torch.outer(direction, direction) / (alpha + mean @ direction)

    return step


def bare_cggm(method: Any, data: Batch, optimizer_of: Optimizer = sgd) -> Callable[[], None]:
    encoders, head = [method.model.encoder(m) for m in method.modalities], method.model.head
    own = [method.classifiers[m] for m in method.modalities]
    inputs, y = list(data.inputs.values()), data.target
    count, size = len(encoders), len(data)
    optimizer = optimizer_of(method.parameters())
    balance = torch.full((count,), (count - 1) / count)
    correct, average, batches, windows = torch.zeros(count), torch.zeros(count), 0, 0

    def step() -> None:
        nonlocal balance, correct, average, batches, windows
        optimizer.zero_grad()
        features = [f(x) for f, x in zip(encoders, inputs, strict=True)]
        u = torch.cat(features, 1)
        z = head(u)
        hot = nn.functional.one_hot(y, z.shape[1]).float()
        fused = (z.softmax(1) - hot).T @ u / size
        loss, cosines, right = cross_entropy(z, y), [], []
        for i, (h, f) in enumerate(zip(own, features, strict=True)):
            f = f.detach()
            z = h(f)
            loss = loss + cross_entropy(z, y)
            mine, width = (z.detach().softmax(1) - hot).T @ f / size, f.shape[1]
            cosines.append(nn.functional.cosine_similarity(
                fused[:, i * width : (i + 1) * width].flatten(), mine.flatten(), dim=0))  # fmt: skip
            right.append((z.argmax(1) == y).sum())
        (loss + 0.2 * (balance.abs() - balance * torch.stack(cosines)).mean()).backward()
        correct = correct + torch.stack(right)
        batches += 1
        if batches == 10:
            score = correct / (10 * size)
            change = 0.5 * (score - average) if windows else torch.zeros(count)
            average = average + change if windows else score
            delta = change.clamp_min(0) + 1e-3
            if change.clamp_min(0).sum() >= 1e-8:
                balance = (delta.sum() - delta) / delta.sum()
            else:
                balance = torch.full((count,), (count - 1) / count)
            correct, batches, windows = torch.zeros(count), 0, windows + 1
        for f, factor in zip(encoders, (1.3 * balance).unbind(), strict=True):
            for p in f.parameters():
                p.grad.mul_(factor)
        optimizer.step()

    return step


def leaves(module: nn.Module) -> list[nn.Module]:
    """The layers of a chain of layers; recurrent ones stay whole."""
    return [module] if isinstance(module, Recurrent) else [m for m in module.modules() if not list(m.children())]


def bare_mie(sam: bool) -> Callable[..., Callable[[], None]]:
    def make(method: Any, data: Batch, optimizer_of: Optimizer = sgd) -> Callable[[], None]:
        encoders = [method.model.encoder(m) for m in method.modalities]
        heads = [method.heads[m] for m in method.modalities]
        inputs, y = list(data.inputs.values()), data.target
        optimizer = optimizer_of(method.parameters())
        # every linear layer of a branch, with its projector (the identity in the first epoch) and its covariance
        chains = [[*leaves(f), *leaves(h)] for f, h in zip(encoders, heads, strict=True)]
        own = [list(nn.ModuleList(chain).parameters()) for chain in chains]
        branches = [
            [(m, torch.eye(m.in_features), torch.zeros(m.in_features, m.in_features)) for m in chain
             if isinstance(m, nn.Linear)] for chain in chains
        ]  # fmt: skip

        def step() -> None:
            for x, chain, layers, parameters in zip(inputs, chains, branches, own, strict=True):
                optimizer.zero_grad()
                seen, value = [], x
                for module in chain:
                    if isinstance(module, nn.Linear):
                        seen.append(value)
                    value = module(value)
                cross_entropy(value, y).backward()
                if sam:
                    with torch.no_grad():
                        first = [p.grad for p in parameters]
                        kept = torch._foreach_mul(parameters, 1.0)
                        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(first)))
                        torch._foreach_add_(parameters, torch._foreach_mul(first, 0.05 / norm))
                    optimizer.zero_grad()
                    value = x
                    for module in chain:
                        value = module(value)
                    cross_entropy(value, y).backward()
                    with torch.no_grad():
                        torch._foreach_copy_(parameters, kept)
                        second = [p.grad for p in parameters]
                        torch._foreach_mul_(second, 0.3)
                        torch._foreach_add_(second, first, alpha=0.7)
                with torch.no_grad():
                    for (layer, projector, covariance), rows in zip(layers, seen, strict=True):
                        layer.weight.grad = layer.weight.grad @ projector
                        covariance.addmm_(rows.detach().T, rows.detach())
                optimizer.step()

        return step

    return make


BARE: dict[str, Callable[..., Callable[[], None]]] = {
    "Joint": bare_joint, "MultiLoss": bare_multi_loss, "MLA": bare_mla, "CGGM": bare_cggm,
    "MIE, sam none": bare_mie(sam=False), "MIE, sam full": bare_mie(sam=True),
}  # fmt: skip


# ---- measurement ----------------------------------------------------------------------------------------------------


class Counter(TorchDispatchMode):
    """Counts the calls that reach the dispatcher."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def counted(step: Callable[[], Any]) -> tuple[int, int]:
    events: list[str] = []
    with Counter() as counter:
        step()
    sys.setprofile(lambda _, event, __: events.append(event))
    step()
    sys.setprofile(None)
    return counter.count, events.count("call")


def refuse_another(label: str, make: Callable[[], Method], single: Batch) -> None:
    """End if the weights of the library and of the bare loop differ after 12 steps of SGD in float64."""
    data = Batch({m: x.double() for m, x in single.inputs.items()}, single.target)
    torch.set_default_dtype(torch.float64)
    try:
        ours, theirs = (make().double() for _ in range(2))
        a, b = library_step(ours, data), BARE[label](theirs, data)
        for _ in range(12):
            a()
            b()
    finally:
        torch.set_default_dtype(torch.float32)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    found = max(float((p - q).detach().abs().max()) for p, q in pairs)
    if found > 1e-9:
        raise SystemExit(f"{label}: the bare loop computes something else (weights differ by {found:.1e})")


def measured(steps: dict[str, Callable[[], Any]], rounds: int, repeat: int) -> dict[str, list[float]]:
    for step in steps.values():
        for _ in range(12):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(repeat):
                step()
            times[name].append((time.process_time() - start) / repeat * 1e6)
    return times


def growth(label: str, rounds: int) -> float:
    """What one of MANY modalities costs, in what one of FEW does."""
    name, options, *_ = ENTRIES[label]
    steps = {str(n): library_step(method_of(name, options, "linear", n), batch(n)) for n in (FEW, MANY)}
    times = measured(steps, rounds, 3)
    ratio = statistics.median(a / b for a, b in zip(times[str(MANY)], times[str(FEW)], strict=True))
    return round(ratio * FEW / MANY, 3)


def subset_seconds(count: int = 12, samples: int = 256) -> float:
    """Processor time of the scores of all subsets, of a linear head on a concatenation."""
    torch.manual_seed(0)
    method, data = method_of("Joint", {}, "linear", count), batch(count)
    rows = torch.arange(samples) % SIZE
    data = Batch({m: x[rows] for m, x in data.inputs.items()}, None if data.target is None else data.target[rows])
    start = time.process_time()
    subset_table(method, [data], limit=2**count)
    return round(time.process_time() - start, 2)


def table(result: dict[str, Any]) -> list[str]:
    kinds = [k for k in ("linear", "gru") if k in result]
    head = "".join(f" | {k}: bare, us | time (bound) | kernels | calls" for k in kinds)
    lines = [f"|{head} | per modality, {MANY} / {FEW} |", "|---" * (4 * len(kinds) + 2) + "|"]
    for label in result[kinds[0]]:
        cells = ""
        for row in (result[k][label] for k in kinds):
            times = f"{row['bare_us']:.0f} | {row['ratio']:.2f} ({row['bound']:.2f})"
            cells += " | ".join(["", times, *(f"{row[n]['ours']} / {row[n]['bare']}" for n in ("kernels", "calls"))])
        lines.append(f"| {label}{cells} | {result['growth'].get(label, '-')} |")
    seconds, load = f"{result['subset_seconds']:.2f} s", " to ".join(f"{x:.0f}" for x in result["load"])
    return [
        *lines,
        "",
        f"All 4,095 subsets of 12 modalities, 256 samples, linear head: {seconds}. Load average {load}.",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeat", type=int, default=10, help="steps per round")
    parser.add_argument("--modalities", type=int, default=2)
    parser.add_argument("--encoders", default="linear,gru")
    parser.add_argument("--entries", default=";".join(ENTRIES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/steps.json"))
    parser.add_argument("--page", action=argparse.BooleanOptionalAction, default=True, help="write the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"modalities": arguments.modalities, "torch": torch.__version__, "growth": {}}
    result["load"] = [round(os.getloadavg()[0], 1)]
    exceeded = False
    for number, kind in enumerate(arguments.encoders.split(",")):
        print(f"{kind + ' encoders':24}  bare, us  ours/bare  bound        kernels          calls")
        rows: dict[str, Any] = {}
        for label in arguments.entries.split(";"):
            name, options, *bounds = ENTRIES[label]
            data = batch(arguments.modalities)
            make = partial(method_of, name, options, kind, arguments.modalities)
            refuse_another(label, make, data)
            methods = [make() for _ in range(2)]
            steps = {"bare": BARE[label](methods[0], data), "ours": library_step(methods[1], data)}
            times = measured(steps, arguments.rounds, arguments.repeat)
            ratio = statistics.median(a / b for a, b in zip(times["ours"], times["bare"], strict=True))
            found, calls = (dict(zip(steps, row, strict=True)) for row in zip(*map(counted, steps.values())))
            rows[label] = {
                "bare_us": round(statistics.median(times["bare"]), 1), "ratio": round(ratio, 3),
                "bound": bounds[number], "kernels": found, "calls": calls,
            }  # fmt: skip
            exceeded |= ratio > bounds[number] or found["ours"] > KERNELS * found["bare"]
            exceeded |= calls["ours"] > CALLS * calls["bare"]
            print(f"{label:24} {rows[label]['bare_us']:9.0f} {ratio:10.2f} {bounds[number]:6.2f} {found['ours']:6} / "
                  f"{found['bare']:<5} {calls['ours']:6} / {calls['bare']}", flush=True)  # fmt: skip
        result[kind] = rows
    for label in arguments.entries.split(";"):
        result["growth"][label] = growth(label, max(3, arguments.rounds // 3))
        exceeded |= result["growth"][label] > GROWTH
        print(f"{label:24} a modality of {MANY} in one of {FEW}: {result['growth'][label]:.2f} ({GROWTH})", flush=True)
    result["subset_seconds"] = subset_seconds()
    exceeded |= result["subset_seconds"] > SUBSETS
    result["load"].append(round(os.getloadavg()[0], 1))
    if arguments.page:
        text, marks = PAGE.read_text(encoding="utf-8"), r"(<!-- steps: begin -->).*(<!-- steps: end -->)"
        new = re.sub(marks, lambda m: "\n".join([m[1], *table(result), m[2]]), text, flags=re.DOTALL)
        PAGE.write_text(new, encoding="utf-8")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
