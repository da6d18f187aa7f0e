"""The error of a split in a place where it must not be."""

from __future__ import annotations

from equimodal.errors import EquimodalError


class SplitError(EquimodalError, TypeError):
    """A split of the wrong kind was passed, for example the test split to training or to model choice."""
