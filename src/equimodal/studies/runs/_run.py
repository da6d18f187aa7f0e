"""One run: train on the training split, choose on the validation split, report on the test split, leave a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimodal._utils.outside import check_folder
from equimodal.data import Dataset, TestSplit, loader, require
from equimodal.diagnostics import (
    Evaluation,
    Outcomes,
    SamplePredictions,
    collect,
    evaluation_of,
    probe_outcomes,
    rule_outcomes,
    sample_records,
)
from equimodal.errors import DataError
from equimodal.methods import Method, refuse_incomplete
from equimodal.studies.runs._companions import WEIGHTS, load_companions
from equimodal.studies.runs._content import RUN, check_content
from equimodal.studies.runs._fit import Progress as Progress
from equimodal.studies.runs._fit import fit as fit
from equimodal.studies.runs._identity import check_config, check_fingerprint, located
from equimodal.studies.runs._loggers import check_loggers
from equimodal.studies.runs._metrics import METRICS, is_finished, read_metrics
from equimodal.studies.runs._outcomes import OUTCOMES, write_outcomes
from equimodal.studies.runs._processes import check_processes, launch, own_share
from equimodal.studies.runs._randomness import own_randomness
from equimodal.studies.runs._rate import RATE, with_rate
from equimodal.studies.runs._records import (
    environment,
    plain,
    write_json,
    write_yaml,
)
from equimodal.studies.runs._seal import SEAL, SEALED_SINCE, hashes_of, seal, verify, warn_versions
from equimodal.studies.runs._signals import PREVIOUS, Termination, locked
from equimodal.studies.runs._stored import read_history
from equimodal.studies.runs._weights import save_weights
from equimodal.studies.setup import (
    RunConfig,
    build_data,
    check_device,
    check_trust,
    resolved_options,
    seeded,
    trusting,
)
from equimodal.tasks import named_metrics

DETAILS = "details.json"


def run(
    config: RunConfig,
    folder: Path | str,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    bar: bool = False,
    loggers: bool = True,
    data: Dataset | None = None,
) -> dict[str, Any]:
    """Train, select and evaluate; returns the content of ``metrics.json``.

    The trained methods of other runs that it uses are read first, see :class:`RunConfig`.

    The folder then holds ``config.yaml`` (resolved), ``environment.json``, ``history.jsonl`` (one line per epoch),
    ``metrics.json``, ``details.json`` (scores per class, confusion matrix, residuals), ``weights.safetensors`` (of the
    selected epoch), ``checkpoints/``, and ``content.json``, the hashes of these files, by which changes are noticed.

    With ``config.training.devices`` above 1 it starts as many processes, which share every batch; a script needs
    ``if __name__ == "__main__":`` around the call. In a process that ``torchrun`` has started it takes its part in it,
    and returns the metrics on the first process, an empty mapping on the others.

    Args:
        config: what to run.
        folder: where to leave it; must not hold another run, unless ``resume``.
        resume: continue the run that the folder holds from its last whole epoch. A finished run is not run again.
        progress: called after every epoch.
        bar: show Lightning's progress bar.
        loggers: use the loggers that ``config`` names; else none.
        data: the dataset, if it is loaded already.

    Raises:
        DataError: the folder holds another run, another process works in it, the data are not those of the run that is
            resumed, or a run that is used is not there.
        CheckpointError: a run that is used has changed since.
        SystemExit: with the code 75, after SIGTERM: everything is saved, ``resume`` continues.
        NonFiniteError: NaN or infinity in the data or a loss; the last good checkpoint stays.
        UnknownNameError: a metric that the task does not have.
        UnsupportedError: a method that refuses several processes, with several devices.
    """
    folder = Path(folder)
    config = dataclasses.replace(config, options=resolved_options(config.method, config.options))
    tested: dict[str, Any] | None = None
    check_folder(folder)
    if resume and is_finished(folder):
        verify(folder)
        check_config(config, folder)
        return read_metrics(folder, config)
    check_trust(config.model.own_encoders, config.model.own_model)
    check_device(config.training.device)
    check_processes(config)
    if loggers:
        check_loggers(config.logger)
    share = own_share()
    if share.count == 1:
        config, tested = with_rate(config, folder, data, resume)
    if config.training.devices > share.count:
        metrics = launch(run, config, folder, progress, resume=resume, bar=bar, loggers=loggers, data=data)
        _keep_rate(folder, tested)
        return metrics
    if data is None:
        known = resume and (folder / "config.yaml").exists()
        data = build_data(located(config.data, folder) if known else config.data)
    if "test" not in data.parts:
        require(data.test, TestSplit, "test")  # refused now, not after the training
    named_metrics(data.task, config.metrics)
    with (
        contextlib.ExitStack() as stack,
        trusting((), folder),
        Termination(f"equimodal train --resume --out {shlex.quote(str(folder))}") as termination,
    ):
        with own_randomness():
            method = seeded(config, data, load_companions(config, data, folder))
            refuse_incomplete(method, data.train.present)
            if share.first:
                stack.enter_context(locked(folder))
            if share.any(resume and share.first and is_finished(folder)):  # by another process, in the meantime
                share.part_ways()
                return read_metrics(folder, config) if share.first else {}
            if share.first:
                prepare_folder(config, folder, data, resume)
                _keep_rate(folder, tested)
            share.wait()
            best = fit(method, data.train, data.validation, config, folder, resume=resume,
                       progress=progress if share.first else None, bar=bar and share.first, loggers=loggers,
                       termination=termination)  # fmt: skip
        share.part_ways()
        if not share.first:
            return {}
        return conclude(method, data, config, folder, best)


def _keep_rate(folder: Path, tested: Mapping[str, Any] | None) -> None:
    """Write what the test of the learning rate found."""
    if tested is not None:
        write_json(folder / RATE, tested)
        seal(folder, (RATE,))


def prepare_folder(config: RunConfig, folder: Path, data: Dataset, resume: bool) -> None:
    """Write what the run is; refuse a folder that holds another one."""
    check_content(folder, RUN)
    known = folder / RUN
    if known.exists():
        if not resume:
            raise DataError(
                f"`{folder}`: expected an empty folder. Found the run of {known}. Continue it with --resume, or choose "
                "another folder."
            )
        verify(folder, ("config.yaml", "environment.json"))
        warn_versions([folder])
        check_config(config, folder)
        check_fingerprint(folder, data)
        return
    write_json(
        folder / "environment.json",
        {
            **environment(),
            "format": SEALED_SINCE,
            "directory": str(Path.cwd()),
            "data": {
                "name": data.name,
                "protocol": data.protocol.name,
                "validation": getattr(data.protocol, "validation", None),
                "fingerprint": data.fingerprint,
                "samples": data.parts,
                "classes": list(map(str, data.classes)),
                "present": data.presence,
            },
        },
    )
    partial = write_yaml(folder / ".config.yaml.new", config.to_dict())
    written = {"config.yaml": partial, "environment.json": folder / "environment.json"}
    write_json(folder / SEAL, {"sha256": hashes_of(written)})
    partial.replace(known)  # last: a folder with a configuration is a folder that can be resumed


def conclude(method: Method, data: Dataset, config: RunConfig, folder: Path, best: Mapping[str, Any]) -> dict[str, Any]:
    """Fit the inference rule, read the test split, and leave weights and metrics; returns the metrics.

    Args:
        method: trained, with the selected weights.
        data: of the run.
        config: of the run.
        folder: of the run, with its history.
        best: what :func:`fit` returned.
    """
    metrics, details, outcomes, predictions = _finish(method, data, config, best)
    epochs = read_history(folder / "history.jsonl")
    metrics["seconds"] = sum(record["seconds"] for record in epochs)
    metrics["selection"] |= {"trained": len(epochs), "planned": config.training.epochs}
    save_weights(method, folder / WEIGHTS, {"config": plain(config.to_dict())})
    write_outcomes(folder / OUTCOMES, outcomes, predictions)
    if details:
        write_json(folder / DETAILS, details)
    write_json(folder / METRICS, metrics)
    seal(folder, ("history.jsonl", METRICS, DETAILS, WEIGHTS, OUTCOMES))  # last: what has it is finished
    (folder / "checkpoints" / PREVIOUS).unlink(missing_ok=True)
    return metrics


def _scores(found: Evaluation) -> dict[str, Any]:
    """Scores, and how many samples each of them is over."""
    return {
        "score": found.score, "loss": found.loss, "unimodal": found.unimodal,
        "samples": found.samples, "unimodal_samples": found.counts,
    }  # fmt: skip


def _finish(
    method: Method, data: Dataset, config: RunConfig, best: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Outcomes], SamplePredictions | None]:
    """Fit the inference rule on validation data, then look at the test split, once."""
    size = max(256, config.training.batch_size)
    validation = loader(data.validation, size)
    test = loader(require(data.test, TestSplit, "test"), size)
    rule = method.fit_inference(validation)
    seen, found = collect(method, validation), collect(method, test)
    on_validation = evaluation_of(method, seen, config.metrics, True, data.classes)
    on_test = evaluation_of(method, found, config.metrics or True, True, data.classes)
    details = {part: dict(e.details) for part, e in (("validation", on_validation), ("test", on_test)) if e.details}
    rules = rule_outcomes(method, validation, found, seen)
    metrics: dict[str, Any] = {
        "method": type(method).__name__,
        "options": config.options,
        "seed": config.seed,
        "data": data.name,
        "protocol": data.protocol.name,
        "target": data.target,
        "metric": {"name": method.task.main_metric, "higher_is_better": method.task.higher_is_better},
        "selection": dict(best),
        "rule": rule,
        "test": {**_scores(on_test), **on_test.metrics},
        "validation": {**_scores(on_validation), **on_validation.metrics},
        "rules": {r: {"validation": chosen, "test": float(o.score())} for r, (chosen, o) in rules.items()},
        "inference": method.inference.record(),
        "parameters": sum(p.numel() for p in method.parameters()),
        "trained_modalities": method.trained_modalities(),
    }
    outcomes, predictions = sample_records(method, found)
    outcomes |= {f"rule/{r}": o for r, (_, o) in rules.items()}
    if config.probe:
        train = loader(data.train, size, shuffle=False)
        probes = probe_outcomes(method, train, validation, test)
        metrics["probe"] = {m: float(o.score()) for m, o in probes.items()}
        outcomes |= {f"probe/{m}": o for m, o in probes.items()}
    return plain(metrics), plain(details), outcomes, predictions
