"""A copy trained aside: the numbers of a loop written out, no trace in the original, every engine feature."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.data import loader
from equimodal.engine import save_random_state
from equimodal.errors import EquimodalError
from equimodal.methods import EpochContext, measure
from equimodal.methods.parts import probe_run
from equimodal.testing import ScheduleFree
from tests.features import workers
from tests.features.helpers import OPTIMIZERS
from tests.features.test_plan import QUIET, module_of, trainer
from tests.features.users_data import SIZES, Blend, dataset, fit, model
from tests.helpers import CLASSES, WIDTH, assert_identical, assert_near, sgd, weights


def made(seed: int = 0, double: bool = True, norm: bool = False, **options: Any) -> Blend:
    return Blend(model(seed, double, norm), Classification(CLASSES), **options)


def context_of(method: Blend, engine: Any = None, size: int = 8, **options: Any) -> EpochContext:
    data = dataset()
    given = {"loader": loader(data.train, size, seed=2), "validation": loader(data.validation, 4), **options}
    return EpochContext(0, engine=sgd(method) if engine is None else engine, **given)


def test_it_is_what_a_loop_written_out_does() -> None:
    """Two passes of SGD with momentum from its start, in plain torch; losses by loops over whole splits."""
    method = made(use=False)
    engine = sgd(method, lr=0.1, momentum=0.9)
    data = dataset()
    fit(method, engine, loader(data.train, 8), epochs=range(1))  # some momentum, which the run must not have
    method.blend.copy_(torch.tensor([0.5, 1.0, 2.0]))
    before = weights(method)
    probe = probe_run(method, context_of(method, engine), epochs=2)
    assert_identical(before, weights(method))
    copied = copy.deepcopy(method)
    own = [p for p in copied.parameters() if p.requires_grad]
    velocity: list[Tensor | None] = [None] * len(own)
    losses = [plain_losses(copied)]
    batches = loader(data.train, 8, seed=2)
    for _ in range(2):
        for batch in batches:
            h = features_of(copied, batch)
            total = cross_entropy(fused_output(copied, h), batch)
            for weight, m in zip((0.5, 1.0, 2.0), SIZES, strict=True):
                total = total + weight * cross_entropy(copied.heads[m](h[m]), batch)
            gradients = torch.autograd.grad(total, own, allow_unused=True)
            with torch.no_grad():
                for i, (p, g) in enumerate(zip(own, gradients, strict=True)):
                    if g is not None:
                        v = velocity[i]
                        velocity[i] = g.clone() if v is None else 0.9 * v + g
                        p.sub_(0.1 * velocity[i])  # type: ignore[operator]
    losses.append(plain_losses(copied))
    assert (probe.steps, probe.seconds > 0) == (6, True)
    for name, at in (("before", 0), ("after", 1)):
        for part in ("training", "validation"):
            found = getattr(probe, f"{part}_{name}")
            assert {"fused": found.loss, **found.losses} == pytest.approx(losses[at][part], abs=1e-12)
            assert sorted(found.scores) == sorted(SIZES)


def features_of(method: Blend, batch: Batch) -> dict[str, Tensor]:
    return {m: method.model.encoder(m)(batch.inputs[m]) for m in SIZES}  # type: ignore[operator]


def fused_output(method: Blend, features: dict[str, Tensor]) -> Tensor:
    output: Tensor = method.model.head(torch.cat(list(features.values()), 1))
    return output


def cross_entropy(output: Tensor, batch: Batch) -> Tensor:
    assert batch.target is not None
    return nn.functional.cross_entropy(output, batch.target)


@torch.no_grad()
def plain_losses(method: Blend) -> dict[str, dict[str, float]]:
    data, found = dataset(), {}
    for name, batch in (("training", data.train.batch()), ("validation", data.validation.batch())):
        h = features_of(method, batch)
        outputs = {"fused": fused_output(method, h), **{m: method.heads[m](h[m]) for m in SIZES}}
        found[name] = {m: float(cross_entropy(z, batch)) for m, z in outputs.items()}
    return found


@pytest.mark.parametrize("optimizer", [n for n in OPTIMIZERS if n != "schedule-free"])
def test_no_trace(optimizer: str) -> None:
    """A run with probes whose results are not used equals one without, bit for bit: weights, batch statistics,
    optimizer, generators, the loader's order."""
    data = dataset()
    ends = []
    for probing in (True, False):
        torch.manual_seed(7)
        method = made(norm=True, use=False, epochs=1)
        for m in method.modalities:
            method.model.encoder(m).append(nn.Dropout(0.3))  # type: ignore[operator]
        if not probing:
            method.on_train_epoch_start = lambda context: None  # type: ignore[method-assign]
        engine = PlainEngine(OPTIMIZERS[optimizer](method.parameters()), clip_norm=0.5)
        train = loader(data.train, 5, seed=1, augment={"a": ["noise"]})
        fit(method, engine, train, loader(data.validation, 4), range(3))
        ends.append((weights(method), engine.optimizers[0].state_dict(), save_random_state(), train.state_dict()))
        assert len(method.probes) == 3 * probing
    assert_identical(ends[0][0], ends[1][0])
    for one, other in zip(ends[0][1]["state"].values(), ends[1][1]["state"].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)
    assert torch.equal(ends[0][2]["cpu"], ends[1][2]["cpu"])
    assert ends[0][3] == ends[1][3]


def test_steps_and_adjustments() -> None:
    """As many updates as asked for, over as many passes as they take; the copy alone is changed."""
    method = made()
    told: list[Any] = []

    def adjust(copied: Blend) -> None:
        told.append(copied)
        copied.blend.zero_()

    probe = probe_run(method, context_of(method), steps=7, adjust=adjust)  # three batches a pass
    assert probe.steps == 7
    assert told[0] is not method
    assert method.blend.tolist() == [1, 1, 1]
    before, after = probe.training_before, probe.training_after
    assert after.loss < before.loss
    assert after.losses != before.losses  # the encoders moved; the heads got no gradient
    assert_identical(weights(told[0].heads), weights(method.heads))
    none = probe_run(method, context_of(method, validation=None), steps=1)
    assert none.validation_before is none.validation_after is None


def test_micro_batches() -> None:
    """Groups of `accumulate` batches are one update, also the rest of a pass."""
    one, two = made(), made()
    whole = probe_run(one, context_of(one, size=8), epochs=2)
    apart = probe_run(two, context_of(two, size=4, accumulate=2), epochs=2)
    assert whole.steps == apart.steps == 6
    assert apart.training_after.loss == pytest.approx(whole.training_after.loss, abs=1e-12)
    assert probe_run(two, context_of(two, size=5, accumulate=3), epochs=1).steps == 2  # 5 batches


def test_the_training_samples_are_measured_as_they_are() -> None:
    """Each once, without augmentation and plan; the copy trains on the plan."""
    method = made()
    train = loader(dataset().train, 4, augment={"a": ["noise"]})
    rows = [0, 1, 2, 3] * 2
    train.plan(dict.fromkeys(SIZES, rows))
    probe = probe_run(method, context_of(method, loader=train), epochs=1)
    assert probe.steps == 2
    assert probe.training_before.loss == pytest.approx(plain_losses(method)["training"]["fused"], abs=1e-12)
    assert len(train) == 2


# ---- engine features -------------------------------------------------------------------------------------------------


def test_float16_under_a_loss_scale() -> None:
    method = made(double=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    engine = sgd(method, lr=0.05, clip_norm=0.5, autocast=torch.float16, scaler=scaler)
    for batch in loader(dataset().train, 8):
        method.training_step(batch, engine)
    scale = scaler.state_dict()
    half = probe_run(method, context_of(method, engine), epochs=2)
    assert scaler.state_dict() == scale
    plain = probe_run(method, context_of(method, sgd(method, lr=0.05, clip_norm=0.5)), epochs=2)
    assert half.training_after.loss == pytest.approx(plain.training_after.loss, abs=2e-2)
    assert half.training_after.loss != plain.training_after.loss  # it did run in half precision
    method.training_step(next(iter(loader(dataset().train, 8))), engine)


@pytest.mark.parametrize("way", ["loss", "encoder.compile()", "torch.compile(encoder)"])
def test_compilation(way: str) -> None:
    """Whole losses by the engine, or encoders compiled before the method was made; several runs, and training goes
    on."""
    torch.compiler.reset()
    options: dict[str, Any] = {"backend": "eager", "fullgraph": True}
    eager, plain = made(), model()
    if way == "encoder.compile()":
        for m in SIZES:
            plain.encoder(m).compile(**options)
    if way == "torch.compile(encoder)":
        wrapped: dict[str, Any] = {m: torch.compile(plain.encoder(m), **options) for m in SIZES}
        plain = MultimodalModel(wrapped, plain.fusion, plain.head, feature_sizes=dict.fromkeys(SIZES, WIDTH))
    compiled = Blend(plain, Classification(CLASSES))
    engines = sgd(eager), sgd(compiled, compile=options if way == "loss" else False)
    for _ in range(3):
        expected = probe_run(eager, context_of(eager, engines[0]), epochs=1)
        found = probe_run(compiled, context_of(compiled, engines[1]), epochs=1)
        assert found.training_after.loss == pytest.approx(expected.training_after.loss, abs=1e-9)
        # of modules compiled in place torch itself warns while they train; their copies run uncompiled
        for batch in () if way == "encoder.compile()" else loader(dataset().train, 8):
            eager.training_step(batch, engines[0])
            compiled.training_step(batch, engines[1])
    torch.compiler.reset()


def test_schedule_free_optimizers() -> None:
    """They start from the training point, and are measured at the averaged one."""
    method = made()
    engine = PlainEngine(ScheduleFree(method.parameters()))
    fit(method, engine, loader(dataset().train, 8), epochs=range(0))
    probe = probe_run(method, context_of(method, engine), steps=3)
    copied = copy.deepcopy(method)
    optimizer = ScheduleFree(copied.parameters())
    for batch, _ in zip(loader(dataset().train, 8, seed=2), range(3), strict=True):
        copied.train().training_step(batch, PlainEngine(optimizer))
    optimizer.eval()
    assert probe.training_after.loss == pytest.approx(plain_losses(copied)["training"]["fused"], abs=1e-12)
    assert engine.optimizers[0].param_groups[0]["k"] == 0


def test_sharpness_perturbs_the_copy() -> None:
    from equimodal import Sharpness

    method, plain = made(), made()
    method.sharpness = Sharpness("full", radius=0.2, ratio=1.0)
    method.sharpness.attach(method)
    sharp = probe_run(method, context_of(method), epochs=1)
    assert sharp.training_after.loss != pytest.approx(
        probe_run(plain, context_of(plain), epochs=1).training_after.loss, abs=1e-6
    )
    assert method.sharpness.module is method


# ---- the report ------------------------------------------------------------------------------------------------------


def test_the_cost_is_in_the_next_report() -> None:
    method = made(use=False)
    engine = sgd(method)
    context = context_of(method, engine)  # 24 samples in 3 batches, 7 in 2
    probe_run(method, context, epochs=1)
    probe_run(method, context, steps=1)
    batch = next(iter(loader(dataset().train, 8)))
    first, second = (method.training_step(batch, engine) for _ in range(2))
    assert {k: float(v) for k, v in first.extras.items()} == {"probe_run/steps": 4, "probe_run/measured": 20}
    assert second.extras == {}


@QUIET
def test_studies_record_it(tmp_path: Path) -> None:
    """Through the Trainer, once per epoch; the numbers are those of a plain loop."""
    from equimodal.studies.runs._history import History

    data = dataset()
    inside, plain = made(epochs=1), made(epochs=1)
    run = trainer(tmp_path, epochs=2, callbacks=[History(tmp_path / "history.jsonl")])
    run.fit(module_of(inside, clip_norm=0.5), loader(data.train, 8, seed=2), loader(data.validation, 4))
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["extras"] for line in lines] == [{"probe_run/measured": 10.0, "probe_run/steps": 3.0}] * 2
    fit(plain, sgd(plain, clip_norm=0.5), loader(data.train, 8, seed=2), loader(data.validation, 4))
    assert_identical(weights(inside), weights(plain))
    assert inside.blend.tolist() != [1, 1, 1]
    for one, other in zip(inside.probes, plain.probes, strict=True):
        assert one.validation_after == other.validation_after


@QUIET
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_the_trainers_precision(precision: str, tmp_path: Path) -> None:
    """The copy trains as the Trainer does: the first epoch, run aside, is the first epoch."""
    from lightning.pytorch.plugins import MixedPrecision

    data = dataset()
    method = made(double=False, use=False, epochs=1)
    half = {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]}
    options: dict[str, Any] = half if precision == "16-mixed" else {"precision": precision}
    run = trainer(tmp_path, epochs=1, **options)
    run.fit(module_of(method, clip_norm=0.5, accumulate=2), loader(data.train, 4, seed=2), loader(data.validation, 4))
    after = measure(method, loader(data.train, 8, shuffle=False))
    assert method.probes[0].training_after.loss == pytest.approx(after.loss, abs=1e-6)


@QUIET
def test_resume_inside_an_epoch(tmp_path: Path) -> None:
    from lightning.pytorch import Callback

    class Stop(Exception):  # noqa: N818
        pass

    class Saved(Callback):
        steps = 0

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.steps += 1
            if self.steps == 5:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")
                raise Stop

    data = dataset()
    whole, cut, continued = made(), made(), made(1)

    def loaders() -> tuple[Any, Any]:
        return loader(data.train, 8, seed=3), loader(data.validation, 7)

    trainer(tmp_path).fit(module_of(whole), *loaders())
    with pytest.raises(Stop):
        trainer(tmp_path, callbacks=[Saved()]).fit(module_of(cut), *loaders())
    trainer(tmp_path).fit(module_of(continued), *loaders(), ckpt_path=str(tmp_path / "inside.ckpt"), weights_only=True)
    assert_identical(weights(whole), weights(continued))
    assert len(continued.probes) == 1  # of the third epoch


# ---- processes -------------------------------------------------------------------------------------------------------


def probe_shared(rank: int, world: int, folder: str, way: str) -> None:
    """Training with probes, on this process's half."""
    warnings.simplefilter("ignore")
    workers.start(rank, world, folder)
    data = dataset()
    method = made(epochs=1)
    if way == "sharded":
        from torch.distributed.fsdp import fully_shard

        for m in method.modalities:
            fully_shard(method.model.encoder(m))  # type: ignore[operator]
    train = loader(data.train, 4, shuffle=False, indices=range(rank, 24, world))
    validation = loader(data.validation, 4, indices=range(rank, 7, world))
    error = ""
    try:
        fit(method, sgd(method, clip_norm=0.5), train, validation)
    except EquimodalError as caught:
        error = f"{type(caught).__name__}: {caught}"
    values = [[vars(v) for v in (p.training_after, p.validation_after)] for p in method.probes]
    workers.finish(rank, folder, [workers.whole_weights(method), values, error])


@pytest.mark.distributed
def test_two_processes(tmp_path: Path) -> None:
    ours, theirs = workers.run(probe_shared, tmp_path / "group", "plain")
    assert ours[2] == theirs[2] == ""
    assert_identical(ours[0], theirs[0])
    assert ours[1] == theirs[1]
    data = dataset()
    whole = made(epochs=1)
    fit(whole, sgd(whole, clip_norm=0.5), loader(data.train, 8, shuffle=False), loader(data.validation, 7))
    assert_near(weights(whole), ours[0], 1e-9)
    for values, probe in zip(ours[1], whole.probes, strict=True):
        for found, expected in zip(values, (probe.training_after, probe.validation_after), strict=True):
            assert found["losses"] == pytest.approx(expected.losses, abs=1e-9)


@pytest.mark.distributed
def test_sharded_encoders_are_refused(tmp_path: Path) -> None:
    before = weights(made())
    for found in workers.run(probe_shared, tmp_path / "group", "sharded"):
        assert found[2].startswith(
            "UnsupportedError: `model`: Blend trains a copy aside, and sharded parameters cannot"
        )
        assert_identical(found[0], before)
