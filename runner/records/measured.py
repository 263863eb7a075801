"""The engine's report and its measurements, kept in a job's folder beside the samples."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.core.energy import Energy
from runner.core.job_energy import JobEnergy, JoulesOfJob, metrics_of, notes_on_price, right_answers
from runner.render.notes import note_text
from runner_base import Sample, machine, one_line, visible_gpus, write_atomically
from runner_base.notes import Note, given
from runner_base.texts import checked, signed
from runner_compare import OF_GUESSES, OF_PREFILL
from runner_engine import Engine, EngineReport, EngineStats
from runner_engine.render.notes import render
from runner_engine.sessions import RowShortage

log = logging.getLogger(__name__)

MEASURED = "measured.json"
WRITE_EVERY_S = 1.0
SAVED = (*OF_PREFILL, *OF_GUESSES)


@dataclass
class Measured:
    """The engine's report and its measurements, written while the samples come.

    A job whose result.json is lost, or that resumes after a kill, reads them again.
    """

    report: EngineReport
    stats: EngineStats
    peak_rss_mib: float
    machine: str
    contention: str  # what else was using the process and the machine
    energy: JoulesOfJob = field(default_factory=JoulesOfJob)
    no_energy: str = ""  # why it was not counted
    has_counters: bool = False
    answering_s: float = 0.0  # by the clock, from the loaded model to the last answer

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that the job reports of it."""
        own, speed = self.stats.own_memory(self.report.metrics.get("weight_mib")), self.stats.speed
        if self.report.parts:  # prompts are prefilled whole, and tokens decoded one by one
            speed = {name: value for name, value in speed.items() if name not in SAVED}
        return (
            self.report.metrics
            | speed
            | own
            | {"peak_rss_mib": self.peak_rss_mib}
            | self.stats.process_metrics
        )

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The tables that the job reports of the model's parts, if it has several."""
        return self.stats.tables(self.report.parts)

    @property
    def facts(self) -> dict[str, str]:
        """The facts that the job reports of it."""
        counted = {"decoding_graphs": self.stats.decoding_graphs, "expert_use": self.stats.expert_use}
        found = {name: text for name, text in counted.items() if text}
        found |= {"energy": self.no_energy} if self.has_counters and self.no_energy else {}
        return self.report.facts | found | {"measured": self.contention, "machine": self.machine}

    def cost_metrics(self, samples: Sequence[Sample], price_kwh: float | None) -> Mapping[str, float]:
        """Return the time of a right answer, and what the energy comes to."""
        right = right_answers(samples)
        time_s = {"right_answer_s": self.answering_s / right} if right and self.answering_s else {}
        return {**time_s, **metrics_of(self.energy, samples, price_kwh)}

    def energy_notes(self, price_kwh: float | None) -> list[Note]:
        """Return why the energy has no price, where one was asked for."""
        return notes_on_price(self.no_energy, price_kwh)

    def after(self, earlier: Measured | None) -> Measured:
        """Return it together with the measurements of earlier starts, if these ran on the same kind
        of machine."""
        if earlier is None or earlier.machine != self.machine or self.report.parts:
            return self
        contention = next(
            (known for known in (earlier.contention, self.contention) if known != machine.EXCLUSIVE),
            machine.EXCLUSIVE,
        )
        peak_mib = max(earlier.peak_rss_mib, self.peak_rss_mib)
        no_energy = earlier.no_energy or self.no_energy
        energy = JoulesOfJob() if no_energy else earlier.energy + self.energy
        # notes of earlier starts are text, as they are on disk
        stats = earlier.stats + replace(self.stats, notes=[given(render(it)) for it in self.stats.notes])
        return replace(
            self,
            stats=stats,
            peak_rss_mib=peak_mib,
            contention=contention,
            energy=energy,
            no_energy=no_energy,
            answering_s=earlier.answering_s + self.answering_s,
        )

    def write(self, folder: Path) -> None:
        """Write it to a job's folder."""
        values = asdict(self)
        for part, notes in (("report", self.report.notes), ("stats", self.stats.notes)):
            values[part]["notes"] = [render(note) for note in notes]
        write_atomically(folder / MEASURED, signed(values))

    @classmethod
    def read(cls, folder: Path) -> Measured | None:
        """Return the measurements of earlier starts; None if there are none or the file is
        damaged."""
        path = folder / MEASURED
        try:
            values: Any = checked(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
            if "company" in values:  # as earlier versions wrote it
                values["contention"] = values.pop("company")
            of_report, of_stats = values.pop("report"), values.pop("stats")
            for part in (of_report, of_stats):
                part["notes"] = [given(text) for text in part.get("notes", [])]
            shortages = [RowShortage(**shortage) for shortage in of_stats.pop("row_shortages", [])]
            report, stats = EngineReport(**of_report), EngineStats(**of_stats, row_shortages=shortages)
            energy = JoulesOfJob(**values.pop("energy", {}))
            return cls(report, stats, energy=energy, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if path.exists():
                log.warning(
                    "%s is ignored, and with it the measurements of earlier starts: %s", path, one_line(error)
                )
            return None


class Measuring:
    """Measures a loaded engine during a job, and writes that to the job's folder once a second."""

    def __init__(
        self, engine: Engine, folder: Path, earlier: Measured | None, is_elsewhere: bool = False
    ) -> None:
        """Load the engine: what that takes is measured, too; `is_elsewhere`: another machine
        computes."""
        self.contention = machine.Contention()
        machine.reset_peak()
        self.engine, self.report, self.folder, self.earlier = engine, engine.load(), folder, earlier
        self._kept_at = 0.0
        device = self.report.facts.get("device")
        on_gpus = bool(visible_gpus.visible()) if device is None else "cuda" in device
        counters = Energy(with_gpus=on_gpus and not is_elsewhere, is_elsewhere=is_elsewhere)
        self.energy = JobEnergy(counters, self.contention.beside)
        self.energy.begin(engine.stats)
        self._loaded_at = time.monotonic()

    def keep(self) -> Measured:
        """Write what has been measured so far, over all starts, and return it."""
        peak_mib, beside = machine.peak_rss_mib(), self.contention.describe()
        self.energy.step(self.engine.stats, at_once=True)
        reason = self.energy.why_not()
        no_energy = "" if reason is None else note_text(reason)
        joules = JoulesOfJob() if no_energy else self.energy.so_far
        has_counters = bool(self.energy.energy.sources)
        now = Measured(
            self.report,
            self.engine.stats,
            peak_mib,
            machine.name(),
            beside,
            joules,
            no_energy,
            has_counters,
            time.monotonic() - self._loaded_at,
        )
        measured = now.after(self.earlier)
        measured.write(self.folder)
        self._kept_at = time.monotonic()
        return measured

    def keep_now_and_then(self) -> None:
        """Write it if the last time was more than a second ago."""
        if time.monotonic() - self._kept_at > WRITE_EVERY_S:
            self.keep()

    def live(self) -> dict[str, str]:
        """Return what a progress bar shows of the engine."""
        stats = self.engine.stats
        self.energy.step(stats)
        rows = f"{stats.rows_alive} at once" if stats.rows_alive else ""
        speed = f"{stats.decode_tok_per_s:,.0f} tok/s" if stats.decode_tokens else ""
        return {key: value for key, value in (("decode", speed), ("rows", rows)) if value}
