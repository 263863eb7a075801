"""How long the kernels take to compile, by unit: `python bench/kernel_build.py`.

Prints what a first job waits for, the units that every model needs side by side, and the compiler's processor time of
each unit, one after another. `--one` also compiles all kernels as a single unit, as they once were.
RUNNER_WITHOUT=avx512 compiles for a processor with AVX2 only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from heading import parse_arguments
from latest import Figure, add_option, save

from runner_base import machine, processor
from runner_engine.kernels import building


def cpu_seconds(command: list[str]) -> float:
    """Run a command, and return the processor time that it took with all its processes."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", action="store_true", help="also as a single unit")
    add_option(parser)
    options = parse_arguments(parser)
    compiler = processor.find_c_compiler()
    if compiler is None:
        raise SystemExit("there is no C compiler here")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        started = time.perf_counter()
        took = cpu_seconds([sys.executable, "-m", "runner_engine.kernels.building"])
        waited = time.perf_counter() - started
        print(
            f"a first build: {waited:.1f} s, {took:.1f} s of processor time "
            f"on {machine.count_available_cpu_cores()} cores"
        )
        print("unit                  for          processor time")
        units = {
            unit: cpu_seconds(building.build_compile_command(compiler, unit, Path(folder) / "unit.o"))
            for unit in building.UNITS
        }
        for unit, seconds in units.items():
            print(
                f"{unit:21} {' and '.join(sorted(building.UNITS[unit])) or 'every model':20} {seconds:6.1f} s"
            )
        print(f"{'all units':42} {sum(units.values()):6.1f} s")
        if options.one:
            one = building.build_compile_command(compiler, "ALL_UNITS", Path(folder) / "unit.o")
            print(f"{'a single unit':42} {cpu_seconds(one):6.1f} s")
    if options.save:
        every = sum(seconds for unit, seconds in units.items() if not building.UNITS[unit])
        save([Figure.of("processor time", "s", [every], "units of every model", 1)])


if __name__ == "__main__":
    main()
