from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from equimodal.errors import ModelError, UnsupportedError
from equimodal.fusion import Late
from equimodal.tasks import Task
from equimodal.unimodal._base import UnimodalOutputs
from equimodal.unimodal._heads import OwnHeads
from equimodal.unimodal._masked import Masked
from equimodal.unimodal._shapley import Shapley
from equimodal.unimodal._split import Split

Way = Literal["split", "heads", "masked", "shapley", "prototype"]
_SIMPLE: dict[str, Callable[[nn.Module], UnimodalOutputs]] = {"split": Split, "masked": Masked, "shapley": Shapley}


def unimodal_outputs(way: Way | nn.Module | None, model: nn.Module, task: Task) -> nn.Module | None:
    """The object for ``way``: a name, an object of this page made for the same model, or a module of your own.

    Raises:
        ModelError, UnsupportedError: the model does not allow it, or the way needs an object: own heads need a loss,
            prototypes need training data.
    """
    if way is None or (isinstance(way, nn.Module) and not isinstance(way, UnimodalOutputs)):
        return way
    if isinstance(way, UnimodalOutputs):
        if way._model[0] is not model:
            raise ModelError(f"`unimodal`: expected {type(way).__name__} made for this model. Found one for another.")
        return way
    if way in _SIMPLE:
        return _SIMPLE[way](model)
    if way == "heads":
        if isinstance(getattr(model, "fusion", None), Late):
            return OwnHeads(model, task)
        raise UnsupportedError(
            "`unimodal`: 'heads' needs a loss that trains them, which this method does not have. Use the method "
            "MultiLoss, a Late fusion, or an OwnHeads object with heads that are trained."
        )
    if way == "prototype":
        raise UnsupportedError(
            "`unimodal`: 'prototype' needs prototypes of the training data. Give a Prototype object and call its fit."
        )
    raise ModelError(
        f"`unimodal`: expected 'split', 'masked', 'shapley', an object of equimodal.unimodal or None. Found {way!r}."
    )
