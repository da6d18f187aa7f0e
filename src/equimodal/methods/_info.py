"""What every method says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ALL_TASKS = ("classification", "multilabel", "regression", "segmentation")
MASKED = "supported per sample: absent rows are not encoded; the fusion fills them by its declared rule"
SCORED_ROWS = (
    "supported per sample: scores are means over the samples that have the modality; one that no sample of a batch has "
    "is not compared"
)
OWN_ROWS = "supported per sample: each modality trains on the samples that have it"

SCORES = "scores of multi-label, segmentation and regression: mean probability of what is true, inverse mean error"
UPDATES = "under optimizers that cancel a gradient scale the update is scaled instead"
AWAY = "a modality that is taken away is absent: its encoder does not run; the release puts zero features"
NO_SHARDS = "refused: batches without some modality, whose sharded encoder would leave the others waiting"
TEST_CHOICE = "the best epoch is chosen on the test set"

Role = Literal["", "reference", "baseline", "single", "independent"]
ROLES: Mapping[Role, str] = {
    "reference": "its step is the unit of cost",
    "baseline": "the simple method that others have to beat",
    "single": "trains the modality that its option `modality` names; a comparison has one entry per modality",
    "independent": "trains every encoder by itself: under-training is measured against it",
}
"""What a comparison needs a control for; each role belongs to one control."""


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """What a registry entry must say about a method; an empty field fails the tests.

    Args:
        title: full name.
        paper: authors, title, venue, year, identifier.
        equations: what of the paper is computed, in words with equation or algorithm numbers.
        family: one of the families of the docs.
        tasks: names of the tasks it supports; default all.
        modalities: how many it takes; default two or more.
        fusion: what it asks of fusion and head; default any.
        missing: what it does with absent modalities.
        cost: cost of a step in joint steps; tables show what stands before a colon, semicolon or bracket.
        deviations: what differs from the paper.
        released: what differs between the paper and the authors' released code.
        consulted: public sources read for it (facts only, no code).
        defaults: hyperparameter -> source of its default; read from the hints of the constructor.
        control: whether it is a control.
        idea: what it does, in one line for tables; the title where it is empty.
        order: why another order of the model's encoders gives another result; empty where it gives the same.
        role: of a control without which a comparison proves nothing, see :data:`ROLES`; empty for all others.
        rows: name -> options: further rows of a comparison with controls that has the method with its defaults.
        featured: whether the demo, and a comparison that names no method, has it.
        default: whether a run that names no method trains it; one class says so.
        complete: option -> why samples must have every modality where it is in force.
        engine: engine features -> what departs from their claims, see :func:`equimodal.engine.departures`; empty
            where every claim holds.
    """

    title: str
    paper: str
    equations: str
    family: str
    tasks: tuple[str, ...] = ALL_TASKS
    modalities: str = "two or more"
    fusion: str = "any"
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
    role: Role = ""
    featured: bool = False
    default: bool = False
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
