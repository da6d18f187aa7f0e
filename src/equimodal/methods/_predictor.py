"""What a method has of a model: its outputs, and the predictions that an inference rule makes of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from equimodal.batch import Batch, Presence, Tree, batch_size_of, tree_tensors
from equimodal.engine import evaluating
from equimodal.errors import BatchError, MethodError, ModelError, did_you_mean
from equimodal.inference import Groups, Inference, Prediction, Rule
from equimodal.methods._info import MethodInfo
from equimodal.methods._outputs import outputs_on
from equimodal.model import Multimodal, check_parts
from equimodal.tasks import Task, check_output, distribution_of
from equimodal.unimodal import Way, unimodal_outputs

BatchLike = Batch | Mapping[str, Any] | tuple[Any, Any]
MEMBERS = ("modalities", "feature_sizes", "head", "encode", "fuse", "parameters_of")


class Predictor(nn.Module):
    """The part of a method that predicts; see :class:`~equimodal.methods.Method` for the arguments."""

    info: ClassVar[MethodInfo]
    min_modalities: ClassVar[int] = 2

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        inference: Rule = "fused",
        calibrated: bool = False,
        unimodal: Way | nn.Module | None = None,
    ) -> None:
        super().__init__()
        missing = [n for n in MEMBERS if not hasattr(model, n)]
        if missing or not isinstance(model, nn.Module):
            raise ModelError(
                "`model`: expected an nn.Module with the members of equimodal.Multimodal. "
                f"{type(model).__name__} lacks "
                f"{missing or 'being an nn.Module'}. Build a MultimodalModel(encoders, fusion, head) or add them."
            )
        if TYPE_CHECKING:  # at run time, from Python 3.12 on, this check does not see the sub-modules of a module
            if not isinstance(model, Multimodal):
                raise ModelError
        self.model = model
        self.task = task
        if task.name not in self.info.tasks:
            raise MethodError(
                f"`task`: {type(self).__name__} supports {', '.join(self.info.tasks)}. Found {task.name!r}."
            )
        if len(self.modalities) < self.min_modalities:
            raise ModelError(
                f"`model`: {type(self).__name__} needs at least {self.min_modalities} modalities. "
                f"Found {list(self.modalities)}."
            )
        check_parts(self.multimodal)
        self.inference = Inference(
            self.modalities, inference, calibrated=calibrated, distribution=distribution_of(task)
        ).to(next(self.parameters()).device)
        self.unimodal = unimodal_outputs(unimodal, model, task)

    @classmethod
    def recommended(cls, task: Task) -> dict[str, Any]:  # noqa: ARG003 - for subclasses
        """The options that we advise for a task, beside the defaults: ``MLA(model, task, **MLA.recommended(task))``.

        Defaults follow the papers, so that their numbers can be compared. The advice is ours: all outputs are pooled by
        what they are worth on validation data, and what :attr:`info` or the page of a method says beyond that. It can
        be built for every task that the class supports.

        Args:
            task: what is trained; its name and distribution count.

        Example:
            >>> from equimodal import Regression
            >>> from equimodal.methods import MLA
            >>> MLA.recommended(Regression())
            {'inference': 'skill', 'alpha_scale': 'relative', 'projector_reset': 'epoch'}
        """
        known = inspect.signature(cls.__init__).parameters
        return {"inference": "skill"} if "inference" in known else {}

    def __setattr__(self, name: str, value: Any) -> None:
        """An inference rule that does not fit the task would give wrong predictions without a word."""
        if name == "inference" and isinstance(value, Inference):
            wanted = distribution_of(self.task)
            if value.distribution != wanted or set(value.modalities) != set(self.modalities):
                raise MethodError(
                    f"`inference`: expected one for the modalities {list(self.modalities)} and outputs of the kind "
                    f"{wanted!r}. Found {list(value.modalities)} and {value.distribution!r}. Make it with "
                    f"Inference(method.modalities, rule, distribution={wanted!r})."
                )
        super().__setattr__(name, value)

    @property
    def multimodal(self) -> Multimodal:
        """The model, typed by what a method uses of it."""
        return self._modules["model"]  # type: ignore[return-value]  # as self.model, without the search

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(self.multimodal.modalities)

    def check_batch(self, batch: BatchLike | Batch) -> Batch:
        """``batch`` as a :class:`Batch` of this model's modalities with a target."""
        checked = batch if isinstance(batch, Batch) else Batch.of(batch)
        known, target = self.multimodal.modalities, checked.target
        for modality in checked.inputs:
            if modality not in known:
                unknown = sorted(set(checked.inputs) - set(known))
                raise BatchError(
                    f"`inputs`: expected the modalities {list(known)}. Found unknown {unknown}."
                    f"{did_you_mean(unknown, known)}"
                )
        if target is None:
            raise BatchError("`target`: expected a tensor for training. Found None.")
        if target.is_cpu:  # elsewhere it would synchronise; loaders look on the host
            self.task.check_target(target)
        return checked

    # ---- outputs -----------------------------------------------------------------------------------------------------

    def fused_output(self, features: Mapping[str, Tree], present: Presence | None) -> Tensor | None:
        """Output of the joint head; ``None`` for a method that does not train one."""
        output: Tensor = self.multimodal.head(self.multimodal.fuse(features, present))
        return output

    def unimodal_outputs(self, features: Mapping[str, Tree]) -> dict[str, Tensor]:
        """Outputs of each modality alone, from its features; empty where the method has none."""
        return {}

    def outputs_of(
        self, features: Mapping[str, Tree], present: Presence | None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Fused and unimodal outputs from features; the latter as ``unimodal`` says, else by the method's own way."""
        alone = self.unimodal_outputs(features) if self.unimodal is None else self.unimodal(features, present)
        return self.fused_output(features, present), alone

    def outputs(
        self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor], Presence | None]:
        """Fused output, unimodal outputs and presence, before the inference rule."""
        features, presence = self.features_of(inputs, present)
        return (*self.outputs_of(features, presence), presence)

    @property
    def single_samples(self) -> bool:
        """Whether a prediction depends on its own sample alone, whatever others are in the batch."""
        return type(self).combine is Predictor.combine and self.inference.custom is None

    @property
    def reads_features(self) -> bool:
        """Whether outputs come from features alone; a class with an ``outputs`` of its own may do anything."""
        return type(self).outputs is Predictor.outputs

    def features_of(
        self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tree], Presence | None]:
        """Features of every modality in ``inputs``, and presence."""
        presence = self.presence_of(inputs, present)
        return self.multimodal.encode(inputs, presence), presence

    def combine(
        self, fused: Tensor | None, unimodal: Mapping[str, Tensor], present: Mapping[str, Tensor] | None
    ) -> Prediction:
        """The prediction that the inference rule makes of what :meth:`outputs` returned."""
        if fused is not None and self.inference.rule in ("skill", "auto"):
            check_output(fused, self.task)  # before it is pooled with others
        prediction: Prediction = self.inference(fused, unimodal, present)
        return prediction

    def presence_of(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None) -> Presence | None:
        """Presence in which a modality that ``inputs`` leaves out counts as absent for every sample."""
        if not isinstance(inputs, Mapping):
            raise BatchError(
                f"`inputs`: expected a mapping from modalities to tensors. Found {type(inputs).__name__}. Of a Batch "
                "give batch.inputs and batch.present."
            )
        unknown = sorted(set(inputs) - set(self.modalities))
        if unknown or not inputs:
            raise BatchError(
                f"`inputs`: expected some of the modalities {list(self.modalities)}. Found {list(inputs)}."
                f"{did_you_mean(unknown, self.modalities)}"
            )
        strange = sorted(set(present or ()) - set(self.modalities))
        if strange:
            raise BatchError(
                f"`present`: expected the modalities {list(self.modalities)}. Found unknown {strange}."
                f"{did_you_mean(strange, self.modalities)}"
            )
        sizes = {f"inputs[{m!r}]": batch_size_of(x, f"inputs[{m!r}]") for m, x in inputs.items()}
        sizes |= {f"present[{m!r}]": len(mask) for m, mask in (present or {}).items()}
        if len(set(sizes.values())) > 1:
            raise BatchError(f"`inputs`, `present`: expected equally many samples in each. Found {sizes}.")
        left_out = [m for m in self.modalities if m not in inputs]
        if not left_out:
            return Presence.of(present, self.modalities)
        first = tree_tensors(next(iter(inputs.values())))[0]
        masks = dict(present or {})
        for m in self.modalities:
            if m in left_out:
                masks[m] = torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)
            elif m not in masks:
                masks[m] = torch.ones(first.shape[0], dtype=torch.bool, device=first.device)
        return Presence(masks, self.modalities)

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Prediction:
        """Predict in evaluation mode, for any subset of the modalities per sample.

        Args:
            inputs: modality -> tensors; a modality left out is absent for every sample.
            present: modality -> boolean (B,).

        Raises:
            BatchError: unknown modalities, or another number of samples in one of them.
            ModelError: the head has another width than the task.
        """
        with evaluating(self):
            prediction = self.combine(*self.outputs(inputs, present))
        check_output(prediction.output, self.task)
        return prediction

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """Output (B, C, ...) of the inference rule, with gradients."""
        output = self.combine(*self.outputs(inputs, present)).output
        check_output(output, self.task)
        return output

    @torch.no_grad()
    def fit_inference(self, batches: Iterable[BatchLike], groups: Groups | None = None) -> str:
        """Fit the inference rule on VALIDATION batches and compare all rules; returns the rule in force.

        One pass. ``method.inference.scores`` then has the validation score of every rule.

        Args:
            batches: a loader over validation data, or batches.
            groups: (N,) labels of samples that belong together (speaker, patient ...), in the order of the samples.
                Default: those of the dataset behind the loader; without any every sample is by itself.

        Raises:
            MethodError: the loader was made from a split that is not validation data, it is empty, or there is another
                number of labels.
            NonFiniteError: outputs are NaN or infinite, so that ``skill`` cannot be fitted.

        Warns:
            SmallValidationWarning: too few samples to fit ``skill`` or to choose for ``auto``.
            BelowSingleWarning: the best single output is better than the prediction, by more than chance.
        """
        part = getattr(getattr(batches, "split", None), "part", "validation")
        if part != "validation":
            raise MethodError(f"`batches`: expected validation data. Found the {part} split. Pass dataset.validation.")
        found = outputs_on(self, batches, groups, reduced=self.inference.rule in ("skill", "auto"))
        return self.inference.fit(
            self.task, found.fused, found.unimodal, found.present, found.target, groups=found.groups,
            reduced=found.reduced,
        )  # fmt: skip
