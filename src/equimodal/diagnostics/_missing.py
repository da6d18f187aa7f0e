"""Scores against the rate at which modalities are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from equimodal.data import ALL, kept, uniforms
from equimodal.diagnostics._curve import Curve, curve_of
from equimodal.diagnostics._sweep import checked_levels, chosen_modalities, readers, repeated
from equimodal.methods import BatchLike, Method

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def missing_curves(
    method: Method,
    batches: Iterable[BatchLike],
    rates: Sequence[float] = RATES,
    *,
    modalities: Iterable[str] | None = None,
    draws: int = 5,
    seed: int = 0,
    metrics: bool = False,
) -> list[Curve]:
    r"""The score as each modality alone, and all together, are missing at random from more and more samples.

    At rate r a modality is taken away from each sample with probability r, independently, by the rule of
    :class:`~equimodal.data.Missing`: a sample that would lose everything keeps one, so at most a share of
    :math:`r - r^M / M` is absent when all M modalities are missing at rate r (``absent`` of the curve), and what is
    absent at a rate is absent at every higher one. Every sample counts at every rate.

    Args:
        method: trained.
        batches: with targets; passed over once. ``Batch.index`` decides what a sample loses, so the same samples lose
            the same for every method.
        rates: rising, in (0, 1]; 0 is added.
        modalities: which curves to make; all modalities by default. The curve ``"all"`` is about all of these, and is
            left out if there is only one.
        draws: how often modalities are drawn.
        seed: of the draws.
        metrics: compute the task's main metric too (needs the ``cli`` extra).

    Example:
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> model = MultimodalModel({m: nn.Linear(2, 2) for m in "ab"}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))
        >>> batch = Batch({"a": torch.eye(2), "b": torch.eye(2)}, torch.tensor([0, 1]))
        >>> [c.name for c in missing_curves(Joint(model, Classification(2)), [batch], [0.5])]
        ['a', 'b', 'all']
    """
    names = chosen_modalities(method, modalities)
    levels = checked_levels("rates", rates, 1.0)
    targets, tallies = repeated(method, names, levels, draws, seed, metrics)
    absent = {(t, r): (0, 0) for t in targets for r in levels}
    for reader in readers(method, batches):
        have = reader.available
        clean = reader.predict(have)
        for draw in range(draws):
            # draw 0 is that of the data themselves, which may have lost modalities already
            number = [uniforms(int(reader.rows.max()) + 1, m, seed, draw + 1)[reader.rows] for m in reader.names]
            for target, rate, _ in [key for key in tallies if key[2] == draw]:
                hit = np.array([m in names and target in (m, ALL) for m in reader.names])
                left = kept(have, rate * hit, np.stack(number, axis=1)) if rate else have
                tallies[target, rate, draw].add(*(reader.predict(left) if rate else clean))
                gone, had = absent[target, rate]
                absent[target, rate] = (gone + int((have & ~left)[:, hit].sum()), had + int(have[:, hit].sum()))
    metric = method.task.main_metric
    return [curve_of(t, "missing", levels, tallies, draws, metric, absent) for t in targets]
