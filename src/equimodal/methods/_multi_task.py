"""The losses of MultiLoss as tasks of a multi-task optimizer: UPGrad, MGDA, PCGrad or FAMO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, cast, get_args

import torch
from torch import Tensor, nn

from equimodal._utils.arguments import one_of
from equimodal.batch import Batch
from equimodal.engine import (
    Descent,
    Engine,
    Objective,
    Phase,
    Sharpness,
    local,
    paused_statistics,
    reshard,
)
from equimodal.inference import Rule
from equimodal.methods._base import Scales, Stateful, StepReport
from equimodal.methods._info import OWN_ROWS, MethodInfo
from equimodal.methods._loss import loss_sums, mean_of_sums
from equimodal.methods._multi_loss import MultiLoss
from equimodal.methods._options import Within, check_options
from equimodal.methods.parts import AggregatorName, LossRates, Weighting, encoder_parameters, gram_weighting
from equimodal.tasks import Task, counting_dtype, distribution_of


class MultiTask(Stateful, MultiLoss):
    r"""Fused and unimodal losses as the tasks of a multi-task optimizer: the control of methods that weigh them.

    The step is :math:`\sum_k w_k g_k`, where :math:`g_k` is the gradient of loss k, of K = 1 + M. ``"MGDA"``,
    ``"PCGrad"`` and ``"UPGrad"`` compute w from the inner products of the gradients over all encoders
    (:math:`\langle g_k, g_l \rangle`), by TorchJD; the encoders take that step, and heads and fusion, which belong to
    one loss each, their own gradient. ``"FAMO"`` computes w from the losses and from how fast each of them fell
    (:func:`~equimodal.functional.rate_weights`), for all parameters.

    Weights are those of the papers, and their sum differs: 1 for MGDA and FAMO, about 1 for UPGrad, about K for PCGrad
    (MultiLoss has K). A learning rate is chosen for each of them.

    Args:
        aggregator: FAMO needs nothing else; the other three need the extra ``torchjd``, which also installs the solver
            that UPGrad uses. An object of TorchJD that weighs by the Gram matrix (``gramian_weighting``), or a function
            from the Gram matrix (K, K) to weights (K,), is as good.
        rate: learning rate of FAMO's logits.
        decay: weight decay of FAMO's logits; 1e-5 in the released code.
        heads: modality -> module from its features to the output; default one linear layer each.
        seed: of the order in which PCGrad projects.

    Raises:
        MissingExtraError: the aggregator is of TorchJD, which is not installed.
        MethodError: an option is none of its choices, or the object has a state or reads more than a Gram matrix.
    """

    info = MethodInfo(
        title="Fused and unimodal losses under a multi-task optimizer",
        idea="UPGrad, MGDA, PCGrad or FAMO weigh the fused and the unimodal losses",
        paper="Control; Quinton and Rey, arXiv 2406.16232 (UPGrad); Sener and Koltun, NeurIPS 2018, arXiv 1810.04650 "
        "(MGDA); Yu et al., NeurIPS 2020, arXiv 2001.06782 (PCGrad); Liu et al., NeurIPS 2023, arXiv 2306.03792 (FAMO)",
        equations="sum_k w_k g_k with the weights of each aggregator; FAMO's weights and update of its logits",
        family="gradient modulation",
        modalities="any number",
        missing=OWN_ROWS,
        cost="1.7 joint steps: a backward pass for each loss; FAMO one forward pass more",
        deviations=(
            "inner products are over the encoders; heads and fusion take the gradient of their own loss",
            "FAMO on a Gaussian likelihood takes losses from their lower bound on: log-variances are clamped at -14",
            "FAMO is written here after its paper, with its optimizer's state in the checkpoint; equal to TorchJD's",
        ),
        released=("not looked at: aggregators are TorchJD's",),
        consulted="papers; TorchJD 0.18 (documentation and source)",
        control=True,
        engine={"asynchronous": "differs: every step waits for the device, where weights are found on the host"},
    )
    state = ("_generator",)
    rates: LossRates | None
    _weighting: Weighting | None
    _before: Tensor
    _known: Tensor

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        aggregator: Annotated[AggregatorName | nn.Module, "the one that needs no other package"] = "FAMO",
        rate: Annotated[float, Within(at_least=0), "FAMO paper"] = 0.025,
        decay: Annotated[float, Within(at_least=0), "FAMO paper, algorithm 2"] = 1e-3,
        heads: Mapping[str, nn.Module] | None = None,
        seed: Annotated[int, Within(whole=True)] = 0,
        sharpness: Sharpness | None = None,
        inference: Rule = "fused",
        calibrated: bool = False,
    ) -> None:
        super().__init__(model, task, heads=heads, sharpness=sharpness, inference=inference, calibrated=calibrated)
        check_options(MultiTask.__init__, locals())
        self.names = ("fused", *(f"unimodal/{m}" for m in self.modalities))
        self.rates, self._weighting = None, None
        if isinstance(aggregator, str):
            one_of("aggregator", aggregator, get_args(AggregatorName))
        if aggregator == "FAMO":
            least = -7.0 if distribution_of(task) == "gaussian" else 0.0
            self.rates = LossRates(len(self.names), rate, decay, least).to(next(self.parameters()))
        else:
            self._weighting = gram_weighting(aggregator)
        self._generator = torch.Generator().manual_seed(seed)
        self._batches: Sequence[Batch] = ()

    def phases(self, batches: Sequence[Batch]) -> Iterable[Phase]:
        """One, with the gradients of each loss apart; for inner products those of the encoders are enough."""
        trained = [*self.model.parameters(), *self.heads.parameters()]
        self._batches = batches if self.rates is not None else ()
        yield Phase(
            "joint", self._objective, trained, separate=encoder_parameters(self) if self.rates is None else None
        )
        self._batches = ()

    def _outputs(self, batch: Batch) -> dict[str, Tensor]:
        features = self._features(batch)
        return {"fused": self._fused(features, batch), **{f"unimodal/{m}": z for m, z in self.heads(features).items()}}

    def _objective(self, batch: Batch) -> Objective:
        outputs = self._outputs(batch)
        parts = {name: self.loss(z, batch, _modality(name)) for name, z in outputs.items()}
        return Objective.sum_of(parts, sums=self._sums(outputs, batch))

    @torch.no_grad()
    def _sums(self, outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Of each loss numerator and denominator, which add up over micro-batches and processes."""
        sums: dict[str, Tensor] = {}
        for name, output in outputs.items():
            rows = self._rows(output, batch, _modality(name))
            pair = loss_sums(self.task, *rows, counting_dtype(output.device))
            sums |= {f"{name}/{kind}": v for kind, v in zip(_KINDS, pair, strict=True)}
        return sums

    def _means(self, sums: Mapping[str, Tensor], engine: Engine) -> tuple[Tensor, Tensor]:
        """(K,) losses over the whole batch, 1 where nobody has the modality; and whether somebody has."""
        zero = torch.zeros_like(sums["fused/numerator"])
        keys = [f"{name}/{kind}" for kind in _KINDS for name in self.names]
        whole = engine.all_sum({key: sums.get(key, zero) for key in keys})
        top, bottom = torch.stack([whole[key] for key in keys]).chunk(2)
        known = (bottom > 0).any(1)
        return torch.where(known, mean_of_sums(top, bottom), 1.0), known

    @torch.no_grad()
    def modify_gradients(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> Scales:
        """The encoders' gradient, or FAMO's of everything, becomes the weighted sum of the losses'."""
        losses, known = self._means(descent.sums, engine)
        given = [name for name in self.names if name in descent.gradients]
        if self.rates is not None:
            self._before, self._known = losses.to(self.rates.logits), known
            weights = self.rates.weights(self._before, self._known)[[self.names.index(n) for n in given]]
        else:  # a row of zeros would count; the aggregators wait for the device anyway
            given = [name for name, some in zip(self.names, known.tolist(), strict=True) if some]
            weights = self._aggregate(descent.gradients.gram(encoder_parameters(self), given))
        trained = [p for p in (phase.trained if self.rates else encoder_parameters(self)) if p.grad is not None]
        rows = zip(*(descent.gradients.of(name, trained) for name in given), strict=True)
        for p, row in zip(trained, rows, strict=True):
            terms = [w.to(p.dtype) * local(g) for w, g in zip(weights, row, strict=True) if g is not None]
            if terms:
                local(cast(Tensor, p.grad)).copy_(torch.stack(terms).sum(0))
        report.coefficients["loss weight"] = dict(zip(given, weights.unbind(), strict=True))
        return ()

    def _aggregate(self, gram: Tensor) -> Tensor:
        """The weights; what is drawn for them is the same on every process, and leaves no trace."""
        seed = int(torch.randint(2**31, (), generator=self._generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cast(Weighting, self._weighting)(gram).to(gram)

    @torch.no_grad()
    def after_step(self, phase: Phase, descent: Descent, engine: Engine, report: StepReport) -> None:
        """FAMO looks at the losses of the same samples again."""
        if self.rates is None:
            return
        sums: dict[str, Tensor] = {}
        with paused_statistics(self):
            for batch in self._batches:
                for key, value in self._sums(self._outputs(batch), batch).items():
                    sums[key] = sums[key] + value if key in sums else value
        reshard(self)
        self.rates.update(self._before, self._means(sums, engine)[0].to(self.rates.logits), self._known)


_KINDS = ("numerator", "denominator")


def _modality(name: str) -> str | None:
    """Of which modality the loss is; ``None`` for the fused one."""
    return None if name == "fused" else name.removeprefix("unimodal/")
