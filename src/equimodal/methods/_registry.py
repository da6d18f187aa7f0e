"""The registry: one published method, one file, one name."""

from __future__ import annotations

from equimodal.errors import named
from equimodal.methods._base import Method
from equimodal.methods._cggm import CGGM
from equimodal.methods._ensemble import Ensemble, Unimodal
from equimodal.methods._joint import Joint
from equimodal.methods._mie import MIE
from equimodal.methods._mla import MLA
from equimodal.methods._modality_dropout import ModalityDropout
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._pretrain_finetune import PretrainFinetune

_METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (Joint, MultiLoss, Unimodal, Ensemble, PretrainFinetune, ModalityDropout, MLA, CGGM, MIE)
}


def available() -> list[str]:
    """Names of all methods, controls first.

    Example:
        >>> available()[-3:]
        ['MLA', 'CGGM', 'MIE']
    """
    return list(_METHODS)


def controls() -> list[str]:
    """Names of the controls."""
    return [name for name, method in _METHODS.items() if method.info.control]


def get(name: str) -> type[Method]:
    """The method of that name; upper and lower case are the same.

    Raises:
        UnknownNameError: with the nearest known names.

    Example:
        >>> get("mla").__name__
        'MLA'
    """
    return named("method", name, _METHODS)
