"""Projection of gradients on the input space of linear layers: one object per layer, different spectra."""

from equimodal.projection._bank import FlatBank, Key, branch_layers, corresponding
from equimodal.projection._kinds import Flat, NoProjection, Orthogonal
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
    "Flat",
    "FlatBank",
    "FlatProjector",
    "InputCovariance",
    "Key",
    "Layer",
    "NoProjection",
    "Orthogonal",
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
