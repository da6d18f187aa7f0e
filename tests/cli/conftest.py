"""The command line as a fixture."""

from __future__ import annotations

import pytest

from tests.cli.helpers import CLI


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CLI:
    """Calls the command line."""
    return CLI(capsys)
