"""Stores the measurements of a sweep, so that an interrupted sweep can be resumed.

Each run of a cell is stored when it ends, with its metrics, the cell's peak memory and the
lengths of its prompts. A later start repeats the warm-up, uncounted, for the incomplete cells,
so that they find the process in the same state as without the interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from runner.records.measurements import MeasurementFile
from runner.render.notes import format_note
from runner.speed.arrivals import RequestLoad
from runner.speed.cells import Cell, CellRunner
from runner.speed.limits import MachineLimits
from runner_base import machine
from runner_engine.sessions import HardwareRates

LOAD_EVERY_S = 1.0  # how often the load of other programs is looked at: it takes milliseconds


class RecordedCells:
    """Stores and restores the measurements of a sweep: speeds, machine rates and request timings."""

    def __init__(self, folder: Path, contention: machine.Contention) -> None:
        self._file, self._contention = MeasurementFile(folder), contention
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

    def warm_up_incomplete_cells(
        self,
        cell_runner: CellRunner,
        cells: Sequence[Cell],
        rounds: int,
        num_warmup_rounds: int,
        has_request_rates: bool,
    ) -> None:
        """Repeat the warm-up of unfinished measurements, so that a resumed sweep measures a warm process.

        A cell without a warm-up is cold only in its first run, so the runs after it are measured warm.
        """
        for number in range(max(num_warmup_rounds, 1)):
            for cell in cells:
                if (number, cell.key) not in self._runs or cell.note:
                    continue
                if has_request_rates or not all((later, cell.key) in self._runs for later in range(rounds)):
                    copy = replace(cell, repeats=[], lengths=[])
                    real = None if cell_runner.real is None else replace(cell_runner.real, lengths=[])
                    replace(cell_runner, real=real).run_sweep_cell(copy, number)
                    cell.note = copy.note

    def is_measured(self, cell: Cell, round_number: int) -> bool:
        """Return whether this combination of settings was measured in this round before the sweep was
        interrupted.
        """
        return (round_number, cell.key) in self._runs

    def measure_or_restore_sweep_cell(
        self, cell_runner: CellRunner, cell: Cell, round_number: int
    ) -> dict[str, float] | None:
        """Measure a combination of settings in one round, or restore its recorded metrics. A failure is
        recorded in `cell.note`.
        """
        if (line := self._runs.get((round_number, cell.key))) is not None:
            cell.peak_rss_mib, cell.cuda_peak_mib = line["peak_rss_mib"], line["cuda_peak_mib"]
            cell.lengths += line["lengths"]
            cell_runner.in_pieces |= line["in_pieces"]
            if cell_runner.real is not None:
                cell_runner.real.skip_sent_prompts(cell.batch_size, line["lengths"])
            return dict(line["figures"])
        before = len(cell.lengths)
        figures = cell_runner.run_sweep_cell(cell, round_number)
        if figures is not None:
            self.done.append((round_number, cell.key))
            self._append(
                what="run",
                round=round_number,
                cell=cell.key,
                figures=figures,
                lengths=cell.lengths[before:],
                peak_rss_mib=cell.peak_rss_mib,
                cuda_peak_mib=cell.cuda_peak_mib,
                in_pieces=cell_runner.in_pieces,
            )
        return figures

    def measure_machine_rates(self, machine_limits: MachineLimits, round_number: int) -> None:
        """Measure memory bandwidth and matmul rate after a round, or restore the recorded rates."""
        if (line := self._rates.get(round_number)) is not None:
            machine_limits.measured.append(HardwareRates(line["matrix_gflop_per_s"], line["read_gb_per_s"]))
            return
        before = len(machine_limits.measured)
        machine_limits.measure_matmul_and_read_rates()
        for rates in machine_limits.measured[before:]:
            self._append(
                what="rates",
                round=round_number,
                matrix_gflop_per_s=rates.matrix_gflop_per_s,
                read_gb_per_s=rates.read_gb_per_s,
            )

    def restore_request_timings(self, request_load: RequestLoad) -> bool:
        """Restore the recorded timings of requests at one rate. Returns False if none are recorded."""
        line = self._loads.get(request_load.rate)
        if line is None:
            return False
        request_load.seconds, request_load.note = line["seconds"], line["note"]
        for timed, first_s, ended_s in zip(
            request_load.requests, line["first_s"], line["ended_s"], strict=True
        ):
            timed.first_s, timed.ended_s = first_s, ended_s
        return True

    def store_request_timings(self, request_load: RequestLoad) -> None:
        """Store the timings of requests at one rate, unless the measurement failed."""
        if not request_load.seconds:
            return
        self.done.append((0, f"rate {request_load.rate:g}"))
        self._append(
            what="load",
            rate=request_load.rate,
            seconds=request_load.seconds,
            note=format_note(request_load.note),
            first_s=[timed.first_s for timed in request_load.requests],
            ended_s=[timed.ended_s for timed in request_load.requests],
        )

    def describe_contention(self) -> str:
        """Describe the CPU load by other programs, or report that there was none."""
        now = self._contention.describe_competing_load()
        return now if now != machine.EXCLUSIVE else self._earlier_load or now

    def describe_other_load(self) -> str:
        earlier = self._earlier_load if self._earlier_load.startswith(machine.BESIDE) else ""
        return self._contention.describe_load_by_other_programs() or earlier

    def close(self) -> None:
        self._file.close()

    def _append(self, **values: Any) -> None:
        if monotonic() - self._load_at >= LOAD_EVERY_S:
            self._load, self._load_at = self._contention.describe_competing_load(), monotonic()
        self._file.append_measurement(**values, measured=self._load)
