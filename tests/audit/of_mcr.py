"""MCR: where the released code departs from the paper."""

from __future__ import annotations

import torch
from torch import nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.fusion import Concat
from equimodal.methods import MCR
from tests.audit.differences import Shown, difference

REPOSITORY = {"repository": "kkontras/MCR", "commit": "338d37077bba8cc4a91c2b5c9bc6637b662eb82c"}


def total(game_weight: float, added: bool) -> float:
    """The loss of one step with two modalities."""
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {"a": nn.Linear(5, 4), "b": nn.Linear(3, 4)}
    model = MultimodalModel(encoders, Concat({"a": 4, "b": 4}), nn.Linear(8, 3)).double()
    weight = game_weight if added else 0.0
    method = MCR(model, Classification(3), game_weight=weight, contrast_weight=0.0, mode="independent")
    batch = Batch({"a": torch.randn(6, 5).double(), "b": torch.randn(6, 3).double()}, torch.arange(6) % 3)
    return float(method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), 0.1))).loss)


@difference(
    "MCR",
    **REPOSITORY,
    title="the regularizer of two modalities",
    paper="The loss has the game between the encoders as a term.",
    release="The class for two modalities computes and logs the game and returns the total without it.",
)
def game_of_two() -> Shown:
    """By how much the loss of one step changes from a game weight of 0 to one of 0.1."""
    change = [round(total(0.1, added) - total(0.0, added), 6) for added in (True, False)]
    assert change[0] != 0
    return Shown(paper=change[0], release=change[1], unit="change of the loss when the weight goes from 0 to 0.1")


@difference(
    "MCR",
    **REPOSITORY,
    title="functions of the divergence",
    paper="The divergence is computed of the softmax of outputs.",
    release="The module of layers is imported under the name by which functions are called, so they are not found.",
)
def functions() -> Shown:
    """`softmax` looked up in the module that the name stands for."""
    found = ["found", "found"]
    for row, module in enumerate((nn.functional, nn)):
        try:
            module.softmax  # noqa: B018
        except AttributeError as error:
            found[row] = type(error).__name__
    return Shown(paper=found[0], release=found[1], unit="looking up the function softmax")
