"""What must hold for every registered method; a new method is covered by being registered."""

from __future__ import annotations

import inspect
import io
import math
import re
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, Prediction, Sharpness
from equimodal.batch import tree_map
from equimodal.errors import BatchError, EquimodalWarning, MethodError, ModelError, TargetError, UnknownNameError
from equimodal.fusion import Concat
from equimodal.methods import Method, available, controls, get
from tests.helpers import (
    CLASSES,
    METHOD_SETTINGS,
    NAMES,
    WIDTH,
    Case,
    Settings,
    announce,
    assert_identical,
    assert_near,
    distributed_batches,
    distributed_worker,
    is_wild,
    make_batch,
    make_encoders,
    make_method,
    make_model,
    method_on,
    mlp,
    setting_id,
    sgd,
    split,
    stepper,
    train,
    weights,
)
from tests.processes import together

every_setting = pytest.mark.parametrize("setting", METHOD_SETTINGS, ids=setting_id)
Setting = tuple[str, Settings]
REFUSES = ("MIE", "released")  # several processes
ORDER_FREE = ("Joint", "MultiLoss", "Unimodal", "Ensemble", "PretrainFinetune", "CGGM")


def make(setting: Setting, count: int, **more: Any) -> Method:
    return make_method(setting[0], count, **{**setting[1], **more})


def test_every_method_is_covered() -> None:
    assert {name for name, _ in METHOD_SETTINGS} == set(available())


# ---- it runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
@every_setting
def test_it_runs_learns_and_predicts(setting: Setting, count: int) -> None:
    method, data = make(setting, count), [make_batch(count, 24)]
    engine = stepper(setting, method)
    first = _loss(method, data[0])
    epochs = 10 if count == 3 else 2  # learning is looked at for three modalities, the rest for all
    train(method, engine, range(epochs), data * 2, total=epochs)
    assert all(torch.isfinite(t).all() for t in weights(method).values())
    assert is_wild(setting) or count != 3 or _loss(method, data[0]) < 0.93 * first
    prediction = method.predict(data[0].inputs)
    assert isinstance(prediction, Prediction)
    assert prediction.output.shape == (24, CLASSES)
    assert method.training
    assert prediction.output.dtype == torch.float64
    assert all(z.shape == (24, CLASSES) for z in prediction.unimodal.values())
    # not to the last bit: torch has a faster path for transformers without gradients
    assert (prediction.output - method.eval()(data[0].inputs).detach()).abs().max() < 1e-12


def _loss(method: Method, batch: Batch) -> float:
    assert batch.target is not None
    return float(method.task.loss(method.predict(batch.inputs).output, batch.target))


@every_setting
def test_predicting_changes_nothing(setting: Setting) -> None:
    method, batch = make(setting, 2), make_batch(2)
    before, state = weights(method), torch.get_rng_state()
    method.predict(batch.inputs)
    method.fit_inference([batch])
    assert_identical(before, {n: t for n, t in weights(method).items() if n != "inference.temperature"} | {
        n: t for n, t in before.items() if n == "inference.temperature"})  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())


@every_setting
def test_any_sharpness_can_be_added(setting: Setting) -> None:
    if setting[0] == "MIE":
        pytest.skip("has a sharpness of its own")
    for mode in ("full", "every_k", "momentum"):
        method = make(setting, 2, sharpness=Sharpness(mode, radius=0.1, every=2))
        engine = sgd(method)
        train(method, engine, range(2), [make_batch(2), make_batch(2, seed=1)], total=2)
        assert all(torch.isfinite(t).all() for t in weights(method).values())


# ---- names and order ------------------------------------------------------------------------------------------------


@every_setting
def test_names_do_not_matter(setting: Setting) -> None:
    simple = ("a", "b", "c", "d", "e")
    ours, theirs = make(setting, 3), make_method(setting[0], 3, names=simple, **setting[1])
    train(ours, sgd(ours), range(3), [make_batch(3)], total=3)
    train(theirs, sgd(theirs), range(3), [make_batch(3, names=simple)], total=3)
    assert_identical(weights(ours), weights(theirs))
    a, b = ours.predict(make_batch(3).inputs), theirs.predict(make_batch(3, names=simple).inputs)
    assert torch.equal(a.output, b.output)
    assert [torch.equal(x, y) for x, y in zip(a.unimodal.values(), b.unimodal.values(), strict=True)]


@every_setting
def test_the_order_of_the_inputs_does_not_matter(setting: Setting) -> None:
    ours, theirs, batch = make(setting, 3), make(setting, 3), make_batch(3)
    turned = Batch(dict(reversed(list(batch.inputs.items()))), batch.target, None, batch.index)
    train(ours, sgd(ours), range(3), [batch], total=3)
    train(theirs, sgd(theirs), range(3), [turned], total=3)
    assert_identical(weights(ours), weights(theirs))
    assert torch.equal(ours.predict(batch.inputs).output, theirs.predict(turned.inputs).output)


@every_setting
def test_the_order_of_the_encoders_does_not_matter_where_nothing_alternates(setting: Setting) -> None:
    if setting[0] not in ORDER_FREE:
        pytest.skip("visits modalities in the order of the model, or draws per modality")
    options = {**setting[1], "modality": NAMES[1]} if setting[0] == "Unimodal" else setting[1]
    ours = make_method(setting[0], 3, **options)
    assert isinstance(ours.model, MultimodalModel)
    blank = make_model(3)
    encoders = {m: blank.encoder(m) for m in reversed(NAMES[:3])}
    theirs = get(setting[0])(MultimodalModel(encoders, blank.fusion, blank.head), Classification(CLASSES), **options)
    theirs.double().train()
    for name in ("heads", "classifiers"):
        if hasattr(ours, name):
            for m in NAMES[:3]:
                getattr(theirs, name)[m].load_state_dict(getattr(ours, name)[m].state_dict())
    data = [make_batch(3, seed=s) for s in range(3)]
    train(ours, sgd(ours), range(2), data, total=2)
    train(theirs, sgd(theirs), range(2), data, total=2)
    for m in NAMES[:3]:
        assert_near(weights(ours.model.encoder(m)), weights(blank.encoder(m)), 1e-9)
    assert_near(weights(ours.model.head), weights(blank.head), 1e-9)
    x = data[0].inputs
    assert (ours.predict(x).output - theirs.predict(x).output).abs().max() < 1e-9


# ---- absent modalities ----------------------------------------------------------------------------------------------


def _where(mask: Tensor, value: float, t: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (t.ndim - 1)), t, value)


def absent_pair(count: int = 3, size: int = 12) -> tuple[Batch, Batch]:
    """The same batch with NaN, and with zeros, in absent rows of two modalities."""
    batch = make_batch(count, size)
    present = {
        NAMES[0]: torch.arange(size) % 3 != 0,
        NAMES[1]: torch.arange(size) % 4 != 1,
    }

    def fill(value: float) -> Batch:
        x = dict(batch.inputs)
        for m, mask in present.items():
            x[m] = tree_map(partial(_where, mask, value), x[m])
        return Batch(x, batch.target, present, batch.index)

    return fill(math.nan), fill(0.0)


@every_setting
def test_absent_content_influences_nothing(setting: Setting) -> None:
    if setting[1].get("mixup_alpha"):
        pytest.skip("mixup refuses absent modalities")
    dirty, clean = absent_pair()
    ours, theirs = make(setting, 3, **auto(setting)), make(setting, 3, **auto(setting))
    reports: list[list[dict[str, float]]] = [[], []]
    for seen, method, batch in zip(reports, (ours, theirs), (dirty, clean), strict=True):
        engine = stepper(setting, method)
        announce(method, engine, steps=3)
        for _ in range(3):
            seen.append({n: float(v) for n, v in method.training_step(batch, engine).losses.items()})
        train(method, engine, range(3), [batch], total=3)
        method.fit_inference([batch])
    assert reports[0] == reports[1]
    assert reports[0]
    assert_identical(weights(ours), weights(theirs))
    a, b = ours.predict(dirty.inputs, dirty.present), theirs.predict(clean.inputs, clean.present)
    assert torch.isfinite(a.output).all()
    assert torch.equal(a.output, b.output)
    for m in a.unimodal:
        assert torch.equal(a.unimodal[m], b.unimodal[m])
        assert torch.isfinite(a.unimodal[m]).all()


def auto(setting: Setting) -> Settings:
    return {} if setting[0] == "Unimodal" else {"inference": "auto"}


@every_setting
def test_a_modality_that_nobody_has_or_that_is_left_out(setting: Setting) -> None:
    if setting[1].get("mixup_alpha"):
        pytest.skip("mixup refuses absent modalities")
    batch = make_batch(3)
    for gone in NAMES[:3]:
        masked, short = make(setting, 3), make(setting, 3)
        nobody = Batch(batch.inputs, batch.target, {gone: torch.zeros(12, dtype=torch.bool)})
        left_out = Batch({m: x for m, x in batch.inputs.items() if m != gone}, batch.target)
        before = weights(masked)
        train(masked, sgd(masked), range(2), [nobody], total=2)
        train(short, sgd(short), range(2), [left_out], total=2)
        assert_near(weights(masked), weights(short), 1e-12)
        assert all(torch.isfinite(t).all() for t in weights(masked).values())
        at = NAMES.index(gone)
        encoder = {n for n in before if n.startswith(f"model.encoders.{at}.")}
        assert_identical({n: before[n] for n in encoder}, {n: t for n, t in weights(masked).items() if n in encoder})
        a, b = masked.predict(batch.inputs, nobody.present).output, masked.predict(left_out.inputs).output
        assert torch.isfinite(a).all()
        assert (a - b).abs().max() < 1e-6


@every_setting
def test_every_subset_can_be_predicted(setting: Setting) -> None:
    method, batch = make(setting, 3), make_batch(3)
    for subset in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        p = method.predict({NAMES[i]: batch.inputs[NAMES[i]] for i in subset}).probabilities
        assert (p.sum(1) - 1).abs().max() < 1e-12
    with pytest.raises(BatchError, match="unknown|expected some of the modalities"):
        method.predict({"smell": torch.zeros(2, 1)})
    with pytest.raises(BatchError, match="expected some of the modalities"):
        method.predict({})
    nobody = {m: torch.zeros(12, dtype=torch.bool) for m in NAMES[:3]}
    with pytest.raises(BatchError, match="at least one modality per sample"):
        method.predict(batch.inputs, nobody)
    only = {NAMES[0]: batch.inputs[NAMES[0]]}
    with pytest.raises(BatchError, match="at least one modality per sample"):
        method.predict(only, {NAMES[0]: torch.arange(12) > 3})


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@every_setting
def test_resuming_is_exact(setting: Setting) -> None:
    """Ten steps equal five (or seven, inside an epoch), saved, loaded into fresh objects, and the rest, bit for bit."""
    data = [make_batch(3, seed=s) for s in range(5)]

    def fresh() -> tuple[Method, Any]:
        method = make(setting, 3, **auto(setting))
        return method, stepper(setting, method)

    def context_of(method: Method, engine: Any, epoch: int) -> Any:
        from equimodal.methods import EpochContext

        context = EpochContext(epoch, 2, 5, data, engine)
        method.train()
        return context

    def steps(method: Method, engine: Any, plan: list[tuple[int, int]]) -> None:
        for epoch, step in plan:
            context = context_of(method, engine, epoch)
            if step == 0:
                method.on_train_epoch_start(context)
            method.training_step(data[step], engine)
            if step == 4:
                method.on_train_epoch_end(context)
                method.on_validation_end(0.5 - 0.1 * epoch)
                method.fit_inference([data[0]])

    plan = [(epoch, step) for epoch in range(2) for step in range(5)]
    straight, engine = fresh()
    steps(straight, engine, plan)
    x = data[0].inputs
    first, engine = fresh()
    for begin, at in ((0, 5), (5, 7)):  # the same training, saved between epochs and inside one
        steps(first, engine, plan[begin:at])
        file = io.BytesIO()
        torch.save({"method": first.state_dict(), "optimizer": engine.optimizers[0].state_dict()}, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        random_state = torch.get_rng_state()
        torch.manual_seed(99)
        second, own = fresh()
        with torch.no_grad():
            for p in second.parameters():
                p.add_(1.0)
        second.load_state_dict(state["method"])
        own.optimizers[0].load_state_dict(state["optimizer"])
        steps(second, own, plan[at:])
        assert_identical(weights(straight), weights(second))
        assert torch.equal(straight.predict(x).output, second.predict(x).output)
        assert straight.predict(x).rule == second.predict(x).rule
        torch.set_rng_state(random_state)


# ---- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Half batches on two processes against the same halves as micro-batches, and against the joined batch, on one."""
    cases: list[Case] = [(name, options, False) for name, options in METHOD_SETTINGS]
    cases += [(name, options, True) for name, options in METHOD_SETTINGS if set(options) <= {"projector", "window"}]
    cases = [case for case in cases if (case[0], case[1].get("variant")) != REFUSES]
    together(distributed_worker, 2, str(tmp_path), cases)
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2)]
    for number, (name, options, uneven) in enumerate(cases):
        label = f"{setting_id((name, options))}, uneven: {uneven}"
        shared = {n for n in ranks[0][number] if not _local(n)}
        ours, theirs = ({n: r[number][n] for n in shared} for r in ranks)
        assert all(torch.equal(t, theirs[n]) for n, t in ours.items()), label
        if name == "ModalityDropout" or options.get("mixup_alpha"):
            continue  # every process draws its own
        data = distributed_batches(uneven)
        micro = make_method(name, 3, **options)
        train(micro, sgd(micro, clip_norm=0.5), range(2), [split(b, 2) for b in data], total=2)
        _assert_near({n: t for n, t in weights(micro).items() if n in shared}, ours, label)
        whole = make_method(name, 3, **options)
        train(whole, sgd(whole, clip_norm=0.5), range(2), data, total=2)
        _assert_near({n: t for n, t in weights(whole).items() if n in shared}, ours, label)


def _local(name: str) -> bool:
    """Statistics that each process keeps of its own samples until they are summed."""
    return ".covariances." in name or name.startswith(("numerators", "denominators"))


def _assert_near(a: Mapping[str, Tensor], b: Mapping[str, Tensor], label: str) -> None:
    try:
        assert_near(a, b, 1e-9)
    except AssertionError as error:
        raise AssertionError(f"{label}: {error}") from error


# ---- encoders -------------------------------------------------------------------------------------------------------


@every_setting
def test_micro_batches_count_as_one_batch(setting: Setting) -> None:
    method = make(setting, 3)
    engine = sgd(method)
    steps: list[int] = []
    engine.optimizers[0].register_step_pre_hook(lambda *a: steps.append(1))
    whole = make(setting, 3)
    expected = sgd(whole)
    counted: list[int] = []
    expected.optimizers[0].register_step_pre_hook(lambda *a: counted.append(1))
    train(method, engine, range(2), [split(make_batch(3), 4)], total=2)
    train(whole, expected, range(2), [make_batch(3)], total=2)
    assert len(steps) == len(counted)


@every_setting
def test_a_frozen_encoder_keeps_still(setting: Setting) -> None:
    if setting[0] == "Unimodal":
        setting = (setting[0], {**setting[1], "modality": NAMES[0]})
    model = make_model(3)
    model.encoder(NAMES[1]).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EquimodalWarning)  # that it is frozen
        method = method_on(model, setting[0], **setting[1])
    before = weights(model.encoder(NAMES[1]))
    train(method, stepper(setting, method), range(3), [make_batch(3)], total=3)
    assert_identical(before, weights(model.encoder(NAMES[1])))
    assert all(torch.isfinite(t).all() for t in weights(method).values())


class Wrapped(nn.Module):
    """As compilers and parallel wrappers do: another name for the same parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, *arguments: Any) -> Any:
        return self._orig_mod(*arguments)


@every_setting
def test_wrapped_encoders_are_the_same(setting: Setting) -> None:
    plain = make(setting, 3)
    torch.manual_seed(0)
    encoders = {m: Wrapped(e) for m, e in make_encoders(3).items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), nn.Linear(3 * WIDTH, CLASSES)).double()
    wrapped = method_on(model, setting[0], **setting[1])
    train(plain, sgd(plain), range(2), [make_batch(3)], total=2)
    train(wrapped, sgd(wrapped), range(2), [make_batch(3)], total=2)
    assert_identical(weights(plain), {n.replace("_orig_mod.", ""): t for n, t in weights(wrapped).items()})


class OwnModel(nn.Module):
    """A user's model with the members of the protocol and no base class."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model(2)
        self.head = self.inner.head

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.inner.modalities

    @property
    def feature_sizes(self) -> Mapping[str, Any]:
        return self.inner.feature_sizes

    def encode(self, inputs: Any, present: Any = None, modalities: Any = None) -> dict[str, Tensor]:
        return self.inner.encode(inputs, present, modalities)

    def fuse(self, features: Any, present: Any = None) -> Any:
        return self.inner.fuse(features, present)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return self.inner.parameters_of(modality)


@every_setting
def test_a_model_of_ones_own(setting: Setting) -> None:
    if setting[1].get("direction") == "block":
        pytest.skip("needs Concat")
    method = method_on(OwnModel(), setting[0], **setting[1])
    train(method, sgd(method), range(2), [make_batch(2)], total=2)
    assert torch.isfinite(method.predict(make_batch(2).inputs).output).all()
    with pytest.raises(ModelError, match=r"lacks \['modalities'"):
        get(setting[0])(nn.Linear(2, 2), Classification(2))


# ---- bad input ------------------------------------------------------------------------------------------------------


@every_setting
def test_bad_batches(setting: Setting) -> None:
    method, batch = make(setting, 2), make_batch(2)
    engine, before = sgd(method), weights(method)
    announce(method, engine)
    y = batch.target
    assert y is not None
    with pytest.raises(BatchError, match=r"unknown \['smell'\]"):
        method.training_step(Batch({**batch.inputs, "smell": torch.zeros(12, 1)}, y), engine)
    with pytest.raises(BatchError, match="`target`"):
        method.training_step(Batch(batch.inputs), engine)
    with pytest.raises(TargetError, match=rf"Found \[-1, {CLASSES}\] in rows \[2, 5\]"):
        bad = y.clone()
        bad[2], bad[5] = CLASSES, -1
        method.training_step(Batch(batch.inputs, bad), engine)
    with pytest.raises(TargetError, match=r"\.long\(\)"):
        method.training_step(Batch(batch.inputs, y.double()), engine)
    with pytest.raises(BatchError, match="empty list"):
        method.training_step([], engine)
    with pytest.raises(BatchError, match="same number of samples"):
        method.training_step((batch.inputs, y[:5]), engine)
    assert_identical(before, weights(method))


@every_setting
def test_what_loaders_yield_can_be_trained_on(setting: Setting) -> None:
    batch = make_batch(2)
    ends = []
    for form in (batch, (batch.inputs, batch.target), [batch.inputs, batch.target],
                 {"inputs": batch.inputs, "target": batch.target}, [batch]):  # fmt: skip
        method = make(setting, 2)
        engine = sgd(method)
        announce(method, engine)
        method.training_step(form, engine)  # type: ignore[arg-type]
        ends.append(weights(method))
    for end in ends[1:]:
        assert_identical(ends[0], end)


@every_setting
def test_batch_of_one(setting: Setting) -> None:
    method = make(setting, 2)
    train(method, sgd(method), range(2), [make_batch(2, 1)], total=2)
    assert all(torch.isfinite(t).all() for t in weights(method).values())
    encoders = {m: nn.Sequential(mlp(5, WIDTH), nn.BatchNorm1d(WIDTH)) for m in NAMES[:2]}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, WIDTH)), nn.Linear(2 * WIDTH, CLASSES)).double()
    normed = method_on(model, setting[0], **setting[1])
    before = {n: p.detach().clone() for n, p in normed.named_parameters()}
    one = Batch({m: torch.zeros(1, 5, dtype=torch.float64) for m in encoders}, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(BatchError, match="batch normalisation"):
        train(normed, sgd(normed), range(1), [one], total=2)
    assert_identical(before, dict(normed.named_parameters()))


# ---- the registry itself --------------------------------------------------------------------------------------------


def test_names() -> None:
    assert available()[-3:] == ["MLA", "CGGM", "MIE"]
    assert controls() == ["Joint", "MultiLoss", "Unimodal", "Ensemble", "PretrainFinetune", "ModalityDropout"]
    assert get("mla") is get("MLA")
    for wrong, hint in (("MAL", "MLA"), ("CGM", "CGGM"), ("ensembel", "Ensemble"), ("multi_loss", "MultiLoss")):
        with pytest.raises(UnknownNameError, match=f"Did you mean.*'{hint}'"):
            get(wrong)
    with pytest.raises(UnknownNameError, match="Known: CGGM, Ensemble"):
        get("zzzzz")


@pytest.mark.parametrize("name", available())
def test_info_says_everything(name: str) -> None:
    info = get(name).info
    for field, value in vars(info).items():
        if field in ("engine", "complete", "role", "featured"):  # empty where there is nothing to say
            continue
        if field == "control":
            assert value == (name in controls())
            continue
        assert value, f"{name}: `{field}` is empty"
        for entry in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]:
            assert isinstance(entry, str)
            assert entry.strip(), field
    assert get(name).__doc__


@pytest.mark.parametrize("name", available())
def test_defaults_are_named_with_their_source(name: str) -> None:
    signature = inspect.signature(get(name).__init__)
    keyword = {n: p for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    defaults = get(name).info.defaults
    assert set(defaults) <= set(keyword), "a default of a hyperparameter that does not exist"
    general = {"seed", "heads", "head", "classifiers", "sharpness", "calibrated", "variant", "inference", "modality"}
    unsourced = {n for n in keyword if n not in defaults} - general
    assert not unsourced, f"{name}: the source of these defaults is not named: {sorted(unsourced)}"
    for n, source in defaults.items():
        number = re.match(r"-?\d+(\.\d+)?(e-?\d+)?", source)
        value = keyword[n].default
        if number and isinstance(value, (int, float)) and not isinstance(value, bool):
            assert float(number.group()) == value, f"{name}.{n} is {value}, its source says {source!r}"


@pytest.mark.parametrize("name", available())
def test_every_hyperparameter_is_documented(name: str) -> None:
    parameters = set(inspect.signature(get(name).__init__).parameters) - {"self"}
    documentation = inspect.getdoc(get(name)) or ""
    missing = [p for p in parameters if not re.search(rf"^\s+{p}: ", documentation, re.MULTILINE)]
    assert not missing


@every_setting
def test_unknown_options_are_errors(setting: Setting) -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        make(setting, 2, temprature=1.0)
    with pytest.raises(TypeError):
        get(setting[0])(make_model(2), Classification(CLASSES), 0.5)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize("name", available())
def test_a_task_that_is_not_supported(name: str) -> None:
    class Ranking(Classification):
        name = "ranking"

    with pytest.raises(MethodError, match="`task`.*classification"):
        get(name)(make_model(2), Ranking(CLASSES))
