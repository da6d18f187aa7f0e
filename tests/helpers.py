"""What tests of several folders share: the settings of the methods, and short ways to `equimodal.testing`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, PlainEngine
from equimodal.engine import Descent, Objective, Phase, UpdateScale
from equimodal.methods import Method, available, get
from equimodal.testing import (
    CLASSES,
    NAMES,
    PROPERTIES,
    WIDTH,
    Case,
    Check,
    Convolution,
    NotApplicable,
    adamw,
    announce,
    expect_identical,
    expect_near,
    mlp,
    plain_batch,
    plain_model,
    settings_of,
    sgd,
    split,
    take,
    toy_batch,
    toy_encoders,
    toy_model,
    train,
    weights,
)

__all__ = [
    "CLASSES", "NAMES", "WIDTH", "Convolution", "adamw", "announce", "mlp", "plain_batch", "plain_model", "sgd",
    "split", "take", "train", "weights",
]  # fmt: skip

Settings = dict[str, Any]
Setting = tuple[str, Settings]

make_model, make_batch, make_encoders = toy_model, toy_batch, toy_encoders


def assert_identical(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """Equal to the last bit."""
    expect_identical(a, b)


def assert_near(a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float = 1e-9) -> None:
    """Equal up to an absolute tolerance."""
    expect_near(a, b, tolerance)


COMBINATIONS: list[Setting] = [
    ("ModalityDropout", {"probability": 0.4}),
    ("MLA", {"projector": None, "order": "shuffled"}),
    ("MLA", {"projector_reset": "epoch", "alpha_scale": "relative"}),
    ("MLA", {"projector_reset": "cycle", "alpha_schedule": "constant"}),
    ("ExpertPool", {"members": 2}),
    ("OPM", {"warm_up": 0}),
    ("OPM", {"warm_up": 0, "variant": "released"}),
    ("CGGM", {"window": 1, "momentum": 0.0}),
    ("CGGM", {"window": 2}),
    ("CGGM", {"direction": "block", "apply_to": "update", "window": 1}),
    ("CGGM", {"direction": None, "magnitude": False}),
    ("MIE", {"sam": "every_k", "sam_every": 2, "sources": "previous"}),
    ("MIE", {"sam": "momentum", "layers": "all"}),
    ("MIE", {"sam": None, "alternate": "epoch", "layers": "classifier"}),
    ("MIE", {"sam": None, "alternate": "stage", "stage_epochs": (1, 2)}),
    ("MIE", {"sam": None, "projection": False}),
    ("MIE", {"mixup_alpha": 1.0}),
    ("ReconBoost", {"stage_epochs": 1, "rectify_epochs": 1}),
    ("DataRemixing", {"warmup": 0}),
    ("DiagnosingRelearning", {"every": 1}),
    ("InfoReg", {"threshold": -1e6, "unimodal_weight": 1.0}),
    ("SMV", {"warmup": 0}),
    ("SMV", {"warmup": 0, "level": "modality", "variant": "released"}),
    ("MultiTask", {"rate": 0.5}),
    ("AUG", {"every": 1, "margin": 0.0, "maximum": 3, "hidden": 8}),
]
"""Settings with numbers that are not the defaults, or with several choices at once."""


def _settings() -> list[Setting]:
    """The defaults of every method, the combinations, and each choice of an option that none of them has."""
    settings: list[Setting] = []
    for name in available(outside=False):
        together = [options for n, options in COMBINATIONS if n == name]
        seen = [entry for options in together for entry in options.items()]
        apart = [s for s in settings_of(get(name), shared_options(name)) if not s or next(iter(s.items())) not in seen]
        settings += [(name, options) for options in (*apart, *together)]
    return settings


def shared_options(name: str) -> Any:
    """Smaller classifiers than the published ones, for speed; teachers, where a method needs them."""
    return _small_heads if name == "MIE" else companions_of(name)


def companions_of(name: str) -> Any:
    """What gives a method the companions without which it cannot train, from model and task; ``None`` if it has none.

    They are an untrained ensemble on encoders like the model's, with weights that follow from their shapes alone; what
    such teachers say counts little.
    """
    options = inspect.signature(get(name).__init__).parameters.values()
    return _with_teachers if any("Companions" in str(option.annotation) for option in options) else None


def _with_teachers(model: Any, task: Any) -> Settings:
    teacher: Any = get("Ensemble")(copy.deepcopy(model).requires_grad_(True), task)
    with torch.no_grad():
        for p in teacher.parameters():
            bound = (p[0].numel() if p.ndim > 1 else p.numel()) ** -0.5
            drawn = torch.rand(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=torch.float64)
            p.copy_((2 * drawn - 1) * bound)
        for p in cast(nn.Module, teacher.heads).parameters():  # no strong opinions, which would be wrong ones
            p.mul_(0.05)
    return {"teachers": dict.fromkeys(model.modalities, teacher), "weight": 0.1}


def _small_heads(model: Any, task: Any) -> Settings:
    return {"heads": {m: mlp(WIDTH, CLASSES) for m in model.modalities}}


def case_of(setting: Setting) -> Case:
    """The setting as `equimodal.testing` takes it."""
    return Case(get(setting[0]), setting[1], shared_options(setting[0]), is_wild(setting))


def prove(name: str, case: Case, *variant: Any) -> None:
    """The property holds; the test is skipped where the class declares that it does not apply."""
    run(Check(PROPERTIES[name], case, variant))


def run(check: Check) -> None:
    """As :func:`prove`."""
    try:
        check.run()
    except NotApplicable as reason:
        pytest.skip(str(reason))


def setting_id(setting: Setting) -> str:
    """A readable test id."""
    name, options = setting
    return "-".join([name, *(f"{k}={v}" for k, v in options.items())])


def make_method(name: str, count: int, seed: int = 0, names: Sequence[str] = NAMES, **options: Any) -> Method:
    """The method on the toy model, in float64 and training mode."""
    return method_on(make_model(count, seed, names), name, **options)


def method_on(model: Any, name: str, **options: Any) -> Method:
    """The method on a given model; MIE with smaller classifiers than the published ones, for speed."""
    shared = shared_options(name) if options.pop("small", True) else None
    return Case(get(name), options, shared).on(model)


def moved(before: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """How far each parameter is from where it was."""
    return {n: p.detach() - before[n] for n, p in module.named_parameters()}


def twin(method: Method) -> Method:
    """An independent copy."""
    return copy.deepcopy(method)


def stepper(setting: tuple[str, Settings], method: nn.Module) -> PlainEngine:
    """AdamW, except for CGGM's released rule: AdamW would cancel it, and it needs the published clipping."""
    if is_wild(setting):
        return sgd(method, lr=1e-3, clip_norm=0.8)
    return adamw(method, lr=2e-2, clip_norm=2.0)


def is_wild(setting: tuple[str, Settings]) -> bool:
    """CGGM's released rule, whose factors reach 1e8 of either sign."""
    return setting[0] == "CGGM" and setting[1].get("variant") == "released"


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


METHOD_SETTINGS = _settings()
