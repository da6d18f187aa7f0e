"""What methods find in a pass over the training samples: rankings, and tables of numbers per sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from equimodal import Batch, Classification
from equimodal.methods import EpochContext, Joint
from equimodal.methods.parts import ranking_by, training_table
from equimodal.testing import ToyData
from tests.methods.toys import linear_model, random_batch


def test_a_ranking_is_over_the_samples_that_have_the_modality() -> None:
    """a is right in 3 of 4 samples; b in 2 of its 2, and wrong in those that lack it."""
    method = Joint(linear_model(2), Classification(3)).double()
    batch = random_batch(2, 4)
    y = torch.tensor([0, 1, 2, 0])
    present = {"b": torch.tensor([True, True, False, False])}
    guesses = {"a": torch.tensor([0, 1, 2, 1]), "b": torch.tensor([0, 1, 0, 1])}

    def outputs(_: Batch) -> dict[str, Tensor]:
        assert not method.training
        return {m: torch.nn.functional.one_hot(g, 3).double() for m, g in guesses.items()}

    method.train()
    assert ranking_by(method, [Batch(batch.inputs, y, present)], outputs) == ["a", "b"]
    assert ranking_by(method, [Batch(batch.inputs, y)], outputs) == ["b", "a"]
    assert method.training
    certain = ranking_by(method, [Batch(batch.inputs, y)], outputs, lambda z, t: (t[:1] * 0 + len(t), t[:1] * 0 + 1), 1)
    assert certain == ["a", "b"]  # of equal ones the first


class Half:
    """The loader of a process that has every other sample."""

    def __init__(self, whole: Any) -> None:
        self._whole, self.split = whole, whole.split

    def plan(self, *_: Any, **__: Any) -> None: ...

    def full_pass(self) -> Iterator[Batch]:
        for batch in self._whole.full_pass():
            assert batch.index is not None
            yield batch.select((batch.index % 2 == 0).nonzero()[:, 0])

    def __iter__(self) -> Iterator[Batch]:
        return self.full_pass()

    def __len__(self) -> int:
        return 1


def numbered(batch: Batch) -> dict[str, Tensor]:
    """Of b its number from 1, of a nothing."""
    assert batch.index is not None
    return {"b": (batch.index + 1).double()}


def test_a_table_knows_what_was_seen_and_what_is_there() -> None:
    method, batch = Joint(linear_model(2), Classification(3)).double(), random_batch(2, 12, absent=True)
    whole = ToyData([batch]).loader
    assert batch.present is not None
    masks = torch.stack([batch.present.get(m, torch.ones(12, dtype=torch.bool)) for m in method.modalities], 1)
    for loader, seen in ((whole, torch.ones(12)), (Half(whole), 1 - torch.arange(12) % 2)):
        context = EpochContext(0, loader=loader)
        table = training_table(method, context, numbered)
        assert table.loader is loader
        assert table.seen.tolist() == seen.bool().tolist()
        assert table.there.tolist() == (masks & seen.bool()[:, None]).tolist()
        assert table.values[:, 1].tolist() == (seen * torch.arange(1, 13)).tolist()
        assert not table.values[:, 0].any()
