"""Engine features, what is claimed of a method under each, what methods refuse, and looking that up before training."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from equimodal.engine._processes import check_wrappers, is_distributed
from equimodal.engine._recording import is_compiled, watch
from equimodal.engine._sharding import check_sharding
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
    "asynchronous": Feature(
        "no waiting",
        "on an accelerator no step waits for the device, in float32 and bfloat16, on one process and on two; the first "
        "may; a loss scale reads one flag per pass",
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
            raise UnsupportedError(
                f"{type(method).__name__} under {FEATURES[feature].title}: {sentence}. Train without it, or choose "
                "another method, or other options of this one."
            )


class Examined(NamedTuple):
    """What was found out about a method.

    Args:
        features: engine features that it does not refuse.
        sharded: the modalities whose encoders are sharded.
    """

    features: set[str]
    sharded: tuple[str, ...]


def _check_dense(module: nn.Module) -> None:
    """Norms and projections of gradients are over all of their entries."""
    for name, part in module.named_modules():
        trained = any(p.requires_grad for p in part.parameters(recurse=False))
        if trained and isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.sparse:
            model: Any = getattr(module, "multimodal", None)
            modalities = () if model is None else model.modalities
            owners = [m for m in modalities if any(p is part.weight for p in model.parameters_of(m))]
            where = f", in the encoder of {owners[0]!r}," if owners else ""
            raise UnsupportedError(
                f"`model`: expected dense gradients. Found `{name}`{where} with sparse=True, whose norm cannot be "
                "taken. Make it with sparse=False."
            )


def examine(module: nn.Module, autocast: torch.dtype | None, scaled: bool, compiled_loss: bool) -> Examined:
    """Refuse what the method cannot do.

    Args:
        module: the method.
        autocast: type of the forward passes, ``None`` for that of the weights.
        scaled: there is a loss scale.
        compiled_loss: the engine compiles whole losses.

    Raises:
        UnsupportedError: with the method's sentence, or for parameters in half precision, wrapped, or sharded otherwise
            than :func:`~equimodal.engine.check_sharding` allows.
    """
    check_wrappers(module)
    _check_dense(module)
    sharded = check_sharding(module)
    if scaled and any(p.dtype == torch.float16 for p in module.parameters()):
        raise UnsupportedError(
            "`model`: expected float32 parameters under a loss scaler. Found float16. Keep the weights in float32; "
            "autocast runs the forward passes in float16."
        )
    compiled = is_compiled(module)
    unproven = "a loss scale" if scaled else "torch.compile" if compiled or compiled_loss else None
    if sharded and unproven is not None:
        raise UnsupportedError(
            f"`model`: expected whole encoders with {unproven}. Found {list(sharded)} sharded: a process would see the "
            "overflows of its own part only, and a compiler does not see what gathers the weights. Use "
            "autocast=torch.bfloat16 without compilation, or whole encoders."
        )
    if compiled or compiled_loss:
        watch(module, everywhere=compiled_loss)
    features = {
        "processes": is_distributed(),
        "sharded": bool(sharded),
        "bfloat16": autocast is torch.bfloat16,
        "float16": scaled,
        "compile": compiled,
        "compiled-loss": compiled_loss,
    }
    used = {name for name, present in features.items() if present}
    for name in features:
        if name in used:
            refuse(module, name)
    return Examined(used, sharded)
