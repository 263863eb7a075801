"""Compiles all C code for processors that this machine may not have, and runs nothing
(`python -m tools.compile_targets`).

Every unit of the kernels and every C file of the tests must compile without a warning for each of
TARGETS. Only check_kernels.c, which holds all units, goes through the whole compiler: some errors,
such as an instruction that a target lacks, show up only there. A target that the compiler does not
know by name is compiled by its SUBSTITUTES; one whose instructions it does not know either is an
error. Without a C compiler for x86 nothing is checked, and the exit code is 0.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from runner_base import processor
from runner_engine.kernels import building

ROOT = Path(__file__).parent.parent
SUPPORT = ROOT / "tests" / "support"
TARGETS = ("haswell", "znver3", "znver4", "icelake-server", "sapphirerapids")
# For compilers from before these processors: gcc 12 knows no znver4.
SUBSTITUTES = {
    "znver4": "-march=znver3 -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl -mavx512ifma -mavx512vbmi "
    "-mavx512vbmi2 -mavx512vnni -mavx512bitalg -mavx512vpopcntdq -mavx512bf16 -mgfni",
    "sapphirerapids": "-march=icelake-server -mavx512bf16",
}
WHOLE = "check_kernels.c"
SYNTAX, CODE = ("-fsyntax-only",), ("-Og", "-S")
# The files of tests have functions that no test calls, and, as units.h allows, parameters without use.
OF_TESTS = ("-Wno-unused-function", "-Wno-unused-parameter", f"-I{building.FOLDER}")


def target_flags(compiler: str, target: str) -> list[str] | None:
    """Return the flags for a target, by its name or its substitute; None if the compiler knows neither."""
    for flags in (f"-march={target}", SUBSTITUTES.get(target, "")):
        probe = [compiler, *flags.split(), "-x", "c", "-fsyntax-only", "/dev/null"]
        if flags and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return flags.split()
    return None


def commands(compiler: str, flags: list[str]) -> dict[str, list[str]]:
    """Return the name of each file or unit and the command that compiles it."""
    common = [compiler, *flags, "-fopenmp", *building.MATH.split(), *building.WARNINGS.split()]
    common += ["-Werror", "-o", "/dev/null"]
    source = str(building.FOLDER / building.SOURCE)
    found = {
        f"{building.SOURCE} -DUNIT={unit}": [*common, *SYNTAX, f"-DUNIT={unit}", source]
        for unit in building.UNITS
    }
    for file in sorted(SUPPORT.glob("*.c")):
        level = CODE if file.name == WHOLE else SYNTAX
        found[file.name] = [*common, *level, *OF_TESTS, str(file)]
    tiles = ("-include", str(SUPPORT / "emulated_tiles.h"))
    file = SUPPORT / "tiles_only.c"
    found["tiles_only.c, emulated tiles"] = [*common, *SYNTAX, *OF_TESTS, *tiles, str(file)]
    return found


def main() -> int:
    """Compile everything, print what fails, and return the exit code."""
    compiler = processor.find_c_compiler()
    if compiler is None or target_flags(compiler, "x86-64-v3") is None:
        print("not run: there is no C compiler for x86 here", file=sys.stderr)
        return 0
    started, number, failed = time.perf_counter(), 0, 0
    for target in TARGETS:
        flags = target_flags(compiler, target)
        if flags is None:
            print(f"{target}: {compiler} knows neither it nor its instructions. Use gcc 11 or newer")
            failed += 1
            continue
        for name, command in commands(compiler, flags).items():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            number += 1
            if done.returncode:
                failed += 1
                print(f"{target}: {name} does not compile\n{done.stderr}")
    seconds = time.perf_counter() - started
    print(f"compiled {number} units and files for {', '.join(TARGETS)} in {seconds:.0f} s: {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
