"""Measures the machine's matmul rate and memory bandwidth during a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.speed.cells import ENOUGH_TO_TELL, Cell
from runner_base import MEMORY_ERRORS, is_out_of_memory_error
from runner_base.spreads import compute_relative_spread
from runner_engine import ModelArithmetic
from runner_engine.sessions import HardwareRates

MATRIX, READING = "matrix rate", "bandwidth"


@dataclass
class MachineLimits:
    """Matmul rates and memory read rates measured on this machine. The highest rates are its limits."""

    arithmetic: ModelArithmetic | None
    measured: list[HardwareRates] = field(default_factory=list)

    def measure_matmul_and_read_rates(self) -> None:
        """Measure the matmul rate and the memory read rate again, unless memory is too small."""
        if self.arithmetic is None:
            return
        try:
            self.measured.append(self.arithmetic.measure())
        except MEMORY_ERRORS as error:
            if not is_out_of_memory_error(error):
                raise

    @property
    def best_hardware_rates(self) -> HardwareRates | None:
        """Highest measured matmul rate and read rate. None without measurements."""
        if not self.measured:
            return None
        matrix, read = (max(values) for values in self._values_by_rate)
        return HardwareRates(matrix, read)

    @property
    def noise(self) -> float:
        """Interquartile range of the noisier measured rate, divided by its median."""
        if len(self.measured) < ENOUGH_TO_TELL:
            return 0.0
        return max(compute_relative_spread(values) for values in self._values_by_rate)

    @property
    def _values_by_rate(self) -> tuple[list[float], list[float]]:
        return [limit.matrix_gflop_per_s for limit in self.measured], [
            limit.read_gb_per_s for limit in self.measured
        ]

    def compute_hardware_utilization(self, cell: Cell) -> dict[str, float]:
        best = self.best_hardware_rates
        if best is None or "decode_gb_per_s" not in cell.metric_names:
            return {}
        return {
            "prefill_matrix_share": cell.median("prefill_gflop_per_s") / best.matrix_gflop_per_s,
            "decode_read_share": cell.median("decode_gb_per_s") / best.read_gb_per_s,
            "decode_matrix_share": cell.median("decode_gflop_per_s") / best.matrix_gflop_per_s,
        }


def get_nearest_limit_name(limit_shares: dict[str, float]) -> str:
    """Return the name of the resource that limits decoding more: compute or memory bandwidth."""
    return MATRIX if limit_shares["decode_matrix_share"] > limit_shares["decode_read_share"] else READING
