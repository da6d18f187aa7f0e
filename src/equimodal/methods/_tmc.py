"""TMC and ETMC: heads that give evidence, opinions combined by Dempster's rule, the evidential loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Presence
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.functional import combined_opinion, dirichlet_logarithms, evidence, evidential_loss
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import HeadedMethod, encoder_parameters, linear_heads, refuse_joint_head, warn_unannounced
from equimodal.tasks import Task


class TMC(Stateful, HeadedMethod):
    r"""Trusted multi-view classification (Han et al., ICLR 2021); with ``joint`` its enhanced form ETMC (TPAMI 2022).

    The softplus of a head's output is evidence :math:`e_m`; :math:`\alpha_m = e_m + 1` is a Dirichlet distribution, and
    :math:`\alpha` their combination by Dempster's rule (:func:`~equimodal.functional.combined_opinion`), whose expected
    probability is the prediction. With the loss :func:`~equimodal.functional.evidential_loss`, at epoch t from 1,

    .. math:: L = \ell(\alpha, y) + \sum_m \ell(\alpha_m, y), \qquad \lambda = \min(1, t / T)

    Args:
        joint: the joint head of the model gives an opinion, too, and has a loss (ETMC).
        annealing: T, in epochs; 10 in the released script of ETMC. A step before any epoch warns and has t = T.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        inference: ``None`` is ``"evidential"``, and ``"evidential_fused"`` with ``joint``.

    Raises:
        UnsupportedError: ``inference`` reads a joint head, and ``joint`` is off.
    """

    info = MethodInfo(
        title="Trusted multi-view classification",
        idea="heads give evidence, combined by Dempster's rule; a modality that knows nothing says so",
        paper="Han et al., Trusted Multi-View Classification, ICLR 2021, arXiv 2102.02051; with Dynamic Evidential "
        "Fusion, TPAMI 2022, arXiv 2204.11423",
        equations="evidence and opinions, Dempster's rule, evidential loss with annealed divergence",
        family="objective, inference rule",
        tasks=("classification",),
        modalities="any number",
        fusion="ignored; with `joint` any",
        missing="supported per sample: an absent modality has no opinion and no loss",
        cost="1 joint step",
        deviations=("a task's class weights and label smoothing do not enter the evidential loss",),
        released=("none found in the combination and the loss of the stored scripts",),
        consulted="paper (abstract); hanmenghan/TMC at 5c066bd (TMC/model.py) and 2f41653 (train.py)",
    )
    state = ("_epoch",)
    min_modalities = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        joint: Annotated[bool, "ICLR 2021"] = False,
        annealing: Annotated[int, Within(at_least=1, whole=True), "released script of TMC"] = 50,
        heads: Mapping[str, nn.Module] | None = None,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule | None, "paper"] = None,
        calibrated: bool = False,
    ) -> None:
        inference = inference or ("evidential_fused" if joint else "evidential")
        if not joint:
            refuse_joint_head(self, inference, "joint=True, or the rule evidential")
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(TMC.__init__, locals())
        self.joint, self.annealing, self._epoch = joint, annealing, -1
        self.heads = linear_heads(self.multimodal, task, heads)

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """The epoch decides how much wrong evidence costs."""
        self._epoch = context.epoch

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: encoders, heads and, with ``joint``, the rest of the model."""
        if self._epoch < 0:
            warn_unannounced(self, "its divergence counts in full")
        trained = list(self.model.parameters()) if self.joint else encoder_parameters(self)
        return [Phase("joint", self._objective, [*trained, *self.heads.parameters()])]

    def _objective(self, batch: Batch) -> Objective:
        features = self.multimodal.encode(batch.inputs, batch.present)
        opinions = {f"unimodal/{m}": evidence(z) for m, z in self.heads(features).items()}
        masks = {f"unimodal/{m}": mask for m, mask in (batch.present or {}).items()}
        if self.joint:
            opinions["joint"] = evidence(self.multimodal.head(self.multimodal.fuse(features, batch.present)))
        combined = dirichlet_logarithms(combined_opinion(opinions, masks)[0]).exp()
        parts = {"fused": self._mean_loss(combined, batch)}
        parts |= {name: self._mean_loss(e + 1, batch, masks.get(name)) for name, e in opinions.items()}
        return Objective(torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()})

    def _mean_loss(self, alpha: Tensor, batch: Batch, present: Tensor | None = None) -> Tensor:
        """Over all samples of the batch, those without the modality with a loss of 0."""
        strength = 1.0 if self._epoch < 0 else min(1.0, (self._epoch + 1) / self.annealing)
        loss = evidential_loss(alpha, cast(Tensor, batch.target), strength)
        return (loss if present is None else torch.where(present, loss, torch.zeros_like(loss))).mean()

    def fused_output(self, features: Mapping[str, Tensor], present: Presence | None) -> Tensor | None:
        """Output of the joint head with ``joint``; else none is trained."""
        return super().fused_output(features, present) if self.joint else None
