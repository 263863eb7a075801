"""The energy of a job: while prompts are read and while answers are decoded, and what the machine draws without it.

The counters count whole processors, whoever uses them. So where other programs work, too, nothing is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.core.energy import Energy
from runner_base import Sample
from runner_base.notes import Note, note
from runner_engine import EngineStats

IDLE_S = 1.0  # the machine is looked at for so long before the first question
READ_EVERY_S = 0.02
JOULES_PER_WH = 3600


@dataclass(frozen=True)
class JoulesOfJob:
    """What a job's processors have used: sums can be added, as those of an interrupted job's
    starts."""

    gross_j: float = 0.0  # all that the counters have counted
    idle_j: float = 0.0  # of which the machine would have drawn so much without the job
    prefill_j: float = 0.0  # without the machine's own
    decode_j: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: JoulesOfJob) -> JoulesOfJob:
        return JoulesOfJob(
            *(joules + other_joules for joules, other_joules in zip(self._parts, other._parts, strict=True))
        )

    @property
    def net_j(self) -> float:
        """What the job has caused."""
        return max(self.gross_j - self.idle_j, 0.0)

    @property
    def _parts(self) -> tuple[float, ...]:
        return self.gross_j, self.idle_j, self.prefill_j, self.decode_j, self.seconds


@dataclass
class JobEnergy:
    """Reads the counters while a job's questions are answered; `beside` says what other work there
    is."""

    energy: Energy
    beside: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    so_far: JoulesOfJob = field(default_factory=JoulesOfJob)
    idle_w: float = 0.0

    def __post_init__(self) -> None:
        self._read_at = 0.0
        self._phases = (0.0, 0.0)  # seconds of prefill and decode, when the counters were read last
        self._reading = self.energy.read()

    def begin(self, stats: EngineStats, wait: Callable[[float], None] = time.sleep) -> None:
        """Look at what the machine draws before the job works."""
        if not self.energy.sources:
            return
        started, before = self.clock(), self.energy.read()
        wait(IDLE_S)
        self.idle_w = (self.energy.joules(before) or 0.0) / max(self.clock() - started, 1e-9)
        self._reading, self._read_at = self.energy.read(), self.clock()
        self._phases = stats.prefill_s, stats.decode_s

    def step(self, stats: EngineStats, at_once: bool = False) -> None:
        """Count what was used since the last step, for the phase in which the time was spent."""
        passed = self.clock() - self._read_at
        if not self.energy.sources or (passed < READ_EVERY_S and not at_once):
            return
        now = self.energy.read()  # once, so that no energy falls between two readings
        joules = self.energy.joules(self._reading, now) or 0.0
        self._reading, self._read_at = now, self._read_at + passed
        prefill_s, decode_s = stats.prefill_s - self._phases[0], stats.decode_s - self._phases[1]
        self._phases = stats.prefill_s, stats.decode_s
        idle_j = self.idle_w * passed
        net, worked_s = max(joules - idle_j, 0.0), prefill_s + decode_s
        of_prefill = net * prefill_s / worked_s if worked_s else 0.0
        of_decode = net * decode_s / worked_s if worked_s else 0.0
        self.so_far += JoulesOfJob(joules, idle_j, of_prefill, of_decode, passed)

    def why_not(self) -> Note | None:
        """Return why nothing is counted; None if it is."""
        if not self.energy.sources:
            return note("no_counters", reasons=tuple(self.energy.why_not))
        if beside := self.beside():
            return note("shared_counters", other=note("other_work", what=beside))
        others = self.energy.others_on_gpus()
        return note("shared_counters", other=note("others_on_gpus", count=others)) if others else None


def metrics_of(
    joules: JoulesOfJob, samples: Sequence[Sample], price_kwh: float | None
) -> Mapping[str, float]:
    """Return what a job's energy comes to: in parts, for a question and a right answer, and in
    money."""
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
    if right := right_answers(samples):
        found["joules_per_right_answer"] = joules.net_j / right
        found |= {} if cost is None else {"energy_cost_per_right_answer": cost / right}
    return found


def right_answers(samples: Sequence[Sample]) -> float:
    """Return how many answers are right of those that were given here."""
    answered_here = [sample for sample in samples if sample.reused_from is None]
    return sum(sample.right_share() * len(sample.answers) for sample in answered_here)


def notes_on_price(no_energy: str, price_kwh: float | None) -> list[Note]:
    """Return why there is no price of the energy, where one was asked for."""
    is_unpriced = price_kwh and no_energy
    return [note("energy_not_priced", price_kwh=price_kwh, reason=no_energy)] if is_unpriced else []
