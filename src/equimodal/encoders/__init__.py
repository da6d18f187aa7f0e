"""Small encoders: plain modules from one modality's input to features (B, d). Any other module is as good."""

from equimodal.encoders._conv1d import Conv1d
from equimodal.encoders._conv2d import Conv2d
from equimodal.encoders._for_modality import Columns, EncoderName, Size, Spec, for_modality
from equimodal.encoders._gru import GRU
from equimodal.encoders._mlp import MLP

__all__ = ["GRU", "MLP", "Columns", "Conv1d", "Conv2d", "EncoderName", "Size", "Spec", "for_modality"]
