"""Scores against the level of noise on the inputs of one modality, or of several at once."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from equimodal.batch import Tree
from equimodal.data import ALL
from equimodal.diagnostics._curve import Curve, curve_of
from equimodal.diagnostics._sweep import Reader, checked_levels, chosen_modalities, readers, repeated
from equimodal.diagnostics.noise._kinds import ENDLESS, MEASURED, Corruption, Spread, check_noises, noise_of
from equimodal.errors import MethodError
from equimodal.methods import BatchLike, Method

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def noise_curves(
    method: Method,
    batches: Iterable[BatchLike],
    spread: Mapping[str, Sequence[Spread]],
    noise: Mapping[str, str | None] | Iterable[str] | None = None,
    levels: Sequence[float] = LEVELS,
    *,
    draws: int = 3,
    seed: int = 0,
    metrics: bool = False,
) -> list[Curve]:
    r"""The score as the inputs of each modality alone, and of all together, get worse (MultiBench, Liang et al. 2021).

    The kinds of noise and their formulas are in :class:`~equimodal.diagnostics.Corruption`. A sample's noise grows with
    the level and does not change otherwise. Draws depend on the order of the samples alone, so every method is given
    the same.

    Args:
        method: trained.
        batches: with targets; passed over once, in a fixed order.
        spread: of :func:`input_spread` over training data: the unit of the noise.
        noise: modality -> kind, or names of modalities; ``None`` as a kind is gaussian for numbers and drop_steps for
            token ids. All modalities by default. The curve ``"all"`` is about all of these at the same level, and is
            left out if there is only one.
        levels: rising, above 0 (up to 1; deviations, of the kinds of Gaussian noise, without end); 0 is added.
        draws: how often noise is drawn.
        seed: of the draws.
        metrics: compute the task's main metric too (needs the ``cli`` extra).

    Raises:
        UnsupportedError: a kind of noise does not fit the inputs.
        UnknownNameError: an unknown modality or kind.

    Example:
        >>> from torch import nn
        >>> from equimodal import Batch, Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> model = MultimodalModel({m: nn.Linear(2, 2) for m in "ab"}, Concat({"a": 2, "b": 2}), nn.Linear(4, 2))
        >>> from equimodal.diagnostics import input_spread
        >>> data = [Batch({"a": torch.eye(2), "b": torch.eye(2)}, torch.tensor([0, 1]))]
        >>> [c.kind for c in noise_curves(Joint(model, Classification(2)), data, input_spread(data), ["a"])]
        ['gaussian']
    """
    given = dict(noise) if isinstance(noise, Mapping) else dict.fromkeys(chosen_modalities(method, noise))
    names = chosen_modalities(method, given)
    check_noises(given)
    steps = checked_levels("levels", levels, None)
    targets, tallies = repeated(method, names, steps, draws, seed, metrics)
    streams = {(m, d): _stream(seed, d, m) for m in names for d in range(draws)}
    kinds: dict[str, Corruption] = {}
    for reader in readers(method, batches):
        _add_kinds(kinds, reader, names, given, spread, steps[-1])
        clean = reader.predict(reader.available)
        inputs = {m: reader.batch.inputs[m] for m in names if m in reader.names}
        for draw in range(draws):
            drawn = {m: kinds[m].draw(x, streams[m, draw]) for m, x in inputs.items()}
            for level in steps if draw == 0 else steps[1:]:
                spoilt: dict[str, Tree] = {m: kinds[m].apply(x, drawn[m], level) for m, x in inputs.items()}
                for target in targets:
                    hit = {m: x for m, x in spoilt.items() if target in (m, ALL)}
                    found = reader.predict(reader.available, hit) if level and hit else clean
                    tallies[target, level, draw].add(*found)
    shown = {m: kinds[m].kind if m in kinds else "none" for m in names}
    shown[ALL] = "+".join(dict.fromkeys(shown.values()))
    return [curve_of(t, shown[t], steps, tallies, draws, method.task.main_metric) for t in targets]


def _stream(seed: int, draw: int, modality: str) -> np.random.Generator:
    return np.random.default_rng([seed, draw, zlib.crc32(modality.encode()), 1])


def _add_kinds(
    kinds: dict[str, Corruption],
    reader: Reader,
    names: Iterable[str],
    given: Mapping[str, str | None],
    spread: Mapping[str, Sequence[Spread]],
    highest: float,
) -> None:
    for m in names:
        if m in kinds or m not in reader.names:
            continue
        kind = noise_of(given[m], reader.batch.inputs[m])
        if kind in MEASURED and m not in spread:
            raise MethodError(f"`spread`: expected statistics of {m!r} from input_spread(). Found {sorted(spread)}.")
        if kind not in ENDLESS and highest > 1:
            raise MethodError(f"`levels`: expected numbers up to 1 for {kind}. Found {highest}.")
        kinds[m] = Corruption(kind, m, spread.get(m, ()))
