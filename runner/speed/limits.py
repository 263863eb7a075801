"""Measures the machine's limits between the runs of a sweep, and the share of them that each cell
reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.speed.cells import ENOUGH_TO_TELL, Cell
from runner_base import MEMORY_ERRORS, is_out_of_memory_error
from runner_base.spreads import relative_spread
from runner_engine import ModelArithmetic
from runner_engine.sessions import HardwareRates

MATRIX, READING = "matrix rate", "bandwidth"


@dataclass
class MachineLimits:
    """All measurements of matmul and read rates. The best ones count as limits."""

    arithmetic: ModelArithmetic | None
    measured: list[HardwareRates] = field(default_factory=list)

    def measure_once(self) -> None:
        """Measure the rates once more, if that is possible and memory suffices."""
        if self.arithmetic is None:
            return
        try:
            self.measured.append(self.arithmetic.measure())
        except MEMORY_ERRORS as error:
            if not is_out_of_memory_error(error):
                raise

    @property
    def best_rates(self) -> HardwareRates | None:
        """The highest of each rate. None if nothing was measured."""
        if not self.measured:
            return None
        matrix, read = (max(values) for values in self._values_by_rate)
        return HardwareRates(matrix, read)

    @property
    def noise(self) -> float:
        """The interquartile range of a rate relative to its median. 0 with too few measurements."""
        if len(self.measured) < ENOUGH_TO_TELL:
            return 0.0
        return max(relative_spread(values) for values in self._values_by_rate)

    @property
    def _values_by_rate(self) -> tuple[list[float], list[float]]:
        return [limit.matrix_gflop_per_s for limit in self.measured], [
            limit.read_gb_per_s for limit in self.measured
        ]

    def limit_shares(self, cell: Cell) -> dict[str, float]:
        """Return the shares of the limits that a cell reached. Empty if either is unknown."""
        best = self.best_rates
        if best is None or "decode_gb_per_s" not in cell.metric_names:
            return {}
        return {
            "prefill_matrix_share": cell.median("prefill_gflop_per_s") / best.matrix_gflop_per_s,
            "decode_read_share": cell.median("decode_gb_per_s") / best.read_gb_per_s,
            "decode_matrix_share": cell.median("decode_gflop_per_s") / best.matrix_gflop_per_s,
        }


def nearest_limit(limit_shares: dict[str, float]) -> str:
    """Return the name of the limit that decoding came nearer to."""
    return MATRIX if limit_shares["decode_matrix_share"] > limit_shares["decode_read_share"] else READING
