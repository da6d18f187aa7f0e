"""A small user of companions, feature distillation from unimodal teachers, and what it does in one of two processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal import Batch, MultimodalModel, PlainEngine
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.fusion import Concat
from equimodal.inference import Rule
from equimodal.methods import Method, MethodInfo
from equimodal.methods.parts import Companions
from equimodal.tasks import Classification, Task
from tests.features.helpers import SIZES, data
from tests.features.workers import as_loader, finish, fit, shard, start, whole_weights
from tests.helpers import CLASSES, WIDTH, sgd, split, train, weights


class Taught(Method):
    r"""The joint loss and :math:`w \sum_m \mathrm{mean}_i \|h_m - t_m\|^2` to the features of frozen teachers.

    Args:
        model: whose encoders have the teachers' widths.
        task: gives the loss.
        teachers: modality -> trained method or encoder.
        weight: w.
        sharpness: as for any method.
        inference: rule.
        calibrated: fit temperatures.
    """

    info = MethodInfo(
        title="Joint training with frozen teachers", paper="none", equations="above", family="objective",
        tasks=("classification",), modalities="any number", fusion="any", missing="supported", cost="1.3",
        defaults={"weight": "0.5"}, deviations=("none",), released=("none",), consulted="none",
    )  # fmt: skip
    min_modalities = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        teachers: Companions | Mapping[str, nn.Module],
        weight: float = 0.5,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.teachers = Companions.of(teachers, self.multimodal)
        self.weight = weight

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One, on both terms."""
        return [Phase("joint", self._objective, list(self.model.parameters()))]

    def _objective(self, batch: Batch) -> Objective:
        features = self.multimodal.encode(batch.inputs, batch.present)
        output = self.multimodal.head(self.multimodal.fuse(features, batch.present))
        taught = self.teachers.features(batch)
        fused = self.task.loss(output, cast(Tensor, batch.target))
        gaps = [(features[m] - cast(Tensor, t)).square().sum() for m, t in taught.items()]
        gap = torch.stack(gaps).sum() / len(batch)
        return Objective(fused + self.weight * gap, {"fused": fused.detach(), "gap": gap.detach()})


def encoder(size: int) -> nn.Sequential:
    """Dropout and batch normalisation, so that the mode shows."""
    return nn.Sequential(nn.Linear(size, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Dropout(0.5))


def teachers(seed: int = 7, sizes: Mapping[str, int] = SIZES) -> dict[str, nn.Module]:
    """Encoders with statistics that are not those of a new one."""
    torch.manual_seed(seed)
    made: dict[str, nn.Module] = {m: encoder(n).double() for m, n in sizes.items()}
    for m, module in made.items():
        module(torch.randn(50, sizes[m], dtype=torch.float64))
    return made


def student(seed: int = 0, compiled: bool = False, sizes: Mapping[str, int] = SIZES, **options: Any) -> Taught:
    """The method on small encoders, in float64; a compiled one has compiled encoders."""
    torch.manual_seed(seed)
    encoders: dict[str, Any] = {m: nn.Sequential(nn.Linear(n, WIDTH), nn.Tanh()) for m, n in sizes.items()}
    if compiled:
        encoders = {m: torch.compile(e, backend="eager", fullgraph=True) for m, e in encoders.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), nn.Linear(WIDTH * len(encoders), CLASSES))
    options.setdefault("teachers", teachers(sizes=sizes))
    return Taught(model.double(), Classification(CLASSES), **options).double().train()


def some_absent(batch: Batch) -> Batch:
    """One modality is in two rows of the first half only, another in a third of all."""
    rows = torch.arange(len(batch))
    present = {"b.c": (rows == 1) | (rows == 4), "keys": rows % 3 == 0}
    return Batch(batch.inputs, batch.target, present, batch.index)


def hidden(method: Taught) -> dict[str, Tensor]:
    """A copy of what the companions hold."""
    held = {m: weights(method.teachers[m]) for m in method.teachers.names}
    return {f"{m}.{n}": t for m, tensors in held.items() for n, t in tensors.items()}


def train_taught(rank: int, world: int, folder: str) -> None:
    """A plain loop with whole and with sharded encoders, and the Trainer; nobody sends companions around."""
    warnings.simplefilter("ignore")
    start(rank, world, folder)
    batches = [some_absent(data(12, seed)) for seed in range(3)]
    results: dict[str, Any] = {}
    careless = student(seed=rank, teachers=teachers(seed=rank))
    own = hidden(careless)
    sgd(careless).broadcast(careless)
    results["kept"] = all(torch.equal(t, own[n]) for n, t in hidden(careless).items())
    results["student"] = weights(careless)
    half = [split(b, world)[rank] for b in batches]
    for way in ("plain", "trainer", "sharded"):
        method = student(seed=rank if way != "sharded" else 0)
        own = hidden(method)
        if way == "trainer":
            fit(method, as_loader(half))
        else:
            full = [data(12, seed) for seed in range(3)]
            engine = sgd(shard(method) if way == "sharded" else method, clip_norm=0.5)
            engine.broadcast(method)
            train(method, engine, range(1), half if way == "plain" else [split(b, world)[rank] for b in full], total=2)
        assert all(torch.equal(t, own[n]) for n, t in hidden(method).items())
        results[way] = whole_weights(method)
    finish(rank, folder, results)


def engine_of(method: Taught, **options: Any) -> PlainEngine:
    """SGD with clipping."""
    return sgd(method, clip_norm=0.5, **options)
