"""Equal modules in one pass: their parameters stacked, their inputs stacked, one call for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from equimodal._utils.modules import parameters_in
from equimodal.errors import ModelError

_OF_ANY = {*vars(nn.Module()), "training"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def check_alike(modules: Mapping[str, nn.Module]) -> None:
    """Refuse modules that one call cannot stand for.

    Args:
        modules: the name that a message gives it -> module.

    Raises:
        ModelError: two differ in a layer, a shape or an attribute; or they have running statistics, which one call for
            all would not keep apart, or recurrent layers, which torch cannot stack.
    """
    (first, model), *others = modules.items()
    for name, part in model.named_modules():
        why = "keeps running statistics" if getattr(part, "track_running_stats", False) is True else None
        why = "is recurrent" if isinstance(part, nn.RNNBase) else why
        if why is not None:
            raise ModelError(
                f"`stacked`: expected encoders that run as one. Found `{name}` ({type(part).__name__}) in {first}, "
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
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    return bool(a is b or (type(a) is type(b) and a == b))


def can_stack(modules: Sequence[nn.Module], inputs: Sequence[Any]) -> bool:
    """Whether one call for all gives what they give one by one: single tensors of one shape, and nothing looks inside.

    Nothing does where no layer has a hook; modes must agree, as one module's layers run for all. An exported program
    has the layers one by one, with their weights as they are.
    """
    x = inputs[0]
    if torch.compiler.is_exporting():
        return False
    if not all(isinstance(y, Tensor) and y.shape == x.shape and y.dtype == x.dtype for y in inputs):
        return False
    waiting = list(modules)
    training = modules[0].training
    while waiting:
        part = waiting.pop()
        if part.training != training or any(getattr(part, hooks) for hooks in _HOOKS):
            return False
        waiting.extend(child for child in part._modules.values() if child is not None)
    return True


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
        ModelError: a module changed its buffers.

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
    stack: Any = _Stack.apply
    state = {name: stack(*column) for name, column in zip(names, columns, strict=True)}
    buffers = [dict(module.named_buffers()) for module in modules]
    own = {name: torch.stack([table[name] for table in buffers]) for name in buffers[0]}
    before = [t._version for t in own.values()]
    outputs = torch.vmap(lambda s, x: functional_call(first, s, (x,)), randomness="different")(
        {**state, **own}, torch.stack(list(inputs))
    )
    if before != [t._version for t in own.values()]:
        raise ModelError(
            f"`stacked`: expected encoders that leave their buffers as they are. Found {type(first).__name__} that "
            "changes them when it is called. Leave out stacked=True."
        )
    leaves, spec = pytree.tree_flatten(outputs)
    columns = zip(*(leaf.unbind(0) for leaf in leaves), strict=True)
    return [pytree.tree_unflatten(column, spec) for column in columns]
