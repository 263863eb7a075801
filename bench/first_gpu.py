"""What works on this GPU, and how fast? `python bench/first_gpu.py [--device cuda] [--out FOLDER] [--only STEP …]`.

The first thing to run on a machine with a GPU. Each step is a process with a time limit of its own, so that a crash or
a hang costs one step. The table has what was expected beside what was measured; FOLDER gets it as first_gpu.md, and the
output and figures of each step. Where there is no GPU the same steps run on the CPU with tiny models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from engines import markdown
from heading import parse_arguments

HERE = Path(__file__).parent
STEPS = {  # seconds that each may take on a GPU
    "versions": 40,
    "tests": 150,
    "equal": 60,
    "graphs": 60,
    "speed": 150,
    "profile": 60,
    "prefixes": 60,
    "memory": 60,
    "sampled": 60,
    "attention": 60,
    "four_bit": 60,
    "job": 60,
}


@dataclass
class Line:
    """What came out of one step."""

    step: str
    expected: str
    measured: str
    passed: bool
    took_s: float


def run(step: str, device: str, folder: Path, limit_s: float) -> list[Line]:
    """Run a step; its log and figures are in the folder."""
    started = time.perf_counter()
    command = [sys.executable, str(HERE / "first_gpu_side.py"), step, device, str(folder / f"{step}.json")]
    code = -1
    try:
        with (folder / f"{step}.log").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=log, timeout=limit_s, check=False).returncode
        ended = f"exit code {code}"
    except subprocess.TimeoutExpired:
        ended = f"not done after {limit_s:.0f} s"
    took_s = time.perf_counter() - started
    if (figures := folder / f"{step}.json").exists():
        lines = json.loads(figures.read_text())
        done = [Line(step, expected, measured, passed, took_s) for expected, measured, passed in lines]
        return done if not code else [*done, Line(step, "it ends", ended, False, took_s)]
    last = ((folder / f"{step}.log").read_text().strip().splitlines() or [""])[-1]
    return [Line(step, "it ends", f"{ended}: {last[:150]}", False, took_s)]


def main() -> None:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("outputs/first_gpu"))
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    parser.add_argument("--patience", type=float, default=1.0, help="each time limit is multiplied by it")
    options = parse_arguments(parser)
    options.out.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    for step in options.only:
        done = run(step, options.device, options.out, STEPS[step] * options.patience)
        if not all(line.passed for line in done):
            print("\n".join((options.out / f"{step}.log").read_text().splitlines()[-25:]))
        for line in done:
            print(
                f"{'PASS' if line.passed else 'FAIL'} {line.step}: {line.measured} ({line.took_s:.0f} s)",
                flush=True,
            )
        lines += done
    table = markdown(
        ["step", "expected", "measured", "", "s"],
        [
            [one.step, one.expected, one.measured, "PASS" if one.passed else "FAIL", f"{one.took_s:.0f}"]
            for one in lines
        ],
    )
    (options.out / "first_gpu.md").write_text(table + "\n")
    (options.out / "first_gpu.json").write_text(json.dumps([asdict(one) for one in lines], indent=1) + "\n")
    print(table)
    failed = [one.step for one in lines if not one.passed]
    print(f"FAIL: {', '.join(dict.fromkeys(failed))}" if failed else "PASS")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
