"""Where the output of a modality alone comes from: five explicit ways, each with its conditions.

A way is an object, called as ``way(features, present)``, that gives modality -> output. It holds the model without
owning its parameters. None of them is ever guessed: what a model does not allow is refused when the object is made.
"""

from equimodal.unimodal._base import UnimodalOutputs
from equimodal.unimodal._heads import OwnHeads
from equimodal.unimodal._masked import Masked
from equimodal.unimodal._prototype import Prototype
from equimodal.unimodal._resolve import Way, unimodal_outputs
from equimodal.unimodal._shapley import Shapley
from equimodal.unimodal._split import Split

__all__ = ["Masked", "OwnHeads", "Prototype", "Shapley", "Split", "UnimodalOutputs", "Way", "unimodal_outputs"]
