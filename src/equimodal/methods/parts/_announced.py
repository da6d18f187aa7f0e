"""What a method says where it was not told what it needs between epochs."""

from __future__ import annotations

from equimodal.errors import MethodError, ScheduleWarning
from equimodal.methods._base import Method, warn_once

_GIVEN = {"loader": "loader=train_loader", "validation": "loader=train_loader, validation=validation_loader"}


def lacking(method: Method, name: str, purpose: str, instead: str = "") -> MethodError:
    """The error of a context without something.

    Args:
        method: named in the error.
        name: of the field of the context.
        purpose: what the method does with it.
        instead: an option with which it is not needed.

    Example:
        >>> from torch import nn
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> model = MultimodalModel({"a": nn.Linear(3, 4)}, Concat({"a": 4}), nn.Linear(4, 2))
        >>> print(lacking(Joint(model, Classification(2)), "loader", "ranks the modalities"))
        `context.loader`: Joint ranks the modalities. Found None. Give EpochContext(epoch, loader=train_loader).
    """
    other = f", or use {instead}" if instead else ""
    return MethodError(
        f"`context.{name}`: {type(method).__name__} {purpose}. Found None. Give EpochContext(epoch, "
        f"{_GIVEN.get(name, name)}){other}."
    )


def unannounced(method: Method, context: str = "epoch", instead: str = "") -> MethodError:
    """The error of a step before the first epoch was announced.

    Args:
        method: named in the error.
        context: what the context has to have.
        instead: an option with which no epoch is needed.
    """
    other = f", or use {instead}" if instead else ""
    return MethodError(
        f"{type(method).__name__} needs to know the epoch. Call method.on_train_epoch_start(EpochContext({context})) "
        f"before each epoch{other}."
    )


def warn_unannounced(method: Method, consequence: str, context: str = "epoch", instead: str = "") -> None:
    """Warn, once, that no epoch was announced.

    Args:
        method: named in the warning.
        consequence: what it does without.
        context: what the context has to have.
        instead: an option with which no epoch is needed.
    """
    other = f", or use {instead}" if instead else ""
    message = (
        f"{type(method).__name__} does not know the epoch, so {consequence}. Call method.on_train_epoch_start("
        f"EpochContext({context})) before each epoch{other}."
    )
    warn_once(method, message, ScheduleWarning, 4)
