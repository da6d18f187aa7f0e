"""Print a fingerprint of what every method does in float64, to compare two versions of the library on one machine.

`PYTHONPATH=CHECKOUT/src:CHECKOUT python tools/trajectories.py > FILE` for each checkout, then `diff`. A line holds the
method with its options, the case, and the hash of all parameters, reported numbers and predictions after four epochs.
Numbers differ between processors, so the lines of two machines do not compare.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from equimodal import Batch
from equimodal.methods import EpochContext
from tests.helpers import METHOD_SETTINGS, adamw, make_batch, make_method, setting_id, sgd, split, stepper

MORE: list[tuple[str, dict[str, Any]]] = [
    ("MLA", {"projector": "flat", "temperature": 2.0, "order": "shuffled", "seed": 3}),
    ("MLA", {"alpha": 0.5, "alpha_scale": "relative", "projector_reset": "cycle"}),
    ("CGGM", {"direction": "block", "window": 1, "momentum": 0.0, "rho": 1.1}),
    ("CGGM", {"direction_scope": "part", "window": 1}),
    ("CGGM", {"apply_to": "gradient", "direction_weight": 0.0}),
    ("MIE", {"sam": None, "alternate": "stage", "stage_epochs": (1, 1), "layers": "all"}),
    ("MIE", {"sam": "full", "alternate": "epoch", "sources": "previous", "radius": 0.5, "flat_ratio": 0.7}),
    ("MIE", {"mixup_alpha": 0.5, "variant": "released", "seed": 4}),
]
"""Settings beside those of the tests, in which options meet."""


def cases(count: int) -> Iterator[tuple[str, list[Any]]]:
    """Name and batches of an epoch."""
    whole = [make_batch(count, 12, seed) for seed in range(3)]
    yield f"{count} modalities", whole
    if count == 3:
        yield "micro-batches", [split(b, 3) for b in whole]
        masks = {m: torch.arange(12) % (i + 2) != 1 for i, m in enumerate(whole[0].inputs) if i}
        yield "absent rows", [Batch(b.inputs, b.target, masks, b.index) for b in whole]


def fingerprint(name: str, options: dict[str, Any], count: int, batches: list[Any]) -> str:
    """Hash of a training run, or the class of the error that refuses it."""
    digest = hashlib.sha256()

    def add(tensor: torch.Tensor) -> None:
        digest.update(tensor.detach().to(torch.float64).contiguous().numpy().tobytes())

    try:
        for engine_of in (lambda m: stepper((name, options), m), lambda m: sgd(m, clip_norm=0.5), adamw):
            method = make_method(name, count, **options)
            engine = engine_of(method)
            flat = [b for entry in batches for b in (entry if isinstance(entry, list) else [entry])]
            for epoch in range(4):
                context = EpochContext(epoch, 4, len(batches), flat, engine)
                method.train()
                method.on_train_epoch_start(context)
                for batch in batches:
                    report = method.training_step(batch, engine)
                    rows = {**report.losses, **report.scores, **report.extras}
                    rows |= {f"{k}/{m}": v for k, row in report.coefficients.items() for m, v in row.items()}
                    for key in sorted(rows):
                        add(rows[key])
                method.on_train_epoch_end(context)
                method.on_validation_end(0.1 * ((epoch * 7) % 5))
            for _, parameter in sorted(method.named_parameters()):
                add(parameter)
            prediction = method.predict(flat[0].inputs, flat[0].present)
            add(prediction.output)
            for z in prediction.unimodal.values():
                add(z)
    except ValueError as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return digest.hexdigest()[:20]


def main() -> int:
    """Print the lines."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, options in (*METHOD_SETTINGS, *MORE):
        for count in (2, 3, 5):
            for case, batches in cases(count):
                sys.stdout.write(f"{setting_id((name, options))} | {case} | "
                                 f"{fingerprint(name, options, count, batches)}\n")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
