"""From a configuration to dataset, model, method and optimizer."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from equimodal.batch import Tree
from equimodal.data import Dataset, Missing, TableDataset, load
from equimodal.encoders import for_modality
from equimodal.engine import Sharpness
from equimodal.errors import MethodError, ModelError, unknown_name
from equimodal.features import Width
from equimodal.methods import Method, get
from equimodal.methods.parts import Companions
from equimodal.model import Multimodal, MultimodalModel
from equimodal.studies.setup._config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from equimodal.studies.setup._fusion import build_fusion, build_head, check_steps, with_steps
from equimodal.studies.setup._options import companion_options, method_options
from equimodal.studies.setup._own_code import own_object
from equimodal.studies.setup._places import placed
from equimodal.studies.setup._uses import check_uses


def build_data(config: DataConfig) -> Dataset:
    """The dataset that the configuration names; a path that leads nowhere is tried where ``EQUIMODAL_DATA`` says."""
    config = placed(config)
    options = dict(config.options)
    if config.missing or config.missing_file:
        options["missing"] = Missing(config.missing or "", config.missing_file, config.missing_seed)
    if config.target is not None:
        options["target"] = config.target
    data = load(config.name, card=config.card, protocol=config.protocol, **options)
    if config.task:
        data.choose_task(**config.task)
    return data


def build_model(data: Dataset, config: ModelConfig) -> MultimodalModel:
    """Encoders by the kind of each modality, the fusion, and a head that fits what the fusion returns.

    The head is linear or has one hidden layer; tokens and maps are averaged before it. For a task with one output per
    pixel the encoders are U-Nets and the head is made of 1x1 convolutions. One training sample is encoded to see what
    the encoders return; the random state stays as it is.

    Raises:
        UnknownNameError: ``config.encoders`` names an unknown modality, or the fusion or one of its options is unknown.
        ModelError: options of an encoder or of the fusion that do not fit.
        UnsupportedError: the fusion gives no output per pixel and the task needs one, or CrossAttention without any
            sequence.
        MethodError: code of the user that nobody has named as trusted, see :func:`trusting`.
    """
    if config.own_model is not None:
        return _own_model(data, config.own_model)
    for field_name, named in (("encoders", config.encoders), ("own_encoders", config.own_encoders)):
        unknown = sorted(set(named) - set(data.modalities))
        if unknown:
            raise unknown_name(f"modality in model.{field_name}", unknown[0], data.modalities)
    encoders: dict[str, nn.Module] = {}
    sizes: dict[str, Width] = {}
    for name, spec in data.modalities.items():
        if name in config.own_encoders:
            encoders[name], sizes[name] = _own_encoder(data, name, config.own_encoders[name])
            continue
        own: dict[str, Any] = {"encoder": "unet"} if data.task.dense else {}
        own |= _text_options(data, name, config.encoders)
        own = {"out_features": config.feature_size, "size": config.size, **with_steps(config.fusion, spec, own)}
        try:
            encoder = for_modality(spec, **own)
        except TypeError as error:
            raise ModelError(f"`model.encoders.{name}`: {error}.") from error
        except ModelError as error:
            option = re.match(r"`(\w+)`", str(error))
            field = f"model.encoders.{name}" + (f".{option[1]}" if option is not None else "")
            raise ModelError(
                f"{error} Here this is the field `{field}`: --{field} VALUE, or in a configuration."
            ) from error
        encoders[name], sizes[name] = encoder, encoder.out_features
    fusion = build_fusion(config.fusion, config.fusion_options, sizes, data.task, config.head_hidden)
    features = {m: _sample_features(data, m, encoder) for m, encoder in encoders.items()}
    check_steps(fusion, features, data.modalities, config.encoders)
    head = build_head(fusion, features, data.task, config.head_hidden)
    return MultimodalModel(encoders, fusion, head)


def _text_options(data: Dataset, modality: str, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Options of the modality's encoder; where a text of a table has none that says its ids, those that fit it."""
    own = dict(given.get(modality, {}))
    if not isinstance(data, TableDataset) or data.preparation.modalities[modality]["kind"] != "text":
        return own
    if "vocabulary" in own or own.get("encoder", "conv1d") not in ("conv1d", "transformer"):
        return own
    own = {"encoder": "conv1d", "vocabulary": data.preparation.modalities[modality]["state"]["vocabulary"], **own}
    padding = data.preparation.padding(modality)
    return {"padding": padding, **own} if padding else own


def _own_encoder(data: Dataset, modality: str, text: str) -> tuple[nn.Module, Width]:
    """The user's encoder, and the width of what it returns: its ``out_features``, or that of a vector."""
    where = f"model.own_encoders.{modality}"
    encoder = own_object(text, where)
    if not isinstance(encoder, nn.Module):
        raise ModelError(f"`{where}`: expected a torch.nn.Module. Found {type(encoder).__name__}.")
    width = getattr(encoder, "out_features", None)
    if width is not None:
        return encoder, width
    try:
        feature = _sample_features(data, modality, encoder)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"`{where}`: the encoder failed on a training sample ({said}).") from error
    if isinstance(feature, torch.Tensor) and feature.ndim == 2:
        return encoder, int(feature.shape[1])
    raise ModelError(
        f"`{where}`: expected an attribute `out_features`, the width of its features, as it does not return vectors "
        f"(B, d). Found none. Set self.out_features in {type(encoder).__name__}."
    )


def _own_model(data: Dataset, text: str) -> MultimodalModel:
    """What the user's function makes of the dataset; anything with the members of a model will do."""
    model: Any = own_object(text, "model.own_model", data)
    if not isinstance(model, nn.Module) or not isinstance(model, Multimodal):
        raise ModelError(
            f"`model.own_model`: expected a MultimodalModel, or a torch.nn.Module with its members. Found "
            f"{type(model).__name__}."
        )
    missing = sorted(set(data.modalities) ^ set(model.modalities))
    if missing:
        raise ModelError(
            f"`model.own_model`: expected the modalities of the data, {list(data.modalities)}. Found "
            f"{list(model.modalities)}."
        )
    return cast(MultimodalModel, model)


def _sample_features(data: Dataset, modality: str, encoder: nn.Module) -> Tree:
    """What ``encoder`` makes of one training sample that has the modality."""
    have = data.train.present.get(modality)
    row = 0 if have is None else int(have.to(torch.uint8).argmax())
    mode = encoder.training
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        feature: Tree = encoder.eval()(data.train.batch([row]).inputs[modality])
    encoder.train(mode)
    return feature


def build_method(model: nn.Module, data: Dataset, name: str, options: Mapping[str, Any]) -> Method:
    """The method with its options; unknown ones are refused with suggestions.

    Raises:
        UnknownNameError: no such method or option.
        MethodError: an option that has no default is missing, or one is out of range.
    """
    known = method_options(name)
    given = dict(options)
    for option in given:
        if option not in known:
            raise unknown_name(f"option of {get(name).__name__}", option, known)
    missing = [n for n, p in known.items() if p.default is p.empty and n not in given]
    if missing:
        hint = " Name finished runs: uses: {...}." if missing[0] in companion_options(name) else ""
        raise MethodError(f"`{missing[0]}`: {get(name).__name__} needs a value, and has no default for it.{hint}")
    sharpness = given.get("sharpness")
    if isinstance(sharpness, Mapping):
        try:
            given["sharpness"] = Sharpness(**sharpness)
        except TypeError as error:
            raise MethodError(f"`sharpness`: {error}. Known: mode, radius, ratio, every.") from error
    return get(name)(model, data.task, **given)


def check_device(device: str) -> None:
    """Refuse, before anything is built, an accelerator that this machine does not have.

    Raises:
        MethodError: PyTorch finds no such device here.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    usable = ["auto", "cpu", *(["gpu", found.type] if found is not None else [])]
    if device not in usable:
        raise MethodError(
            f"`training.device`: expected a device of this machine, of {', '.join(usable)}. Found {device!r}. Choose "
            "one of these, or install a build of PyTorch that sees the other."
        )


def seeded(config: RunConfig, data: Dataset, companions: Mapping[str, Companions] | None = None) -> Method:
    """Model and method with the weights that the seed decides, whatever was drawn before.

    Args:
        config: of the run.
        data: gives the shapes and the task.
        companions: option -> what the method uses of other runs; without them the method can predict, not train.
    """
    check_uses(config.method, config.options, config.uses)
    if companions is None:
        companions = {option: _absent(value) for option, value in config.uses.items()}
    torch.manual_seed(config.seed)
    model = build_model(data, config.model)
    # heads of methods must not shift each other's numbers: every method starts from the same model
    torch.manual_seed(config.seed + 1_000_003)
    return build_method(model, data, config.method, {**config.options, **companions})


def _absent(used: str | Mapping[str, str]) -> Companions:
    """Companions that are named and not loaded."""
    return Companions.absent(used if isinstance(used, Mapping) else {"": used})


def fixed_rate(config: TrainingConfig) -> float:
    """The learning rate, which must be a number here.

    Raises:
        MethodError: it is ``auto``.
    """
    if config.lr == "auto":
        raise MethodError(
            "`training.lr`: expected a number. Found 'auto', which single runs find on their training data. Call "
            "equimodal train --find-rate, and give what it suggests: --rate NUMBER."
        )
    return config.lr


def optimizer_factory(config: TrainingConfig) -> Callable[[list[dict[str, Any]]], Optimizer]:
    """Makes the configured optimizer from parameter groups.

    In host memory Adam and AdamW step all parameters in one operation (``fused``). A state that was saved without it
    says so, and goes on without it, bit for bit.

    Raises:
        MethodError: the learning rate is still to be found.
    """
    rate = fixed_rate(config)

    def make(groups: list[dict[str, Any]]) -> Optimizer:
        if config.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=config.weight_decay)
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        in_host_memory = all(p.is_cpu and p.is_floating_point() for group in groups for p in group["params"])
        return kind(groups, lr=rate, weight_decay=config.weight_decay, fused=in_host_memory or None)

    return make


def scheduler_factory(config: TrainingConfig) -> Callable[[Optimizer], LambdaLR]:
    """Makes the configured learning-rate schedule, stepped once per epoch."""

    def factor(epoch: int) -> float:
        if config.schedule == "constant":
            return 1.0
        if config.schedule == "step":
            return 0.1 if epoch >= math.ceil(0.7 * config.epochs) else 1.0
        return 0.5 * (1 + math.cos(math.pi * min(epoch, config.epochs) / config.epochs))

    return lambda optimizer: LambdaLR(optimizer, factor)
