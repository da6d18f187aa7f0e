"""Encoders: modules from one modality's input to its features. Any other module is as good."""

from equimodal.encoders._ast import AST
from equimodal.encoders._bert import BERT
from equimodal.encoders._clip import CLIPText, CLIPVision
from equimodal.encoders._conv1d import Conv1d
from equimodal.encoders._conv2d import Conv2d
from equimodal.encoders._encoder import Encoder, Frozen, LoRA
from equimodal.encoders._for_modality import FITTING as FITTING
from equimodal.encoders._for_modality import Columns, EncoderName, Size, Spec, for_modality
from equimodal.encoders._gru import GRU
from equimodal.encoders._mlp import MLP
from equimodal.encoders._resnet import ResNet
from equimodal.encoders._sequence_transformer import TextTransformer, Transformer
from equimodal.encoders._text_conv import TextConv
from equimodal.encoders._unet import UNet
from equimodal.encoders._video import VideoResNet
from equimodal.encoders._vit import ViT

__all__ = [
    "AST",
    "BERT",
    "GRU",
    "MLP",
    "CLIPText",
    "CLIPVision",
    "Columns",
    "Conv1d",
    "Conv2d",
    "Encoder",
    "EncoderName",
    "Frozen",
    "LoRA",
    "ResNet",
    "Size",
    "Spec",
    "TextConv",
    "TextTransformer",
    "Transformer",
    "UNet",
    "ViT",
    "VideoResNet",
    "for_modality",
]
