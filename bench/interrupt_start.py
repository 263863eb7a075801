"""Does Ctrl-C end a job with exit code 130 at any moment of its start? `python bench/interrupt_start.py`.

A job is started and interrupted after 0, 0.1, 0.2 … seconds (`--step 0.1 --until 5`). Each must exit with 130,
without a traceback, and record no failure. Before Python has read the first line of runner/__main__.py,
Python itself handles the signal: such starts are counted apart.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("runner/", "runner_base/", "runner_engine/", "hydra_plugins/")
JOB = ["task=gsm8k", "task.limit=400", "print=none", "tracking=none"]
LONGEST_S = 120.0


def interrupted(folder: Path, after_s: float, words: list[str]) -> tuple[str, float]:
    """Interrupt a job so many seconds after its start; return how it ended, and the seconds from
    the signal to the end."""
    command = [sys.executable, "-m", "runner", *words, f"output_dir={folder}"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(after_s)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONGEST_S)
    seconds = time.monotonic() - sent
    statuses = {
        json.loads(path.read_text())["status"] for path in folder.glob("jobs/*/result.json")
    }
    if "Traceback" in err or process.returncode == -signal.SIGINT:
        is_ours = any(f"/{name}" in err for name in OURS)
        return (f"TRACEBACK:\n{err}" if is_ours else "Python had not begun with us"), seconds
    if process.returncode != 130 or statuses - {"KILLED"}:
        return f"EXIT CODE {process.returncode}, {statuses}:\n{err}", seconds
    return "130", seconds


def main() -> None:
    """Interrupt at all these moments; exit with 1 if one of them ended otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--until", type=float, default=5.0)
    parser.add_argument("--job", nargs="*", default=JOB)
    options = parser.parse_args()
    counts, longest = Counter[str](), 0.0
    with tempfile.TemporaryDirectory(prefix="interrupts-") as place:
        for number in range(int(options.until / options.step) + 1):
            after_s = number * options.step
            ended, seconds = interrupted(Path(place, str(number)), after_s, options.job)
            longest = max(longest, seconds)
            print(f"{after_s:5.2f} s: {ended}, {seconds:.2f} s later", flush=True)
            counts[ended.splitlines()[0].partition(":")[0]] += 1
    print(
        ", ".join(f"{count} × {ended}" for ended, count in counts.items()),
        f"· longest {longest:.1f} s",
    )
    sys.exit(not {*counts} <= {"130", "Python had not begun with us"})


if __name__ == "__main__":
    main()
