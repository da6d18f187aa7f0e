"""Gradient projectors: the import path of version 0.1 for what :mod:`equimodal.projection` has."""

from equimodal.projection import (
    FlatProjector,
    InputCovariance,
    Layer,
    OrthogonalProjector,
    input_width,
    layer_inputs,
    project_gradient,
    projectable_layers,
)

__all__ = [
    "FlatProjector",
    "InputCovariance",
    "Layer",
    "OrthogonalProjector",
    "input_width",
    "layer_inputs",
    "project_gradient",
    "projectable_layers",
]
