"""Inference rules of one's own: what they are called with, what they may declare, and what they must return."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.plugins import Plugins
from equimodal.batch import tree_tensors
from equimodal.errors import MethodError, NonFiniteError, PluginError, UnsupportedError, did_you_mean
from equimodal.inference._named import PAPER_RULES, PaperRule, paper_rule
from equimodal.inference._rules import ALONE, RULES, RuleName
from equimodal.tasks import Distribution, Task

GROUP = "equimodal.rules"
"""Entry-point group in which a package names its rules, as ``loudest = "my_package:Loudest"``."""
Need = Literal["fused", "unimodal"]
NEEDS: tuple[str, ...] = get_args(Need)
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)


class InferenceRule(Protocol):
    """A rule of one's own: a function, or an object that is called like one.

    It is called with

    * ``unimodal``: modality -> (B, C, ...) output of that modality alone, after its temperature, and zero in rows that
      do not have it; empty for a rule that does not need them;
    * ``present``: modality -> (B,) booleans, for each modality of ``unimodal``;
    * ``fused``: (B, C, ...) output of the joint head, or ``None`` for a rule that does not need it;
    * ``distribution``: what an output is, see :func:`~equimodal.tasks.distribution_of`;

    none of which it may write into. It returns the output (B, C, ...) as the task reads it (for probabilities their
    logarithms), and the weights of the modalities, (B,) or (B, ...) each, which may be empty.

    It may have these attributes:

    * ``name``: shown in predictions and reports; default the name of the function or class.
    * ``needs``: of ``"fused"`` and ``"unimodal"``; default ``("unimodal",)``.
    * ``distributions``: of ``"categorical"``, ``"bernoulli"``, ``"gaussian"`` and ``"point"``; default all.
    * ``fit(unimodal, present, fused, target, task)``: called on validation outputs by
      :meth:`Method.fit_inference <equimodal.methods.Method.fit_inference>`. A rule with ``fit`` is an ``nn.Module``
      that keeps what it fits in buffers (or its extra state), which are saved with the weights.

    Example:
        >>> from equimodal import Inference
        >>> def loudest(unimodal, present, fused, distribution):
        ...     z = torch.stack([x.masked_fill(~present[m][:, None], -9) for m, x in unimodal.items()])
        ...     return z.amax(0), {}
        >>> rule = Inference(("a", "b"), loudest)
        >>> prediction = rule(None, {"a": torch.tensor([[1.0, 5.0]]), "b": torch.tensor([[3.0, 2.0]])}, None)
        >>> prediction.rule, prediction.output
        ('loudest', tensor([[3., 5.]]))
    """

    def __call__(
        self,
        unimodal: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        fused: Tensor | None,
        distribution: Distribution,
        /,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Output and weights."""
        ...


Rule = RuleName | PaperRule | InferenceRule
"""What ``inference=`` takes: the name of a rule, or a rule of one's own."""


def rule_name(rule: Rule) -> str:
    """The name under which a rule is shown.

    Example:
        >>> rule_name("mean")
        'mean'
    """
    if isinstance(rule, str):
        return rule
    name = getattr(rule, "name", None) or getattr(rule, "__name__", None) or type(rule).__name__
    return str(name)


def needs_of(rule: Rule) -> frozenset[str]:
    """What a rule cannot do without: ``"fused"``, ``"unimodal"``, both, or neither for ``"auto"`` and ``"skill"``.

    Example:
        >>> needs_of("fused"), needs_of("auto")
        (frozenset({'fused'}), frozenset())
    """
    if rule in ("auto", "skill"):  # they take what there is
        return frozenset()
    if isinstance(rule, str) and rule.startswith(ALONE):
        return frozenset({"unimodal"})
    if isinstance(rule, str):
        custom = custom_rule(rule)
        return frozenset({"fused"} if rule == "fused" else {"unimodal"}) if custom is None else needs_of(custom)
    return frozenset(cast("Collection[str]", getattr(rule, "needs", ("unimodal",))))


def rule_names() -> tuple[str, ...]:
    """Names that ``inference=`` takes: the library's own rules, then those that other installed packages register.

    Warns:
        PluginWarning: a package registers something that cannot be used. It is left out.

    Example:
        >>> rule_names()[:2]
        ('fused', 'mean')
    """
    return (*RULES, *PAPER_RULES, *_OUTSIDE.all())


def custom_rule(rule: Rule) -> InferenceRule | None:
    """A rule that is none of the library's own; ``None`` for those. A name is looked up in the other packages.

    Raises:
        MethodError: it is neither a known name nor callable.
        PluginError: the package that registers the name cannot be used.
    """
    name = rule if isinstance(rule, str) else None
    if name is not None and name.startswith(ALONE):
        return None
    if name in (*RULES, *PAPER_RULES):
        _OUTSIDE.warn_if_shadowed(name)
        return paper_rule(name)
    entry = _OUTSIDE.get(name) if name is not None else rule
    if not callable(entry):
        names = ", ".join((*RULES, *PAPER_RULES, *_OUTSIDE.packages()))
        raise MethodError(
            f"`inference`: expected one of {names}, or a rule of your own, which is called. Found {rule!r}."
            f"{did_you_mean(rule, rule_names())}"
        )
    # of a class, every method gets an object of its own, with a state of its own
    return cast(InferenceRule, entry() if isinstance(entry, type) else entry)


def check_custom(rule: InferenceRule, distribution: Distribution) -> None:
    """Refuse a rule whose declarations are none, or which such outputs do not allow.

    Raises:
        MethodError: name, needs, distributions or state are not as :class:`InferenceRule` says.
        UnsupportedError: the rule does not allow outputs of this kind.
    """
    name = rule_name(rule)
    if name in RULES or name.startswith(ALONE) or not name.isprintable():
        raise MethodError(f"`inference`: expected a name of its own for the rule. Found {name!r}. Set its `name`.")
    for attribute, allowed in (("needs", NEEDS), ("distributions", DISTRIBUTIONS)):
        entries = getattr(rule, attribute, allowed)
        if isinstance(entries, str) or not entries or not set(entries) <= set(allowed):
            raise MethodError(
                f"`inference`: expected `{attribute}` of the rule {name!r} as some of {allowed}. Found {entries!r}."
            )
    distributions = getattr(rule, "distributions", DISTRIBUTIONS)
    if distribution not in distributions:
        raise UnsupportedError(
            f"`inference`: the rule {name!r} is for outputs of the kind {' or '.join(distributions)}, and those of "
            f"this task are {distribution}. Use mean, or another rule."
        )
    if hasattr(rule, "fit") and not isinstance(rule, nn.Module):
        raise MethodError(
            f"`inference`: the rule {name!r} has `fit`, and what it fits would not be saved with the weights. Make it "
            "an nn.Module that keeps it in buffers."
        )
    if isinstance(rule, nn.Module) and any(p.requires_grad for p in rule.parameters()):
        raise MethodError(
            f"`inference`: the rule {name!r} has parameters, which an optimizer would train. Keep what it fits in "
            "buffers (register_buffer), and trainable parts in the method."
        )


def run_custom(
    rule: InferenceRule,
    unimodal: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
    fused: Tensor | None,
    distribution: Distribution,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a rule makes of these outputs.

    Raises:
        MethodError: it returns something else than output and weights, or of other shapes, or writes into what it is
            given.
        NonFiniteError: it returns NaN or infinity (not looked at inside compiled and exported code).
    """
    needs, name = needs_of(rule), rule_name(rule)
    unimodal = unimodal if "unimodal" in needs else {}
    fused = fused if "fused" in needs else None
    like = fused if fused is not None else next(iter(unimodal.values()))
    masks = masks_of(unimodal, present)
    with _unwritten(name, {**unimodal, "present": masks, "fused": fused}):
        returned = rule(dict(unimodal), dict(masks), fused, distribution)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], Mapping):
        raise MethodError(
            f"`inference`: expected the rule {name!r} to return (output, weights), a tensor and a mapping. Found "
            f"{type(returned).__name__}."
        )
    output, weights = returned
    if not isinstance(output, Tensor) or output.shape != like.shape:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise MethodError(
            f"`inference`: expected the rule {name!r} to return an output of the shape {tuple(like.shape)}. Found "
            f"{shape}."
        )
    for modality, weight in weights.items():
        if modality not in unimodal or not isinstance(weight, Tensor) or weight.shape[:1] != like.shape[:1]:
            shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise MethodError(
                f"`inference`: expected the rule {name!r} to return weights of {list(unimodal)}, with one entry for "
                f"each of {like.shape[0]} samples. Found {shape} for {modality!r}."
            )
    if not torch.compiler.is_compiling():
        for what, tensor in {"output": output, **weights}.items():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise NonFiniteError(
                    f"`inference`: expected the rule {name!r} to return finite numbers. Found NaN or infinity in {bad} "
                    f"of {tensor.numel()} numbers of {what!r}. Bound what it divides by and takes logarithms of."
                )
    return output, dict(weights)


def fit_custom(
    rule: InferenceRule,
    unimodal: Mapping[str, Tensor],
    present: Mapping[str, Tensor] | None,
    fused: Tensor | None,
    target: Tensor,
    task: Task,
) -> None:
    """Let a rule that has ``fit`` look at validation outputs."""
    fit = getattr(rule, "fit", None)
    if fit is not None:
        needs = needs_of(rule)
        unimodal = unimodal if "unimodal" in needs else {}
        masks, fused = masks_of(unimodal, present), fused if "fused" in needs else None
        with _unwritten(rule_name(rule), {**unimodal, "present": masks, "fused": fused, "target": target}):
            fit(dict(unimodal), dict(masks), fused, target, task)


@contextmanager
def _unwritten(name: str, given: Mapping[str, Any]) -> Iterator[None]:
    """Refuse a rule that writes into tensors that it is given: the outputs of others, which are scored and recorded."""
    counted = []
    if not torch.compiler.is_compiling():  # a compiled graph counts no writes
        leaves = [(what, t) for what, tree in given.items() for t in tree_tensors(tree)]
        counted = [(what, t, t._version) for what, t in leaves if not t.is_inference()]
    yield
    for what, tensor, before in counted:
        if tensor._version != before:
            raise MethodError(
                f"`inference`: expected the rule {name!r} to leave what it is given as it is. Found that it wrote into "
                f"{what!r}. Make new tensors: x + y and torch.where(...) instead of x += y and x[...] = y."
            )


def masks_of(unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Modality -> (B,) booleans, for each modality of ``unimodal``."""
    masks = {}
    for modality, z in unimodal.items():
        mask = None if present is None else present.get(modality)
        masks[modality] = z.new_ones(z.shape[0], dtype=torch.bool) if mask is None else mask
    return masks


def _check(name: str, value: object) -> object:
    if not callable(value):
        raise PluginError(
            f"Expected a rule or a class of rules. Found {type(value).__name__}. Point it to one of them."
        )
    shown = str(getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__))
    if shown != name:
        raise PluginError(
            f"Expected the name of the rule. Found {name!r} for {shown!r}. Give the entry point that name."
        )
    return value


_OUTSIDE: Plugins[object] = Plugins(GROUP, "inference rule", _check, lambda: (*RULES, *PAPER_RULES))
