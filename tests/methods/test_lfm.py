"""LFM: the mix, who takes part in the alignment, and the loss written out."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.errors import MethodError, ModelError, UnsupportedError
from equimodal.fusion import Concat
from equimodal.methods import LFM, EpochContext
from equimodal.tasks import MultiLabel
from tests.helpers import sgd, weights

SIZES = {"a": 3, "b": 4, "c": 2}


def made(count: int, task: Any = None, width_of_b: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    widths = {m: width_of_b if m == "b" else 4 for m in list(SIZES)[:count]}
    encoders = {m: nn.Linear(SIZES[m], d) for m, d in widths.items()}
    model = MultimodalModel(encoders, Concat(widths), nn.Linear(sum(widths.values()), 3))
    return LFM(model, task or Classification(3), **options).double().train()


def data(count: int, absent: bool = False) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = {m: torch.randn(6, SIZES[m], generator=g, dtype=torch.float64) for m in list(SIZES)[:count]}
    present = {"a": torch.tensor([True, True, False, True, True, True]),
               "b": torch.tensor([True, False, True, True, False, True])} if absent else None  # fmt: skip
    return Batch(x, torch.tensor([0, 1, 2, 0, 1, 2]), present)


def written_out(method: Any, batch: Batch, epoch: int, kind: str) -> Tensor:
    """The loss, sample by sample."""
    names, y, n = list(method.modalities), batch.target, len(batch)
    assert y is not None

    def has(m: str, i: int) -> bool:
        return batch.present is None or m not in batch.present or bool(batch.present[m][i])

    z = {m: method.model.encoder(m)(batch.inputs[m]) for m in names}
    u = {m: method.heads[m](z[m]) for m in names}
    share = 1 - math.exp(-1 / (epoch + 1))
    fitting = torch.stack([
        -torch.log_softmax(torch.stack([u[m][i] for m in names if has(m, i)]).mean(0), 0)[y[i]] for i in range(n)
    ]).mean()  # fmt: skip
    terms = []
    if kind == "contrastive":
        for a, b in itertools.combinations(names, 2):
            both = [i for i in range(n) if has(a, i) and has(b, i)]
            for one, two in ((a, b), (b, a)):
                for i in both:
                    s = torch.stack([nn.functional.cosine_similarity(z[one][i], z[two][j], 0) / 0.1 for j in both])
                    terms.append(-torch.log_softmax(s, 0)[both.index(i)] / len(both) / 2)
        alignment = torch.stack(terms).sum() / math.comb(len(names), 2)
    else:
        for i in range(n):
            own = []
            for a, b in itertools.combinations([m for m in names if has(m, i)], 2):
                p, q = torch.softmax(u[a][i], 0), torch.softmax(u[b][i], 0)
                mean = (p + q) / 2
                own.append(((p * (p / mean).log()).sum() + (q * (q / mean).log()).sum()) / 2)
            terms.append(torch.stack(own).mean() if own else u["a"].sum() * 0)
        alignment = torch.stack(terms).mean()
    return (1 - share) * fitting + share * alignment


@pytest.mark.parametrize("kind", ["contrastive", "jensen_shannon"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_three_steps_of_the_loss_written_out(kind: Any, count: int, absent: bool) -> None:
    ours, batch = made(count, alignment=kind), data(count, absent)
    theirs = copy.deepcopy(ours)
    engine = sgd(ours, lr=0.1, momentum=0.0)
    for epoch in range(3):
        ours.on_train_epoch_start(EpochContext(epoch))
        ours.training_step(batch, engine)
        moved = [p for n, p in theirs.named_parameters() if "model.head" not in n]
        gradients = torch.autograd.grad(written_out(theirs, batch, epoch, kind), moved)
        with torch.no_grad():
            for p, g in zip(moved, gradients, strict=True):
                p -= 0.1 * g
    for name, value in weights(theirs).items():
        assert torch.allclose(weights(ours)[name], value, atol=1e-12, rtol=0), name


def test_alike_modalities_are_aligned() -> None:
    """Equal predictions: the divergence is 0 and the loss (1 - a) times the fitting; released: twice, its own a."""
    batch = data(2)
    for variant, share, factor in (("paper", 1 - math.exp(-1), 1), ("released", 1 - 2.04623704e-1, 2)):
        method = made(2, alignment="jensen_shannon", variant=variant)
        with torch.no_grad():
            for head in method.heads.heads:
                for p in head.parameters():
                    p.zero_()
        method.on_train_epoch_start(EpochContext(0))
        report = method.training_step(batch, sgd(method))
        assert float(report.losses["alignment"]) == pytest.approx(0, abs=1e-12)
        assert float(report.losses["joint"]) == pytest.approx(factor * (1 - share) * math.log(3), abs=1e-12)


def test_one_modality_per_sample_has_nothing_to_align() -> None:
    batch = data(2)
    first = torch.tensor([True, False] * 3)
    batch = Batch(batch.inputs, batch.target, {"a": first, "b": ~first})
    for kind in ("contrastive", "jensen_shannon"):
        method = made(2, alignment=kind)
        method.on_train_epoch_start(EpochContext(0))
        assert float(method.training_step(batch, sgd(method)).losses["alignment"]) == 0


def test_refusals() -> None:
    with pytest.raises(MethodError, match="on_train_epoch_start"):
        made(2).training_step(data(2), sgd(made(2)))
    with pytest.raises(ModelError, match="equal feature width"):
        made(2, width_of_b=5)
    made(2, width_of_b=5, alignment="jensen_shannon")
    with pytest.raises(UnsupportedError, match="`variant`"):
        made(2, MultiLabel(3), variant="released")
    with pytest.raises(MethodError, match="`temperature`"):
        made(2, temperature=0.0)
