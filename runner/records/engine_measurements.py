"""Engine report and measurements of a job, stored next to its samples."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.core.energy import EnergyCounters
from runner.core.job_energy import (
    JobEnergyMeter,
    JobJoules,
    compute_energy_metrics,
    count_right_answers,
    make_missing_price_notes,
)
from runner.render.notes import format_note
from runner_base import Sample, machine, to_one_line, visible_gpus, write_text_atomically
from runner_base.notes import Note, text_note
from runner_base.texts import to_signed_json, verify_and_remove_checksum
from runner_compare import OF_GUESSES, OF_PREFILL
from runner_engine import Engine, EngineReport, EngineStats
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import SequenceShortage

log = logging.getLogger(__name__)

MEASURED = "measured.json"
WRITE_EVERY_S = 1.0
SAVED = (*OF_PREFILL, *OF_GUESSES)
PROGRESS_SPEEDS = ("decode_tok_per_s", "prefill_tok_per_s")


@dataclass
class EngineMeasurements:
    """Engine report and measurements of a job, saved repeatedly while samples arrive.

    A job whose result.json is lost, or that resumes after a kill, reads them again.
    """

    report: EngineReport
    stats: EngineStats
    peak_rss_mib: float
    machine: str
    contention: str  # what else was using the process and the machine
    energy: JobJoules = field(default_factory=JobJoules)
    no_energy: str = ""  # why it was not counted
    has_counters: bool = False
    answering_s: float = 0.0  # by the clock, from the loaded model to the last answer

    @property
    def metrics(self) -> dict[str, float]:
        own, speed = (
            self.stats.compute_peak_memory_metrics(self.report.metrics.get("weight_mib")),
            self.stats.speed_metrics,
        )
        if self.report.parts:  # prompts are prefilled whole, and tokens decoded one by one
            speed = {name: value for name, value in speed.items() if name not in SAVED}
        return (
            self.report.metrics
            | speed
            | own
            | ({"batch_invariant": 1.0} if self.stats.rows_are_independent else {})
            | {"peak_rss_mib": self.peak_rss_mib}
            | self.stats.multiprocess_engine_metrics
        )

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Tables with timings of each part of the model. Empty if the model has only one part."""
        return self.stats.build_tables(self.report.parts)

    @property
    def facts(self) -> dict[str, str]:
        """Facts for the run record, about the engine, the machine and other running programs."""
        counted = {"decoding_graphs": self.stats.decoding_graphs, "expert_use": self.stats.expert_use}
        found = {name: text for name, text in counted.items() if text}
        found |= {"energy": self.no_energy} if self.has_counters and self.no_energy else {}
        return self.report.facts | found | {"measured": self.contention, "machine": self.machine}

    def compute_cost_metrics(self, samples: Sequence[Sample], price_kwh: float | None) -> Mapping[str, float]:
        """Return energy metrics, and the answering time per right answer in seconds."""
        right = count_right_answers(samples)
        time_s = {"right_answer_s": self.answering_s / right} if right and self.answering_s else {}
        return {**time_s, **compute_energy_metrics(self.energy, samples, price_kwh)}

    def energy_notes(self, price_kwh: float | None) -> list[Note]:
        """Return a note if price_kwh is set but energy was not measured. The note gives the reason."""
        return make_missing_price_notes(self.no_energy, price_kwh)

    def add_earlier_measurements(self, earlier: EngineMeasurements | None) -> EngineMeasurements:
        """Return the sum of these measurements and those of an earlier, interrupted run on the same
        machine.
        """
        if earlier is None or earlier.machine != self.machine or self.report.parts:
            return self
        contention = next(
            (known for known in (earlier.contention, self.contention) if known != machine.EXCLUSIVE),
            machine.EXCLUSIVE,
        )
        peak_mib = max(earlier.peak_rss_mib, self.peak_rss_mib)
        no_energy = earlier.no_energy or self.no_energy
        energy = JobJoules() if no_energy else earlier.energy + self.energy
        # notes of earlier starts are text, as they are on disk
        stats = earlier.stats + replace(
            self.stats, notes=[text_note(render_engine_note(it)) for it in self.stats.notes]
        )
        return replace(
            self,
            stats=stats,
            peak_rss_mib=peak_mib,
            contention=contention,
            energy=energy,
            no_energy=no_energy,
            answering_s=earlier.answering_s + self.answering_s,
        )

    def write_measurements_to_folder(self, folder: Path) -> None:
        values = asdict(self)
        for part, notes in (("report", self.report.notes), ("stats", self.stats.notes)):
            values[part]["notes"] = [render_engine_note(note) for note in notes]
        write_text_atomically(folder / MEASURED, to_signed_json(values))

    @classmethod
    def read_from_folder(cls, folder: Path) -> EngineMeasurements | None:
        """Read the measurements of the job's interrupted runs. None if the file is missing or damaged."""
        path = folder / MEASURED
        try:
            values: Any = (
                verify_and_remove_checksum(json.loads(path.read_text(encoding="utf-8")))
                if path.is_file()
                else None
            )
            if "company" in values:  # as earlier versions wrote it
                values["contention"] = values.pop("company")
            of_report, of_stats = values.pop("report"), values.pop("stats")
            for part in (of_report, of_stats):
                part["notes"] = [text_note(text) for text in part.get("notes", [])]
            shortages = [SequenceShortage(**shortage) for shortage in of_stats.pop("row_shortages", [])]
            report, stats = EngineReport(**of_report), EngineStats(**of_stats, row_shortages=shortages)
            energy = JobJoules(**values.pop("energy", {}))
            return cls(report, stats, energy=energy, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if path.exists():
                log.warning(
                    "%s is ignored, including its measurements of earlier starts: %s",
                    path,
                    to_one_line(error),
                )
            return None


class MeasurementRecorder:
    """Measures a loaded engine during a job, and writes the measurements to disk every second."""

    def __init__(
        self, engine: Engine, folder: Path, earlier: EngineMeasurements | None, is_remote: bool = False
    ) -> None:
        """Load the engine and measure the loading.

        `is_remote` means that the model runs on another machine.
        """
        self.contention = machine.Contention()
        machine.reset_peak_rss()
        self.engine, self.report, self.folder, self.earlier = engine, engine.load(), folder, earlier
        self._kept_at = 0.0
        device = self.report.facts.get("device")
        on_gpus = bool(visible_gpus.find_visible_gpus()) if device is None else "cuda" in device
        counters = EnergyCounters(with_gpus=on_gpus and not is_remote, is_elsewhere=is_remote)
        self.energy = JobEnergyMeter(counters, self.contention.describe_load_by_other_programs)
        self.energy.measure_idle_power(engine.stats)
        self._loaded_at = time.monotonic()

    def write_measurements(self) -> EngineMeasurements:
        """Write the measurements to disk, including those of earlier interrupted runs."""
        peak_mib, beside = machine.peak_rss_mib(), self.contention.describe_competing_load()
        self.energy.add_energy_since_last_step(self.engine.stats, ignore_interval=True)
        reason = self.energy.explain_unavailable_energy()
        no_energy = "" if reason is None else format_note(reason)
        joules = JobJoules() if no_energy else self.energy.so_far
        has_counters = bool(self.energy.energy.sources)
        now = EngineMeasurements(
            self.report,
            self.engine.stats,
            peak_mib,
            machine.describe_hardware(),
            beside,
            joules,
            no_energy,
            has_counters,
            time.monotonic() - self._loaded_at,
        )
        measured = now.add_earlier_measurements(self.earlier)
        measured.write_measurements_to_folder(self.folder)
        self._kept_at = time.monotonic()
        return measured

    def write_if_due(self) -> None:
        if time.monotonic() - self._kept_at > WRITE_EVERY_S:
            self.write_measurements()

    @property
    def progress_metrics(self) -> dict[str, float]:
        """Decoding speed since the job's last start, or prefill speed if no token is decoded.

        Empty if the engine cannot measure the speed of its model.
        """
        speeds = self.engine.stats.speed_metrics
        return {key: speeds[key] for key in [*filter(speeds.get, PROGRESS_SPEEDS)][:1]}

    def format_progress_fields(self) -> dict[str, str]:
        stats = self.engine.stats
        self.energy.add_energy_since_last_step(stats)
        sequences = f"{stats.rows_alive}" if stats.rows_alive else ""
        speed = f"{stats.decode_tok_per_s:,.0f} tok/s" if stats.decode_tokens else ""
        return {key: value for key, value in (("decode", speed), ("batch size", sequences)) if value}
