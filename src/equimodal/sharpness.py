"""Sharpness-aware gradients: the import path of version 0.1 for what :mod:`equimodal.engine` has."""

from equimodal.engine import Sharpness

__all__ = ["Sharpness"]
