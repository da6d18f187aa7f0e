"""What an engine looks at before it trains a method for the first time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from equimodal.engine._features import refuse
from equimodal.engine._processes import check_wrappers, is_distributed
from equimodal.engine._recording import is_compiled, watch
from equimodal.engine._sharding import check_sharding
from equimodal.errors import UnsupportedError


class Examined(NamedTuple):
    """What was found out about a method.

    Args:
        features: engine features that it does not refuse.
        sharded: the modalities whose encoders are sharded.
    """

    features: set[str]
    sharded: tuple[str, ...]


def examine(module: nn.Module, autocast: torch.dtype | None, scaled: bool, compiled_loss: bool) -> Examined:
    """Refuse what the method cannot do.

    Args:
        module: the method.
        autocast: type of the forward passes, ``None`` for that of the weights.
        scaled: there is a loss scale.
        compiled_loss: the engine compiles whole losses.

    Raises:
        UnsupportedError: with the method's sentence, or for parameters in half precision, wrapped, or sharded otherwise
            than :func:`~equimodal.engine.check_sharding` allows.
    """
    check_wrappers(module)
    sharded = check_sharding(module)
    if scaled and any(p.dtype == torch.float16 for p in module.parameters()):
        raise UnsupportedError(
            "`model`: expected float32 parameters under a loss scaler. Found float16. Keep the weights in float32; "
            "autocast runs the forward passes in float16."
        )
    compiled = is_compiled(module)
    unproven = "a loss scale" if scaled else "torch.compile" if compiled or compiled_loss else None
    if sharded and unproven is not None:
        raise UnsupportedError(
            f"`model`: expected whole encoders with {unproven}. Found {list(sharded)} sharded: a process would see the "
            "overflows of its own part only, and a compiler does not see what gathers the weights. Use "
            "autocast=torch.bfloat16 without compilation, or whole encoders."
        )
    if compiled or compiled_loss:
        watch(module, everywhere=compiled_loss)
    features = {
        "processes": is_distributed(),
        "sharded": bool(sharded),
        "bfloat16": autocast is torch.bfloat16,
        "float16": scaled,
        "compile": compiled,
        "compiled-loss": compiled_loss,
    }
    used = {name for name, present in features.items() if present}
    for name in features:
        if name in used:
            refuse(module, name)
    return Examined(used, sharded)
