"""Do a job's joules agree with a counter of known watts? `python bench/made_counter.py [KEY=VALUE …]`.

Few machines let a job read a counter, so this makes one: a file as the kernel's, in which IDLE_W run all the time, and
CORE_W more for each second of this process on a core. A job with these keys (by default the embedded model on 40
questions) reads it as it would the kernel's. What is shown beside its joules is what the process has used of cores
while the job's questions were answered, times CORE_W: the two are measured apart. The control is a counter that runs
twice as fast. What other programs do is no part of this counter, so the rule that counts nothing beside other work is
off here.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from heading import announce

from runner import evaluate
from runner.core import energy
from runner.core.job_energy import JobEnergyMeter
from runner.records import engine_measurements
from runner_base import machine
from runner_engine import EngineStats

IDLE_W, CORE_W = 10.0, 15.0
USUAL = ["task.limit=40"]
SHOWN = ("energy_net_j", "energy_prefill_j", "energy_decode_j", "energy_wh", "idle_w",
         "joules_per_question", "joules_per_right_answer", "energy_cost")  # fmt: skip
PRICE_KWH = 0.3


class Counter:
    """A counter as the kernel shows it, with known watts."""

    def __init__(self, root: Path, speed: float) -> None:
        self.folder, self.speed = root / "intel-rapl:0", speed
        self.folder.mkdir(parents=True)
        (self.folder / "max_energy_range_uj").write_text("1000000000000")
        self.began = time.monotonic(), time.process_time()
        self.file = os.open(self.folder / "energy_uj", os.O_RDWR | os.O_CREAT)
        self.write()

    def write(self) -> None:
        """Write what has been used so far, at once: it may be read at any time."""
        passed, worked = time.monotonic() - self.began[0], time.process_time() - self.began[1]
        joules = self.speed * (IDLE_W * passed + CORE_W * worked)
        os.pwrite(self.file, f"{joules * 1e6:020.0f}".encode(), 0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let jobs read this counter, which goes on until it is read."""
        read = energy.EnergyCounters.read_counters

        def up_to_date(counters: energy.EnergyCounters) -> energy.CounterReading:
            self.write()
            return read(counters)

        with (
            mock.patch.object(energy, "POWERCAP", self.folder.parent),
            mock.patch.object(energy.EnergyCounters, "read_counters", up_to_date),
            mock.patch.object(machine.Contention, "describe_load_by_other_programs", return_value=""),
        ):
            yield


class Watched(JobEnergyMeter):
    """As a job counts, and beside it the seconds of cores since the first question."""

    began = worked_s = 0.0

    def measure_idle_power(self, stats: EngineStats, sleep: Callable[[float], None] = time.sleep) -> None:
        """Begin with what is used from here on."""
        super().measure_idle_power(stats, sleep)
        Watched.began = time.process_time()

    def add_energy_since_last_step(self, stats: EngineStats, ignore_interval: bool = False) -> None:
        """Note how much has been used."""
        super().add_energy_since_last_step(stats, ignore_interval)
        Watched.worked_s = time.process_time() - Watched.began


def joules_of(keys: list[str], speed: float) -> dict[str, float]:
    """Return what a job counts, and what its process used of cores."""
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(Path(folder) / "powercap", speed)
        shared = [f"output_dir={folder}/out", "tracking=none", "print=none", f"price_kwh={PRICE_KWH}"]
        with counter.running(), mock.patch.object(engine_measurements, "JobEnergyMeter", Watched):
            record = evaluate(*keys, *shared)
        found = {key: record.result.metrics.get(key, float("nan")) for key in SHOWN}
        return {"cores_s": Watched.worked_s, "known_j": CORE_W * Watched.worked_s} | found


def main() -> int:
    """Run the job with both counters; 1 if the joules are not those that are known."""
    announce()
    keys = sys.argv[1:] or USUAL
    print(f"python bench/made_counter.py {' '.join(keys)}")
    columns = ("cores_s", "known_j", *SHOWN)
    print(f"idle {IDLE_W:g} W, {CORE_W:g} W for a core; the counter runs\n")
    print(f"{'':>14}" + "".join(f"{name:>24}" for name in columns))
    off = []
    for name, speed in (("as fast", 1.0), ("twice as fast", 2.0)):
        found = joules_of(keys, speed)
        print(f"{name:>14}" + "".join(f"{found[key]:>24.4g}" for key in columns))
        off.append(found["energy_net_j"] / found["known_j"])
    print(f"\nnet joules are {off[0]:.3f} and {off[1]:.3f} times what is known")
    return int(abs(off[0] - 1) > 0.05 or abs(off[1] - 2) > 0.1)


if __name__ == "__main__":
    sys.exit(main())
