"""QMF: logits weighed by their energy, and energies ranked by the losses that samples had so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Descent, Engine, Objective, Phase, SampleValues, Sharpness, sample_index
from equimodal.functional import confidence_ranking, energy_confidence, energy_fusion
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, StepReport
from equimodal.methods._info import MethodInfo
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import BranchMethod, LossHistory, encoder_parameters, linear_heads, weighted_objective
from equimodal.methods.released import QMF_RELEASED, ranking_with_slack
from equimodal.tasks import Task


class QMF(BranchMethod):
    r"""Quality-aware multimodal fusion (Zhang et al., ICML 2023): decisions weighed by a ranked confidence.

    The confidence of a modality is the energy of its own head's logits:

    .. math:: \omega_m = 0.1 \log\sum_c e^{u_{m,c}}, \quad u = \sum_m \omega_m u_m, \quad
        L = L(u, y) + \sum_m L(u_m, y) + \lambda \sum_m R_m

    R_m asks of each pair of neighbours in the batch that the sample with the larger losses so far be less confident
    (:func:`~equimodal.functional.confidence_ranking`). These are kept by dataset index, and belong to the checkpoint.

    Args:
        rank_weight: :math:`\lambda`; 1 in the released code for text and image. 0 keeps no losses and needs no index.
        heads: modality -> module from (B, d_m) to (B, C); default one linear layer each.
        variant: ``"released"`` has the margin of R with the other sign.

    Raises:
        BatchError: batches without the samples' dataset index.
    """

    info = MethodInfo(
        title="Quality-aware multimodal fusion",
        idea="logits weighed by their energy, which is ranked by how well each sample was learnt",
        paper="Zhang et al., Provable Dynamic Fusion for Low-Quality Multimodal Data, ICML 2023, arXiv 2306.02050",
        equations="energy confidence, fusion by it, loss per modality, ranking of confidences by past losses",
        family="objective, inference rule",
        tasks=("classification",),
        modalities="any number",
        fusion="ignored; one head per modality, whose logits are added up",
        missing="supported per sample: absent modalities have weight 0, and neither a loss nor a rank",
        cost="1 joint step",
        deviations=("energies are not detached in the fused logits, as in one of the two released scripts",),
        released=QMF_RELEASED,
        consulted="paper (abstract); QingyangZhang/QMF at fe6c4c6 (train_qmf.py, train_QMF_nyud2.py, models/QMF.py)",
        engine={
            "processes, trainer, accumulation, sharded: rank_weight": "differs: pairs of neighbours are formed within "
            "each part of a batch",
        },
    )
    single_loss = False
    min_modalities = 1

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        rank_weight: Annotated[float, Within(at_least=0), "released script for RGB-D"] = 0.1,
        heads: Mapping[str, nn.Module] | None = None,
        variant: Literal["paper", "released"] = "paper",
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "paper"] = "energy",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(QMF.__init__, locals())
        self.rank_weight, self.variant = rank_weight, variant
        self.heads = linear_heads(self.multimodal, task, heads)
        self.history = LossHistory(self.modalities).to(next(self.heads.parameters()))

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Room for the losses of all samples, where the loader tells how many there are."""
        self.history.reserve_for(context)

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: encoders and heads on the sum of losses; the model's fusion and head take no part."""
        return [Phase("joint", self._objective, [*encoder_parameters(self), *self.heads.parameters()])]

    def _objective(self, batch: Batch) -> Objective:
        outputs = self.heads(self.multimodal.encode(batch.inputs, batch.present))
        fused = energy_fusion(outputs, batch.present)[0].to(next(iter(outputs.values())).dtype)
        parts, rows = {"fused": self.loss(fused, batch)}, {}
        for m, z in outputs.items():
            parts[f"unimodal/{m}"] = self.loss(z, batch, m)
            if self.rank_weight:
                parts[f"rank/{m}"], rows[m] = self._ranking(z, batch, m)
        return weighted_objective(parts, {f"rank/{m}": self.rank_weight for m in outputs}, rows=rows)

    def _ranking(self, output: Tensor, batch: Batch, modality: str) -> tuple[Tensor, SampleValues]:
        """R_m, and the losses so far of the samples that have the modality, this batch's included."""
        output, target = self._rows(output, batch, modality)
        rows, least, most = self.history.with_losses(modality, output, target, sample_index(batch, modality))
        ranking = ranking_with_slack if self.variant == "released" else confidence_ranking
        return ranking(energy_confidence(output), rows.values, least, most), rows

    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """The losses of this step's samples are kept."""
        if self.rank_weight:
            self.history.update(descent.rows)
