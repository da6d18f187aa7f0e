"""Training on one of several losses alone, for runs aside."""

from __future__ import annotations

from functools import partial
from typing import Any

from equimodal.batch import Batch
from equimodal.engine import Objective
from equimodal.inference import Inference
from equimodal.methods._base import Method
from equimodal.methods.parts._heads import unimodal_phase
from equimodal.methods.parts._stages import joint_phase
from equimodal.tasks import distribution_of


def train_alone(method: Any, name: str) -> None:
    """Let a method train one loss alone from now on, and predict by its joint head: for the copy of a probe run.

    Args:
        method: has own ``heads``, one per modality.
        name: of a modality, whose encoder and head are trained, or ``"fused"``: the model, and none of these heads.
    """
    if name == "fused":
        phase = joint_phase(method, partial(_fused_loss, method))
    else:
        phase = unimodal_phase(method, name, method.heads[name])
    method.phases = lambda _: [phase]
    rule = Inference(method.modalities, "fused", distribution=distribution_of(method.task))
    method.inference = rule.to(next(method.parameters()).device)


def _fused_loss(method: Method, batch: Batch) -> Objective:
    features = method.multimodal.encode(batch.inputs, batch.present)
    return Objective(method.loss(method.multimodal.head(method.multimodal.fuse(features, batch.present)), batch))
