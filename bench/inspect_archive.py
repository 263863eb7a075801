"""How long does a large log of inspect_ai take to read? `python bench/inspect_archive.py [--samples 1000 10000]`.

It writes archives of so many samples, which are copies of a real one (tests/data/inspect_ai), and compares two of them
by `runner-compare --results` in a process of its own. Beside it stands what unpacking and parsing the same files takes
alone, by Python's own parser.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from heading import parse_arguments
from large_archive import large_archive

PARSED = """
import json, sys, time
from pathlib import Path
from runner_compare.readers.archive import Archive
begun = time.process_time()
for path in sys.argv[1:]:
    with Archive(Path(path)) as archive:
        for name in archive.json_names_in_folder("samples/"):
            json.loads(archive.read_member(name))
print(time.process_time() - begun)
"""


def measured(arguments: list[str]) -> tuple[float, float, float, str]:
    """Run a command; returns its seconds, those of the processor, its peak memory in MiB and what
    it printed."""
    begun = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {printed}")
    return (time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed)


def main() -> None:
    """Write archives of each size, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--extra-bytes", type=int, default=0, help="of conversation, added to each sample")
    options = parse_arguments(parser)
    print(
        "| samples | MiB, packed | unpacked and parsed, CPU s | runner-compare, CPU s | s | peak memory, MiB |"
    )
    print("|---|---|---|---|---|---|")
    for samples in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            paths = [
                large_archive(
                    Path(folder) / f"{seed}.eval", samples, seed=seed, extra_bytes=options.extra_bytes
                )
                for seed in range(2)
            ]
            packed = sum(path.stat().st_size for path in paths) / 2**20
            *_, alone = measured([sys.executable, "-c", PARSED, *map(str, paths)])
            seconds, processor, peak, _ = measured(
                [sys.executable, "-m", "runner_compare", "--results", *map(str, paths)]
            )
            figures = f"{packed:,.0f} | {float(alone):.1f} | {processor:.1f} | {seconds:.1f} | {peak:,.0f}"
            print(f"| 2 × {samples:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
