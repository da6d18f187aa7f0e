"""The controls that every comparison needs, as they say themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from equimodal.methods import ROLES, controls, get


@cache
def required_controls() -> Mapping[str, str]:
    """Role -> name of the control that has it, in the order of :data:`equimodal.methods.ROLES`.

    The controls of other packages have none: what a comparison needs does not depend on what is installed.

    Example:
        >>> list(required_controls())
        ['reference', 'baseline', 'single', 'independent']
    """
    names: dict[str, str] = {}
    for name in controls(outside=False):
        names.setdefault(get(name).info.role, name)
    return {role: names[role] for role in ROLES}


def role_of(name: str) -> str:
    """The role of the method of that name; empty for one that is not required, or not known here."""
    return next((role for role, control in required_controls().items() if control == name), "")


CONTROLS = tuple(required_controls().values())
"""Methods without which a comparison proves nothing."""
