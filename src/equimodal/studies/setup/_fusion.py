"""The fusion that a configuration names, and the head that fits what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from equimodal.batch import Tree
from equimodal.data import Modality
from equimodal.encoders import FITTING
from equimodal.errors import ModelError, UnknownNameError, UnsupportedError, did_you_mean, unknown_name
from equimodal.features import Width, kind_of, on_rows
from equimodal.fusion import CrossAttention, Fusion, Late, available, get
from equimodal.tasks import Task

# what the data and the task decide is no option
_DECIDED: dict[type[Fusion], set[str]] = {Late: {"out_features", "heads", "dense"}}
# encoder -> `pool` with which it keeps its steps or positions
_STEPS: dict[str, str] = {
    **dict.fromkeys(("conv1d", "gru", "transformer", "bert", "clip", "vit", "ast"), "tokens"),
    **dict.fromkeys(("resnet18", "resnet50", "r2plus1d", "r3d"), "frames"),
}
_STEPS_OF_IMAGES = {"resnet18": "map", "resnet50": "map"}  # an image is a single frame


def fusion_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a fusion, as its constructor declares them, without what the data and the task decide.

    Raises:
        UnknownNameError: no such fusion.

    Example:
        >>> list(fusion_options("LowRank"))
        ['out_features', 'rank', 'fill']
    """
    kind = get(name)
    fixed = {"feature_sizes"} | _DECIDED.get(kind, set())
    return {n: p for n, p in inspect.signature(kind).parameters.items() if n not in fixed}


def check_fusion(name: object, options: object) -> str:
    """The fusion's name as it is written; unknown names and options are refused with suggestions."""
    if not isinstance(name, str):
        raise ModelError(
            f"`model.fusion`: expected one of {', '.join(available())}. Found {name!r}."
            f"{did_you_mean(name, available())}"
        )
    known = fusion_options(name)
    if not isinstance(options, Mapping):
        raise ModelError(f"`model.fusion_options`: expected option -> value. Found {options!r}.")
    for option in options:
        if option not in known:
            error = unknown_name(f"option of {get(name).__name__}", str(option), known)
            raise UnknownNameError(f"`model.fusion_options`: {error}")
    return get(name).__name__


def build_fusion(
    name: str, options: Mapping[str, Any], sizes: Mapping[str, Width], task: Task, hidden: int = 0
) -> Fusion:
    """The fusion for features of these widths; a late one has a head per modality.

    Args:
        name: of the fusion.
        options: see :func:`fusion_options`.
        sizes: modality -> width of its features.
        task: decides the outputs of a late fusion.
        hidden: width of the hidden layer of the heads of a late fusion; 0 for none.
    """
    kind = get(check_fusion(name, options))
    if task.dense and kind.pooled:
        fitting = [n for n in available() if not get(n).pooled]
        raise UnsupportedError(
            f"`model.fusion`: the task has one output per pixel, and {kind.__name__} joins the modalities in one "
            f"vector per sample. Use {', '.join(fitting[:-1])} or {fitting[-1]}."
        )
    decided: dict[str, Any] = {}
    if kind is Late:
        heads = None
        if hidden:
            heads = {m: on_rows(body(_width(d), task.outputs, hidden), task.dense) for m, d in sizes.items()}
        decided = {"out_features": task.outputs, "heads": heads, "dense": task.dense}
    try:
        return kind(sizes, **decided, **options)
    except TypeError as error:  # a text where a number belongs
        raise ModelError(f"`model.fusion_options` of {kind.__name__}: {error}. Found {dict(options)}.") from error


def build_head(fusion: Fusion, features: Mapping[str, Tree], task: Task, hidden: int = 0) -> nn.Module:
    """The head for what ``fusion`` makes of such features; nothing is left to do after a late one.

    Args:
        fusion: joins the features.
        features: of any samples; only their kinds and widths are looked at.
        task: decides the outputs.
        hidden: width of the hidden layer; 0 for none.
    """
    mode = fusion.training
    with torch.no_grad():
        fused = fusion.eval()(features)
    fusion.train(mode)
    if isinstance(fusion, Late):
        return nn.Identity()
    kind = kind_of(fused)
    if task.dense and kind != "map":
        raise UnsupportedError(
            f"`model.encoders`: the task has one output per pixel, so the encoders must give maps of the size of the "
            f"target, as the encoder unet does. {type(fusion).__name__} gives {kind} of what these encoders give."
        )
    layers = body(fusion.out_features, task.outputs, hidden)
    return layers if kind == "vector" else on_rows(layers, task.dense)


def body(width: int, outputs: int, hidden: int = 0) -> nn.Module:
    """A linear layer, or two with a ReLU between."""
    if not hidden:
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def with_steps(fusion: str, spec: Modality, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an encoder; for an attention fusion it keeps its steps, unless ``pool`` is among them."""
    if get(fusion) is not CrossAttention or "pool" in options:
        return dict(options)
    way = _pool(spec, str(options.get("encoder") or FITTING[spec.kind][0]))
    return dict(options) if way is None else {**options, "pool": way}


def check_steps(
    fusion: Fusion, features: Mapping[str, Tree], modalities: Mapping[str, Modality], chosen: Mapping[str, Any]
) -> None:
    """Refuse attention between single vectors, each of which would give all its weight to the only other one."""
    if not isinstance(fusion, CrossAttention) or any(kind_of(f) != "vector" for f in features.values()):
        return
    used = {m: str(chosen.get(m, {}).get("encoder") or FITTING[spec.kind][0]) for m, spec in modalities.items()}
    steps = []
    for m, spec in modalities.items():
        way = _pool(spec, used[m])
        other = next((n for n in FITTING[spec.kind] if n in _STEPS), None)
        if way is not None:
            steps.append(f"model.encoders.{m}.pool {way}")
        elif other is not None:
            steps.append(f"model.encoders.{m}.encoder {other}")
    others = [n for n in available() if n != "CrossAttention"]
    raise UnsupportedError(
        "`model.fusion`: CrossAttention needs a sequence of at least one modality, and every encoder here gives one "
        f"vector per sample ({', '.join(f'{m}: {n}' for m, n in used.items())}). "
        + (f"Set {' or '.join(steps)}, or choose" if steps else "Choose")
        + f" another fusion: {', '.join(others)}."
    )


def _pool(spec: Modality, encoder: str) -> str | None:
    return {**_STEPS, **(_STEPS_OF_IMAGES if spec.kind == "image" else {})}.get(encoder)


def _width(width: Width) -> int:
    return sum(width) if isinstance(width, tuple) else width
