"""ExpertPool: joint and unimodal losses on the same encoders, and all outputs pooled by what they are worth."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, cast

from torch import Tensor, nn

from equimodal.batch import Batch, Tree
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.errors import MethodError
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Method, Stateful
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import Heads, Members, lacking, linear_heads, mean_output, redrawn, unannounced
from equimodal.model import Multimodal
from equimodal.tasks import Task, distribution_of


class ExpertPool(Stateful, Method):
    r"""Joint training with unimodal losses, whose outputs are all experts of one fitted pool. The method to begin with.

    *Training*: every encoder gets the gradients of the joint loss and of its own,

    .. math:: L = \ell(z, y) + \lambda \sum_m \ell(u_m, y), \quad z = \mathrm{head}(\mathrm{fuse}(h_1 .. h_M)),
        \quad u_m = \mathrm{head}_m(h_m)

    with label smoothing in classification, :math:`\ell(z, y) = (1 - a)\,CE(z, y) + a\,\overline{-\log p}`. Samples
    without m enter neither :math:`\ell(u_m, y)` nor encoder m. In segmentation :math:`\lambda` grows linearly from 0 in
    the first epoch to ``weight`` in the last: at full weight from the start the unimodal losses keep the joint head
    from what only several modalities together tell.

    *Prediction*: the joint head and each modality are experts. Each is calibrated alone on validation data and weighed
    by the fourth power of its skill, the share of the best constant's loss that it saves there,

    .. math:: w_e = s_e^4 \Big/ \sum_k s_k^4, \quad s_e = \left(1 - L_e / L_{const}\right)^+, \quad
        \hat y = \mathrm{softmax}\Big(\beta \sum_e w_e \log p_e\Big) \text{ or } \sum_e w_e (f_e + b_e)

    (:class:`~equimodal.inference.SkillPool`, which has the details: equal weights in classification where these do
    better, renormalised weights where modalities are missing).

    With ``members=2`` a second model of the same structure is trained from its own initial weights, in a phase of its
    own. Outputs of the same kind are averaged over the members (of logits: their log-opinion pool) and then pooled,
    which in the pool of equal weights is the pool of all 2 (M + 1) experts. One object, one checkpoint, one export.

    *Where it helps*: where nobody knows which modality is worth what. A weak modality gets little weight and a modality
    of noise none, so the result is not below the best single modality; what only a joint model can learn is in the
    joint head. *Where it does not*: a strong modality beside a weak one can be a point better when it is trained
    alone; in segmentation where several modalities are needed together it stays below joint training; a few validation
    samples tell little about weights (the rule then stays near equal ones, or the joint head, and says so); in
    regression joint training whose offset is corrected on validation data is as good.

    Args:
        members: models that are trained, each for one joint step.
        smoothing: a; only of a :class:`~equimodal.Classification` that has no ``label_smoothing`` of its own.
        weight: :math:`\lambda`.
        schedule: of the weight over the epochs: ``"constant"``, ``"growing"``, or ``"auto"``, which grows in
            segmentation.
        heads: modality -> module from (B, d_m) to (B, C) of the first member; default one linear layer each. Those of
            the other members are copies, drawn anew.
        models: the further members. Default: copies of ``model`` whose layers draw their weights anew; frozen layers,
            and encoders of this library with ``weights=``, are copied as they are. Give them where you have loaded
            weights yourself: copies, from which all members start, differ by their heads and by dropout only.

    Raises:
        ModelError: a layer cannot be drawn anew, or ``models`` do not fit.
        MethodError: another number of ``models`` than ``members`` needs, or an option out of range; with a growing
            weight, a step before ``on_train_epoch_start``, or no number of epochs.
    """

    info = MethodInfo(
        title="Experts pooled by their skill",
        idea="joint and unimodal losses; every output is an expert, weighed by what it is worth on validation data",
        paper="Ours; no paper. Parts: unimodal losses of many methods, log-opinion pools, label smoothing (Szegedy et "
        "al., CVPR 2016).",
        equations="L(z, y) + weight * sum_m L(u_m, y), smoothed; pool of the joint head and all modalities by the "
        "fourth power of skill",
        family="objective, inference rule",
        modalities="any number",
        missing=MASKED,
        cost="1 joint step and M small heads: with members=2 two joint steps",
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        featured=True,
        default=True,
        engine={
            "sharded: members=2": "refused: a sharded encoder cannot be drawn anew",
        },
    )
    min_modalities = 1
    state = ("share",)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        members: Annotated[int, Within(at_least=1, whole=True), "ours: the budget of joint training"] = 1,
        smoothing: Annotated[float, Within(at_least=0, below=1), "Szegedy et al. 2016"] = 0.1,
        weight: Annotated[float, Within(at_least=0), "as usual in the literature"] = 1.0,
        schedule: Annotated[Literal["auto", "constant", "growing"], "ours: docs/ablations.md"] = "auto",
        heads: Mapping[str, nn.Module] | None = None,
        models: Sequence[nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "ours: part of the method"] = "skill",
        calibrated: bool = False,
    ) -> None:
        check_options(ExpertPool.__init__, locals())
        others = self._others(model, members, models)
        whole = Members([model, *others], distribution_of(task)) if others else model
        super().__init__(whole, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        self.members, self.smoothing, self.weight, self.schedule = members, smoothing, weight, schedule
        grows = schedule == "growing" or (schedule == "auto" and task.name == "segmentation")
        self.share: float | None = None if grows else 1.0
        self._grows = grows
        first = linear_heads(cast(Multimodal, model), task, heads)
        self.heads = nn.ModuleList([first, *(self._heads(m, first, heads) for m in others)])
        self.__dict__["_smoothed"] = _smoothed(task, smoothing)  # no part of its own: it shares the task's buffers

    @staticmethod
    def _others(model: nn.Module, members: int, models: Sequence[nn.Module] | None) -> list[nn.Module]:
        if models is None:
            return [redrawn(model) for _ in range(members - 1)]
        if len(models) != members - 1:
            raise MethodError(
                f"`models`: expected {members - 1}, the further members of members={members}. Found {len(models)}."
            )
        return list(models)

    def _heads(self, model: nn.Module, first: Heads, given: Mapping[str, nn.Module] | None) -> nn.Module:
        return linear_heads(cast(Multimodal, model), self.task) if given is None else redrawn(first)

    @property
    def loss_task(self) -> Task:
        """The task with its labels smoothed."""
        return cast(Task, self.__dict__["_smoothed"])

    def each(self) -> list[Multimodal]:
        """The models of the members."""
        return self.model.each() if isinstance(self.model, Members) else [self.multimodal]

    # ---- training ---------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """The share of the weight that the epoch has."""
        super().on_train_epoch_start(context)
        if self._grows:
            if context.epochs is None:
                raise lacking(self, "epochs", "lets a weight grow over the epochs", 'schedule="constant"')
            self.share = context.epoch / (context.epochs - 1) if context.epochs > 1 else 1.0

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One per member: everything on the sum of its losses."""
        if self.share is None:
            raise unannounced(self, "epoch, epochs", 'schedule="constant"')
        for number, (member, heads) in enumerate(zip(self.each(), self.heads, strict=True), 1):
            name = "joint" if self.members == 1 else f"member {number}"
            trained = [*cast(nn.Module, member).parameters(), *heads.parameters()]
            yield Phase(name, partial(self._objective, member, heads, "" if self.members == 1 else f"{name}/"), trained)

    def _objective(self, member: Multimodal, heads: nn.Module, prefix: str, batch: Batch) -> Objective:
        features = member.encode(batch.inputs, batch.present)
        total = self.loss(member.head(member.fuse(features, batch.present)), batch)
        losses = {f"{prefix}fused": total.detach()}
        for m, z in heads(features).items():
            own = self.loss(z, batch, m)
            total = total + self.weight * cast(float, self.share) * own
            losses[f"{prefix}unimodal/{m}"] = own.detach()
        return Objective(total, losses)

    def unimodal_outputs(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Outputs of the own heads, the mean over the members."""
        shares = self.model.shares(features) if isinstance(self.model, Members) else [features]
        found = [heads(own) for heads, own in zip(self.heads, shares, strict=True)]
        kind = distribution_of(self.task)
        return {m: mean_output([outputs[m] for outputs in found], kind) for m in found[0]}


def _smoothed(task: Task, smoothing: float) -> Task:
    """The task with ``label_smoothing``, where it has such an option and does not use it."""
    if getattr(task, "label_smoothing", None) != 0 or smoothing == 0:
        return task
    smoothed: Any = copy.copy(task)
    smoothed.label_smoothing = smoothing
    return cast(Task, smoothed)
