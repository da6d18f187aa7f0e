"""Training on an accelerator: steps per second, share of peak, cost of every method, memory, graphs, stacked encoders.

    python benchmarks/device.py [--batch 64] [--size 224] [--rounds 20] [--out benchmarks/results/device.json]
    python benchmarks/device.py --model small --batch 16 --rounds 5 --product 512 --modes ""    # on a processor

The model is what most papers train on CREMA-D: a ResNet-18 on a log spectrogram (257 x 188) and one on three frames, in
bfloat16 and channels-last; ``--model small`` is two small networks on vectors. Steps are interleaved, one of each entry
per round. "Share of peak" is the floating-point work of a step, as torch counts it, per second, over the peak of the
device: that of its data sheet (dense, by its name, or ``--peak``), else what a large matrix product reaches here.

Three further tables: ``--modes`` of torch.compile, "reduce-overhead" being CUDA graphs, against eager steps of the same
method, on small networks, where Python is most of a step; equal encoders stacked against one by one; and "two streams",
the two encoders of a plain joint step at the same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.encoders import ResNet
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get
from equimodal.studies import interleaved, ratios

Row = dict[str, Any]

CLASSES, CHANNELS = 6, {"audio": 1, "video": 3}
# dense TFLOP/s of the data sheets in bfloat16 and float32 (without TF32), by a part of the device's name; first match
PEAKS = {"H200": (989, 67), "H100 PCIe": (756, 51), "H100": (989, 67), "A100": (312, 19.5), "L40S": (362, 91.6),
         "L4": (121, 30.3), "RTX 4090": (165, 82.6), "MI300X": (1307, 163.4)}  # fmt: skip
GRAPH_ENTRIES = ("Joint", "MLA", "CGGM, with direction", "MIE, sam none")
STACKS = {"two layers": (4, 16), "convolutions": (4, 16)}  # kind -> numbers of modalities
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Joint": ("Joint", {}),
    "MultiLoss": ("MultiLoss", {}),
    "Ensemble": ("Ensemble", {}),
    "MLA": ("MLA", {}),
    "CGGM, magnitude": ("CGGM", {"direction": None}),
    "CGGM, with direction": ("CGGM", {}),
    "MIE, sam none": ("MIE", {"sam": None}),
    "MIE, sam momentum": ("MIE", {"sam": "momentum"}),
    "MIE, sam full": ("MIE", {"sam": "full"}),
}


def model(device: torch.device, kind: str) -> MultimodalModel:
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {m: ResNet(18, channels) for m, channels in CHANNELS.items()}
    if kind == "small":
        encoders = {m: two_layers() for m in CHANNELS}
    return joined(encoders, 64 if kind == "small" else 512).to(device, memory_format=torch.channels_last)


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))


def convolutions() -> nn.Module:
    layers = (nn.Conv1d(4, 32, 3), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv1d(32, 64, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten())


def joined(encoders: dict[str, nn.Module], width: int, stacked: bool = False) -> MultimodalModel:
    sizes = dict.fromkeys(encoders, width)
    return MultimodalModel(encoders, Concat(sizes), nn.Linear(width * len(sizes), CLASSES), sizes, stacked)


def batch(count: int, size: int, device: torch.device, kind: str) -> Batch:
    inputs = {m: torch.randn(count, 32) for m in CHANNELS}
    if kind == "resnet":
        inputs = {"audio": torch.randn(count, 1, 257, 188), "video": torch.randn(count, 3, 3, size, size)}
        inputs["audio"] = inputs["audio"].contiguous(memory_format=torch.channels_last)
    return Batch(inputs, torch.randint(0, CLASSES, (count,))).to(device)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)


def trained(
    entry: str, kind: str, data: Batch, device: torch.device, precision: torch.dtype | None, compiled: Any = False
) -> Callable[[], Any]:
    """The step of an entry, past its first epoch so that projectors are in force."""
    name, options = ENTRIES[entry]
    return step_of(
        get(name)(model(device, kind), Classification(CLASSES), **options), data, device, precision, compiled
    )


def step_of(
    method: Method, data: Batch, device: torch.device, precision: torch.dtype | None, compiled: Any = False
) -> Callable[[], Any]:
    method.to(device).train()
    method.predict(data.inputs)  # what a model learns from its first inputs would be compiled in
    engine = PlainEngine(sgd(method.parameter_groups(lr=1e-3)), autocast=precision, compile=compiled)
    context = EpochContext(epoch=0, epochs=1, steps=100, engine=engine)
    method.on_train_epoch_start(context)
    for _ in range(3):
        method.training_step(data, engine)
    method.on_train_epoch_end(context)
    method.on_train_epoch_start(context)
    return lambda: method.training_step(data, engine)


def plain_step(
    kind: str, data: Batch, device: torch.device, precision: torch.dtype | None, streams: bool = False
) -> Callable[[], Any]:
    """A hand-written joint step; with ``streams`` each encoder has a stream of its own, forwards and backwards."""
    net = model(device, kind)
    optimizer = sgd(net.parameters())
    target = data.target
    lanes = [torch.Stream(device=device) for _ in CHANNELS] if streams else []

    def encoded() -> list[Tensor]:
        if not lanes:
            return [net.encoder(m)(data.inputs[m]) for m in CHANNELS]
        here, features = torch.accelerator.current_stream(), []
        for m, lane in zip(CHANNELS, lanes, strict=True):
            lane.wait_stream(here)
            with lane:
                features.append(net.encoder(m)(data.inputs[m]))
        for lane in lanes:
            here.wait_stream(lane)
        return features

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, precision, enabled=precision is not None):
            loss = nn.functional.cross_entropy(net.head(torch.cat(encoded(), dim=1)), target)  # type: ignore[arg-type]
        loss.backward()
        optimizer.step()

    return step


def flops(step: Callable[[], Any]) -> float:
    """Floating-point operations of a step, forwards and backwards, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def reached(device: torch.device, size: int, precision: torch.dtype | None) -> float:
    """Floating-point operations per second of a matrix product, best of 20."""
    a, b = (torch.randn(size, size, device=device, dtype=precision or torch.float32) for _ in range(2))
    seconds = interleaved({"product": lambda: a @ b}, 20, 3)["product"]
    return 2 * size**3 / min(seconds)


def peak(name: str, given: float | None, precision: torch.dtype | None, product: float) -> tuple[float, str]:
    """Floating-point operations per second that are the whole, and where the number is from."""
    if given is not None:
        return given * 1e12, "--peak"
    for part, (half, single) in PEAKS.items():
        if part in name:
            return (single if precision is None else half) * 1e12, f"data sheet of {part}"
    return product, "matrix product"


def peak_bytes(step: Callable[[], Any]) -> int | None:
    """Largest number of allocated bytes in a step; ``None`` where the device does not say."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def method_rows(arguments: argparse.Namespace, device: torch.device, precision: torch.dtype | None) -> list[Row]:
    """Time, work and memory of every method and of a loop by hand."""
    kind, data = arguments.model, batch(arguments.batch, arguments.size, device, arguments.model)
    steps: dict[str, Callable[[], Any]] = {"hand-written loop": plain_step(kind, data, device, precision)}
    if device.type != "cpu":
        steps["hand-written loop, two streams"] = plain_step(kind, data, device, precision, streams=True)
    steps |= {entry: trained(entry, kind, data, device, precision) for entry in arguments.methods}
    seconds = interleaved(steps, arguments.rounds, 5)
    cost, whole = ratios(seconds, "Joint"), arguments.peak_flops
    rows = []
    for entry, step in steps.items():
        median, work = statistics.median(seconds[entry]), flops(step)
        rows.append({"entry": entry, "time": cost[entry], "steps_per_second": 1 / median, "step_flops": work,
                     "share_of_peak": work / median / whole, "memory_bytes": peak_bytes(step)})  # fmt: skip
    return rows


def mode_rows(arguments: argparse.Namespace, device: torch.device, precision: torch.dtype | None) -> list[Row]:
    """Modes of the compiler next to eager steps of the same method, on small networks."""
    rows: list[Row] = []
    data = batch(arguments.batch, arguments.size, device, "small")
    for entry in (e for e in GRAPH_ENTRIES if e in arguments.methods and arguments.modes):
        steps, started = {"eager": trained(entry, "small", data, device, precision)}, {}
        skipped: dict[str, int] = {}
        for mode in arguments.modes:
            torch.compiler.reset()
            torch._dynamo.utils.counters.clear()
            options = {"mode": mode, "backend": arguments.backend, "fullgraph": True}
            begin = time.perf_counter()
            steps[mode] = trained(entry, "small", data, device, precision, options)
            started[mode] = time.perf_counter() - begin
            skipped[mode] = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
            seconds = interleaved({"eager": steps["eager"], mode: steps[mode]}, arguments.rounds, 5)
            rows.append({"entry": entry, "mode": mode, "time": ratios(seconds, "eager")[mode],
                         "steps_per_second": 1 / statistics.median(seconds[mode]),
                         "seconds_to_compile": started[mode], "losses_without_graph": skipped[mode]})  # fmt: skip
    torch.compiler.reset()
    return rows


def stack_rows(arguments: argparse.Namespace, device: torch.device, precision: torch.dtype | None) -> list[Row]:
    """A Joint step with equal encoders in one pass, in steps with one after the other."""
    rows: list[Row] = []
    for kind, counts in STACKS.items():
        make, shape = (two_layers, (32,)) if kind == "two layers" else (convolutions, (4, 32))
        for count in counts:
            inputs = {f"m{i}": torch.randn(arguments.batch, *shape) for i in range(count)}
            data = Batch(inputs, torch.randint(0, CLASSES, (arguments.batch,))).to(device)
            steps = {}
            for way in ("one by one", "stacked"):
                torch.manual_seed(0)
                net = joined({m: make() for m in inputs}, 64, way == "stacked")
                steps[way] = step_of(get("Joint")(net, Classification(CLASSES)), data, device, precision)
            seconds = interleaved(steps, arguments.rounds, 5)
            rows.append({"encoders": kind, "modalities": count, "time": ratios(seconds, "one by one")["stacked"],
                         "steps_per_second": 1 / statistics.median(seconds["stacked"])})  # fmt: skip
    return rows


def shown(result: Row) -> str:
    """The tables as text."""
    lines = [f"{'':<34}{'J':>8}{'steps/s':>10}{'of peak':>9}{'GiB':>8}"]
    for row in result["rows"]:
        memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**30:8.2f}"
        share = f"{100 * row['share_of_peak']:8.1f}%"
        lines.append(f"{row['entry']:<34}{row['time']:8.3f}{row['steps_per_second']:10.1f}{share}{memory}")
    for row in result["modes"]:
        label = f"{row['entry']}: {row['mode']}"
        extra = f", {row['losses_without_graph']} losses without a graph" if row["losses_without_graph"] else ""
        lines.append(f"{label:<42}{row['time']:8.3f} of eager ({row['seconds_to_compile']:.0f} s to compile{extra})")
    for row in result["stacked"]:
        label = f"stacked: {row['modalities']} x {row['encoders']}"
        lines.append(f"{label:<42}{row['time']:8.3f} of one by one")
    lines.append(
        f"{result['device']}, torch {result['torch']}, batch {result['batch']}, {result['precision']}: peak "
        f"{result['peak_flops_per_second'] / 1e12:.4g} TFLOP/s ({result['peak_source']}), a matrix product reaches "
        f"{result['product_flops_per_second'] / 1e12:.4g}; {result['seconds']:.0f} s"
    )
    return "\n".join(lines)


def main(given: list[str] | None = None) -> int:
    words: Callable[[str], list[str]] = lambda text: [w for w in text.split(";") if w]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("resnet", "small"), default="resnet")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="height and width of a frame")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--product", type=int, default=8192, help="size of the matrix product")
    parser.add_argument("--peak", type=float, help="dense TFLOP/s of the device in this precision")
    parser.add_argument("--methods", type=words, default=list(ENTRIES), help="entries between semicolons; Joint first")
    parser.add_argument("--modes", type=words, default=["default", "reduce-overhead"], help="between semicolons")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/device.json"))
    arguments = parser.parse_args(given)
    unknown = [entry for entry in arguments.methods if entry not in ENTRIES]
    if unknown or "Joint" not in arguments.methods:
        parser.error(f"--methods: expected Joint and others of {list(ENTRIES)}. Found {arguments.methods}.")
    precision = None if arguments.precision == "float32" else torch.bfloat16
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    torch.backends.cudnn.benchmark = True
    started = time.perf_counter()
    product = reached(device, arguments.product, precision)
    arguments.peak_flops, source = peak(name, arguments.peak, precision, product)
    result: Row = {
        "device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "precision": arguments.precision,
        "model": arguments.model, "batch": arguments.batch, "frame": arguments.size, "rounds": arguments.rounds,
        "peak_flops_per_second": arguments.peak_flops, "peak_source": source, "product_flops_per_second": product,
        "rows": method_rows(arguments, device, precision),
        "modes": mode_rows(arguments, device, precision),
        "stacked": stack_rows(arguments, device, precision),
    }  # fmt: skip
    result["seconds"] = time.perf_counter() - started
    print(shown(result))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
