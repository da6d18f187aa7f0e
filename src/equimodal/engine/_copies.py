"""An engine beside another one: the same features, for a copy of the parameters and with fresh optimizers."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from equimodal.engine._plain import PlainEngine

_STATE = ("defaults", "state", "param_groups")


def fresh_optimizer(optimizer: Optimizer, counterparts: Mapping[int, nn.Parameter]) -> Optimizer | None:
    """An optimizer of the same class and settings, learning rates of now included, that has not stepped yet.

    It is made by the constructor where all arguments of that are known; else the object is copied without its state.

    Args:
        optimizer: is not changed.
        counterparts: from the identity of a parameter to the one that takes its place; others are left out.

    Returns:
        ``None`` where no parameter has a counterpart.

    Example:
        >>> import torch
        >>> old, new = (nn.Parameter(torch.ones(1)) for _ in range(2))
        >>> optimizer = torch.optim.SGD([old], lr=0.1, momentum=0.9)
        >>> optimizer.param_groups[0]["lr"] = 0.01  # by a schedule
        >>> fresh = fresh_optimizer(optimizer, {id(old): new})
        >>> fresh.param_groups[0]["params"][0] is new, fresh.param_groups[0]["lr"]
        (True, 0.01)
    """
    groups = []
    for group in optimizer.param_groups:
        own = [counterparts[id(p)] for p in group["params"] if id(p) in counterparts]
        if own:
            settings = {k: copy.deepcopy(v) for k, v in group.items() if k not in ("params", "param_names")}
            groups.append({**settings, "params": own})
    if not groups:
        return None
    made: Any = type(optimizer)
    arguments = list(inspect.signature(made).parameters.values())[1:]
    known = {a.name for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)}
    if len(known) == len(arguments) and known <= set(optimizer.defaults):
        # what has a default without being an argument is a counter; what has none is the user's own
        counters = set(optimizer.defaults) - known
        kept = [{k: v for k, v in group.items() if k not in counters} for group in groups]
        result: Optimizer = made(kept, **{k: copy.deepcopy(optimizer.defaults[k]) for k in known})
        return result
    result = made.__new__(made)
    state = {"defaults": dict(optimizer.defaults), "state": defaultdict(dict), "param_groups": groups}
    result.__setstate__(state)
    for name, value in vars(optimizer).items():
        if name not in _STATE and not name.startswith("_") and not callable(value):
            setattr(result, name, copy.deepcopy(value))
    return result


def engine_beside(engine: PlainEngine, optimizers: Sequence[Optimizer]) -> PlainEngine:
    """An engine with the same clipping, precision, loss scale of now, compilation and checks, for other optimizers."""
    return PlainEngine(
        optimizers,
        clip_norm=engine.clip_norm,
        autocast=engine.autocast,
        scaler=None if engine._scale is None else copy.deepcopy(engine._scale.scaler),
        compile=False if engine._compiled is None else engine._compiled.options,
        check_finite=engine.check_finite,
    )
