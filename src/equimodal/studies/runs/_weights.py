"""Weights as safetensors: they load without executing anything, and without the trainer."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from equimodal._utils.outside import read_json, refuse_special, shortened, size_text
from equimodal._utils.schema import check
from equimodal.errors import CheckpointError, EquimodalError, missing_extra
from equimodal.methods import Method
from equimodal.studies.runs._records import write_bytes

_TIMES, _HEADER = 4, 64 << 20  # how much larger than the model a file of its weights may be


def save_weights(method: nn.Module, path: Path, metadata: Mapping[str, Any] | None = None) -> Path:
    """Parameters and buffers of a method (the model's under ``model.``) as one safetensors file.

    Args:
        method: a trained method, or any module.
        path: file to write, whole or not at all.
        metadata: plain values stored in the file's header.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise missing_extra("safetensors", "cli", "Saving weights") from error
    tensors, extra = _parts(method)
    header = {"equimodal": json.dumps({**dict(metadata or {}), "extra": extra})}
    return write_bytes(path, save({name: t.detach().contiguous().clone() for name, t in tensors.items()}, header))


def load_weights(method: nn.Module, path: Path) -> dict[str, Any]:
    """Load what :func:`save_weights` wrote; returns the metadata.

    Raises:
        CheckpointError: no safetensors file, or names and shapes that are not this method's; nothing is loaded then.
    """
    own, extra = _parts(method)
    header, found = _read(path, own)
    if isinstance(method, Method):  # earlier versions had other names for some buffers
        found = method.current_state(found)
    weights = dict(method.named_parameters()) | {n: b for n, b in method.named_buffers() if n.startswith("model.")}
    stored = header.get("extra", {})
    check(stored, dict[str, Any], "extra", f"`{path}`", error=CheckpointError)
    for name in stored:
        if name not in extra or not _alike(extra[name], stored[name]):
            raise CheckpointError(
                f"`{path}`: field `extra.{name}`: expected the state of a part of this method, like "
                f"{shortened(extra.get(name, sorted(extra)))}. Found {shortened(stored[name])}. Restore the file."
            )
    _copy(own, found, weights, path, "this method and model", "Build the method with the options it was trained with.")
    for name, value in stored.items():
        try:
            method.get_submodule(name).set_extra_state(value)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"`{path}`: field `extra.{name}`: expected the state of this part of the method. Found "
                f"{shortened(value)} ({type(error).__name__}: {error}). Restore the file."
            ) from error
    return header


def _alike(own: Any, found: Any) -> bool:
    """Whether a stored state is built as that of a new method; what has no value yet says nothing."""
    if own is None or own == {} or own == []:
        return own is None or type(found) is type(own)
    if isinstance(own, Mapping):
        return isinstance(found, Mapping) and all(_alike(own[k], found[k]) for k in own if k in found)
    if isinstance(own, (int, float)) and not isinstance(own, bool):
        return isinstance(found, (int, float)) and not isinstance(found, bool)
    return type(own) is type(found)


def load_model_weights(model: nn.Module, path: Path) -> dict[str, Any]:
    """Load the model's part of what :func:`save_weights` wrote, without the method; returns the metadata.

    The names in the file are those of the model's ``state_dict()`` below ``model.``; heads and buffers of the method
    are left where they are.

    Args:
        model: encoders, fusion and head (or a model of another structure) as they were trained.
        path: of the weights, for example ``RUN/weights.safetensors``.

    Raises:
        CheckpointError: no safetensors file, or names and shapes that are not this model's; nothing is loaded then.
    """
    header, found = _read(path)
    inside = {name.removeprefix("model."): t for name, t in found.items() if name.startswith("model.")}
    own, _ = _parts(model)
    _copy(own, inside, own, path, "this model", "Build the model with the sizes it was trained with.")
    return header


def _read(path: Path, own: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors; a file much larger than ``own`` is not read."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing_extra("safetensors", "cli", "Loading weights") from error
    refuse_special(path)
    if own is not None and path.exists():
        needed = sum(t.numel() * t.element_size() for t in own.values())
        size = path.stat().st_size
        if size > _TIMES * needed + _HEADER:
            raise CheckpointError(
                f"`{path}`: expected about {size_text(needed)}, the weights of this method and model. Found "
                f"{size_text(size)}, which was not read. Build the method with the options it was trained with."
            )
    try:
        with safe_open(str(path), framework="pt") as file:
            header = read_json((file.metadata() or {}).get("equimodal", "{}"), f"`{path}`: header")
            check(header, dict[str, Any], file=f"`{path}`: header", error=CheckpointError)
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, no mapping)
    except EquimodalError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"`{path}`: expected a safetensors file. Found: {error}.") from error
    return dict(header), found


def _copy(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], finite: Collection[str], path: Path, what: str, step: str
) -> None:
    """Copy the file's tensors into ``own``, all or none; those named in ``finite`` must be."""
    missing, unknown = sorted(set(own) - set(found)), sorted(set(found) - set(own))
    shapes = [f"{n}: {tuple(found[n].shape)} instead of {tuple(own[n].shape)}" for n in own
              if n in found and found[n].shape != own[n].shape]  # fmt: skip
    if missing or unknown or shapes:
        raise CheckpointError(
            f"`{path}`: expected the weights of {what}. Missing {missing[:3]}, unknown {unknown[:3]}, of another shape "
            f"{shapes[:3]}. {step}"
        )
    kinds = [f"{n}: {found[n].dtype} instead of {own[n].dtype}" for n in own if not _holds(found[n], own[n])]
    if kinds:
        raise CheckpointError(
            f"`{path}`: expected the types of {what}. Found others: {', '.join(kinds[:3])}. Numbers would be "
            "rounded; save them in the type they were trained in."
        )
    broken = [n for n in own if found[n].is_floating_point() and n in finite and not found[n].isfinite().all()]
    if broken:
        raise CheckpointError(
            f"`{path}`: expected finite weights. Found NaN or infinity in {broken[:3]}. Train again; a smaller "
            "learning rate or `clip_norm` keeps weights finite."
        )
    for name, tensor in own.items():
        tensor.data.copy_(found[name])


def _holds(stored: Tensor, own: Tensor) -> bool:
    """Whether the stored numbers have at least the precision of those that they are copied to."""
    if stored.dtype == own.dtype:
        return True
    return stored.dtype.is_floating_point and own.dtype.is_floating_point and stored.dtype.itemsize > own.dtype.itemsize


def _parts(method: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of the state, and the extra state of those submodules where it is plain values.

    That is what prediction depends on (the chosen inference rule, the part of a staged training); generators, memories
    of the training samples (modules that say ``checkpoint_only``) and the like belong to checkpoints.
    """
    aside = tuple(f"{n}." for n, module in method.named_modules() if getattr(module, "checkpoint_only", False))
    state = {name: value for name, value in method.state_dict().items() if not name.startswith(aside)}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    extra = {}
    for name, value in state.items():
        owner, _, last = name.rpartition(".")
        if last == "_extra_state" and _is_plain(value):
            extra[owner] = value
    return tensors, extra


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))
