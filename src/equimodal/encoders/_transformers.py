"""Networks of the transformers library: built from a configuration, or with local weights; never from the network."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from equimodal.encoders._checks import check_sources
from equimodal.encoders._weights import State, adapt_channels, read_config, read_state, refuse_mismatch
from equimodal.errors import CheckpointError, ModelError, missing_extra, unknown_name

# read from a file, these could name code to fetch, or change how the weights are stored
_NEVER_FROM_FILE = {
    "auto_map", "dtype", "torch_dtype", "attn_implementation", "_attn_implementation", "architectures",
    "quantization_config",
}  # fmt: skip
_ATTENTION = ("sdpa", "eager")  # every other name would be a kernel to fetch


@dataclass(frozen=True)
class Architecture:
    """Where transformers keeps a network, and what its weight files may hold besides.

    Args:
        title: name for messages.
        config: name of the configuration class.
        model: name of the model class.
        types: ``model_type`` of folders that hold it.
        section: entry of a folder's ``config.json`` with this network's part, for models of several.
        others: pattern of names that belong to other parts (heads, the other tower) and are left out.
        stem: ending of the name of the convolution that reads the input channels.
        arguments: of the model class, besides the configuration.
    """

    title: str
    config: str
    model: str
    types: tuple[str, ...]
    others: str
    section: str | None = None
    stem: str | None = None
    arguments: tuple[tuple[str, Any], ...] = ()


def build(
    architecture: Architecture,
    sizes: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    weights: str | Path | None,
    adapt: bool = False,
    rename: Callable[[State], State] | None = None,
    check: Callable[[Any], None] | None = None,
) -> nn.Module:
    """The network of a configuration, with local weights if given, in training mode.

    Args:
        architecture: which network.
        sizes: fields of the configuration that the encoder's own arguments decide; ``None`` entries do not.
        config: further fields, by the names of transformers.
        weights: a weight file, or a folder with ``config.json``, whose fields are the defaults then.
        adapt: fit the first convolution to the number of channels.
        rename: changes the names of a file first.
        check: refuses a configuration that the network would misread.
    """
    check_sources(config, weights)
    transformers = _library(architecture.title)
    settings = _configuration(transformers, architecture, sizes, config, weights)
    if check is not None:
        check(settings)
    kind = getattr(transformers, architecture.model)
    arguments = dict(architecture.arguments)
    with _quiet():
        try:
            if weights is None:
                network: nn.Module = kind(settings, **arguments)
            else:
                state = read_state(weights) if rename is None else rename(read_state(weights))
                if adapt and architecture.stem is not None:
                    state = adapt_channels(state, architecture.stem, settings.num_channels)
                network = _load(kind, settings, arguments, state, architecture, weights)
        except (TypeError, ZeroDivisionError, RuntimeError) as error:
            raise ModelError(f"`config`: {architecture.title} cannot be built: {error}.") from error
        except ValueError as error:
            if isinstance(error, (CheckpointError, ModelError)):
                raise
            raise ModelError(f"`config`: {architecture.title} cannot be built: {error}.") from error
    return network.train()


def _library(purpose: str) -> Any:
    try:
        return import_module("transformers")
    except ImportError as error:
        raise missing_extra("transformers", "encoders", purpose) from error


def _configuration(
    transformers: Any,
    architecture: Architecture,
    sizes: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    weights: str | Path | None,
) -> Any:
    kind = getattr(transformers, architecture.config)
    known = set(kind().to_dict()) | {"attn_implementation"}
    values = {} if weights is None else _from_folder(architecture, read_config(weights), weights)
    values = {name: value for name, value in values.items() if name in known - _NEVER_FROM_FILE}
    for name in config or {}:
        if name not in known:
            raise unknown_name(f"field of {architecture.config}", name, known)
    if (config or {}).get("attn_implementation", "sdpa") not in _ATTENTION:
        raise ModelError(
            f"`config`: expected `attn_implementation` of {list(_ATTENTION)}. Found "
            f"{dict(config or {})['attn_implementation']!r}."
        )
    clash = sorted(n for n in config or {} if sizes.get(n) is not None)
    if clash:
        raise ModelError(f"`config`: expected fields that are no argument of the encoder. Found {clash}.")
    values |= {name: value for name, value in sizes.items() if value is not None} | dict(config or {})
    values.pop("model_type", None)
    try:
        with _quiet():
            return kind(**values)
    except (TypeError, ValueError, _strict_error()) as error:
        raise ModelError(f"`config`: {architecture.config} refuses it: {_last_line(error)}") from error


def _from_folder(architecture: Architecture, found: dict[str, Any], weights: str | Path) -> dict[str, Any]:
    if not found:
        return {}
    named = found.get("model_type")
    if named not in architecture.types:
        raise CheckpointError(
            f"`weights`: expected a folder of {architecture.title} (`model_type` {' or '.join(architecture.types)}). "
            f"Found {named!r} in '{weights}'."
        )
    part = found.get(architecture.section) if architecture.section is not None else None
    return part if isinstance(part, dict) else found


def _load(
    kind: Any, settings: Any, arguments: dict[str, Any], state: State, architecture: Architecture, weights: str | Path
) -> nn.Module:
    # through from_pretrained because it knows the names that older versions of transformers wrote
    network, report = kind.from_pretrained(
        None,
        config=settings,
        state_dict=state,
        ignore_mismatched_sizes=True,  # reported below, with their names
        output_loading_info=True,
        local_files_only=True,
        dtype=torch.get_default_dtype(),
        **arguments,
    )
    shapes = [f"{name} {tuple(found)} instead of {tuple(own)}" for name, found, own in report["mismatched_keys"]]
    foreign = [n for n in report["unexpected_keys"] if not re.search(architecture.others, n)]
    hint = "Give the sizes of the network that was saved"
    if architecture.stem is not None and any(architecture.stem in s for s in shapes):
        hint += ", or adapt_channels=True for another number of channels"
    refuse_mismatch(weights, report["missing_keys"], foreign, shapes, f"{hint}.")
    if report["error_msgs"]:
        raise CheckpointError(f"`weights`: '{weights}' could not be loaded: {report['error_msgs'][0]}.")
    loaded: nn.Module = network
    loaded.pretrained = True  # type: ignore[assignment]  # copies keep these weights
    return loaded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither progress bars nor reports of transformers: what is wrong is raised, the rest is of no interest."""
    logging = import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _strict_error() -> type[Exception]:
    """What the configurations of transformers raise for a value of another type."""
    error: type[Exception] = import_module("huggingface_hub.errors").StrictDataclassError
    return error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
