"""Local pretrained weights: read without executing anything, compared by name before anything is kept."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from equimodal.errors import CheckpointError, missing_extra

State = dict[str, Tensor]
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_SHOWN = 4


def read_state(weights: str | Path) -> State:
    """Names and tensors of a weight file, or of the weight file(s) in a folder as transformers writes it.

    ``.safetensors`` holds no code. Files of ``torch.save`` (``.pt``, ``.pth``, ``.bin``) are read with PyTorch's
    restricted unpickler, which builds tensors and refuses everything else.

    Raises:
        CheckpointError: no such path, another kind of file, or contents other than tensors by name.
    """
    path = Path(weights)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"`weights`: expected a weight file or a folder. Found nothing at '{path}'. Nothing is downloaded: fetch "
            "the weights first and give their path."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in (".pt", ".pth", ".bin"):
        return _read_restricted(path)
    raise CheckpointError(f"`weights`: expected a .safetensors, .pt, .pth or .bin file. Found '{path}'.")


def read_config(weights: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a folder as plain values; empty for a single file."""
    path = Path(weights)
    if not path.is_dir():
        return {}
    file = path / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"`weights`: expected a folder with a config.json. Found none in '{path}'. Give the weight file itself, "
            "with the network's sizes as arguments."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`weights`: expected JSON in '{file}'. Found: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"`weights`: expected an object in '{file}'. Found {type(found).__name__}.")
    return found


def _read_folder(folder: Path) -> State:
    single, index, restricted = (folder / name for name in _FILES)
    if single.is_file():
        return _read_safetensors(single)
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"`weights`: expected a `weight_map` in '{index}'. Found: {error!r}.") from error
        outside = [n for n in names if not isinstance(n, str) or Path(n).name != n]
        if outside:
            raise CheckpointError(f"`weights`: expected file names in '{index}'. Found {outside[:_SHOWN]}.")
        return {name: tensor for part in names for name, tensor in _read_safetensors(folder / part).items()}
    if restricted.is_file():
        return _read_restricted(restricted)
    raise CheckpointError(f"`weights`: expected one of {', '.join(_FILES)} in '{folder}'. Found none.")


def _read_safetensors(path: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise missing_extra("safetensors", "encoders", "Loading weights") from error
    try:
        return load_file(str(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"`weights`: expected a safetensors file at '{path}'. Found: {error}.") from error


def _read_restricted(path: Path) -> State:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        first = str(error).strip().splitlines()[:1]
        raise CheckpointError(
            f"`weights`: expected names and tensors in '{path}'. Found something else, which was not executed: {first}."
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        names = sorted(map(str, found))[:_SHOWN] if isinstance(found, Mapping) else type(found).__name__
        raise CheckpointError(
            f"`weights`: expected names and tensors in '{path}'. Found {names}. Save the network's state_dict() alone."
        )
    return {str(name): tensor for name, tensor in found.items()}


def refuse_mismatch(
    weights: str | Path, missing: Iterable[str], unknown: Iterable[str], shapes: Sequence[str], hint: str
) -> None:
    """Raise when the names or shapes of a file are not the network's, naming the first of each kind."""
    lost, foreign = sorted(missing), sorted(unknown)
    if not lost and not foreign and not shapes:
        return
    parts = [
        f"{len(found)} {what}: {', '.join(found[:_SHOWN])}{', ...' if len(found) > _SHOWN else ''}"
        for what, found in (("missing", lost), ("unknown", foreign), ("of another shape", sorted(shapes)))
        if found
    ]
    raise CheckpointError(
        f"`weights`: expected the weights of this network in '{weights}'. Found {'; '.join(parts)}. {hint}"
    )


def adapt_channels(state: State, ending: str, channels: int) -> State:
    r"""The first convolution for another number of channels: :math:`w'_c = \frac{1}{C'} \sum_c w_c` for each of the C'.

    A grey image in all C' channels then gives what it gave in all C channels.
    """
    adapted = dict(state)
    for name, weight in state.items():
        if name.endswith(ending) and weight.ndim > 2 and weight.shape[1] != channels:
            mean = weight.sum(dim=1, keepdim=True) / channels
            adapted[name] = mean.expand(-1, channels, *weight.shape[2:]).contiguous()
    return adapted


def load_state(
    module: nn.Module, weights: str | Path, change: Callable[[State], State], leave: Callable[[str], bool], hint: str
) -> None:
    """Load a file into ``module``; all or nothing.

    Args:
        module: the network.
        weights: path, see :func:`read_state`.
        change: renames or adapts what was read.
        leave: whether a name in the file belongs to no part of the network (its former head) and is left out.
        hint: next step, for the error.
    """
    found = {name: tensor for name, tensor in change(read_state(weights)).items() if not leave(name)}
    own = module.state_dict()
    counters = {n for n in own if n.endswith("num_batches_tracked")}  # old files lack them; nothing depends on them
    shapes = [
        f"{n} {tuple(found[n].shape)} instead of {tuple(t.shape)}"
        for n, t in own.items()
        if n in found and found[n].shape != t.shape
    ]
    refuse_mismatch(weights, set(own) - set(found) - counters, set(found) - set(own), shapes, hint)
    module.load_state_dict(found, strict=False)
    module.pretrained = True  # type: ignore[assignment]  # copies keep these weights
