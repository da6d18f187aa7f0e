"""What a validation pass says: by hand, whatever the batch sizes, on two processes, with absent modalities."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from equimodal import Batch, Classification, MultimodalModel, Segmentation
from equimodal.data import loader
from equimodal.engine import ExactSampler
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import EpochContext, Joint, MultiLoss, Validation, available, measure
from equimodal.methods._validation import part_of
from equimodal.tasks import score
from tests.features import workers
from tests.features.users_data import WeakFirst, dataset, fit, model
from tests.helpers import CLASSES, make_batch, make_method, make_model, sgd, split, weights
from tests.task_helpers import TASKS, task_batch, task_method

WEIGHT = [1.0, 4.0, 0.5]
QUIET = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*is deprecated.*",
                                   "ignore:.*in eval mode.*")  # fmt: skip


def method_with(task: Any, count: int = 3) -> MultiLoss:
    return MultiLoss(make_model(count), task).double()


def partly(batch: Batch) -> Batch:
    """The second modality is in some samples, the third in those of the first class only."""
    names = batch.modalities
    assert batch.target is not None
    present = {names[1]: torch.arange(len(batch)) % 4 > 0, names[2]: batch.target == 0}
    return Batch(batch.inputs, batch.target, present, batch.index)


def by_hand(method: MultiLoss, batch: Batch, weight: list[float]) -> Validation:
    """Loops over samples, in float64."""
    output = method.predict(batch.inputs, batch.present)
    target = np.asarray(batch.target)

    def of(z: Tensor, rows: list[int]) -> tuple[float, float]:
        p = np.exp(z.numpy()) / np.exp(z.numpy()).sum(1, keepdims=True)
        right = sum(int(p[i].argmax()) == target[i] for i in rows) / len(rows)
        lost = sum(-weight[target[i]] * math.log(p[i, target[i]]) for i in rows)
        return right, lost / sum(weight[target[i]] for i in rows)

    alone = {}
    for m in method.modalities:
        mask = (batch.present or {}).get(m, torch.ones(len(batch), dtype=torch.bool))
        alone[m] = of(output.unimodal[m], mask.nonzero()[:, 0].tolist())
    score, loss = of(output.output, list(range(len(batch))))
    return Validation(score, loss, {m: v[0] for m, v in alone.items()}, {m: v[1] for m, v in alone.items()})


def near(found: Validation, expected: Validation, tolerance: float = 1e-12) -> None:
    assert found.score == pytest.approx(expected.score, abs=tolerance)
    assert found.loss == pytest.approx(expected.loss, abs=tolerance)
    assert dict(found.scores) == pytest.approx(dict(expected.scores), abs=tolerance)
    assert dict(found.losses) == pytest.approx(dict(expected.losses), abs=tolerance)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_scores_and_losses_are_those_of_a_loop_over_samples(weight: list[float] | None, parts: int) -> None:
    method = method_with(Classification(CLASSES, class_weight=weight))
    batch = partly(make_batch(3, 15))
    found = measure(method, split(batch, parts))
    near(found, by_hand(method, batch, weight or [1.0] * CLASSES), 1e-7 if weight else 1e-12)
    assert float(found) == found.score


@pytest.mark.parametrize("name", TASKS)
def test_every_task(name: str) -> None:
    """The loss over all samples, whatever the batches; Dice is the mean of its batches."""
    task = TASKS[name]()
    for changed in (task, Segmentation(3, dice_weight=0.0, class_weight=[0.2, 0.3, 0.5], ignore_index=9)):
        if changed is not task and name != "segmentation":
            continue
        method, batch = task_method("MultiLoss", name, 2, task=changed), task_batch(name, changed, 2, 7)
        assert batch.target is not None
        prediction = method.predict(batch.inputs)
        whole = measure(method, [batch])
        assert whole.loss == pytest.approx(float(changed.loss(prediction.output, batch.target)), rel=1e-6)
        for m, output in prediction.unimodal.items():
            assert whole.losses[m] == pytest.approx(float(changed.loss(output, batch.target)), rel=1e-6)
            assert whole.scores[m] == pytest.approx(float(score(changed, output, batch.target)), rel=1e-6)
        if getattr(changed, "dice_weight", 0.0):
            parts = [measure(method, [b]).loss * len(b) / 7 for b in split(batch, 3)]
            if changed.class_weight is None:  # type: ignore[attr-defined]
                assert measure(method, split(batch, 3)).loss == pytest.approx(sum(parts), rel=1e-6)
        else:
            near(measure(method, split(batch, 3)), whole, 1e-6)


def test_modalities_that_are_not_there() -> None:
    """Left out of a batch, in no sample, or without an output of their own."""
    method, batch = method_with(Classification(CLASSES)), make_batch(3, 12)
    first, second, third = batch.modalities
    without = Batch({m: batch.inputs[m] for m in (first, second)}, batch.target)
    assert sorted(measure(method, [without]).scores) == sorted([first, second])
    both = measure(method, [without, batch])
    assert both.losses[third] == pytest.approx(measure(method, [batch]).losses[third], abs=1e-12)

    class Eager(MultiLoss):
        def unimodal_outputs(self, features: Any) -> dict[str, Tensor]:
            outputs = super().unimodal_outputs(features)
            return {m: outputs.get(m, torch.zeros(12, CLASSES).double()) for m in self.modalities}

    assert third not in measure(Eager(make_model(3), Classification(CLASSES)).double(), [without]).losses
    nobody = Batch(batch.inputs, batch.target, {third: torch.zeros(12, dtype=torch.bool)})
    found = measure(method, [nobody])
    assert third not in found.scores
    assert third not in found.losses
    plain = Joint(MultimodalModel({m: method.model.encoder(m) for m in batch.modalities},  # type: ignore[operator]
                                  Concat(dict.fromkeys(batch.modalities, 6)),
                                  nn.Sequential(nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 3))).double(),
                  Classification(CLASSES))  # fmt: skip
    assert measure(plain, [batch]).scores == measure(plain, [batch]).losses == {}


def test_it_leaves_no_trace() -> None:
    method = method_with(Classification(CLASSES)).train()
    before, state = weights(method), torch.get_rng_state()
    measure(method, [make_batch(3)])
    assert all(m.training for m in method.modules())
    assert all(torch.equal(t, before[n]) for n, t in weights(method).items())
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(MethodError, match="`batches`: expected at least one batch"):
        measure(method, [])


def test_a_plain_score_is_a_validation() -> None:
    found = Validation.of(0.25)
    assert (found.score, found.scores, float(found)) == (0.25, {}, 0.25)
    assert math.isnan(found.loss)
    assert Validation.of(found) is found
    assert Validation.of(torch.tensor(0.5)).score == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("name", available())
def test_every_method_takes_either(name: str) -> None:
    options: dict[str, Any] = {"alternate": "stage", "sam": None} if name == "MIE" else {}
    method = make_method(name, 2, **options)
    method.on_validation_end(0.5)
    method.on_validation_end(Validation(0.75, 0.1, {}, {}))
    method.on_validation_end(0.25)
    if name == "MIE":
        assert method.stages.best == 0.75  # type: ignore[union-attr]


# ---- between epochs --------------------------------------------------------------------------------------------------


def test_never_test_data() -> None:
    data = dataset()
    fine: list[Any] = [
        loader(data.validation, 4), DataLoader(data.validation, 4), [make_batch(2)], None,
        DataLoader(Subset(data.validation, [0])), DataLoader([1, 2]),  # type: ignore[arg-type]
    ]  # fmt: skip
    for batches in fine:
        assert EpochContext(0, validation=batches).validation is batches
    for part in (data.train, data.test):
        for batches in (loader(part, 4), DataLoader(part, 4), DataLoader(Subset(part, [0])), part):
            with pytest.raises(
                MethodError, match=rf"`context.validation`: .*Found the {part.part} split. Pass a loader"
            ):
                EpochContext(0, validation=batches)  # type: ignore[arg-type]
    assert part_of(DataLoader(data.test, 2)) == "test"
    assert part_of("text") is None


def trainer(**options: Any) -> Any:
    from lightning.pytorch import Trainer

    return Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, enable_checkpointing=False, **options,
    )  # fmt: skip


def module_of(method: Any) -> Any:
    from equimodal.lightning import MethodModule

    return MethodModule(method, lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9))


@QUIET
def test_the_trainer_gives_the_validation_and_its_batches() -> None:
    """The order by strength follows the scores per modality, as in a plain loop."""
    data = dataset()
    contexts = []

    class Watched(WeakFirst):
        def on_train_epoch_start(self, context: EpochContext) -> None:
            contexts.append(context)

    inside, plain = (Watched(model(), Classification(CLASSES, class_weight=WEIGHT)) for _ in range(2))
    validation = loader(data.validation, 3)
    run = trainer()
    run.fit(module_of(inside), loader(data.train, 4), validation)
    assert contexts[0].validation is validation
    assert [c.accumulate for c in contexts] == [1, 1]
    fit(plain, sgd(plain), loader(data.train, 4), validation)
    assert len(inside.seen) == len(plain.seen) == 2
    for found, expected in zip(inside.seen, plain.seen, strict=True):
        near(found, expected)
        assert sorted(found.losses) == sorted(found.scores) == sorted(inside.modalities)
    assert inside.order == plain.order != inside.modalities
    for m, value in inside.seen[-1].losses.items():
        assert float(run.callback_metrics[f"validation/loss/{m}"]) == pytest.approx(value, abs=1e-6)
    assert all(torch.equal(t, weights(plain)[n]) for n, t in weights(inside).items())


@QUIET
def test_the_trainer_offers_no_other_split() -> None:
    data = dataset()
    contexts = []

    class Watched(WeakFirst):
        def on_train_epoch_start(self, context: EpochContext) -> None:
            contexts.append(context)

    method = Watched(model(), Classification(CLASSES))
    trainer().fit(module_of(method), loader(data.train, 4), loader(data.train, 4))
    assert contexts[0].validation is None  # its scores are still those of the loader that was given
    with pytest.raises(MethodError, match="`context.validation`: expected validation data. Found the test split"):
        trainer().fit(module_of(method), loader(data.train, 4), loader(data.test, 4))


# ---- processes -------------------------------------------------------------------------------------------------------


def measure_shared(rank: int, world: int, folder: str) -> None:
    """Seven samples in batches of 2 on two processes; all on one of them; and through the Trainer with padding."""
    warnings.simplefilter("ignore")
    workers.start(rank, world, folder)
    data = dataset(missing=True)
    method = WeakFirst(model(norm=True), Classification(CLASSES, class_weight=WEIGHT))
    for layer in method.modules():
        if isinstance(layer, nn.BatchNorm1d) and layer.running_mean is not None:
            layer.running_mean.fill_(0.5 if rank else -0.5)  # their average is 0
    before = weights(method)
    own = list(ExactSampler(data.validation))
    found = [measure(method, loader(data.validation, 2, indices=own))]
    found.append(measure(method, loader(data.validation, 4) if rank == 0 else []))
    same = all(torch.equal(t, before[n]) for n, t in weights(method).items())
    from torch.utils.data import DistributedSampler

    contexts = []

    class Watched(WeakFirst):
        def on_train_epoch_start(self, context: EpochContext) -> None:
            contexts.append(context)
            self.seen.append(measure(self, context.validation or []))

    inside = Watched(model(), Classification(CLASSES, class_weight=WEIGHT))
    padded = DataLoader(data.validation, 2, sampler=DistributedSampler(data.validation, shuffle=False))
    train = loader(data.train, 4, indices=range(rank, 24, world))
    run = trainer(devices=world, strategy="ddp")
    run.fit_loop.max_epochs = 1
    run.fit(module_of(inside), train, padded)
    counted = sum(len(Batch.of(b)) for b in contexts[0].validation or ())
    workers.finish(rank, folder, [[vars(v) for v in [*found, *inside.seen]], same, counted, inside.order])


@pytest.mark.distributed
def test_processes(tmp_path: Path) -> None:
    ours, theirs = workers.run(measure_shared, tmp_path / "group")
    assert ours[0] == theirs[0]
    assert ours[1]
    assert theirs[1]
    assert (ours[2], theirs[2]) == (4, 3)  # without the padding
    assert ours[3] == theirs[3]
    data = dataset(missing=True)
    task = Classification(CLASSES, class_weight=WEIGHT)
    expected = measure(WeakFirst(model(norm=True), task), loader(data.validation, 7))
    for values in ours[0][:2]:
        near(Validation(**values), expected)
    near(Validation(**ours[0][2]), measure(WeakFirst(model(), task), loader(data.validation, 7)))
    assert len(ours[0]) == 4
