"""Measure how far the embedded dataset is unbalanced at some setting of its noise dial (the table of docs/data.md).

    python scripts/measure_avdigits.py [--image 0.5] [--audio 0.7] [--epochs 12] [--seeds 2]

Trains small convolutional encoders alone and jointly (concatenation, one linear head) and prints test accuracies: each
modality alone, joint, joint with one modality replaced by its training mean, a linear probe on each jointly trained
encoder, and the mean of the two unimodal probabilities. The epoch is the last one; nothing is chosen on test.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from equimodal.data import DEFAULT_NOISE, Split, TrainSplit, load_avdigits, loader


def encoder(channels: tuple[int, ...]) -> nn.Module:
    """Convolutions of stride 2, then 64 features."""
    layers: list[nn.Module] = []
    for before, after in zip((1, *channels[:-1]), channels, strict=True):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(64), nn.ReLU())


CHANNELS = {"image": (16, 32), "audio": (16, 32, 64)}


def features(encoders: nn.ModuleDict, inputs: Mapping[str, Tensor], blank: tuple[str, ...] = ()) -> Tensor:
    """(B, 64 M) features of all modalities; those in ``blank`` see zeros, the training mean."""
    return torch.cat([e(torch.zeros_like(inputs[m]) if m in blank else inputs[m]) for m, e in encoders.items()], 1)


def train(
    split: TrainSplit, names: tuple[str, ...], epochs: int, seed: int, frozen: nn.ModuleDict | None = None
) -> tuple[nn.ModuleDict, nn.Module]:
    """Encoders and head trained on ``names``; with ``frozen`` encoders only the head (a linear probe)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = frozen if frozen is not None else nn.ModuleDict({m: encoder(CHANNELS[m]) for m in names})
        with torch.no_grad():
            width = features(encoders.eval(), split.batch([0, 1]).inputs).shape[1]
        head = nn.Linear(width, 10)
    parameters = [*head.parameters(), *([] if frozen is not None else encoders.parameters())]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    batches = loader(split, 64, seed=seed)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * len(batches))
    for _ in range(epochs):
        encoders.train(frozen is None)
        for batch in batches:
            loss = nn.functional.cross_entropy(head(features(encoders, batch.inputs)), batch.target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return encoders.eval(), head


@torch.no_grad()
def logits(split: Split, encoders: nn.ModuleDict, head: nn.Module, blank: tuple[str, ...] = ()) -> Tensor:
    """(n, 10) outputs for the whole split."""
    return head(features(encoders, split.batch().inputs, blank))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=float, default=DEFAULT_NOISE["image"])
    parser.add_argument("--audio", type=float, default=DEFAULT_NOISE["audio"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    data = load_avdigits(noise={"image": options.image, "audio": options.audio})
    names = tuple(data.modalities)
    rows: dict[str, list[float]] = {}

    def note(name: str, output: Tensor) -> None:
        score = (output.argmax(1) == data.test.target).double().mean()
        rows.setdefault(name, []).append(100 * float(score))

    for seed in range(options.seeds):
        single = {m: train(data.train, (m,), options.epochs, seed) for m in names}
        alone = {m: logits(data.test, *single[m]) for m in names}
        for m in names:
            note(f"{m} alone", alone[m])
        note("mean of the two alone", sum(alone[m].softmax(1) for m in names))
        encoders, head = train(data.train, names, options.epochs, seed)
        note("joint", logits(data.test, encoders, head))
        for m in names:
            note(f"joint, {m} blanked", logits(data.test, encoders, head, (m,)))
        for m in names:
            own = nn.ModuleDict({m: encoders[m]})
            note(f"probe of the joint {m} encoder", logits(data.test, *train(data.train, (m,), 6, seed, own)))
    print(
        f"noise: image {options.image}, audio {options.audio}; {options.epochs} epochs, "
        f"{options.seeds} seeds; test accuracy"
    )
    for name, scores in rows.items():
        print(f"  {name:32} {sum(scores) / len(scores):5.1f}   ({', '.join(f'{s:.1f}' for s in scores)})")


if __name__ == "__main__":
    main()
