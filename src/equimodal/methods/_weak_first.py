"""Weak encoders first: each alone while the others keep still, then joint training; G2D's schedule without teachers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from torch import Tensor, nn

from equimodal.batch import Batch
from equimodal.engine import Phase, Sharpness
from equimodal.errors import MethodError
from equimodal.inference import Rule
from equimodal.methods._base import EpochContext, Stateful
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods._joint import Joint
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import joint_phase, lacking, ranking_by, stage_alone, unannounced, usual_way
from equimodal.tasks import Task
from equimodal.unimodal import Masked


class WeakFirst(Stateful, Joint):
    r"""Joint training that begins with the weakest encoder alone, the others frozen: a control for balancing rules.

    The schedule of G2D (Rakib and Bagavathi, ICCV 2025) without the teachers that rank there. After ``warm_up`` epochs
    of joint training the modalities are ranked by the score of the model with each of them alone, on the training
    samples. Stage j then trains the j-th weakest encoder with fusion and head, while the others keep still; there are
    M - 1 stages of equal length. The rest of the epochs trains everything, always on the fused loss.

    Args:
        alone: share of the epochs with one encoder; the last epoch always trains everything.
        warm_up: epochs of joint training before the ranking; an untrained model ranks by chance.
        order: the modalities, the weakest first; then there is no warm-up, and nothing is measured.

    Raises:
        MethodError: ``order`` is no order of the modalities, or an epoch was not announced or has no loader to rank on.
    """

    info = MethodInfo(
        title="Weak encoders first, then joint training",
        idea="the weakest encoder is trained alone first, while the others are frozen",
        paper="Control; the schedule of G2D, ICCV 2025, arXiv 2506.21514, without its teachers.",
        equations="L(head(fuse(h)), y), with one encoder at a time, then with all",
        family="staged",
        fusion="any; one of your own must say how it fills, or `order` be given",
        missing=MASKED,
        cost="1 joint step, less while encoders are frozen; one pass over the training data for the ranking",
        deviations=("ranked once, by the model with each modality alone; what waits keeps still in all respects",),
        released=("the release of G2D sets gradients to zero, so that weight decay and statistics go on",),
        consulted="notes on the paper; rAIson-Lab/G2D at 95969d8 (student.py, utils/utils.py)",
        control=True,
    )
    state = ("ranking", "_epoch", "_epochs")
    min_modalities = 2

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        alone: Annotated[float, Within(above=0, below=1), "G2D: 150 of 300 epochs on CREMA-D"] = 0.5,
        warm_up: Annotated[int, Within(at_least=1, whole=True), "ours"] = 1,
        order: Annotated[Sequence[str] | None, "measured"] = None,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(WeakFirst.__init__, locals())
        if order is not None and sorted(order) != sorted(self.modalities):
            raise MethodError(
                f"`order`: expected the modalities {list(self.modalities)}, weakest first. Found {list(order)}."
            )
        self.alone, self.warm_up = alone, 0 if order is not None else warm_up
        self.ranking = list(order or ())
        self._way = [usual_way(self.multimodal, task) or Masked(model)] if order is None else []
        self._epoch: int | None = None
        self._epochs: int | None = None

    def on_train_epoch_start(self, context: EpochContext) -> None:
        """Note the epoch; rank the modalities after the warm-up."""
        if context.epochs is None:
            raise lacking(self, "epochs", "divides the epochs into stages")
        self._epoch, self._epochs = context.epoch, context.epochs
        if not self.ranking and context.epoch >= self.warm_up:
            if context.loader is None:
                purpose = "ranks the modalities on the training samples"
                raise lacking(self, "loader", purpose, f"order={self.modalities}")
            self.ranking = ranking_by(self, context.loader, self._alone)

    def _alone(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs of the model with each modality alone."""
        outputs: dict[str, Tensor] = self._way[0](self._features(batch), batch.present)
        return outputs

    def waiting(self) -> list[str]:
        """The modalities whose encoders keep still in this epoch."""
        if self._epoch is None or self._epochs is None:
            raise unannounced(self, "epoch, epochs, loader=train_loader")
        count, step = len(self.modalities), self._epoch - self.warm_up
        stage = stage_alone(step, min(round(self.alone * self._epochs), self._epochs - self.warm_up - 1), count)
        return [] if stage == count - 1 else [m for m in self.modalities if m != self.ranking[stage]]

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything, or one encoder with fusion and head."""
        return [joint_phase(self, self._objective, self.waiting())]
