"""Toy models and the properties that every method must have, for tests of methods inside and outside this library.

It needs torch and numpy only, and no test framework. A property that does not hold raises
:class:`~equimodal.errors.PropertyError`, which is also an ``AssertionError``.
"""

from equimodal.testing._absence import absent_pair as absent_pair
from equimodal.testing._cases import SIZES as SIZES
from equimodal.testing._cases import Case, settings_of
from equimodal.testing._cases import choices_of as choices_of
from equimodal.testing._check import PROPERTIES, Report, check_method
from equimodal.testing._check import checks_of as checks_of
from equimodal.testing._data import ToyData
from equimodal.testing._engine_features import vectors as vectors
from equimodal.testing._engines import Overflowing as Overflowing
from equimodal.testing._engines import Watched as Watched
from equimodal.testing._engines import scaler as scaler
from equimodal.testing._engines import spoilt as spoilt
from equimodal.testing._expect import NotApplicable as NotApplicable
from equimodal.testing._expect import expect_identical as expect_identical
from equimodal.testing._expect import expect_near as expect_near
from equimodal.testing._loops import adamw as adamw
from equimodal.testing._loops import announce as announce
from equimodal.testing._loops import sgd as sgd
from equimodal.testing._loops import single as single
from equimodal.testing._loops import split as split
from equimodal.testing._loops import take as take
from equimodal.testing._loops import tensors as tensors
from equimodal.testing._loops import train
from equimodal.testing._loops import weights as weights
from equimodal.testing._models import CLASSES as CLASSES
from equimodal.testing._models import NAMES as NAMES
from equimodal.testing._models import WIDTH as WIDTH
from equimodal.testing._models import Convolution as Convolution
from equimodal.testing._models import mlp as mlp
from equimodal.testing._models import plain_batch as plain_batch
from equimodal.testing._models import plain_model as plain_model
from equimodal.testing._models import toy_batch, toy_model
from equimodal.testing._models import toy_encoders as toy_encoders
from equimodal.testing._optimizers import OPTIMIZERS as OPTIMIZERS
from equimodal.testing._optimizers import Lion as Lion
from equimodal.testing._optimizers import ScheduleFree as ScheduleFree
from equimodal.testing._processes import Job as Job
from equimodal.testing._processes import judge as judge
from equimodal.testing._processes import work as work
from equimodal.testing._property import Check as Check
from equimodal.testing._property import Property as Property
from equimodal.testing._task_models import TASKS, task_batch, task_model
from equimodal.testing._task_models import Maps as Maps
from equimodal.testing._task_models import spatial_of as spatial_of
from equimodal.testing._task_models import task_target as task_target

__all__ = [
    "PROPERTIES",
    "TASKS",
    "Case",
    "Report",
    "ToyData",
    "check_method",
    "settings_of",
    "task_batch",
    "task_model",
    "toy_batch",
    "toy_model",
    "train",
]
