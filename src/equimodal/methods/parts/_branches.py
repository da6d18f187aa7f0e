"""Methods that train one branch per modality and no joint head, and passes over the training data between epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from equimodal.batch import Batch, Presence
from equimodal.engine import Descent, Engine, Objective, Phase, UpdateScale, evaluating
from equimodal.errors import MethodError, UnsupportedError
from equimodal.inference import Rule, needs_of, rule_name
from equimodal.methods._base import EpochContext, Method, StepReport
from equimodal.methods.parts._epoch_scores import EpochScores
from equimodal.methods.parts._heads import Heads
from equimodal.projection import NoProjection
from equimodal.tasks import Task


class HeadedMethod(Method):
    """Base of the methods whose unimodal outputs are those of ``self.heads``, one of its own for each modality."""

    heads: Heads

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of the own heads."""
        outputs: dict[str, Tensor] = self.heads(features)
        return outputs


def refuse_joint_head(method: Method, rule: Rule, instead: str) -> None:
    """Refuse an inference rule that reads a joint head, for a method that trains none.

    Args:
        method: named in the error.
        rule: chosen by the user.
        instead: what to use.

    Raises:
        UnsupportedError: the rule reads a joint head.
    """
    if "fused" in needs_of(rule):
        name = type(method).__name__
        raise UnsupportedError(
            f"`inference`: {name} trains no joint head, which {rule_name(rule)!r} reads. Use {instead}."
        )


class BranchMethod(HeadedMethod):
    """Base of the methods whose prediction is made of unimodal outputs alone: each phase trains one branch.

    Raises:
        UnsupportedError: ``inference="fused"``, or another rule that reads a joint head.
    """

    single_loss = True

    def __init__(self, model: nn.Module, task: Task, *, inference: Rule = "mean", **options: Any) -> None:
        refuse_joint_head(self, inference, "mean, uncertainty, product or auto")
        super().__init__(model, task, inference=inference, **options)

    def fused_output(self, features: Mapping[str, Tensor], present: Presence | None) -> Tensor | None:
        """None: there is no joint head."""
        return None


class ProjectingMethod(BranchMethod):
    r"""A branch method whose gradients are projected on what the other modalities leave free.

    m's turn is :math:`G \leftarrow G P` for the layers of ``projection``, a step, and a look of the projection at what
    the layers were given: the sums of ``self.projection.observing(m)``, which belong to the objective's. With
    ``scores`` it is also a look at m's score, which is among the objective's sums.
    """

    projection: NoProjection
    scores: EpochScores | None
    order: str

    def turns(self) -> list[str]:
        """The modalities in the order in which they take turns: by their last scores, or as the model has them."""
        return list(self.modalities) if self.scores is None else self.scores.order(self.order)

    def scored(
        self, loss: Tensor, sums: Mapping[str, Tensor], output: Tensor, batch: Batch, modality: str
    ) -> Objective:
        """The objective of m's turn, with what its score is made of: summed where turns are ranked by it."""
        if self.scores is None:
            return Objective(loss, {}, sums, score_inputs=self.score_inputs(output, batch, modality))
        return Objective(loss, {}, {**sums, **self.score_sums(output, batch, modality)})

    def modify_gradients(
        self, phase: Phase, descent: Descent, engine: Engine, report: StepReport
    ) -> Sequence[UpdateScale]:
        """G <- G P."""
        self.projection.project(phase.name)
        return ()

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """Show m's features to the projection, and m's score to what ranks them, once m's step is done."""
        report.extras_later(self.projection.learn(phase.name, descent.sums, engine))
        if self.scores is not None:
            self.scores.add(phase.name, descent.sums)


def training_samples(method: Method, modality: str, context: EpochContext, instead: str) -> Iterator[Batch]:
    """The training samples that have a modality, batch by batch, in evaluation mode.

    Args:
        method: put in evaluation mode for the pass.
        modality: of the samples.
        context: offers the loader.
        instead: what to do without one, for the message.

    Raises:
        MethodError: no loader is offered.
    """
    if context.loader is None:
        raise MethodError(
            f"`context.loader`: {type(method).__name__} passes over the training data between epochs. Found None. "
            f"Give EpochContext(epoch, loader=train_loader), or {instead}."
        )
    device = next(method.parameters()).device
    with evaluating(method):
        for raw in context.loader:
            batch = method.check_batch(raw).to(device)
            own = batch.only(modality) if modality in batch.inputs else None
            if own is not None:
                yield own
