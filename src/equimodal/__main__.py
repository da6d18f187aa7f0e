"""``python -m equimodal`` is the command line."""

import sys

from equimodal.cli import main

if __name__ == "__main__":
    sys.exit(main())
