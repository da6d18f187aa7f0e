"""Demonstrations about MLA (Zhang et al., CVPR 2024)."""

from __future__ import annotations

import torch
from torch import nn

from equimodal.functional import orthogonal_projector_update, uncertainty_weights
from equimodal.methods.released import batch_weights
from tests.audit.differences import Shown, difference

REPOSITORY = "Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation"


@difference(
    "MLA", repository=REPOSITORY, commit="11ae1ee5aee9ecd7db2aefa16f9b44d2ea548c89",
    title="gradient projection",
    paper="The head's gradient loses its part along the features that the modality before has shown.",
    release="The projection is applied to a parameter named module.weight; the head that it is given has none.",
)  # fmt: skip
def projection_does_not_run() -> Shown:
    head = nn.Linear(2, 1, bias=False)
    gradient, feature = torch.tensor([[1.0, 1.0]]), torch.tensor([1.0, 0.0])
    projector = orthogonal_projector_update(torch.eye(2), feature, alpha=0.01)
    found = [name for name, _ in head.named_parameters()]
    released = gradient @ projector if "module.weight" in found else gradient
    return Shown(round(float((gradient @ projector)[0, 0]), 4), float(released[0, 0]), "gradient along that feature")


@difference(
    "MLA", repository=REPOSITORY, commit="11ae1ee5aee9ecd7db2aefa16f9b44d2ea548c89",
    title="entropy weights",
    paper="Each sample weighs its modalities by the entropies of its own predictions.",
    release="The softmax of the entropy runs over the batch: one weight for all, which depends on the other samples.",
)  # fmt: skip
def weights_of_a_batch() -> Shown:
    sure, unsure = torch.tensor([3.0, 0.0]), torch.tensor([0.2, 0.0])
    pairs = []
    for other in (sure, 3 * sure):
        z = {"audio": torch.stack([sure, other]), "video": torch.stack([unsure, unsure])}
        pairs.append((float(uncertainty_weights(z)["audio"][0]), float(batch_weights(z)["audio"][0])))
    (paper, released), (again, elsewhere) = pairs
    return Shown((paper, again), (released, elsewhere), "weight of audio in one sample, beside two different samples")
