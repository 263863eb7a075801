"""Measures a job's energy during prefill and decode, and the idle power of the machine.

The counters count whole processors, whoever uses them. So nothing is counted while other
programs run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.core.energy import EnergyCounters
from runner_base import Sample
from runner_base.notes import Note, note
from runner_engine import EngineStats

IDLE_S = 1.0  # the machine is looked at for so long before the first question
READ_EVERY_S = 0.02
JOULES_PER_WH = 3600


@dataclass(frozen=True)
class JobJoules:
    """Energy in joules that a job's processors use, split into prefill and decode."""

    gross_j: float = 0.0  # all that the counters have counted
    idle_j: float = 0.0  # of which the machine would have drawn so much without the job
    prefill_j: float = 0.0  # without the machine's own
    decode_j: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: JobJoules) -> JobJoules:
        return JobJoules(
            *(
                joules + other_joules
                for joules, other_joules in zip(self._as_tuple, other._as_tuple, strict=True)
            )
        )

    @property
    def net_j(self) -> float:
        """The job's energy in joules above the machine's idle consumption."""
        return max(self.gross_j - self.idle_j, 0.0)

    @property
    def _as_tuple(self) -> tuple[float, ...]:
        return self.gross_j, self.idle_j, self.prefill_j, self.decode_j, self.seconds


@dataclass
class JobEnergyMeter:
    """Measures the energy of a job in joules, with the hardware's energy counters."""

    energy: EnergyCounters
    beside: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    so_far: JobJoules = field(default_factory=JobJoules)
    idle_w: float = 0.0

    def __post_init__(self) -> None:
        self._read_at = 0.0
        self._phases = (0.0, 0.0)  # seconds of prefill and decode, when the counters were read last
        self._reading = self.energy.read_counters()

    def measure_idle_power(self, stats: EngineStats, sleep: Callable[[float], None] = time.sleep) -> None:
        """Measure the machine's idle power in watts before the job starts."""
        if not self.energy.sources:
            return
        started, before = self.clock(), self.energy.read_counters()
        sleep(IDLE_S)
        self.idle_w = (self.energy.compute_joules(before) or 0.0) / max(self.clock() - started, 1e-9)
        self._reading, self._read_at = self.energy.read_counters(), self.clock()
        self._phases = stats.prefill_s, stats.decode_s

    def add_energy_since_last_step(self, stats: EngineStats, ignore_interval: bool = False) -> None:
        """Add the energy since the last call to the prefill and decode energy, in proportion to the
        time of each phase.
        """
        passed = self.clock() - self._read_at
        if not self.energy.sources or (passed < READ_EVERY_S and not ignore_interval):
            return
        now = self.energy.read_counters()  # once, so that no energy falls between two readings
        joules = self.energy.compute_joules(self._reading, now) or 0.0
        self._reading, self._read_at = now, self._read_at + passed
        prefill_s, decode_s = stats.prefill_s - self._phases[0], stats.decode_s - self._phases[1]
        self._phases = stats.prefill_s, stats.decode_s
        idle_j = self.idle_w * passed
        net, worked_s = max(joules - idle_j, 0.0), prefill_s + decode_s
        of_prefill = net * prefill_s / worked_s if worked_s else 0.0
        of_decode = net * decode_s / worked_s if worked_s else 0.0
        self.so_far += JobJoules(joules, idle_j, of_prefill, of_decode, passed)

    def explain_unavailable_energy(self) -> Note | None:
        if not self.energy.sources:
            return note("no_counters", reasons=tuple(self.energy.why_not))
        if beside := self.beside():
            return note("shared_counters", other=note("other_work", what=beside))
        others = self.energy.count_other_gpu_programs()
        return note("shared_counters", other=note("others_on_gpus", count=others)) if others else None


def compute_energy_metrics(
    joules: JobJoules, samples: Sequence[Sample], price_kwh: float | None
) -> Mapping[str, float]:
    """Return a job's energy metrics: per phase, per question, per correct answer, and its cost."""
    if not joules.seconds:
        return {}
    wh = joules.gross_j / JOULES_PER_WH
    found = {
        "energy_j": joules.gross_j,
        "energy_net_j": joules.net_j,
        "energy_wh": wh,
        "idle_w": joules.idle_j / joules.seconds,
    }
    if joules.prefill_j or joules.decode_j:
        found |= {"energy_prefill_j": joules.prefill_j, "energy_decode_j": joules.decode_j}
    cost = None if price_kwh is None else wh / 1000 * price_kwh
    found |= {} if cost is None else {"energy_cost": cost}
    if questions := sum(sample.reused_from is None for sample in samples):
        found["joules_per_question"] = joules.net_j / questions
    if right := count_right_answers(samples):
        found["joules_per_right_answer"] = joules.net_j / right
        found |= {} if cost is None else {"energy_cost_per_right_answer": cost / right}
    return found


def count_right_answers(samples: Sequence[Sample]) -> float:
    """Return the number of right answers that this job has generated. Reused answers do not count."""
    answered_here = [sample for sample in samples if sample.reused_from is None]
    return sum(sample.accuracy() * len(sample.answers) for sample in answered_here)


def make_missing_price_notes(unavailable_reason: str, price_kwh: float | None) -> list[Note]:
    is_unpriced = price_kwh and unavailable_reason
    return [note("energy_not_priced", price_kwh=price_kwh, reason=unavailable_reason)] if is_unpriced else []
