"""Properties of training and prediction: they run, learn, and depend on neither names nor order."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from equimodal.batch import Batch, tree_tensors
from equimodal.engine import Sharpness
from equimodal.inference import Prediction
from equimodal.methods import Method
from equimodal.model import MultimodalModel
from equimodal.testing._cases import Case
from equimodal.testing._expect import NotApplicable, expect, expect_finite, expect_identical, expect_near, subset
from equimodal.testing._loops import fitted, loss_of, sgd, split, train, weights
from equimodal.testing._models import CLASSES, NAMES, toy_batch, toy_model
from equimodal.testing._property import Property

SIMPLE_NAMES = ("a", "b", "c", "d", "e")


def runs_learns_and_predicts(case: Case, count: int) -> None:
    """Training stays finite; the loss falls (looked at for three modalities); a prediction has its shapes and types.

    Neither writes into a batch.
    """
    method, batch, given = case.make(count), toy_batch(count, 24), toy_batch(count, 24)
    engine = case.engine(method)
    first = loss_of(method, batch)
    epochs = 10 if count == 3 else 2
    train(method, engine, range(epochs), [batch] * 2, total=epochs)
    expect_finite(weights(method), "after training")
    if count == 3 and not case.is_wild:
        last = loss_of(method, batch)
        expect(last < 0.93 * first, f"expected the loss to fall below 0.93 of {first:.4f}. Found {last:.4f}.")
    prediction = method.predict(batch.inputs)
    expect(isinstance(prediction, Prediction), f"expected a Prediction. Found {type(prediction).__name__}.")
    expect(method.training, "expected predict() to leave the method in training mode. Found evaluation mode.")
    for name, output in {"output": prediction.output, **prediction.unimodal}.items():
        shape = tuple(output.shape)
        expect(shape == (24, CLASSES), f"{name}: expected the shape {(24, CLASSES)}. Found {shape}.")
        expect(output.dtype == torch.float64, f"{name}: expected the type of the model, float64. Found {output.dtype}.")
    # not to the last bit: torch has a faster path for transformers without gradients
    forward = method.eval()(batch.inputs).detach()
    expect_near({"output": prediction.output}, {"output": forward}, 1e-12, "predict() and forward()")
    fitted(method, [batch])
    for name, now in {**batch.inputs, "target": batch.target}.items():
        before = given.target if name == "target" else given.inputs[name]
        pairs = zip(tree_tensors(before), tree_tensors(now), strict=True)
        expect(
            all(torch.equal(a, b) for a, b in pairs),
            f"expected inputs and targets to stay as they are. Found that training or prediction wrote into {name!r}.",
        )


def prediction_changes_nothing(case: Case) -> None:
    """Neither ``predict`` nor ``fit_inference`` changes weights, buffers (but the temperatures) or the random state."""
    method, batch = case.make(2), toy_batch(2)
    before, state = weights(method), torch.get_rng_state()
    method.predict(batch.inputs)
    fitted(method, [batch])
    kept = [n for n in before if not n.startswith("inference.")]
    expect_identical(subset(before, kept), subset(weights(method), kept), "after a prediction")
    expect(torch.equal(state, torch.get_rng_state()), "expected the random state as it was. Found another one.")


def sharpness_can_be_added(case: Case, mode: Any) -> None:
    """With a :class:`~equimodal.Sharpness` of any mode, training stays finite."""
    if not case.accepts("sharpness"):
        raise NotApplicable("has no option `sharpness`")
    method = case.make(2, sharpness=Sharpness(mode, radius=0.1, every=2))
    train(method, sgd(method), range(2), [toy_batch(2), toy_batch(2, seed=1)], total=2)
    expect_finite(weights(method), "after training")


def names_do_not_matter(case: Case) -> None:
    """Other names of the modalities give the same weights and predictions to the last bit."""
    ours, theirs = case.make(3), case.make(3, names=SIMPLE_NAMES)
    train(ours, sgd(ours), range(3), [toy_batch(3)], total=3)
    train(theirs, sgd(theirs), range(3), [toy_batch(3, names=SIMPLE_NAMES)], total=3)
    expect_identical(weights(ours), weights(theirs), "with other names")
    a, b = ours.predict(toy_batch(3).inputs), theirs.predict(toy_batch(3, names=SIMPLE_NAMES).inputs)
    expect_identical({"output": a.output}, {"output": b.output}, "predictions with other names")
    new = dict(zip(NAMES, SIMPLE_NAMES, strict=True))
    expect_identical({new[m]: z for m, z in a.unimodal.items()}, dict(b.unimodal), "unimodal outputs with other names")


def order_of_inputs_does_not_matter(case: Case) -> None:
    """Inputs in another order give the same weights and predictions to the last bit."""
    ours, theirs, batch = case.make(3), case.make(3), toy_batch(3)
    turned = Batch(dict(reversed(list(batch.inputs.items()))), batch.target, None, batch.index)
    train(ours, sgd(ours), range(3), [batch], total=3)
    train(theirs, sgd(theirs), range(3), [turned], total=3)
    expect_identical(weights(ours), weights(theirs), "with inputs in another order")
    a, b = ours.predict(batch.inputs).output, theirs.predict(turned.inputs).output
    expect_identical({"output": a}, {"output": b}, "predictions with inputs in another order")


def order_of_encoders_does_not_matter(case: Case) -> None:
    """Encoders in another order give the same weights (1e-9), unless the class says why not in ``info.order``."""
    if case.method.info.order:
        raise NotApplicable(f"declares that it does (`info.order`): {case.method.info.order}")
    plain, blank = toy_model(3), toy_model(3)
    turned = MultimodalModel({m: blank.encoder(m) for m in reversed(NAMES[:3])}, blank.fusion, blank.head)
    ours, theirs = case.on(plain), case.on(turned)
    for method, model in ((ours, plain), (theirs, turned)):
        _fill_other_parts(method, model)
    batches = [toy_batch(3, seed=s) for s in range(3)]
    train(ours, sgd(ours), range(2), batches, total=2)
    train(theirs, sgd(theirs), range(2), batches, total=2)
    for m in NAMES[:3]:
        encoder = weights(plain.encoder(m))
        expect_near(encoder, weights(blank.encoder(m)), 1e-9, f"encoder of {m!r} with encoders in another order")
    expect_near(weights(plain.head), weights(blank.head), 1e-9, "head with encoders in another order")
    x = batches[0].inputs
    a, b = ours.predict(x).output, theirs.predict(x).output
    expect_near({"output": a}, {"output": b}, 1e-9, "predictions with encoders in another order")


@torch.no_grad()
def _fill_other_parts(method: Method, model: nn.Module) -> None:
    """Parameters of the method that are not the model's, equal for equal shapes, whatever order they were made in."""
    of_model = {id(p) for p in model.parameters()}
    for p in method.parameters():
        if id(p) not in of_model:
            p.copy_(torch.linspace(-0.4, 0.5, p.numel(), dtype=p.dtype).sin().reshape(p.shape))


def micro_batches_are_one_step(case: Case) -> None:
    """A batch in four micro-batches makes as many updates as the whole batch."""
    counts = []
    for batch in (toy_batch(3), split(toy_batch(3), 4)):
        method = case.make(3)
        engine, steps = sgd(method), [0]
        engine.optimizers[0].register_step_pre_hook(lambda *_, n=steps: n.__setitem__(0, n[0] + 1))
        if case.departure("accumulation") == "refused" and isinstance(batch, list):
            raise NotApplicable("refuses accumulation (`info.engine`)")
        train(method, engine, range(2), [batch], total=2)
        counts.append(steps[0])
    expect(counts[0] == counts[1], f"expected {counts[0]} updates, as for whole batches. Found {counts[1]}.")


PROPERTIES = (
    Property(runs_learns_and_predicts, "method", ((2,), (3,), (5,))),
    Property(prediction_changes_nothing, "method"),
    Property(sharpness_can_be_added, "method", (("full",), ("every_k",), ("momentum",))),
    Property(names_do_not_matter, "method"),
    Property(order_of_inputs_does_not_matter, "method"),
    Property(order_of_encoders_does_not_matter, "method"),
    Property(micro_batches_are_one_step, "method"),
)
