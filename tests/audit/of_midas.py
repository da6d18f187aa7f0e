"""MIDAS: where the released code departs from the paper."""

from __future__ import annotations

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.functional import weak_weights
from equimodal.fusion import Concat
from equimodal.methods import MIDAS
from tests.audit.differences import Shown, difference

REPOSITORY = {
    "repository": "Seong-HyeonHwang/MIDAS_NeurIPS2025",
    "commit": "d25b225222f5f0e03e48c1d1d4c2da3387006a76",
}
F64 = torch.float64


def midas(classes: int) -> MIDAS:
    """On a small model of two modalities, without warm-up."""
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {m: nn.Linear(2, 2) for m in ("a", "b")}
    model = MultimodalModel(encoders, Concat({"a": 2, "b": 2}), nn.Linear(4, classes)).double()
    return MIDAS(model, Classification(classes), warm_up=0).double()


def batch_of(size: int, classes: int) -> Batch:
    return Batch({m: torch.ones(size, 2, dtype=F64) for m in ("a", "b")}, torch.arange(size) % classes)


@difference(
    "MIDAS",
    **REPOSITORY,
    title="whose weight alpha is",
    paper="Every modality has its alpha; it is 1 but for the least confident modality.",
    release="One number serves both: when another modality becomes the weak one, it inherits what the first reached.",
)
def owner() -> Shown:
    """Audio had reached 1.3; now video is the less confident one, and followed less than its confidence says."""
    alpha, eta = torch.tensor([1.3, 1.0], dtype=F64), 0.05
    confidence, followed = torch.tensor([0.6, 0.4], dtype=F64), torch.tensor([0.7, 0.3], dtype=F64)
    paper = weak_weights(alpha, confidence, followed, eta)
    assert paper.tolist() == [1.0, 1.05]
    return Shown(paper=round(float(paper[1]), 4), release=round(1.3 + eta, 4), unit="weight of video after the step")


@difference(
    "MIDAS",
    **REPOSITORY,
    title="partners of the same class",
    paper="A sample's other modalities are taken from samples of another class.",
    release="A random permutation of the batch pairs samples, those of one class and a sample with itself too.",
)
def partners() -> Shown:
    """A batch of 40 samples of two classes."""
    batch = midas(2).prepare([batch_of(40, 2)])[0]
    labels = torch.arange(40) % 2
    (drawn,) = (v for v in batch.extras.values() if isinstance(v, torch.Tensor))
    own = drawn == torch.arange(40)[:, None]  # the modality that stays
    assert bool((own.sum(1) == 1).all())
    ours = float((labels[drawn] == labels[:, None])[~own].double().mean())
    permutation = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    theirs = float((labels[permutation] == labels).double().mean())
    assert ours == 0
    assert theirs > 0
    return Shown(paper=ours, release=round(theirs, 4), unit="share of pairs of one class")


@difference(
    "MIDAS",
    **REPOSITORY,
    title="the unimodal losses",
    paper="They are added up.",
    release="Their mean is taken, so with two modalities each counts half against the fused loss.",
)
def unimodal_losses() -> Shown:
    """A model whose outputs are all zero: every cross-entropy is log 3."""
    method = midas(3)
    with torch.no_grad():
        for p in method.parameters():
            p.zero_()
    batch = method.prepare([batch_of(6, 3)])[0]
    (phase,) = method.phases([batch])
    losses = phase.objective(batch).losses
    own = [float(v) for name, v in losses.items() if name.startswith("unimodal/")]
    assert len(own) == 2
    return Shown(paper=round(sum(own), 4), release=round(sum(own) / 2, 4), unit="unimodal part of the loss")


@difference(
    "MIDAS",
    **REPOSITORY,
    title="settings of the runs",
    paper="The settings of the experiments, such as batches of 64.",
    release="They are attributes of a class, but only those of the instance are read: batch size, rate and epochs are "
    "missing, and fall-backs hold unless they are given on the command line.",
)
def settings() -> Shown:
    """A class of settings, read in the same way; 4 is the fall-back."""

    class Settings:
        batch_size = 64

        def __init__(self) -> None:
            self.root = "data"

    found = vars(Settings())
    assert found == {"root": "data"}
    return Shown(paper=Settings.batch_size, release=int(found.get("batch_size", 4)), unit="batch size")


@difference(
    "MIDAS",
    **REPOSITORY,
    title="when alpha grows, on Kinetics-Sounds",
    paper="The weight of the weak modality grows while the fused prediction follows it less than its confidence says.",
    release="Where audio is the weak one the fused ratio is inverted and the unimodal one is not, so alpha also grows "
    "when the prediction follows audio enough.",
)
def inverted() -> Shown:
    """Audio has 0.4 of the confidence and 0.45 of the fused prediction."""
    confidence, followed = torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([0.45, 0.55], dtype=F64)
    paper = weak_weights(torch.tensor([1.2, 1.0], dtype=F64), confidence, followed, 0.05)
    unimodal, fused = float(confidence[0] / confidence[1]), float(followed[1] / followed[0])
    release = 1.2 + (0.05 if fused > unimodal else -0.05)
    return Shown(paper=round(float(paper[0]), 4), release=round(release, 4), unit="alpha of audio, 1.2 before the step")
