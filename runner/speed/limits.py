"""The machine's limits, measured between the runs of a sweep, and the share of them that each cell
reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.speed.cells import ENOUGH_TO_TELL, Cell
from runner_base import MEMORY_ERRORS, is_memory_error
from runner_base.spreads import relative_spread
from runner_engine import Arithmetic
from runner_engine.sessions import Rates

MATRIX, READING = "matrix rate", "bandwidth"


@dataclass
class MachineRates:
    """All measurements of the rates of products and of reading; the best ones count."""

    arithmetic: Arithmetic | None
    measured: list[Rates] = field(default_factory=list)

    def measure(self) -> None:
        """Measure once more, if that is possible and memory suffices."""
        if self.arithmetic is None:
            return
        try:
            self.measured.append(self.arithmetic.measure())
        except MEMORY_ERRORS as error:
            if not is_memory_error(error):
                raise

    @property
    def best(self) -> Rates | None:
        """The highest of each rate; None if nothing was measured."""
        if not self.measured:
            return None
        matrix, read = (max(values) for values in self._values)
        return Rates(matrix, read)

    @property
    def noise(self) -> float:
        """The distance between the quartiles of a rate, as a share of its median; 0 with too few
        measurements."""
        if len(self.measured) < ENOUGH_TO_TELL:
            return 0.0
        return max(relative_spread(values) for values in self._values)

    @property
    def _values(self) -> tuple[list[float], list[float]]:
        return [limit.matrix_gflop_per_s for limit in self.measured], [
            limit.read_gb_per_s for limit in self.measured
        ]

    def shares(self, cell: Cell) -> dict[str, float]:
        """Return the shares of the limits that a cell reached; empty if one of the two is
        unknown."""
        best = self.best
        if best is None or "decode_gb_per_s" not in cell.figures:
            return {}
        return {
            "prefill_matrix_share": cell.median("prefill_gflop_per_s") / best.matrix_gflop_per_s,
            "decode_read_share": cell.median("decode_gb_per_s") / best.read_gb_per_s,
            "decode_matrix_share": cell.median("decode_gflop_per_s") / best.matrix_gflop_per_s,
        }


def nearer_to(shares: dict[str, float]) -> str:
    """Return the name of the limit that decoding came nearer to."""
    return MATRIX if shares["decode_matrix_share"] > shares["decode_read_share"] else READING
