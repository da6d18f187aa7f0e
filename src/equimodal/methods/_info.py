"""What every method says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ALL_TASKS = ("classification", "multilabel", "regression", "segmentation")
MASKED = "supported per sample: absent rows are not encoded; the fusion fills them by its declared rule"
OWN_ROWS = "supported per sample: each modality trains on the samples that have it"


@dataclass(frozen=True)
class MethodInfo:
    """What a registry entry must say about a method; an empty field fails the tests.

    Args:
        title: full name.
        paper: authors, title, venue, year, identifier.
        equations: what of the paper is computed, in words with equation or algorithm numbers.
        family: one of the families of the docs.
        tasks: names of the tasks it supports.
        modalities: how many it takes.
        fusion: what it asks of fusion and head.
        missing: what it does with absent modalities.
        cost: cost of a step in joint steps.
        deviations: what differs from the paper.
        released: what differs between the paper and the authors' released code.
        consulted: public sources read for it (facts only, no code).
        defaults: hyperparameter -> source of its default; read from the hints of the constructor.
        control: whether it is a control without which no claim counts.
        idea: what it does, in one line for tables; the title where it is empty.
        order: why another order of the model's encoders gives another result; empty where it gives the same.
        complete: option -> why samples must have every modality where it is in force.
        engine: engine features -> what departs from their claims, see :func:`equimodal.engine.departures`; empty
            where every claim holds.
    """

    title: str
    paper: str
    equations: str
    family: str
    tasks: tuple[str, ...]
    modalities: str
    fusion: str
    missing: str
    cost: str
    deviations: tuple[str, ...]
    released: tuple[str, ...]
    consulted: str
    defaults: Mapping[str, str] = field(default_factory=dict)
    control: bool = False
    idea: str = ""
    order: str = ""
    complete: Mapping[str, str] = field(default_factory=dict)
    engine: Mapping[str, str] = field(default_factory=dict)
