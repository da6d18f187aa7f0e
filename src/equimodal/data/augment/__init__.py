"""Augmentations of training batches: per modality, seeded, the same after a restart.

``loader(data.train, 64, augment={"image": ["flip", "crop"], "audio": ["spec_mask"]})`` changes what the training
loader yields; validation and test are never touched. The numbers of a batch depend on the loader's seed, the epoch and
the number of the batch alone. Mixup is an option of the methods that use it (``MIE``: ``mixup_alpha``), since it
changes targets too.
"""

from equimodal.data.augment._augmentation import TOGETHER, Augmentation, available
from equimodal.data.augment._augmentation import Bound as Bound
from equimodal.data.augment._geometry import Crop, Flip, QuarterTurns, Rotate
from equimodal.data.augment._operation import Operation
from equimodal.data.augment._values import Colour, Noise, SpecMask

__all__ = [
    "TOGETHER",
    "Augmentation",
    "Colour",
    "Crop",
    "Flip",
    "Noise",
    "Operation",
    "QuarterTurns",
    "Rotate",
    "SpecMask",
    "available",
]
