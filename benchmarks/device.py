"""Training on an accelerator: steps per second, share of peak, cost of every method, memory, and streams.

    python benchmarks/device.py [--batch 64] [--size 224] [--rounds 20] [--out benchmarks/results/device.json]

The model is what most papers train on CREMA-D: a ResNet-18 on a log spectrogram (257 x 188) and one on three frames, in
bfloat16 and channels-last. Steps are interleaved, one of each entry per round. "Share of peak" is the floating-point
work of a Joint step, as torch counts it, per second, over that of a large bfloat16 matrix product in the same run.
"Two streams" runs the two encoders of a plain joint step at the same time; its ratio says whether that gains anything.
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
from equimodal.studies import interleaved

CLASSES, CHANNELS = 6, {"audio": 1, "video": 3}
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


def model(device: torch.device) -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {m: ResNet(18, channels) for m, channels in CHANNELS.items()}
    sizes = {m: encoder.out_features for m, encoder in encoders.items()}
    made = MultimodalModel(encoders, Concat(sizes), nn.Linear(sum(sizes.values()), CLASSES))
    return made.to(device, memory_format=torch.channels_last)


def batch(count: int, size: int, device: torch.device) -> Batch:
    inputs = {"audio": torch.randn(count, 1, 257, 188), "video": torch.randn(count, 3, 3, size, size)}
    inputs["audio"] = inputs["audio"].contiguous(memory_format=torch.channels_last)
    return Batch(inputs, torch.randint(0, CLASSES, (count,))).to(device)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)


def trained(
    name: str, options: dict[str, Any], data: Batch, device: torch.device, precision: torch.dtype | None
) -> tuple[Method, Callable[[], Any]]:
    """The method, past its first epoch so that projectors are in force, and its step."""
    method = get(name)(model(device), Classification(CLASSES), **options).to(device).train()
    engine = PlainEngine(sgd(method.parameter_groups(lr=1e-3)), autocast=precision)
    context = EpochContext(epoch=0, epochs=1, steps=100, engine=engine)
    method.on_train_epoch_start(context)
    for _ in range(3):
        method.training_step(data, engine)
    method.on_train_epoch_end(context)
    method.on_train_epoch_start(context)
    return method, lambda: method.training_step(data, engine)


def plain_step(
    data: Batch, device: torch.device, precision: torch.dtype | None, streams: bool = False
) -> Callable[[], Any]:
    """A hand-written joint step; with ``streams`` each encoder has a stream of its own, forwards and backwards."""
    net = model(device)
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


def reached(device: torch.device, size: int) -> float:
    """Floating-point operations per second of a bfloat16 matrix product, best of 20."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = interleaved({"product": lambda: a @ b}, 20, 3)["product"]
    return 2 * size**3 / min(seconds)


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="height and width of a frame")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--product", type=int, default=8192, help="size of the matrix product that stands for the peak")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/device.json"))
    arguments = parser.parse_args()
    precision = None if arguments.precision == "float32" else torch.bfloat16
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    torch.backends.cudnn.benchmark = True
    data = batch(arguments.batch, arguments.size, device)
    made = {label: trained(name, options, data, device, precision) for label, (name, options) in ENTRIES.items()}
    steps: dict[str, Callable[[], Any]] = {"hand-written loop": plain_step(data, device, precision)}
    if device.type != "cpu":
        steps["hand-written loop, two streams"] = plain_step(data, device, precision, streams=True)
    steps |= {label: step for label, (_, step) in made.items()}
    started = time.perf_counter()
    seconds = interleaved(steps, arguments.rounds, 5)
    peak, work = reached(device, arguments.product), flops(steps["hand-written loop"])
    joint = statistics.median(seconds["Joint"])
    rows = []
    for label in steps:
        ratio = statistics.median(a / b for a, b in zip(seconds[label], seconds["Joint"], strict=True))
        rows.append({"entry": label, "time": ratio, "memory_bytes": peak_bytes(steps[label])})
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "precision": arguments.precision,
        "batch": arguments.batch,
        "frame": arguments.size,
        "rounds": arguments.rounds,
        "joint_steps_per_second": 1 / joint,
        "samples_per_second": arguments.batch / joint,
        "share_of_peak": work / joint / peak,
        "peak_flops_per_second": peak,
        "step_flops": work,
        "rows": rows,
    }
    for row in rows:
        memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**30:9.2f} GiB"
        print(f"{row['entry']:<34}{row['time']:8.3f}{memory}")
    print(
        f"{result['device']}, torch {torch.__version__}, batch {arguments.batch}, {arguments.precision}: "
        f"Joint {1 / joint:.1f} steps and {arguments.batch / joint:.0f} samples per second, "
        f"{100 * work / joint / peak:.0f} % of the {peak / 1e12:.3g} TFLOP/s of a matrix product; "
        f"{time.perf_counter() - started:.0f} s"
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
