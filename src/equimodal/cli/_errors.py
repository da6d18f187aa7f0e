"""What the command line raises on its own account."""

from __future__ import annotations


class UsageError(Exception):
    """The arguments are wrong: one line, exit code 2."""


class Interrupted(Exception):  # noqa: N818  (no error)
    """Ctrl-C, with the sentence that says how to go on: exit code 130."""
