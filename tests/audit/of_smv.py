"""SMV: what its repository computes."""

from __future__ import annotations

import torch

from tests.audit.differences import Shown, difference

REPOSITORY, COMMIT = "GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation", "7ed12b0"


@difference(
    "SMV",
    repository=REPOSITORY,
    commit=COMMIT,
    title="how samples are drawn at the modality level",
    paper="Each sample is drawn with a probability that follows from the gap between modalities.",
    release="That share of the number of samples is drawn with replacement, so some samples come twice.",
)
def draws() -> Shown:
    """Means 0.8 and 0.5 over 1000 samples: a share of 0.2."""
    share = 2 / 3 * abs((1 - 0.8) - (1 - 0.5))
    g = torch.Generator().manual_seed(0)
    paper = (torch.rand(1000, generator=g) < share).long()
    release = torch.bincount(torch.randint(1000, (int(share * 1000),), generator=g), minlength=1000)
    assert int(paper.max()) == 1
    return Shown(float(paper.max()), float(release.max()), "most often that one of 1000 samples is added, share 0.2")


@difference(
    "SMV",
    repository=REPOSITORY,
    commit=COMMIT,
    title="construction of the training set",
    paper="The training set is made, and training starts.",
    release="The scripts pass an argument `loader` that the constructor of the dataset does not take.",
)
def construction() -> Shown:
    class Data:
        """With the arguments that the released dataset has."""

        def __init__(self, mode: str, transforms: object = None) -> None:
            self.mode, self.transforms = mode, transforms

    outcome = "trains"
    try:
        Data(mode="train", loader=None)  # type: ignore[call-arg]
    except TypeError as error:
        outcome = type(error).__name__
    return Shown("trains", outcome, "what the released call of the constructor does")
