"""Linear probes on features whose separability is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equimodal import Batch, Classification, MultimodalModel
from equimodal.diagnostics import probe_scores, under_training
from equimodal.errors import MethodError
from equimodal.fusion import Concat
from equimodal.methods import Joint


class Keep(nn.Module):
    """Returns its input; ``deaf`` forgets it."""

    out_features = 4

    def __init__(self, deaf: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.0 if deaf else 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def method() -> Joint:
    encoders = {"good": Keep(), "deaf": Keep(deaf=True), "noise": Keep()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 4)), nn.Linear(12, 3))
    return Joint(model, Classification(3))


def part(seed: int, size: int = 90) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(size) % 3
    clear = 100 + 0.1 * torch.randn(size, 4, generator=g)
    clear[:, :3] += 3 * nn.functional.one_hot(y, 3)
    x = {"good": clear, "deaf": clear, "noise": torch.randn(size, 4, generator=g)}
    return [Batch({m: t[i : i + 32] for m, t in x.items()}, y[i : i + 32]) for i in range(0, size, 32)]


def test_probes_find_what_the_features_hold() -> None:
    found = probe_scores(method(), part(0), part(1), part(2))
    assert found["good"] == 1.0
    assert found["deaf"] == pytest.approx(1 / 3)
    assert found["noise"] < 0.6


def test_probes_leave_the_method_alone() -> None:
    own = method().train()
    before = {n: t.clone() for n, t in own.state_dict().items() if isinstance(t, Tensor)}
    state = torch.get_rng_state()
    probe_scores(own, part(0), part(1), part(2))
    assert all(torch.equal(t, before[n]) for n, t in own.state_dict().items() if isinstance(t, Tensor))
    assert all(p.grad is None for p in own.parameters())
    assert own.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_penalty_is_chosen_on_validation_data() -> None:
    """With a penalty that flattens everything as the only other choice, the small one must win."""
    assert probe_scores(method(), part(0), part(1), part(2), penalties=(1e6, 1e-4))["good"] == 1.0
    swapped = probe_scores(method(), part(0), part(1), part(2), penalties=(1e6,))
    assert swapped["good"] <= 1.0
    with pytest.raises(MethodError, match="penalties"):
        probe_scores(method(), part(0), part(1), part(2), penalties=())


def test_probes_use_the_samples_that_have_the_modality() -> None:
    def masked(seed: int) -> list[Batch]:
        found = []
        for b in part(seed):
            mask = torch.arange(len(b)) % 4 != 0
            inputs = {m: torch.where(mask[:, None], x, torch.nan) if m == "good" else x for m, x in b.inputs.items()}
            found.append(Batch(inputs, b.target, {"good": mask}))
        return found

    assert probe_scores(method(), masked(0), masked(1), masked(2))["good"] == 1.0


def test_under_training_is_the_gap_to_training_alone() -> None:
    assert under_training({"a": 0.5, "b": 0.75}, {"a": 0.75, "b": 0.5, "c": 1.0}) == {"a": 0.25, "b": -0.25}
    with pytest.raises(MethodError, match=r"expected an entry for \['a'\]"):
        under_training({"a": 0.5}, {"b": 0.5})
