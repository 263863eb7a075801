"""Measures the energy of processors with hardware counters: RAPL for CPUs, NVML for NVIDIA GPUs.

Both count the whole processor, whichever program uses it. A counter that cannot be read is not
zero: `why_not` names it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner_base import machine, visible_gpus
from runner_base.notes import Note, note

POWERCAP = Path("/sys/class/powercap")
MICRO, MILLI = 1e-6, 1e-3


@dataclass
class EnergyCounters:
    """Hardware energy counters of this machine that the process may read."""

    root: Path = field(default_factory=lambda: POWERCAP)
    with_gpus: bool = False  # whether the model is on GPUs; otherwise they are not read
    is_elsewhere: bool = False  # whether another machine does the work; then nothing is read here
    why_not: list[Note] = field(default_factory=list)  # the reason for each kind that cannot be read

    def __post_init__(self) -> None:
        if self.is_elsewhere:
            self.why_not.append(note("computed_elsewhere"))
        self._packages = [] if self.is_elsewhere else self._find_readable_rapl_packages()
        self._library: Any
        self._library, self._gpus = self._find_readable_gpus() if self.with_gpus else (None, [])

    @property
    def sources(self) -> str:
        names = [f"{len(self._packages)} CPU packages (RAPL)"] if self._packages else []
        return " and ".join([*names, *([f"{len(self._gpus)} GPUs (NVML)"] if self._gpus else [])])

    def read_counters(self) -> CounterReading:
        packages = {folder: int((folder / "energy_uj").read_text()) for folder in self._packages}
        return CounterReading(
            packages, [self._library.nvmlDeviceGetTotalEnergyConsumption(gpu) for gpu in self._gpus]
        )

    def compute_joules(
        self, earlier_reading: CounterReading, later_reading: CounterReading | None = None
    ) -> float | None:
        """Return the energy in joules between two counter readings. Without a later reading, the
        counters are read now.

        Returns None if no counter is readable.
        """
        if not self.sources:
            return None
        later_reading, total = later_reading or self.read_counters(), 0.0
        for folder, microjoules in later_reading.packages.items():
            passed = microjoules - earlier_reading.packages[folder]
            if passed < 0:  # the counter overflowed, which happens every few minutes
                passed += int((folder / "max_energy_range_uj").read_text())
            total += passed * MICRO
        return total + MILLI * sum(
            later - before for later, before in zip(later_reading.gpus, earlier_reading.gpus, strict=True)
        )

    def count_other_gpu_programs(self) -> int:
        """Return the number of other programs that use the measured GPUs."""
        if not self._gpus:
            return 0
        own = machine.descendant_pids()
        programs = {
            process.pid
            for gpu in self._gpus
            for process in self._library.nvmlDeviceGetComputeRunningProcesses(gpu)
        }
        return len(programs - own)

    def _find_readable_rapl_packages(self) -> list[Path]:
        """Return the RAPL folders of whole CPU packages. Subfolders count parts of the same packages."""
        packages = sorted(folder for folder in self.root.glob("intel-rapl:*") if folder.name.count(":") == 1)
        if not packages:
            self.why_not.append(note("no_rapl"))
        try:
            for folder in packages:
                int((folder / "energy_uj").read_text())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it contains no number"
            self.why_not.append(note("rapl_unreadable", folder=packages[0], reason=reason))
            return []
        return packages

    def _find_readable_gpus(self) -> tuple[Any, list[Any]]:
        try:
            library: Any = importlib.import_module("pynvml")
        except ImportError:
            self.why_not.append(note("no_nvml"))
            return None, []
        try:
            library.nvmlInit()
            gpus = [library.nvmlDeviceGetHandleByUUID(gpu.uuid) for gpu in visible_gpus.find_visible_gpus()]
            for gpu in gpus:
                library.nvmlDeviceGetTotalEnergyConsumption(gpu)
        except library.NVMLError as error:
            self.why_not.append(note("nvml_failed", reason=str(error)))
            return None, []
        return library, gpus


@dataclass(frozen=True)
class CounterReading:
    """Values of all energy counters at one time: microjoules of CPU packages, millijoules of GPUs."""

    packages: dict[Path, int]
    gpus: list[int]
