"""``python -m equimodal`` is the command line."""

from equimodal.cli import command

if __name__ == "__main__":
    command()
