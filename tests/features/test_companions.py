"""Companions: never trained, never in a state, always in evaluation mode; under every engine feature."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel, PlainEngine
from equimodal.engine import Sharpness
from equimodal.errors import CheckpointError, MethodError, ModelError
from equimodal.export import export
from equimodal.fusion import Concat
from equimodal.methods import Ensemble, Joint
from equimodal.methods.parts import Companions
from tests.features import workers
from tests.features.companions import (
    Taught,
    engine_of,
    hidden,
    some_absent,
    student,
    teachers,
    train_taught,
)
from tests.features.helpers import SIZES, TWO, data, single
from tests.helpers import CLASSES, WIDTH, assert_identical, assert_near, sgd, split, train, weights

# ---- what they are -------------------------------------------------------------------------------------------------


def test_one_step_by_hand() -> None:
    """Mean cross-entropy and squared distances, written out sample by sample, in float64."""
    method, reference = student(sizes=TWO, weight=0.3), student(sizes=TWO)
    frozen = {m: e.eval() for m, e in teachers(sizes=TWO).items()}
    batch = data(5, sizes=TWO)
    assert batch.target is not None
    method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1)))
    model: Any = reference.model
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        z = {m: model.encoder(m)(batch.inputs[m][i : i + 1]) for m in TWO}
        logits = model.head(torch.cat([z["a"], z["b.c"]], 1))[0]
        loss = loss + (torch.logsumexp(logits, 0) - logits[batch.target[i]]) / 5
        for m in TWO:
            with torch.no_grad():
                goal = frozen[m](batch.inputs[m][i : i + 1])
            loss = loss + 0.3 * ((z[m] - goal) ** 2).sum() / 5
    loss.backward()  # type: ignore[no-untyped-call]
    for name, p in reference.named_parameters():
        moved = dict(method.named_parameters())[name]
        assert p.grad is not None
        assert (moved - (p - 0.1 * p.grad)).abs().max() < 1e-12, name


def test_they_are_nobodys_parameters_and_no_part_of_the_state() -> None:
    method = student()
    companions = nn.ModuleList(method.teachers[m] for m in method.teachers.names)
    inside = {id(t) for t in (*companions.parameters(), *companions.buffers())}
    assert inside
    assert not inside & {id(t) for t in (*method.parameters(), *method.buffers())}
    assert not inside & {id(p) for group in method.parameter_groups(0.1) for p in group["params"]}
    assert not {id(m) for m in method.modules()} & {id(m) for m in companions.modules()}
    state = {n: v for n, v in method.state_dict().items() if n.startswith("teachers")}
    assert list(state) == ["teachers._extra_state"]
    assert {m: sorted(r) for m, r in state["teachers._extra_state"].items()} == {m: ["file", "sha256"] for m in SIZES}
    assert not any(p.requires_grad for p in companions.parameters())


def test_training_leaves_them_as_they_were_and_in_evaluation_mode() -> None:
    method = student()
    before, modes = hidden(method), []
    for m in method.teachers.names:
        method.teachers[m].register_forward_hook(
            lambda module, *_: modes.append([part.training for part in module.modules()] + [torch.is_grad_enabled()])
        )
    train(method, engine_of(method), range(2), [data(seed=s) for s in range(3)], total=2)
    method.train()
    assert len(modes) == 2 * 3 * len(SIZES)
    assert not any(any(mode) for mode in modes)
    assert_identical(before, hidden(method))
    assert not any(part.training for m in method.teachers.names for part in method.teachers[m].modules())


def test_they_move_with_the_method() -> None:
    method = student()
    for dtype in (torch.float32, torch.float64):
        method.to(dtype)
        assert {t.dtype for t in hidden(method).values() if t.is_floating_point()} == {dtype}
    assert {t.device.type for t in hidden(copy.deepcopy(method).to("meta")).values()} == {"meta"}
    assert {t.device.type for t in hidden(method).values()} == {"cpu"}  # those of the copy were its own
    made = Taught(method.model, Classification(CLASSES), teachers={m: e.float() for m, e in teachers().items()})
    assert {t.dtype for t in hidden(made).values() if t.is_floating_point()} == {torch.float64}


def test_one_module_under_two_names_moves_and_is_hashed_once() -> None:
    layer = nn.Linear(2, 2, bias=False)
    companions = Companions({"a": layer, "b": layer})
    before = layer.weight.detach().clone()
    companions._apply(lambda t: t + 1)
    assert torch.equal(layer.weight, before + 1)
    state = companions.get_extra_state()
    assert state["a"] == state["b"]


def test_what_they_give_is_what_they_say_alone() -> None:
    """Features and outputs of trained methods, for all samples and for those that have the modality."""
    torch.manual_seed(3)
    encoders: dict[str, nn.Module] = {m: nn.Linear(n, WIDTH) for m, n in TWO.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(TWO, WIDTH)), nn.Linear(2 * WIDTH, CLASSES)).double()
    teacher = Ensemble(model, Classification(CLASSES)).double()
    companions = Companions(dict.fromkeys(TWO, teacher))
    batch = data(sizes=TWO)
    features = companions.features(batch)
    expected = teacher.predict(batch.inputs).unimodal
    for m, z in companions.outputs(features).items():
        assert torch.equal(z, expected[m])
        assert not z.requires_grad
    spoilt = {**batch.inputs, "a": batch.inputs["a"].clone()}
    spoilt["a"][3] = math.nan
    rows = torch.arange(len(batch)) != 3
    absent = companions.features(Batch(spoilt, batch.target, {"a": rows, "b.c": torch.ones_like(rows)}))
    assert torch.allclose(absent["a"][rows], features["a"][rows], atol=1e-14, rtol=0)
    assert torch.equal(absent["a"][3], torch.zeros(WIDTH, dtype=torch.float64))
    whole = Companions({"a": model})  # a model without a method: features, and nothing that it says alone
    assert torch.equal(whole.features(batch)["a"], features["a"])
    assert torch.equal(whole("a", batch.inputs), model(batch.inputs))
    assert not whole("a", batch.inputs).requires_grad
    for silent in (whole, Companions({"a": Joint(model, Classification(CLASSES), unimodal=None)})):
        if isinstance(silent["a"], Joint):
            assert set(silent.outputs(silent.features(batch))) == {"a"}  # the exact split of its head
        else:
            with pytest.raises(MethodError, match="with an output for 'a' alone. Found MultimodalModel"):
                silent.outputs(silent.features(batch))


def test_what_is_no_companion_is_refused() -> None:
    wrong: Any
    for wrong in ({}, None, [nn.Linear(1, 1)]):
        with pytest.raises(ModelError, match="expected name -> module with at least one entry"):
            Companions(wrong)
    other: Any = {"a": "teacher.safetensors"}
    with pytest.raises(ModelError, match=r"`modules\['a'\]`: expected an nn.Module. Found str"):
        Companions(other)
    with pytest.raises(ModelError, match=r"`files`: expected names of `modules`, \['a'\]. Found \['b'\]"):
        Companions({"a": nn.Linear(1, 1)}, {"b": "x"})
    with pytest.raises(MethodError, match=r"Companion 'b': expected one of \['a'\]"):
        Companions({"a": nn.Linear(1, 1)})["b"]


# ---- features of the engine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [False, True])
def test_micro_batches(absent: bool) -> None:
    batches = [some_absent(data(12, s)) if absent else data(12, s) for s in range(3)]
    micro, whole = student(), student()
    train(micro, engine_of(micro), range(2), [split(b, 3) for b in batches], total=2)
    train(whole, engine_of(whole), range(2), batches, total=2)
    assert_near(weights(whole), weights(micro))


def test_sharpness() -> None:
    """Both passes see the same teachers, which stay where they are."""
    method = student(sharpness=Sharpness("full", radius=0.1))
    before = hidden(method)
    plain = student()
    for each in (method, plain):
        train(each, engine_of(each), range(1), [data()], total=1)
    assert_identical(before, hidden(method))
    assert any(not torch.equal(t, weights(plain)[n]) for n, t in weights(method).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    method = student().float()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if dtype is torch.float16 else None
    seen: list[torch.dtype] = []
    method.teachers["a"][0].register_forward_hook(lambda *call: seen.append(call[2].dtype))  # type: ignore[index]
    before = hidden(method)
    engine = PlainEngine(torch.optim.SGD(method.parameters(), lr=0.05), autocast=dtype, scaler=scaler)
    batch = single(data(24))
    losses = [float(method.training_step(batch, engine).loss) for _ in range(20)]
    assert set(seen) == {dtype}  # as the student's layers
    assert losses[-1] < losses[0]
    assert_identical(before, hidden(method))


def test_a_loss_scale_gives_the_gradients_of_float32() -> None:
    method, plain = student().float(), student().float()
    batch = single(data(24))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    method.training_step(batch, PlainEngine(torch.optim.SGD(method.parameters(), lr=0.1), scaler=scaler))
    plain.training_step(batch, PlainEngine(torch.optim.SGD(plain.parameters(), lr=0.1)))
    assert_near(weights(plain), weights(method), 1e-6)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_encoders_and_a_compiled_loss() -> None:
    eager, encoders, loss = student(sizes=TWO), student(sizes=TWO, compiled=True), student(sizes=TWO)
    batch = data(sizes=TWO)
    for method in (eager, encoders, loss):
        method.predict(batch.inputs)
        options = {"compile": {"backend": "aot_eager", "fullgraph": True}} if method is loss else {}
        train(method, engine_of(method, **options), range(2), [batch], total=2)
    assert_near(weights(eager), weights(loss))
    assert_near(weights(eager), {n.replace("_orig_mod.", ""): t for n, t in weights(encoders).items()})
    assert_identical(hidden(eager), hidden(loss))


@pytest.mark.distributed
def test_two_processes(tmp_path: Path) -> None:
    """Plain, sharded and through the Trainer: what one process does on the joined batches."""
    ranks = workers.run(train_taught, tmp_path / "group")
    assert all(r["kept"] for r in ranks)  # not even the careless one was given other companions
    assert_identical(ranks[0]["student"], ranks[1]["student"])
    for way in ("plain", "trainer", "sharded"):
        whole = student()
        batches = [data(12, s) if way == "sharded" else some_absent(data(12, s)) for s in range(3)]
        train(whole, engine_of(whole), range(1), batches, total=2 if way != "trainer" else 1)
        assert_identical(ranks[0][way], ranks[1][way])
        assert_near(weights(whole), ranks[0][way])


# ---- state ---------------------------------------------------------------------------------------------------------


def saved(method: Taught, engine: PlainEngine, path: Path) -> Path:
    torch.save({"method": method.state_dict(), "optimizer": engine.optimizers[0].state_dict()}, path)
    return path


def test_a_training_continues_from_its_state(tmp_path: Path) -> None:
    """In new objects, bit for bit; the file holds no weight of a teacher."""
    batches = [data(seed=s) for s in range(3)]
    files = {m: f"{m}.safetensors" for m in SIZES}
    first = student(teachers=Companions(teachers(), files))
    engine = engine_of(first)
    train(first, engine, range(1), batches, total=2)
    path = saved(first, engine, tmp_path / "state.pt")
    train(first, engine, range(1, 2), batches, total=2)
    second = student(seed=5, teachers=Companions(teachers(), files))
    engine = engine_of(second)
    state = torch.load(path, weights_only=True)
    second.load_state_dict(state["method"])
    engine.optimizers[0].load_state_dict(state["optimizer"])
    train(second, engine, range(1, 2), batches, total=2)
    assert_identical(weights(first), weights(second))
    assert state["method"]["teachers._extra_state"]["a"]["file"] == "a.safetensors"
    stored = [t for t in state["method"].values() if isinstance(t, Tensor)]
    held = [h for h in hidden(first).values() if h.ndim > 1]
    assert not any(torch.equal(t, h) for t in stored for h in held if t.shape == h.shape)


def test_other_companions_than_those_of_the_training_are_refused() -> None:
    state = student(teachers=Companions(teachers(), {m: f"{m}.safetensors" for m in SIZES})).state_dict()
    changed = teachers()
    next(iter(changed["b.c"].parameters())).data[0, 0] += 1e-9
    with pytest.raises(CheckpointError, match=r"`new/b\.c`: expected the weights that the companion 'b\.c' had.*SHA"):
        student(teachers=Companions(changed, {"b.c": "new/b.c"})).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"`b\.c\.safetensors`: expected the weights"):  # not told: the old name
        student(teachers=changed).load_state_dict(state)
    fewer = {m: e for m, e in teachers().items() if m != "a"}
    with pytest.raises(CheckpointError, match=r"expected \['a', 'b\.c', 'keys'\], which.*Found \['b\.c', 'keys'\]"):
        student(teachers=fewer).load_state_dict(state)
    student(teachers=teachers()).load_state_dict(state)
    moved = teachers()
    moved["b.c"][1].running_mean += 1  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"b\.c"):
        student(teachers=moved).load_state_dict(state)


def test_prediction_and_export_need_no_companion(tmp_path: Path) -> None:
    trained = student()
    train(trained, engine_of(trained), range(1), [data()], total=1)
    state, batch = trained.state_dict(), single(data())
    method = student(seed=4, teachers=Companions.absent({m: f"{m}.safetensors" for m in SIZES}))
    method.load_state_dict(state)
    trained, method = trained.float(), method.float()
    assert torch.equal(method.predict(batch.inputs).output, trained.predict(batch.inputs).output)
    export(method, batch.inputs, tmp_path / "model.pt2")
    export(trained, batch.inputs, tmp_path / "with.pt2")
    sizes = [(tmp_path / name).stat().st_size for name in ("model.pt2", "with.pt2")]
    assert abs(sizes[0] - sizes[1]) < 2000
    with pytest.raises(
        MethodError, match=r"Companion 'a': expected its module\. Found none, .*built to predict.*train it: a\.safe"
    ):
        method.training_step(batch, sgd(method))
    references, kept = (d["teachers._extra_state"] for d in (state, method.state_dict()))
    assert {m: r["sha256"] for m, r in kept.items()} == {m: r["sha256"] for m, r in references.items()}
    with pytest.raises(MethodError, match=r"to train it: a\.safetensors, b"):
        method.teachers("a", batch.inputs["a"])
