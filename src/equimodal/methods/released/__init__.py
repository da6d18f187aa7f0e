"""What the authors' repositories compute where it is not what their papers say; kept to reproduce published numbers."""

from equimodal.methods.released._mie import ENGINE, released_loss

__all__ = [
    "ENGINE",
    "released_loss",
]
