"""Rules of single papers, which methods and users ask for by name; `auto` does not try them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor

from equimodal.functional import combined_opinion, dirichlet_logarithms, energy_fusion, evidence
from equimodal.tasks import Distribution

PaperRule = Literal["energy", "evidential", "evidential_fused"]
PAPER_RULES: tuple[str, ...] = get_args(PaperRule)
"""Names of the rules of single papers."""


class Energy:
    r"""QMF's rule: the logits of each modality times their energy, :math:`\sum_m 0.1 \log\sum_c e^{z_{m,c}}\, z_m`.

    It means something where training ranked the energies by how well a modality does, as QMF does; elsewhere it favours
    whoever has the larger logits. Negative weights are possible.
    """

    name = "energy"
    distributions = ("categorical",)

    def __call__(
        self,
        unimodal: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        fused: Tensor | None,
        distribution: Distribution,
        /,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Fused logits, and the weights."""
        return energy_fusion(unimodal, present)


class Evidential:
    r"""Dempster's rule over the opinions of the modalities, as in TMC; with ``fused`` also the joint head's (ETMC).

    Evidence is the softplus of an output. The prediction is the expected probability :math:`\alpha_k/S`, as logarithm
    of :math:`\alpha`. An absent modality has no opinion. There are no weights: the rule multiplies. Evidence means
    something where it was trained by the evidential loss, as TMC does; the softplus of other logits is too little of
    it, and too even.

    Args:
        fused: with the joint head's opinion.
    """

    distributions = ("categorical",)

    def __init__(self, fused: bool = False) -> None:
        self.name = "evidential_fused" if fused else "evidential"
        self.needs = ("unimodal", "fused") if fused else ("unimodal",)

    def __call__(
        self,
        unimodal: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        fused: Tensor | None,
        distribution: Distribution,
        /,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Logarithms of the combined Dirichlet parameters; no weights."""
        opinions = {f"unimodal/{m}": evidence(z) for m, z in unimodal.items()}
        masks = {f"unimodal/{m}": mask for m, mask in present.items()}
        if fused is not None:
            opinions["fused"] = evidence(fused)
        return dirichlet_logarithms(combined_opinion(opinions, masks)[0]), {}


def paper_rule(name: str | None) -> Energy | Evidential | None:
    """A new rule of that name; ``None`` where no paper's rule has it."""
    if name == "energy":
        return Energy()
    return Evidential(name == "evidential_fused") if name in PAPER_RULES else None
