"""Other load on the machine during a measurement, and the machine's name."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from runner_base import machine
from runner_base.machine import Contention, _measure_process_tree_cpu_ticks, _read_cpu_model

PROGRAM = """
import sys
from runner_base import machine
machine.OTHERS_CORES = 0.0
contention = machine.Contention()
print("started", flush=True)
sys.stdin.readline()
print(contention.describe_competing_load())
"""
HALF_A_SECOND = """
import sys, time
while time.process_time() < 0.5: pass
print("done", flush=True)
sys.stdin.read()
"""


@pytest.mark.thorough
def test_a_busy_program_beside_a_measurement_is_noticed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as measuring:
        assert measuring.stdout is not None
        assert measuring.stdout.readline() == "started\n"
        subprocess.run([sys.executable, "-c", HALF_A_SECOND], stdin=subprocess.DEVNULL, check=True)
        out, _ = measuring.communicate("\n")
    assert out.startswith("beside other work that used ")


@pytest.mark.thorough
def test_ones_own_children_are_no_contention() -> None:
    before, expected = _measure_process_tree_cpu_ticks(), 0.4 * os.sysconf("SC_CLK_TCK")
    with subprocess.Popen(
        [sys.executable, "-c", HALF_A_SECOND], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        assert _measure_process_tree_cpu_ticks() - before > expected
    assert _measure_process_tree_cpu_ticks() - before > expected, (
        "the time of a child still counts when it has ended"
    )


def test_a_second_measurement_in_a_process_is_not_alone() -> None:
    Contention()
    assert Contention().describe_competing_load() != "alone"


def test_generations_that_call_themselves_the_same_have_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    names = []
    for family, model in ((25, 17), (26, 2)):
        file.write_text(
            f"vendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\n"
        )
        names.append(_read_cpu_model(file))
    assert names == ["AMD EPYC (family 25 model 17)", "AMD EPYC (family 26 model 2)"]
    file.write_text("processor\t: 0\nmodel name\t: Neoverse-N1\n")
    assert _read_cpu_model(file) == "Neoverse-N1"


@pytest.mark.parametrize(("jobs", "words"), [(1, "1 job"), (2, "2 jobs")])
def test_earlier_jobs_are_counted_in_words(jobs: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    contention = Contention()
    monkeypatch.setattr(contention, "describe_load_by_other_programs", lambda: "")
    contention.earlier = jobs
    assert contention.describe_competing_load().endswith(f" {words}")


def test_versions_are_read_once_since_advice_asks_for_each_pair_of_candidates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranking three candidates asked 154 times, and each time five files of metadata were
    parsed."""
    first = machine.library_versions()
    monkeypatch.setattr(metadata, "version", lambda name: f"{name} read again")
    assert [machine.library_versions() for _ in range(3)] == [first] * 3
