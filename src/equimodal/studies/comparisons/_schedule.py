"""Which cell of a comparison may run next: one whose finished runs are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from equimodal.errors import MethodError


class Schedule:
    """The order of cells that use each other's finished runs.

    Args:
        cells: that are to run, in the order in which they are asked for.
        requirements: cell -> the cells that must be finished first; those that are not among ``cells`` are finished.
        twins: cell -> one of equal configuration, which comes first, and whose failure is its own.
    """

    def __init__(
        self, cells: Sequence[str], requirements: Mapping[str, Sequence[str]], twins: Mapping[str, str] | None = None
    ) -> None:
        self._waiting = list(cells)
        self._twins = {cell: twin for cell, twin in (twins or {}).items() if twin in cells}
        self._requirements = {
            cell: [*requirements.get(cell, ()), *([self._twins[cell]] if cell in self._twins else [])] for cell in cells
        }
        self._unfinished = set(cells)
        self.failures: dict[str, BaseException] = {}

    @property
    def count(self) -> int:
        """Cells that have not ended."""
        return len(self._unfinished)

    def take(self) -> list[str]:
        """The cells that can run now, each given out once."""
        ready = [cell for cell in self._waiting if not self._unfinished.intersection(self._requirements.get(cell, ()))]
        self._waiting = [cell for cell in self._waiting if cell not in ready]
        return ready

    def finish(self, cell: str, failure: BaseException | None = None) -> list[str]:
        """Note that a cell has ended; after a failure also every cell that uses it, with the reason.

        Returns:
            The cells that ended with it: itself, and those that cannot run any more.
        """
        if failure is None:
            self._unfinished.discard(cell)
            return [cell]
        self.failures[cell] = failure
        ended = [cell]
        for other in [c for c in self._waiting if cell in self._requirements.get(c, ())]:
            if other in self._waiting:
                self._waiting.remove(other)
                used = MethodError(f"it uses {cell!r}, which failed")
                ended += self.finish(other, failure if self._twins.get(other) == cell else used)
        return ended
