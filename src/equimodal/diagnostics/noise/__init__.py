"""Noise of known strength on the inputs: its kinds, and scores over its strength."""

from equimodal.diagnostics.noise._curves import noise_curves
from equimodal.diagnostics.noise._kinds import ENDLESS, NOISES, Corruption, Spread, input_spread

__all__ = [
    "ENDLESS",
    "NOISES",
    "Corruption",
    "Spread",
    "input_spread",
    "noise_curves",
]
