"""Engine features, what is claimed of a method under each, and the sentences of methods that depart from it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from equimodal.errors import UnsupportedError

REFUSED = "refused"


class Feature(NamedTuple):
    """One engine feature.

    Args:
        title: heading of its column.
        claim: what holds for a method that says nothing else; proven by the test of the same name.
    """

    title: str
    claim: str


FEATURES: dict[str, Feature] = {
    "processes": Feature(
        "2 processes",
        "two processes with half batches each equal one with the joined batch (weights within 1e-9 in float64 after "
        "five updates), replicas equal bit for bit, also when a modality is missing on one of them",
    ),
    "trainer": Feature("Trainer, DDP", "the same through Lightning's Trainer with its DDP strategy"),
    "accumulation": Feature(
        "accumulation", "k micro-batches equal their joined batch (1e-9), with ceil(N / k) updates per epoch"
    ),
    "bfloat16": Feature(
        "bfloat16", "forward passes in bfloat16; weights, statistics and projectors stay in float32; the loss falls"
    ),
    "float16": Feature(
        "float16",
        "a loss scale gives the gradients of float32 where nothing overflows; an overflow skips the phase and leaves "
        "weights, optimizer, method and batch statistics as they were; one update of the scale per step",
    ),
    "sharpness": Feature(
        "sharpness", "two passes, averaged over processes; weights restored, batch statistics counted once"
    ),
    "order": Feature("order", "average, unscale, modify, clip, step, in this order, in every phase"),
    "optimizers": Feature(
        "optimizers", "SGD, AdamW, a Lion-type and schedule-free optimizers; a frozen scale of 0.1 moves a tenth"
    ),
    "resume": Feature(
        "resume", "cut at any step and continued in a new process: weights and all states equal bit for bit"
    ),
    "compile": Feature("compiled encoders", "torch.compile on every encoder gives the eager weights (1e-9)"),
    "compiled-loss": Feature(
        "compiled loss", "each phase's whole loss compiles to one graph and gives the eager weights (1e-9)"
    ),
    "evaluation": Feature("evaluation", "7 samples on 2 processes give the scores of one process exactly"),
    "nonfinite": Feature(
        "NaN", "a NaN on one process raises on all before its phase is stepped; batch statistics are as they were"
    ),
    "sharded": Feature(
        "FSDP2",
        "two processes with half of each encoder's weights (fully_shard, plain loop) equal one with whole ones (1e-9), "
        "clipping and sharpness included; a batch that would leave one waiting is refused on both",
    ),
}


def departures(method: Any, feature: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Sentences of a method about a feature that apply under ``options``.

    ``MethodInfo.engine`` maps features, as in ``"processes, trainer"``, to a sentence that begins with ``refused:`` or
    ``differs:``. A condition may follow: ``"accumulation: variant='released'"`` holds for that value of an option,
    ``"accumulation: mixup"`` where the option is neither 0 nor ``None`` nor ``False``.

    Args:
        method: the class, or a method object.
        feature: a key of :data:`FEATURES`.
        options: hyperparameters; default those of the object, or the defaults of the class.

    Example:
        >>> from equimodal.methods import Joint
        >>> departures(Joint, "processes")
        []
    """
    info = getattr(method, "info", None)
    found = []
    for key, text in getattr(info, "engine", {}).items():
        names, _, condition = key.partition(": ")
        if feature in names.split(", ") and _applies(method, condition, options):
            found.append(text)
    return found


def _applies(method: Any, condition: str, options: Mapping[str, Any] | None) -> bool:
    if not condition:
        return True
    name, sign, value = condition.partition("=")
    if options is not None and name in options:
        found = options[name]
    elif inspect.isclass(method):
        found = inspect.signature(method).parameters[name].default
    else:
        found = getattr(method, name)
    return bool(found == ast.literal_eval(value)) if sign else bool(found)


def refuse(method: Any, feature: str) -> None:
    """Raise if the method refuses the feature; called before anything is computed.

    Raises:
        UnsupportedError: with the method's sentence.
    """
    for text in departures(method, feature):
        kind, _, sentence = text.partition(": ")
        if kind == REFUSED:
            raise UnsupportedError(f"{type(method).__name__} under {FEATURES[feature].title}: {sentence}.")
