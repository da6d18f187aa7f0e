"""The parameters of a module, in a quick walk that is made again only where the module has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from operator import is_
from typing import Any
from weakref import ref

import torch
from torch import nn


def same_objects(first: Sequence[object], second: Sequence[object]) -> bool:
    """Whether two lists hold the same objects, in the same order; tensors are not compared by their values.

    Example:
        >>> same_objects([1, None], [1, None]), same_objects([1], [1, None])
        (True, False)
    """
    return len(first) == len(second) and all(map(is_, first, second))


def _visit(module: nn.Module) -> tuple[list[dict[str, Any]], list[nn.Parameter]]:
    """The tables of parameters and children of every submodule, and the parameters, each once."""
    tables: list[dict[str, Any]] = []
    found: dict[int, nn.Parameter] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        tables += [current._parameters, current._modules]
        for parameter in current._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), parameter)
        children = [child for child in current._modules.values() if child is not None]
        waiting.extend(reversed(children))
    return tables, list(found.values())


class _Walk:
    """What a walk over a module met: every table of parameters and children, what was in it, and the parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.module = ref(module, partial(_forget, id(module)))
        tables, parameters = _visit(module)
        self.parameters = tuple(parameters)
        self._empty = [table for table in tables if not table]
        # the last entry is found nowhere else, so that more or fewer entries before it do not go unseen
        self._tables = [*(table for table in tables if table), {"end": object()}]
        self._content = list(chain.from_iterable(map(dict.values, self._tables)))

    def holds(self) -> bool:
        """Whether a walk would meet the same again."""
        entries = chain.from_iterable(map(dict.values, self._tables))
        return not any(self._empty) and all(map(is_, entries, self._content))


_WALKS: dict[int, _Walk] = {}  # by the number of the module, which is asked for in less time than its weak reference


def _forget(number: int, _: object) -> None:
    _WALKS.pop(number, None)


def has_hooks(module: nn.Module) -> bool:
    """Whether something looks at what goes into the module or comes out of it, forwards or backwards."""
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _walked(module: nn.Module) -> tuple[nn.Parameter, ...]:
    if torch.compiler.is_compiling():  # a compiler follows the walk, and not what remembers it
        return tuple(_visit(module)[1])
    walk = _WALKS.get(id(module))
    if walk is None or walk.module() is not module or not walk.holds():
        walk = _WALKS[id(module)] = _Walk(module)
    return walk.parameters


def parameters_in(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """The parameters of ``module``, each once, in the order of ``module.parameters()``, which builds every name first.

    They are looked up in every step. A walk is remembered, and made again where a parameter or a module, at any depth,
    was added, removed or replaced by another object; until then the tuple is the same object.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> len(parameters_in(nn.Sequential(layer, layer)))
        2
    """
    if type(module).parameters in _USUAL:
        return _walked(module)
    return tuple(module.parameters())  # a class with another idea of them


class QuickParameters(nn.Module):
    """A module whose ``parameters()`` takes the quick walk; methods ask for them in every step."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As :meth:`torch.nn.Module.parameters`."""
        return iter(_walked(self)) if recurse else super().parameters(recurse=False)


_USUAL = (nn.Module.parameters, QuickParameters.parameters)
