"""What the engine has said and what was measured of it, kept in a job's folder beside its samples."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.core import machine
from runner.core.errors import one_line
from runner.core.files import write_atomically
from runner.core.metrics import OF_GUESSES
from runner.core.texts import checked, signed
from runner.engines.base import Engine, EngineReport
from runner.engines.stats import EngineStats

log = logging.getLogger(__name__)

MEASURED = "measured.json"
WRITE_EVERY_S = 1.0
SAVED = ("shared_prompt_tokens", *OF_GUESSES)


@dataclass
class Measured:
    """What the engine has said and what was measured of it, kept beside the samples while they come.

    A job whose result.json is lost, or that goes on after a kill, has it from there.
    """

    report: EngineReport
    stats: EngineStats
    peak_rss_mib: float
    machine: str
    contention: str  # what else had the process and the machine meanwhile

    @property
    def metrics(self) -> dict[str, float]:
        """What the job reports of it."""
        own, speed = self.stats.own_memory(self.report.metrics.get("weight_mib")), self.stats.speed
        if self.report.parts:  # prompts go through whole, and tokens one by one
            speed = {name: value for name, value in speed.items() if name not in SAVED}
        return self.report.metrics | speed | own | {"peak_rss_mib": self.peak_rss_mib} | self.stats.process_metrics

    @property
    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """What the job reports of the model's parts, where it has several."""
        return self.stats.tables(self.report.parts)

    @property
    def facts(self) -> dict[str, str]:
        """What the job says of it in words."""
        return self.report.facts | {"measured": self.contention, "machine": self.machine}

    def after(self, earlier: Measured | None) -> Measured:
        """Add it to what earlier starts have measured, where that was on a machine like this one."""
        if earlier is None or earlier.machine != self.machine or self.report.parts:
            return self
        contention = next(
            (one for one in (earlier.contention, self.contention) if one != machine.EXCLUSIVE), machine.EXCLUSIVE
        )
        peak_mib = max(earlier.peak_rss_mib, self.peak_rss_mib)
        return Measured(self.report, earlier.stats + self.stats, peak_mib, self.machine, contention)

    def write(self, folder: Path) -> None:
        """Keep it in a job's folder."""
        write_atomically(folder / MEASURED, signed(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Measured | None:
        """Return what earlier starts have measured; None where there is nothing readable, which costs no answer."""
        path = folder / MEASURED
        try:
            values: Any = checked(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
            if "company" in values:  # as earlier versions wrote it
                values["contention"] = values.pop("company")
            report, stats = EngineReport(**values.pop("report")), EngineStats(**values.pop("stats"))
            return cls(report, stats, **values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if path.exists():
                log.warning("%s is left out, and with it what earlier starts have measured: %s", path, one_line(error))
            return None


class Measuring:
    """A loaded engine at work for a job: what is measured of it is kept in the job's folder, once a second."""

    def __init__(self, engine: Engine, folder: Path, earlier: Measured | None) -> None:
        """Load the engine: what that takes is measured, too."""
        self.contention = machine.Contention()
        machine.reset_peak()
        self.engine, self.report, self.folder, self.earlier = engine, engine.load(), folder, earlier
        self._kept_at = 0.0

    def keep(self) -> Measured:
        """Write down what has been measured so far, over all starts."""
        peak_mib, words = machine.peak_rss_mib(), self.contention.describe()
        found = Measured(self.report, self.engine.stats, peak_mib, machine.name(), words).after(self.earlier)
        found.write(self.folder)
        self._kept_at = time.monotonic()
        return found

    def keep_now_and_then(self) -> None:
        """Write it down where the last time is a while ago."""
        if time.monotonic() - self._kept_at > WRITE_EVERY_S:
            self.keep()

    def live(self) -> dict[str, str]:
        """Return what a progress bar says of the engine."""
        stats = self.engine.stats
        rows = f"{stats.rows_alive} at once" if stats.rows_alive else ""
        speed = f"{stats.decode_tok_per_s:,.0f} tok/s" if stats.decode_s else ""
        return {key: value for key, value in (("decode", speed), ("rows", rows)) if value}
