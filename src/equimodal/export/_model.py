"""What a trained method does at prediction time, as one module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from equimodal.batch import Presence, Tokens, Tree, keep_rows, tree_map, tree_tensors
from equimodal.errors import BatchError, ModelError
from equimodal.features import clean
from equimodal.methods import Method

Statistics = Mapping[str, tuple[Any, Any]]


class InferenceModel(nn.Module):
    """What a trained method does at prediction time and nothing else: encoders, what its rule needs, probabilities.

    Every sample goes through every encoder (rows of absent modalities as zeros), so that nothing depends on the data:
    this is what can be exported. The numbers are those of :meth:`Method.predict`.

    Args:
        method: trained. It is copied; the copy is on the CPU and in evaluation mode.
        example_inputs: modality -> example input; the modalities that are left out are absent for good.
        standardise: modality -> (mean, scale): inputs become (x - mean) * scale first.

    Shapes: called with ``inputs`` (modality -> tensor or nesting; tokens as {"values", "mask"}) and optionally
    ``present`` (modality -> boolean (B,)); returns {"probabilities": (B, C, ...), "output": (B, C, ...)}.

    Raises:
        ModelError: no method, or statistics of an unknown modality.
        BatchError: an unknown modality, or none.

    Example:
        >>> from equimodal import Classification, MultimodalModel
        >>> from equimodal.fusion import Concat
        >>> from equimodal.methods import Joint
        >>> encoders = {"audio": nn.Linear(5, 4), "video": nn.Linear(3, 4)}
        >>> model = MultimodalModel(encoders, Concat({"audio": 4, "video": 4}), nn.Linear(8, 2))
        >>> method = Joint(model, Classification(2))
        >>> x = {"audio": torch.zeros(3, 5), "video": torch.zeros(3, 3)}
        >>> bool((InferenceModel(method, x)(x)["output"] == method.predict(x).output).all())
        True
    """

    def __init__(
        self, method: Method, example_inputs: Mapping[str, Tree], standardise: Statistics | None = None
    ) -> None:
        super().__init__()
        if not isinstance(method, Method):
            raise ModelError(
                f"`method`: expected a trained method, whose inference rule is exported. Found "
                f"{type(method).__name__}. For a bare model wrap it: Joint(model, task)."
            )
        unknown = sorted(set(example_inputs) - set(method.modalities))
        if unknown or not example_inputs:
            raise BatchError(
                f"`example_inputs`: expected some of the modalities {list(method.modalities)}. Found "
                f"{list(example_inputs)}."
            )
        foreign = sorted(set(standardise or {}) - set(example_inputs))
        if foreign:
            raise ModelError(f"`standardise`: expected modalities of `example_inputs`. Found {foreign}.")
        self.method = copy.deepcopy(method).cpu().eval().requires_grad_(False)
        self.modalities = tuple(m for m in method.modalities if m in example_inputs)
        self._tokens = {m: isinstance(example_inputs[m], Tokens) for m in self.modalities}
        with torch.no_grad():
            on_cpu = {m: tree_map(lambda t: t.cpu(), example_inputs[m]) for m in self.modalities}
            self._has_fused = self.method.outputs(on_cpu)[0] is not None
        self._standardised: dict[str, int] = {}
        for position, (m, (mean, scale)) in enumerate((standardise or {}).items()):
            self._standardised[m] = position
            _refuse_rounding(m, torch.as_tensor(mean).double(), torch.as_tensor(scale).double())
            self.register_buffer(f"mean_{position}", torch.as_tensor(mean, dtype=torch.float32))
            self.register_buffer(f"scale_{position}", torch.as_tensor(scale, dtype=torch.float32))

    @property
    def rule(self) -> str:
        """The inference rule in force."""
        return self.method.inference.resolve(self._has_fused, has_unimodal=True)

    def forward(self, inputs: Mapping[str, Tree], present: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Probabilities and outputs."""
        features = {}
        for m in self.modalities:
            mask = None if present is None else present.get(m)
            x = self._prepared(m, inputs[m])
            if mask is not None:
                x = keep_rows(x, mask)
            feature = self.method.multimodal.encode({m: x}, None, [m])[m]
            features[m] = feature if mask is None else keep_rows(feature, mask)
        masks = cast("Presence | None", present)
        fused, alone = None, dict[str, Tensor]()
        needs = self.method.inference.needs(self._has_fused)
        if "fused" in needs:
            fused = self.method.fused_output(features, masks)
        if "unimodal" in needs:
            own = self.method.unimodal
            alone = self.method.unimodal_outputs(features) if own is None else own(features, masks)
        if fused is None and len(alone) == 1 and present is not None:  # with nobody else to ask, no opinion is uniform
            m, z = next(iter(alone.items()))
            alone, present = {m: keep_rows(z, present[m]) if m in present else z}, None
        output = self.method.combine(fused, alone, self._presence(present, features)).output
        return {"probabilities": self.method.task.probabilities(output), "output": output}

    def _presence(
        self, present: Mapping[str, Tensor] | None, features: Mapping[str, Tree]
    ) -> Mapping[str, Tensor] | None:
        """Presence in which modalities that were left out for good are absent, as in :meth:`Method.predict`."""
        left_out = [m for m in self.method.modalities if m not in self.modalities]
        if not left_out or "fused" not in self.method.inference.needs(self._has_fused):
            return present
        first = tree_tensors(features[self.modalities[0]])[0]
        nobody = torch.zeros(first.shape[0], dtype=torch.bool, device=first.device)
        return {**(present or {}), **dict.fromkeys(left_out, nobody)}

    def _prepared(self, modality: str, x: Tree) -> Tree:
        if self._tokens[modality] and not isinstance(x, Tokens):
            x = Tokens(x["values"], x["mask"])
        position = self._standardised.get(modality)
        if position is not None:
            mean, scale = getattr(self, f"mean_{position}"), getattr(self, f"scale_{position}")
            x = tree_map(lambda t: (t - mean) * scale if t.is_floating_point() else t, x)
        return clean(x) if isinstance(x, Tokens) else x


def _refuse_rounding(modality: str, mean: Tensor, scale: Tensor) -> None:
    """Refuse inputs that the exported model would be given in float32, where their differences are lost."""
    rounding = torch.finfo(torch.float32).eps / 2 * (mean * scale).abs().max()
    if rounding > 1e-3:
        raise ModelError(
            f"`standardise`: expected inputs {modality!r} that float32 can tell apart. Found a mean of "
            f"{float(mean.abs().max()):g}, where it rounds by {float(rounding):.2g} deviations. Subtract a constant "
            "from the data before training."
        )
