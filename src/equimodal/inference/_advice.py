"""What is said after a rule was fitted: that there were few samples, or that another rule is better."""

from __future__ import annotations

import warnings

from equimodal.errors import BelowSingleWarning, SmallValidationWarning
from equimodal.inference._candidates import Comparison
from equimodal.inference._evidence import Evidence
from equimodal.inference._rules import ALONE, RULES
from equimodal.inference._skill import JOINT
from equimodal.inference._skill_fit import fewest

_LEVEL = 5  # of the caller of Method.fit_inference


def warn_of_few_samples(rule: str, chosen: str | None, data: Evidence) -> None:
    """Say what ``skill`` and ``auto`` do with too few validation samples, or none of a modality.

    Args:
        rule: as it was asked for.
        chosen: by ``auto``.
        data: the validation samples.

    Warns:
        SmallValidationWarning: there are too few.
    """
    least = fewest(data.kind)
    if len(data) < least and rule in ("auto", "skill"):
        taken = (
            f"'auto' cannot tell rules apart and takes {chosen!r}"
            if rule == "auto"
            else f"{len(data) / least:.0%} of the fit of 'skill' is used, the rest is equal weights (for numbers and "
            "pixels the joint head, if there is one)"
        )
        _warn_small(
            f"expected at least {least} validation samples. Found {len(data)}: {taken}. Use more", "name a rule"
        )
    elif "skill" in (rule, chosen):
        unseen = [e for e in data.outputs if e != JOINT and not bool(data.has(e).any())]
        if unseen:
            _warn_small(
                f"expected validation samples with each modality. Found none with {unseen}, which 'skill' therefore "
                "uses only where nothing else is there. Use other",
                "leave the modality out",
            )


def _warn_small(text: str, instead: str) -> None:
    warnings.warn(f"`batches`: {text} validation data, or {instead}.", SmallValidationWarning, stacklevel=_LEVEL + 1)


def warn_if_below_single(label: str, found: Comparison, data: Evidence) -> None:
    """Say that the prediction is worse than the best single output, and which rule to take.

    Args:
        label: the rule in force, as the scores call it.
        found: scores of all rules.
        data: the validation samples; with fewer than a fit needs nothing is said.

    Warns:
        BelowSingleWarning: the 95 % interval of the difference is below 0.
    """
    below = found.below_single(label) if len(data) >= fewest(data.kind) else None
    best = found.choice()
    if below is None or best is None:
        return
    single, gap, half = below
    scores = found.scores()
    shown = "the joint head" if single == "fused" else f"{single.removeprefix(ALONE)!r} alone"
    plain = best in RULES  # else there is no name for it on a command line
    advice = f"inference={best!r}" if plain else f"inference='auto', which takes {best!r}"
    warnings.warn(
        f"`inference`: {label!r} scores {scores[label].score:.4g} on {len(data)} validation samples, {gap:.3g} "
        f"[{gap - half:.3g}, {gap + half:.3g}] below the best single output, {shown} ({scores[single].score:.4g}). Use "
        f"{advice} ({scores[best].score:.4g}).",
        BelowSingleWarning,
        stacklevel=_LEVEL,
    )
