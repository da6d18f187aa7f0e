"""Projection of gradients on the input space of linear layers: one object per layer, different spectra."""

from equimodal.projection._bank import FlatBank, Key, branch_layers, corresponding
from equimodal.projection._layers import (
    FlatProjector,
    InputCovariance,
    Layer,
    OrthogonalProjector,
    channels_as_rows,
    input_width,
    is_pointwise,
    layer_inputs,
    project_gradient,
    projectable_layers,
)

__all__ = [
    "FlatBank",
    "FlatProjector",
    "InputCovariance",
    "Key",
    "Layer",
    "OrthogonalProjector",
    "branch_layers",
    "channels_as_rows",
    "corresponding",
    "input_width",
    "is_pointwise",
    "layer_inputs",
    "project_gradient",
    "projectable_layers",
]
