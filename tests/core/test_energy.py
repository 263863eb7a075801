"""Energy from counters: simulated folders of the kernel, and a simulated NVML."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.core.energy import EnergyCounters
from runner_base import visible_gpus
from runner_base.notes import note


def package(root: Path, name: str, microjoules: int) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("1000000\n")
    return folder


def test_whole_packages_are_counted_also_over_the_end_of_a_counter(tmp_path: Path) -> None:
    first, second = (package(tmp_path, "intel-rapl:0", 100_000), package(tmp_path, "intel-rapl:1", 990_000))
    part = package(tmp_path, "intel-rapl:0:0", 5)  # the cores of the first one
    energy = EnergyCounters(tmp_path)
    before = energy.read_counters()
    (first / "energy_uj").write_text("350000")
    (second / "energy_uj").write_text("40000")
    (part / "energy_uj").write_text("777777")
    assert energy.compute_joules(before) == pytest.approx(0.25 + 0.05)
    assert (energy.sources, energy.why_not) == ("2 CPU packages (RAPL)", [])


def test_what_cannot_be_read_is_said_and_is_no_zero(tmp_path: Path) -> None:
    nothing = EnergyCounters(tmp_path)
    assert nothing.compute_joules(nothing.read_counters()) is None
    assert nothing.sources == ""
    assert nothing.why_not == [note("no_rapl")]
    folder = package(tmp_path, "intel-rapl:0", 1)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # as a file without permission, also for root
    refused = EnergyCounters(tmp_path)
    assert refused.compute_joules(refused.read_counters()) is None
    assert refused.why_not == [note("rapl_unreadable", folder=folder, reason="Is a directory")]
    package(tmp_path, "intel-rapl:1", 1)
    elsewhere = EnergyCounters(tmp_path, is_elsewhere=True)
    assert elsewhere.compute_joules(elsewhere.read_counters()) is None
    assert elsewhere.why_not == [note("computed_elsewhere")]


def test_gpus_are_asked_where_the_model_is_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {0: 5_000, 1: 90_000}
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-b": 1}[uuid],
        nvmlDeviceGetTotalEnergyConsumption=lambda gpu: counted[gpu],
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(visible_gpus, "find_visible_gpus", lambda: [visible_gpus.Gpu("1", "H100", "GPU-b")])
    energy = EnergyCounters(tmp_path, with_gpus=True)
    before = energy.read_counters()
    counted[0], counted[1] = 1, 92_500
    assert energy.compute_joules(before) == pytest.approx(2.5)
    assert energy.sources == "1 GPUs (NVML)"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyCounters(tmp_path, with_gpus=True).why_not[1] == note("no_nvml")
    assert len(EnergyCounters(tmp_path).why_not) == 1
