"""What tests of several folders read and none changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.studies.helpers import Whole


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The folder of a configuration's uninterrupted run: trained when first asked for, and only read."""
    from tests.studies.helpers import Whole

    return Whole(tmp_path_factory.mktemp("whole"))
