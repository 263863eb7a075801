"""Does Ctrl-C end a job with exit code 130 at any moment of its start? `python bench/interrupt_start.py`.

A job is started and interrupted after 0, 0.1, 0.2 … seconds (`--step 0.1 --until 5`). Each must exit with 130,
without a traceback, and record no failure. Before Python has read the first line of runner/__main__.py,
Python itself handles the signal: such starts are counted apart. The seconds of CPU time from the signal to
the end are about those that a machine without other work would take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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


def interrupted(folder: Path, after_s: float, words: list[str]) -> tuple[str, float, float]:
    """Interrupt a job so many seconds after its start; return how it ended, and the seconds and
    those of CPU time from the signal to the end."""
    command = [sys.executable, "-m", "runner", *words, f"output_dir={folder}"]
    before_s = ended_children_s()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(after_s)
    sent, used_s = time.monotonic(), process_s(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONGEST_S)
    seconds = time.monotonic() - sent
    cpu_s = ended_children_s() - before_s - used_s
    statuses = {json.loads(path.read_text())["status"] for path in folder.glob("jobs/*/result.json")}
    if "Traceback" in err or process.returncode == -signal.SIGINT:
        is_ours = any(f"/{name}" in err for name in OURS)
        return (f"TRACEBACK:\n{err}" if is_ours else "Python had not begun with us"), seconds, cpu_s
    if process.returncode != 130 or statuses - {"KILLED"}:
        return f"EXIT CODE {process.returncode}, {statuses}:\n{err}", seconds, cpu_s
    return "130", seconds, cpu_s


def ended_children_s() -> float:
    """Return the CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process_s(pid: int) -> float:
    """Return the CPU time of a running process and of its ended child processes."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Interrupt at all these moments; exit with 1 if one of them ended otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", type=float, default=0.1)
    parser.add_argument("--until", type=float, default=5.0)
    parser.add_argument("--job", nargs="*", default=JOB)
    options = parser.parse_args()
    counts, longest = Counter[str](), (0.0, 0.0)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="interrupts-") as place:
        for number in range(int(options.until / options.step) + 1):
            after_s = number * options.step
            ended, seconds, cpu_s = interrupted(Path(place, str(number)), after_s, options.job)
            longest = max(longest[0], seconds), max(longest[1], cpu_s)
            print(f"{after_s:5.2f} s: {ended}, {seconds:.2f} s later, {cpu_s:.2f} s of CPU time", flush=True)
            counts[ended.splitlines()[0].partition(":")[0]] += 1
    print(
        ", ".join(f"{count} × {ended}" for ended, count in counts.items()),
        f"· longest {longest[0]:.1f} s, {longest[1]:.1f} s of CPU time, load {os.getloadavg()[0]:.1f}",
    )
    sys.exit(not {*counts} <= {"130", "Python had not begun with us"})


if __name__ == "__main__":
    main()
