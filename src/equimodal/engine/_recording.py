"""Looking at the inputs of layers while a model runs, in eager mode and inside compiled code."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal._utils.modules import has_hooks
from equimodal.errors import UnsupportedError

_NAME = "_equimodal_recorder"


class Recorder:
    """A forward pre-hook that stays on a layer and keeps its inputs while it is switched on.

    A compiler reads hooks when it first traces a module and ignores those that come and go later. One that stays and is
    switched by an attribute is traced along, in both states. It copies and pickles with its layer.
    """

    def __init__(self) -> None:
        self.on = False
        self.detach = True
        self.seen: list[Tensor] = []
        self.part: int | None = None  # which compiled part the layer is in

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Keep the first argument."""
        if self.on:
            self.seen.append(arguments[0].detach() if self.detach else arguments[0])


def watch(module: nn.Module, everywhere: bool = False) -> None:
    """Put a :class:`Recorder` on each linear layer and convolution in the compiled parts of ``module``.

    Args:
        module: a model, or a part of one.
        everywhere: on the layers outside compiled parts too, because what calls them will be compiled.
    """
    for part in module.modules():
        if _is_compiled_itself(part):
            for layer in _layers(part):
                _recorder_of(layer).part = id(part)
    for layer in _layers(module) if everywhere else ():
        _recorder_of(layer)


def _layers(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]


def _recorder_of(layer: nn.Module) -> Recorder:
    recorder: Recorder | None = layer.__dict__.get(_NAME)
    if recorder is None:
        recorder = Recorder()
        layer.__dict__[_NAME] = recorder
        layer.register_forward_pre_hook(recorder)
    return recorder


def _is_compiled_itself(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` or ``Module.compile`` was applied to ``module`` or a part of it."""
    return any(_is_compiled_itself(m) for m in module.modules())


class recorded_inputs:  # noqa: N801 (read as a function, as in contextlib; a generator would cost as much as a kernel)
    """Collect the inputs of ``layers`` while they are called inside the block, one list per layer.

    Args:
        layers: linear layers or convolutions.
        detach: without their history.

    Raises:
        UnsupportedError: compiled code that was traced before the layers were watched did not show any input.
    """

    def __init__(self, layers: Sequence[nn.Module], detach: bool = True) -> None:
        self._layers, self._detach = layers, detach
        self._recorders: list[Recorder] = []
        self._hooked: list[tuple[Any, Any]] = []

    def __enter__(self) -> list[list[Tensor]]:
        for layer in self._layers:
            recorder: Recorder | None = layer.__dict__.get(_NAME)
            if recorder is None:  # outside compiled code a hook may come and go: put in directly, in each phase
                recorder, hooks = Recorder(), cast(Any, layer._forward_pre_hooks)
                key = (_NAME, id(recorder))
                hooks[key] = recorder
                self._hooked.append((hooks, key))
            recorder.on, recorder.detach, recorder.seen = True, self._detach, []
            self._recorders.append(recorder)
        return [recorder.seen for recorder in self._recorders]

    def __exit__(self, kind: object, *error: object) -> None:
        parts = {recorder.part for recorder in self._recorders if recorder.part is not None}
        hidden = parts and parts - {recorder.part for recorder in self._recorders if recorder.seen}
        for recorder in self._recorders:
            recorder.on, recorder.seen = False, []
        for hooks, key in self._hooked:
            del hooks[key]
        if hidden and kind is None:
            raise UnsupportedError(
                "Compiled encoders: expected to see the inputs of their layers. Found none, because they ran (and were "
                "compiled) before the method was made. Make the method first, or call torch.compiler.reset() after "
                "making it."
            )


def recorded_call(
    module: nn.Module, inputs: Any, layers: Sequence[nn.Module], detach: bool = True
) -> tuple[Any, list[list[Tensor]]]:
    """The output of a module, and what each of the layers in it was given; as :func:`recorded_inputs` does it.

    What is given to a layer that is the module itself, or a step of a sequence, takes no hook to see.

    Args:
        module: called once.
        inputs: its argument.
        layers: linear layers or convolutions; those outside the module see nothing.
        detach: without their history.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> output, ((seen,),) = recorded_call(layer, torch.ones(3, 2), [layer])
        >>> seen.shape
        torch.Size([3, 2])
    """
    steps = _steps_of(module)
    seen: dict[nn.Module, list[Tensor]] = {}
    for layer in layers:
        if layer not in steps or layer._forward_pre_hooks:
            break
        seen[layer] = []
    else:
        for step in steps:
            if step in seen:
                seen[step].append(inputs.detach() if detach else inputs)
            inputs = step(inputs)
        return inputs, [seen[layer] for layer in layers]
    with recorded_inputs(layers, detach) as recorded:
        output = module(inputs)
        return output, [list(own) for own in recorded]


def _steps_of(module: nn.Module) -> list[nn.Module]:
    """What a plain sequence calls one after the other; a module that is anything more is its own only step."""
    if type(module) is not nn.Sequential or module._compiled_call_impl is not None or has_hooks(module):
        return [module]
    return [step for child in module._modules.values() if child is not None for step in _steps_of(child)]


def recompiles(limit: int = 64) -> contextlib.AbstractContextManager[Any]:
    """Room for one compiled version of a loss per modality, input shape and mode; torch's default is 8."""
    return torch._dynamo.config.patch(recompile_limit=limit)  # type: ignore[no-any-return]
