"""Fixtures of the engine's features."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from equimodal.testing import _compiled


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled before the test, and nothing left after it."""
    with _compiled.fresh_compiler():
        yield
