"""What a method has to know about an optimizer."""

from __future__ import annotations

from torch.optim import Optimizer


def is_scale_invariant(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides by a running size of the gradient, so that a slowly varying scale cancels."""
    keys = {
        "betas",
        "rho",
        "lr_decay",
        "ns_steps",
        "centered",
        "etas",
        "beta2_decay",
    }  # Adam family and Lion, Adadelta, Adagrad, Muon, RMSprop, Rprop, Adafactor
    return any(keys & set(group) for group in optimizer.param_groups)
