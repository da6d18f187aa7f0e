"""What is searched, with how much budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from equimodal.data import Dataset
from equimodal.errors import EquimodalError, MethodError, unknown_name
from equimodal.fusion import available as fusions
from equimodal.fusion import get as get_fusion
from equimodal.methods import available, default_method, get
from equimodal.report import required_controls
from equimodal.studies.runs import own_randomness
from equimodal.studies.setup import DataConfig, ModelConfig, TrainingConfig, build_model, fixed_rate, method_options


@dataclass
class TuneConfig:
    """A search over compositions: method, fusion, learning rate, options, sharpness.

    Args:
        budget: joint epochs in all: passes over the training data, in the cost of joint training. A method that costs
            two joint steps gets half as many.
        data: the data.
        model: the encoders, equal for all; its fusion is that of the controls.
        training: its epochs are a whole training; its learning rate is that of the controls, and the centre of the
            range.
        methods: names of those that are searched, beside the controls; default: all that fit the data.
        fusions: names of those that are searched; default: all that fit the model. An empty list keeps the model's.
        sharpness: search sharpness-aware gradients too.
        lr_span: the learning rate is searched from lr / lr_span to lr * lr_span.
        length: epochs of a trial; default: ``training.epochs``, or as many as let the controls take two
            thirds of the budget.
        reduction: a trial goes on at a rung if it is among the best 1 / reduction there; rungs are that factor apart.
        ensemble: largest number of runs in an ensemble that is selected at the end; 0 for none.
        cost: of a step: ``"declared"``, what the method says of itself, times the operations of a step with other
            options relative to its defaults, the same on every machine; or ``"measured"``, its time relative to joint
            training here and now.
        test: read the test split at the end, for winner, best control and default; without it the tuning can go on with
            a larger budget.
        seed: of the search and of every training.
    """

    budget: float = 60.0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    methods: list[str] | None = None
    fusions: list[str] | None = None
    sharpness: bool = True
    lr_span: float = 8.0
    length: int | None = None
    reduction: int = 3
    ensemble: int = 0
    cost: Literal["declared", "measured"] = "declared"
    test: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("budget", 0.0), ("lr_span", 1.0)):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not least < number < math.inf:
                raise MethodError(f"`{name}`: expected a number > {least:g}. Found {number!r}.")
        for name, lowest in (("length", 1), ("reduction", 2), ("ensemble", 0)):
            value: Any = getattr(self, name)
            if name == "length" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise MethodError(f"`{name}`: expected a whole number >= {lowest}. Found {value!r}.")
        if self.length is not None and self.length > self.training.epochs:
            raise MethodError(
                f"`length`: expected at most training.epochs, which is {self.training.epochs}. Found {self.length}. "
                "Raise both, or leave it out."
            )
        if self.cost not in ("declared", "measured"):
            raise unknown_name("cost", str(self.cost), ("declared", "measured"))
        if fixed_rate(self.training) <= 0:
            raise MethodError(f"`training.lr`: expected a number > 0, to search around. Found {self.training.lr}.")
        if self.methods is not None:
            self.methods = [get(name).__name__ for name in self.methods]
        if self.fusions is not None:
            self.fusions = [get_fusion(name).__name__ for name in self.fusions]

    def controls(self, data: Dataset) -> list[str]:
        """Names of the controls that are trained first, the default of the library among them.

        Single modalities are read off the control that trains each.
        """
        roles = [name for role, name in required_controls().items() if role != "single"]
        return [name for name in dict.fromkeys([*roles, default_method()]) if _fits(name, data)]

    def searched(self, data: Dataset) -> list[str]:
        """Names of the methods that are searched; the controls are among them, with other settings.

        Raises:
            MethodError: a method that was asked for by name does not fit the data.
        """
        if self.methods is None:
            return [name for name in available() if _fits(name, data)]
        unfit = [name for name in self.methods if not _fits(name, data)]
        if unfit:
            raise MethodError(
                f"`methods`: expected methods for {data.task.name} with {len(data.modalities)} modalities that need no "
                f"finished runs and train all modalities. Found {', '.join(unfit)}. Leave them out."
            )
        return list(dict.fromkeys([*self.controls(data), *self.methods]))

    def usable_fusions(self, data: Dataset) -> list[str]:
        """Names of the fusions that can be built with the encoders of the data, the model's own first.

        Raises:
            EquimodalError: one that was asked for by name cannot.
        """
        usable = []
        for name in dict.fromkeys([self.model.fusion, *(fusions() if self.fusions is None else self.fusions)]):
            kept = self.model.fusion_options if name == self.model.fusion else {}
            try:
                with own_randomness():
                    build_model(data, replace(self.model, fusion=name, fusion_options=dict(kept)))
            except EquimodalError:
                if name == self.model.fusion or self.fusions is not None:
                    raise
                continue
            usable.append(name)
        return usable


def _fits(name: str, data: Dataset) -> bool:
    """Whether a method can be tried on the data without more than its defaults."""
    kind = get(name)
    needed = [o for o, p in method_options(name).items() if p.default is p.empty]
    return (
        data.task.name in kind.info.tasks
        and len(data.modalities) >= kind.min_modalities
        and kind.info.role != "single"
        and not needed
    )
