"""What every run needs, imported once by the server from which processes are started.

The server is a process of our own, so that what Lightning imports without need can wait there, too.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

from equimodal._utils.deferred import defer_imports

defer_imports()
for _name in ("equimodal.studies.runs._checkpoint", "equimodal.studies.runs._average", "torchmetrics.classification",
              "torchmetrics.wrappers", "safetensors.torch"):  # fmt: skip
    with suppress(ImportError):  # told by the process that needs it
        import_module(_name)
