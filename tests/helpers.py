"""Toy models and batches for the tests of the core: 2, 3 or 5 modalities, five kinds of encoders, awkward names."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.engine import Descent, Objective, Phase, UpdateScale
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Method, get

NAMES = ("audio.raw", "the keys", "keys", "depth map.0", "Ünicode/5")
WIDTH = 6
CLASSES = 3
Settings = dict[str, Any]

METHOD_SETTINGS: list[tuple[str, Settings]] = [
    ("Joint", {}),
    ("MultiLoss", {}),
    ("Unimodal", {}),
    ("Ensemble", {}),
    ("PretrainFinetune", {}),
    ("PretrainFinetune", {"freeze": True}),
    ("ModalityDropout", {"probability": 0.4}),
    ("MLA", {}),
    ("MLA", {"projector": "flat"}),
    ("MLA", {"projector": None, "order": "shuffled"}),
    ("MLA", {"projector_reset": "epoch", "alpha_scale": "relative"}),
    ("MLA", {"projector_reset": "cycle", "alpha_schedule": "constant"}),
    ("MLA", {"variant": "released"}),
    ("CGGM", {"window": 1, "momentum": 0.0}),
    ("CGGM", {"window": 2}),
    ("CGGM", {"direction": "block", "apply_to": "update", "window": 1}),
    ("CGGM", {"direction": None, "magnitude": False}),
    ("CGGM", {"variant": "released"}),
    ("MIE", {}),
    ("MIE", {"sam": "every_k", "sam_every": 2, "sources": "previous"}),
    ("MIE", {"sam": "momentum", "layers": "all"}),
    ("MIE", {"sam": None, "alternate": "epoch", "layers": "classifier"}),
    ("MIE", {"sam": None, "alternate": "stage", "stage_epochs": (1, 2)}),
    ("MIE", {"sam": None, "projection": False}),
    ("MIE", {"mixup_alpha": 1.0}),
    ("MIE", {"variant": "released"}),
]


def setting_id(setting: tuple[str, Settings]) -> str:
    """A readable test id."""
    name, options = setting
    return "-".join([name, *(f"{k}={v}" for k, v in options.items())])


class Recurrent(nn.Module):
    """(B, T, 4) to the last state of a GRU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(4, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        state: Tensor = self.gru(x)[1][0]
        return state


class Attention(nn.Module):
    """(B, T, 8) to the pooled output of one transformer layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.out(self.layer(x).mean(1))
        return pooled


class Convolution(nn.Module):
    """(B, 2, 9) to the pooled output of a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 5, 3, padding=1)
        self.out = nn.Linear(5, width)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.out(torch.relu(self.conv(x)).mean(2))
        return pooled


class Pair(nn.Module):
    """A dictionary with a tuple inside, to an MLP on the joined vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, width))

    def forward(self, x: Mapping[str, Any]) -> Tensor:
        features: Tensor = self.net(torch.cat([x["left"], x["right"][0]], dim=1))
        return features


def mlp(inputs: int, width: int, hidden: int = 8) -> nn.Sequential:
    """Linear, tanh, linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, width))


def make_encoders(count: int, width: int = WIDTH, names: Sequence[str] = NAMES) -> dict[str, nn.Module]:
    """MLP, GRU, transformer, dictionary and convolution, in this order, as many as asked for."""
    kinds: list[Callable[[], nn.Module]] = [
        lambda: mlp(5, width),
        lambda: Recurrent(width),
        lambda: Attention(width),
        lambda: Pair(width),
        lambda: Convolution(width),
    ]
    return {name: build() for name, build in zip(names[:count], kinds, strict=False)}


def make_model(count: int, seed: int = 0, names: Sequence[str] = NAMES) -> MultimodalModel:
    """Mixed encoders, Concat and a linear head, in float64."""
    torch.manual_seed(seed)
    encoders = make_encoders(count, names=names)
    fusion = Concat(dict.fromkeys(encoders, WIDTH))
    return MultimodalModel(encoders, fusion, nn.Linear(WIDTH * count, CLASSES)).double()


def make_batch(count: int, size: int = 12, seed: int = 0, names: Sequence[str] = NAMES) -> Batch:
    """Inputs that carry the class, each modality less clearly than the one before, in float64."""
    g = torch.Generator().manual_seed(seed + 100)
    y = torch.arange(size) % CLASSES
    signal = torch.nn.functional.one_hot(y, CLASSES).double()

    def noise(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=g, dtype=torch.float64)

    def shaped(*shape: int, strength: float) -> Tensor:
        flat = noise(*shape).flatten(1)
        flat[:, :CLASSES] += strength * signal
        return flat.reshape(size, *shape)

    kinds: list[Callable[[], Any]] = [
        lambda: shaped(5, strength=2.0),
        lambda: shaped(3, 4, strength=1.8),
        lambda: shaped(3, 8, strength=1.6),
        lambda: {"left": shaped(3, strength=1.4), "right": (noise(2),)},
        lambda: shaped(2, 9, strength=1.2),
    ]
    inputs = {name: build() for name, build in zip(names[:count], kinds, strict=False)}
    return Batch(inputs, y, None, torch.arange(size) + 1000)


def plain_model(inputs: Mapping[str, int], width: int, classes: int, head: nn.Module | None = None) -> MultimodalModel:
    """MLP encoders of given input sizes, Concat and a linear head, in float64."""
    encoders = {name: mlp(size, width) for name, size in inputs.items()}
    fusion = Concat(dict.fromkeys(encoders, width))
    head = nn.Linear(width * len(encoders), classes) if head is None else head
    return MultimodalModel(encoders, fusion, head).double()


def plain_batch(inputs: Mapping[str, int], classes: int, size: int, seed: int) -> Batch:
    """Random float64 vectors and labels."""
    g = torch.Generator().manual_seed(seed)
    x = {name: torch.randn(size, n, generator=g, dtype=torch.float64) for name, n in inputs.items()}
    return Batch(x, torch.randint(0, classes, (size,), generator=g))


def make_method(name: str, count: int, seed: int = 0, names: Sequence[str] = NAMES, **options: Any) -> Method:
    """The method on the toy model, in float64 and training mode."""
    return method_on(make_model(count, seed, names), name, **options)


def method_on(model: Any, name: str, **options: Any) -> Method:
    """The method on a given model; MIE with smaller classifiers than the published ones, for speed."""
    if name == "MIE" and options.pop("small", True):
        options = {"heads": {m: mlp(WIDTH, CLASSES) for m in model.modalities}, **options}
    return get(name)(model, Classification(CLASSES), **options).double().train()


def split(batch: Batch, parts: int) -> list[Batch]:
    """The batch as consecutive micro-batches."""
    size = len(batch)
    edges = [round(i * size / parts) for i in range(parts + 1)]
    return [take(batch, torch.arange(a, b)) for a, b in itertools.pairwise(edges)]


def take(batch: Batch, rows: Tensor) -> Batch:
    """Some rows of a batch."""
    picked = Batch._map(Batch(batch.inputs, batch.target, None, batch.index), lambda t: t[rows])
    present = None if batch.present is None else {m: mask[rows] for m, mask in batch.present.items()}
    return Batch(picked.inputs, picked.target, present, picked.index)


def train(
    method: Method,
    engine: PlainEngine,
    epochs: Iterable[int],
    batches: Sequence[Any],
    total: int = 10,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Epochs with all the moments, as any loop would call them."""
    plain = [b for entry in batches for b in (entry if isinstance(entry, list) else [entry])]
    for epoch in epochs:
        context = EpochContext(epoch, total, len(batches), plain, engine)
        method.train()
        method.on_train_epoch_start(context)
        for batch in batches:
            method.training_step(batch, engine)
            if after_step is not None:
                after_step()
        method.on_train_epoch_end(context)
        method.on_validation_end(0.1 * ((epoch * 7) % 5))


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers."""
    return {n: t.detach().clone() for n, t in (*module.named_parameters(), *module.named_buffers())}


def moved(before: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """How far each parameter is from where it was."""
    return {n: p.detach() - before[n] for n, p in module.named_parameters()}


def assert_identical(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Equal to the last bit."""
    assert a.keys() == b.keys()
    different = [n for n in a if not torch.equal(a[n], b[n])]
    assert not different, (
        f"differ: {different[:5]}, by {max(float((a[n] - b[n]).detach().abs().max()) for n in different)}"
    )


def assert_near(a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float = 1e-9) -> None:
    """Equal up to an absolute tolerance."""
    assert a.keys() == b.keys()
    gaps = {n: float((a[n].detach().double() - b[n].detach().double()).abs().max()) for n in a if a[n].numel()}
    worst = max(gaps, key=lambda n: gaps[n])
    assert gaps[worst] <= tolerance, f"{worst} differs by {gaps[worst]}"


def twin(method: Method) -> Method:
    """An independent copy."""
    return copy.deepcopy(method)


def sgd(method: nn.Module, lr: float = 0.05, momentum: float = 0.9, **options: Any) -> PlainEngine:
    """Engine with SGD over everything trainable."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr, momentum=momentum)
    return PlainEngine(optimizer, **options)


def announce(
    method: Method, engine: PlainEngine | None = None, epoch: int = 0, epochs: int = 2, steps: int = 1
) -> None:
    """The moment before an epoch."""
    method.on_train_epoch_start(EpochContext(epoch, epochs, steps, None, engine))


def stepper(setting: tuple[str, Settings], method: nn.Module) -> PlainEngine:
    """AdamW, except for CGGM's released rule: AdamW would cancel it, and it needs the published clipping."""
    if is_wild(setting):
        return sgd(method, lr=1e-3, clip_norm=0.8)
    return adamw(method, lr=2e-2, clip_norm=2.0)


def is_wild(setting: tuple[str, Settings]) -> bool:
    """CGGM's released rule, whose factors reach 1e8 of either sign."""
    return setting[0] == "CGGM" and setting[1].get("variant") == "released"


def adamw(method: nn.Module, lr: float = 1e-2, **options: Any) -> PlainEngine:
    """Engine with AdamW (weight decay on) over everything trainable."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr, weight_decay=0.1)
    return PlainEngine(optimizer, **options)


class Spy(PlainEngine):
    """Writes down the order of what it is asked for."""

    events: list[str]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.events = []

    def descend(self, phase: Phase, batches: Sequence[Batch], sharpness: Any = None) -> Descent:
        self.events.append(f"descend {phase.name}")
        return super().descend(phase, batches, sharpness)

    def _finish_backward(self, phase: Phase, failed: bool = False, parts: Any = None) -> bool:
        self.events.append("average")
        return super()._finish_backward(phase, failed, parts)

    def step(self, phase: Phase, scales: Sequence[UpdateScale] = ()) -> None:
        self.events.append("clip and step")
        super().step(phase, scales)


def quadratic_phase(parameter: nn.Parameter, matrix: Tensor) -> Phase:
    """L(x) = x^T A x / 2, whatever the batch."""
    return Phase("joint", lambda batch: Objective(parameter @ matrix @ parameter / 2), [parameter])


def any_batch(size: int = 2) -> Batch:
    """A batch for objectives that do not read it."""
    return Batch({"a": torch.zeros(size, 1)}, torch.zeros(size, dtype=torch.int64))


Case = tuple[str, Settings, bool]
"""Method, its options, and whether a modality is missing on one of the processes."""


def distributed_worker(rank: int, world: int, folder: str, cases: list[Case]) -> None:
    """One process of the parallel test: trains every case on its part of the batches and saves what it got."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    results = {}
    for number, (name, options, uneven) in enumerate(cases):
        method = make_method(name, 3, **options)
        batches = [split(b, world)[rank] for b in distributed_batches(uneven)]
        train(method, sgd(method, clip_norm=0.5), range(2), batches, total=2)
        results[number] = weights(method)
    dist.barrier()
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def distributed_batches(uneven: bool) -> list[Batch]:
    """One batch; if uneven, one modality is in two rows of the first half only, another in a third of all."""
    batches = [make_batch(3, 12)]
    present = {NAMES[1]: (torch.arange(12) == 1) | (torch.arange(12) == 4), NAMES[2]: torch.arange(12) % 3 == 0}
    return [Batch(b.inputs, b.target, present, b.index) for b in batches] if uneven else batches
