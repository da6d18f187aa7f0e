"""The inference model alone, as a file that runs without this library: ``torch.export`` or ONNX."""

from equimodal.export._export import export
from equimodal.export._model import InferenceModel, Statistics
from equimodal.export._program import Format
from equimodal.export._program import check_format as check_format
from equimodal.export._program import write_program as write_program

__all__ = ["Format", "InferenceModel", "Statistics", "export"]
