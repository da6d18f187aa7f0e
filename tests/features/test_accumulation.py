"""k micro-batches count as one batch: one update, the same weights."""

from __future__ import annotations

import pytest

from tests.features.helpers import Setting, every_setting
from tests.helpers import case_of, prove


@every_setting
@pytest.mark.parametrize("parts", [3, 4])
def test_accumulation(setting: Setting, parts: int) -> None:
    """Twelve samples in equal and in unequal parts."""
    prove("accumulation", case_of(setting), parts)
