"""Equal modules in one pass: their parameters stacked, their inputs stacked, one call for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized
from torch.utils import _pytree as pytree

from equimodal._utils.modules import has_hooks, parameters_in
from equimodal.errors import ModelError

_OF_ANY = {*vars(nn.Module()), "training"}
_OWN_KERNELS = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)  # in evaluation mode


def check_alike(modules: Mapping[str, nn.Module]) -> None:
    """Refuse modules that one call cannot stand for.

    Args:
        modules: the name that a message gives it -> module.

    Raises:
        ModelError: two differ in a layer, a shape or an attribute; or they have running statistics, which one call for
            all would not keep apart, parametrizations, which may have some, or recurrent layers, which torch cannot
            stack.
    """
    (first, model), *others = modules.items()
    for name, part in model.named_modules():
        why = "keeps running statistics" if getattr(part, "track_running_stats", False) is True else None
        why = "is recurrent" if isinstance(part, nn.RNNBase) else why
        why = "is parametrized" if is_parametrized(part) else why
        if why is not None:
            found = f"`{name}` ({type(part).__name__}) in {first}" if name else f"{type(part).__name__} as {first}"
            raise ModelError(
                f"`stacked`: expected encoders that run as one. Found {found}, "
                f"which {why}. Use another layer (GroupNorm, convolutions), or leave out stacked=True."
            )
    for other, module in others:
        difference = _difference(model, module)
        if difference is not None:
            raise ModelError(
                f"`stacked`: expected encoders that are alike but for their weights. Found {first} and {other} with "
                f"different {difference}. Build them alike, or leave out stacked=True."
            )


def _difference(a: nn.Module, b: nn.Module) -> str | None:
    """What differs between two modules beside the values of parameters and buffers."""
    mine, theirs = dict(a.named_modules()), dict(b.named_modules())
    if list(mine) != list(theirs):
        return "layers"
    if [name for name, _ in a.named_parameters()] != [name for name, _ in b.named_parameters()]:
        return "parameters that layers share"
    for name, x in mine.items():
        y, where = theirs[name], f" of `{name}`" if name else ""
        if type(x) is not type(y):
            return f"layers: {type(x).__name__} and {type(y).__name__}"
        for table in ("_parameters", "_buffers"):
            if _shapes(getattr(x, table)) != _shapes(getattr(y, table)):
                return f"parameters{where}"
        for key in sorted((vars(x).keys() | vars(y).keys()) - _OF_ANY):
            if not _equal(vars(x).get(key), vars(y).get(key)):
                return f"`{key}`{where}"
    return None


def _shapes(table: Mapping[str, Tensor | None]) -> dict[str, Any]:
    return {name: None if t is None else (t.shape, t.dtype) for name, t in table.items()}


def _equal(a: Any, b: Any) -> bool:
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, (Tensor, np.ndarray)):
        return a.shape == b.shape and bool((a == b).all())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):  # arrays of arrays have no one answer
        return False


def can_stack(modules: Sequence[nn.Module], inputs: Sequence[Any]) -> bool:
    """Whether one call for all gives what they give one by one: single tensors of one shape, and nothing looks inside.

    Nothing does where no layer has a hook; modes must agree, as one module's layers run for all. Layers that were
    exchanged since are seen by their types and parameters. In evaluation mode torch has kernels of its own for
    attention, which do not stack. An exported program has the layers one by one, with their weights as they are.
    """
    x = inputs[0]
    if torch.compiler.is_exporting():
        return False
    if not all(isinstance(y, Tensor) and y.shape == x.shape and y.dtype == x.dtype for y in inputs):
        return False
    training = modules[0].training
    waiting: list[Sequence[nn.Module]] = [modules]
    while waiting:
        layers = waiting.pop()
        first = layers[0]
        if not training and isinstance(first, _OWN_KERNELS):
            return False
        kind, count = type(first), len(first._modules)
        for layer in layers:
            if layer.training != training or type(layer) is not kind or len(layer._modules) != count:
                return False
            if has_hooks(layer):
                return False
        if first._parameters and _lacking(layers):
            return False
        if count:
            rows = zip(*[layer._modules.values() for layer in layers], strict=True)
            waiting.extend(row for row in rows if row[0] is not None)
    return True


def _lacking(layers: Sequence[nn.Module]) -> bool:
    """Whether one has a parameter that another one has not, such as a bias."""
    return len({tuple([t is None for t in layer._parameters.values()]) for layer in layers}) > 1


class _Stack(torch.autograd.Function):
    """``torch.stack``, whose backward pass copies once where layouts differ, and not once for each parameter."""

    @staticmethod
    def forward(_: Any, *tensors: Tensor) -> Tensor:
        return torch.stack(tensors)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients[0].contiguous().unbind(0)


def stacked_call(modules: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Any]:
    """What each of the modules gives for its input, in one pass over stacked copies of their parameters.

    Args:
        modules: alike, see :func:`check_alike`.
        inputs: one for each, see :func:`can_stack`.

    Returns:
        Tensors or nestings of tensors, in the order of the modules. Dropout draws other numbers for each of them.

    Raises:
        ModelError: a module changed its buffers, or asked for the value of a tensor.

    Example:
        >>> layers = [nn.Linear(2, 3), nn.Linear(2, 3)]
        >>> x = torch.ones(5, 2)
        >>> found = stacked_call(layers, [x, 2 * x])
        >>> torch.allclose(found[1], layers[1](2 * x))
        True
    """
    first = modules[0]
    names = [name for name, _ in first.named_parameters()]
    columns = zip(*(parameters_in(module) for module in modules), strict=True)
    transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
    stack: Any = (lambda *column: torch.stack(column)) if transformed else _Stack.apply
    state = {name: stack(*column) for name, column in zip(names, columns, strict=True)}
    buffers = [dict(module.named_buffers()) for module in modules]
    own = {name: torch.stack([table[name] for table in buffers]) for name in buffers[0]}
    before, kept = [t._version for t in own.values()], []

    def call(state: dict[str, Tensor], x: Tensor) -> Any:
        given = [state[name] for name in own]
        output = functional_call(first, state, (x,))  # puts what a module assigns in the place of its buffers
        kept.append(all(state[name] is t for name, t in zip(own, given, strict=True)))
        return output

    try:
        outputs = torch.vmap(call, randomness="different")({**state, **own}, torch.stack(list(inputs)))
    except RuntimeError as error:
        if not str(error).startswith("vmap"):
            raise
        raise ModelError(
            f"`stacked`: expected encoders that run as one. Found {type(first).__name__}, of which torch says: "
            f"{' '.join(str(error).split())[:200]} Leave out stacked=True."
        ) from error
    if not all(kept) or before != [t._version for t in own.values()]:
        raise ModelError(
            f"`stacked`: expected encoders that leave their buffers as they are. Found {type(first).__name__} that "
            "changes them when it is called. Leave out stacked=True."
        )
    leaves, spec = pytree.tree_flatten(outputs)
    columns = zip(*(leaf.unbind(0) for leaf in leaves), strict=True)
    return [pytree.tree_unflatten(column, spec) for column in columns]
