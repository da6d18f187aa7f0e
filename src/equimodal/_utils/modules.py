"""The parameters of a module, in a quick walk."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def parameters_in(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module``, each once, in the order of ``module.parameters()``, which builds every name first.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> len(parameters_in(nn.Sequential(layer, layer)))
        2
    """
    found: dict[int, nn.Parameter] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        for parameter in current._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), parameter)
        children = [child for child in current._modules.values() if child is not None]
        waiting.extend(reversed(children))
    return list(found.values())


class QuickParameters(nn.Module):
    """A module whose ``parameters()`` takes the quick walk; methods ask for them in every step."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As :meth:`torch.nn.Module.parameters`."""
        return iter(parameters_in(self)) if recurse else super().parameters(recurse=False)
