"""Joint training: the reference of every comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from torch import Tensor, nn

from equimodal._utils.modules import parameters_in
from equimodal.batch import Batch
from equimodal.engine import Objective, Phase, Sharpness
from equimodal.errors import UnsupportedError
from equimodal.inference import Rule, needs_of, rule_name
from equimodal.methods._base import Method
from equimodal.methods._info import MASKED, MethodInfo
from equimodal.methods.parts import check_way, usual_way
from equimodal.tasks import Task
from equimodal.unimodal import Way


class Joint(Method):
    r"""Plain joint training, :math:`L(\mathrm{head}(\mathrm{fuse}(h_1..h_M)), y)`: the reference of every comparison.

    Args:
        inference: ``"fused"`` reads the joint head. The other rules read unimodal outputs, which exist (split exactly)
            with an affine head on an additive fusion, or come from ``unimodal``.
        unimodal: where unimodal outputs come from: ``"split"``, ``"masked"``, ``"shapley"`` or an object of
            :mod:`equimodal.unimodal`; default the exact split where there is one (for a late fusion its heads, for a
            regression nothing, since addends are no predictions). It changes what is read off the trained model, not
            the training.

    Raises:
        UnsupportedError: ``inference`` needs unimodal outputs, of which there are none.
        ModelError: the model does not allow what ``unimodal`` asks for.
    """

    info = MethodInfo(
        title="Joint training",
        idea="one loss on the fused output",
        paper="Control; no paper of its own.",
        equations="L(head(fuse(h_1, ..., h_M)), y)",
        family="objective",
        modalities="any number",
        missing=MASKED,
        cost="1 joint step, by definition",
        deviations=("none",),
        released=("nothing was released",),
        consulted="none",
        control=True,
        role="reference",
    )
    min_modalities = 1
    single_loss = True

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        sharpness: Sharpness | None = None,
        inference: Annotated[Rule, "the joint head is what this control trains"] = "fused",
        calibrated: bool = False,
        unimodal: Annotated[
            Way | nn.Module | None, "the exact split where the head is additive, the heads of a late fusion (ours)"
        ] = None,
    ) -> None:
        super().__init__(
            model, task, sharpness=sharpness, inference=inference, calibrated=calibrated, unimodal=unimodal
        )
        if unimodal is None and type(self).unimodal_outputs is Joint.unimodal_outputs:
            self.unimodal = usual_way(self.multimodal, task)
        check_way(self.unimodal, task, inference)
        if "unimodal" in needs_of(inference) and self.unimodal is None and not self._has_unimodal():
            raise UnsupportedError(
                f"`inference`: {rule_name(inference)!r} needs unimodal outputs, which {type(self).__name__} has only "
                "with a linear head on Concat or Sum, or a Late fusion (for a regression only the latter). Use "
                "inference='fused', unimodal='masked', or MultiLoss."
            )

    def _has_unimodal(self) -> bool:
        return usual_way(self.multimodal, self.task) is not None

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One: everything on the fused loss."""
        return [Phase("joint", self._objective, parameters_in(self.model))]

    def _objective(self, batch: Batch) -> Objective:
        return Objective(self.loss(self._fused(self._features(batch), batch), batch))

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        return self.multimodal.encode(batch.inputs, batch.present)

    def _fused(self, features: Mapping[str, Tensor], batch: Batch) -> Tensor:
        model = self.multimodal
        output: Tensor = model.head(model.fuse(features, batch.present))
        return output

    def unimodal_outputs(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The exact split of an additive head, or the heads of a late fusion; empty where there is neither."""
        way = usual_way(self.multimodal, self.task)
        outputs: dict[str, Tensor] = {} if way is None else way(features)
        return outputs
