"""Runs command lines in this process."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from equimodal.cli import main

DATA = [
    "--data", "synthetic", "--data.options.train", "72", "--data.options.validation", "24", "--data.options.test", "24",
    "--data.options.classes", "3", "--data.options.features", "7",
]  # fmt: skip
TINY = [
    *DATA, "--model.feature_size", "6", "--model.size", "small", "--training.epochs", "2",
    "--training.batch_size", "16", "--training.device", "cpu",
]  # fmt: skip


class CLI:
    """Calls the command line and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, arguments: Sequence[str], code: int = 0) -> str:
        """The standard output; the exit code must be ``code``, and no control character may be printed."""
        found = main(list(arguments))
        self.out, self.err = self._capsys.readouterr()
        assert found == code, f"exit code {found}: {self.err}"
        for text in (self.out, self.err):
            assert not [c for c in text if ord(c) < 32 and c != "\n"], "control characters without a terminal"
        return self.out

    def error(self, arguments: Sequence[str], code: int) -> str:
        """The one line on the standard error."""
        self(arguments, code)
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err
