"""The score of a modality is over the samples that have it, for every method, and its count stands beside it."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from equimodal import Batch
from equimodal.diagnostics import evaluate, sample_outcomes
from equimodal.errors import UnsupportedError
from equimodal.methods import available, measure
from equimodal.tasks import score
from tests.faults.families import many
from tests.helpers import make_batch, make_method


@pytest.mark.parametrize("name", available(outside=False))
def test_each_modality_is_scored_over_the_samples_that_have_it(name: str) -> None:
    for rng in many(2, seed=40):
        count = int(rng.integers(2, 4))
        try:
            method = make_method(name, count, seed=int(rng.integers(100))).eval()
        except UnsupportedError as reason:
            pytest.skip(str(reason))
        whole = make_batch(count, 40, seed=int(rng.integers(100)))
        present = {m: torch.from_numpy(rng.random(40) > 0.4) for m in whole.inputs}
        present[next(iter(present))] |= ~torch.stack(list(present.values())).any(0)
        whole = Batch(whole.inputs, whole.target, present)
        batches = [whole.select(torch.arange(40)[i : i + 7]) for i in range(0, 40, 7)]
        method.fit_inference(batches)
        found, measured, outcomes = (
            evaluate(method, batches),
            measure(method, batches),
            sample_outcomes(method, batches),
        )
        for m, value in found.unimodal.items():
            rows = present[m]
            alone = whole.select(rows.nonzero()[:, 0])
            target = cast(torch.Tensor, alone.target)
            with torch.no_grad():
                output = method.predict(alone.inputs, alone.present).unimodal[m]
            assert value == pytest.approx(float(score(method.task, output, target)), abs=1e-6)
            assert found.counts[m] == int(rows.sum())
            assert measured.scores[m] == pytest.approx(value, abs=1e-6)
            own = outcomes[f"unimodal/{m}"]
            assert np.count_nonzero(own.denominator.any(1)) == int(rows.sum())
        assert found.samples == 40
