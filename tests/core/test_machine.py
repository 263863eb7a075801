"""What a measurement shares its process and its machine with."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from runner.core.machine import Contention, _cpu_model, _family_ticks

PROGRAM = """
import time
from runner.core.machine import Contention
contention = Contention()
time.sleep(2)
print(contention.describe())
"""
BUSY = "while True: pass"


def test_a_busy_program_beside_a_measurement_is_noticed() -> None:
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    finally:
        busy.kill()
        busy.wait()
    assert done.stdout.startswith("beside other work on ")


def test_ones_own_children_are_no_contention() -> None:
    before = _family_ticks()
    child = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(1.5)
        assert _family_ticks() - before > 20
    finally:
        child.kill()
        child.wait()
    assert _family_ticks() - before > 20, "and they stay when they have ended"


def test_a_second_measurement_in_a_process_is_not_alone() -> None:
    Contention()
    assert Contention().describe() != "alone"


def test_generations_that_call_themselves_the_same_have_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    names = []
    for family, model in ((25, 17), (26, 2)):
        file.write_text(
            f"vendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\n"
        )
        names.append(_cpu_model(file))
    assert names == ["AMD EPYC (family 25 model 17)", "AMD EPYC (family 26 model 2)"]
    file.write_text("processor\t: 0\nmodel name\t: Neoverse-N1\n")
    assert _cpu_model(file) == "Neoverse-N1"
