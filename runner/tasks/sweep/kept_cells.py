"""What earlier starts of a sweep have measured takes the place of measuring it again.

Each run of a cell is kept as it ends, with all that follows from it: its figures, the cell's peak
of memory, the lengths of its prompts. A later start runs the warm-up again, uncounted, for the
cells of which something is left to measure, so that these find the process as it would be without
the interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from runner.records.measurements import Measurements
from runner.render.notes import note_text
from runner.speed.arrivals import Load
from runner.speed.cells import Cell, Stopwatch
from runner.speed.limits import MachineRates
from runner_base import machine
from runner_engine.sessions import Rates

LOAD_EVERY_S = 1.0  # how often the load of other programs is looked at: it takes milliseconds


class KeptCells:
    """The runs of cells, the machine's rates and the rates of requests that are on disk, and those
    that follow."""

    def __init__(self, folder: Path, contention: machine.Contention) -> None:
        self._file, self._contention = Measurements(folder), contention
        self.outdated = self._file.outdated
        lines = self._file.earlier
        self._runs = {(line["round"], line["cell"]): line for line in lines if line["what"] == "run"}
        self._rates = {line["round"]: line for line in lines if line["what"] == "rates"}
        self._loads = {line["rate"]: line for line in lines if line["what"] == "load"}
        self._earlier_load = next(
            (line["measured"] for line in lines if line["measured"] != machine.EXCLUSIVE), ""
        )
        self._load, self._load_at = machine.EXCLUSIVE, 0.0
        self.count = len(self._runs) + len(self._loads)  # of earlier starts
        self.done = [*self._runs, *self._loads]  # with those of this start

    def warm_up(
        self, stopwatch: Stopwatch, cells: Sequence[Cell], rounds: int, warmup: int, has_loads: bool
    ) -> None:
        """Run again, uncounted, the first rounds of the cells that earlier starts have measured in
        part.

        A cell without a warm-up is cold only in its first run, so that what follows that one is
        measured warm.
        """
        for number in range(max(warmup, 1)):
            for cell in cells:
                if (number, cell.key) not in self._runs or cell.note:
                    continue
                if has_loads or not all((later, cell.key) in self._runs for later in range(rounds)):
                    copy = replace(cell, repeats=[], lengths=[])
                    real = None if stopwatch.real is None else replace(stopwatch.real, lengths=[])
                    replace(stopwatch, real=real).run(copy, number)
                    cell.note = copy.note

    def has(self, cell: Cell, number: int) -> bool:
        """Whether an earlier start has measured a cell in a round."""
        return (number, cell.key) in self._runs

    def run(self, stopwatch: Stopwatch, cell: Cell, number: int) -> dict[str, float] | None:
        """Return a run's figures, measured now or by an earlier start; None with a note in the cell
        if it failed."""
        if (line := self._runs.get((number, cell.key))) is not None:
            cell.peak_rss_mib, cell.cuda_peak_mib = line["peak_rss_mib"], line["cuda_peak_mib"]
            cell.lengths += line["lengths"]
            stopwatch.in_pieces |= line["in_pieces"]
            if stopwatch.real is not None:
                stopwatch.real.skip(cell.batch_size, line["lengths"])
            return dict(line["figures"])
        before = len(cell.lengths)
        figures = stopwatch.run(cell, number)
        if figures is not None:
            self.done.append((number, cell.key))
            self._keep(
                what="run",
                round=number,
                cell=cell.key,
                figures=figures,
                lengths=cell.lengths[before:],
                peak_rss_mib=cell.peak_rss_mib,
                cuda_peak_mib=cell.cuda_peak_mib,
                in_pieces=stopwatch.in_pieces,
            )
        return figures

    def measure(self, limits: MachineRates, number: int) -> None:
        """Measure the machine's rates after a round, unless an earlier start has."""
        if (line := self._rates.get(number)) is not None:
            limits.measured.append(Rates(line["matrix_gflop_per_s"], line["read_gb_per_s"]))
            return
        before = len(limits.measured)
        limits.measure()
        for rates in limits.measured[before:]:
            self._keep(
                what="rates",
                round=number,
                matrix_gflop_per_s=rates.matrix_gflop_per_s,
                read_gb_per_s=rates.read_gb_per_s,
            )

    def recall(self, load: Load) -> bool:
        """Fill in the answers of a rate of requests that an earlier start has measured; False if
        none has."""
        line = self._loads.get(load.rate)
        if line is None:
            return False
        load.seconds, load.note = line["seconds"], line["note"]
        for timed, first_s, ended_s in zip(load.requests, line["first_s"], line["ended_s"], strict=True):
            timed.first_s, timed.ended_s = first_s, ended_s
        return True

    def keep_load(self, load: Load) -> None:
        """Keep the answers of a rate of requests, if it fitted into memory."""
        if not load.seconds:
            return
        self.done.append((0, f"rate {load.rate:g}"))
        self._keep(
            what="load",
            rate=load.rate,
            seconds=load.seconds,
            note=note_text(load.note),
            first_s=[timed.first_s for timed in load.requests],
            ended_s=[timed.ended_s for timed in load.requests],
        )

    def describe_contention(self) -> str:
        """Describe what else used the process and the machine, in this start and in earlier
        ones."""
        now = self._contention.describe()
        return now if now != machine.EXCLUSIVE else self._earlier_load or now

    def beside(self) -> str:
        """Describe the load by other programs, in this start and in earlier ones; empty if it was
        too little."""
        earlier = self._earlier_load if self._earlier_load.startswith(machine.BESIDE) else ""
        return self._contention.beside() or earlier

    def close(self) -> None:
        self._file.close()

    def _keep(self, **values: Any) -> None:
        if monotonic() - self._load_at >= LOAD_EVERY_S:
            self._load, self._load_at = self._contention.describe(), monotonic()
        self._file.keep(**values, measured=self._load)
