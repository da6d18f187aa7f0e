"""The command line, ``equimodal COMMAND``: thin functions over the library, imported only when they are called."""

from equimodal.cli._main import command, main

__all__ = ["command", "main"]
