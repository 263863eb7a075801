"""How much memory takes the process of a .gguf file, and llama.cpp's? `python bench/gguf_memory.py --model FILE.gguf`.

Each side runs in a process of its own: `task=sweep` as a user runs it, and llama.cpp with the same number of rows and
positions, all of which are used. Shown are the peak of the resident memory, the largest proportional share (PSS), and
the parts of the resident memory at its peak, all read from /proc.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from engines import ROOT, head_line, markdown
from heading import parse_arguments
from other_engines import xllamacpp_python

# the buffer: with what the sweep measures the bandwidth of memory, after the model's own passes
BUFFER = "/dev/zero (deleted)"
PARTS = ("model file", "other files", "anonymous", "sweep's buffer")
EVERY_S = 0.03


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a .gguf file (make real-model)")
    parser.add_argument("--python", help="an environment with xllamacpp; else it is installed")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--positions", type=int, default=2048, help="of each row, all of them used")
    parser.add_argument("--new", type=int, default=64, help="new tokens among the positions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="of runner")
    parser.add_argument("--alone", action="store_true", help="without llama.cpp, which is not installed then")
    options = parse_arguments(parser)
    python = "" if options.alone else options.python or xllamacpp_python(ROOT / "outputs" / ".xllamacpp")
    lines = []
    for rows in options.rows:
        if python:
            lines.append([str(rows), "llama.cpp", *figures(*run_llamacpp(options, python, rows))])
        for dtype in options.dtypes:
            lines.append([str(rows), f"runner, {dtype}", *figures(*run_runner(options, rows, dtype))])
    print(head_line(["bench/gguf_memory.py", *sys.argv[1:]], options.threads))
    print(f"\n{options.positions} positions a row, MiB:\n")
    print(markdown(["rows", "", "peak", "PSS", *PARTS], lines))


def run_runner(options: argparse.Namespace, rows: int, dtype: str) -> tuple[Counter[str], Counter[str]]:
    """Return the memory of a sweep with one cell."""
    with tempfile.TemporaryDirectory() as folder:
        keys = [
            *("task=sweep", f"task.batch_sizes=[{rows}]", f"task.new_tokens={options.new}"),
            *(f"task.prompt_tokens=[{options.positions - options.new}]", "task.repeats=1"),
            *("task.pictures=false", "tracking=none", "print=json", f"output_dir={folder}"),
            *("model=local", "quantization=gguf", "model.device=cpu", f"model.dtype={dtype}"),
            *(f"model.name={options.model.resolve()}", f"model.threads={options.threads}"),
        ]
        command = [sys.executable, "-m", "runner", *keys]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        return watch(child, options.model)


def run_llamacpp(options: argparse.Namespace, python: str, rows: int) -> tuple[Counter[str], Counter[str]]:
    """Return the memory of llama.cpp, which answers as many rows at once."""
    chance = random.Random(0)
    prompts = [
        [chance.randrange(4, 1000) for _ in range(options.positions - options.new)] for _ in range(rows)
    ]
    side = Path(__file__).with_name("xllamacpp_side.py")
    numbers = [str(options.threads), str(rows), str(options.positions)]
    command = [python, str(side), str(options.model), *numbers]
    child: Any = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    child.stdin.write(json.dumps({"prompts": prompts, "new": options.new - 1}) + "\n")
    child.stdin.close()
    return watch(child, options.model)


def watch(child: subprocess.Popen[Any], model: Path) -> tuple[Counter[str], Counter[str]]:
    """Sample a process until it ends. Returns the largest values in KiB, and the parts at the peak."""
    most, parts = Counter[str](), Counter[str]()
    while child.poll() is None:
        rollup = read_kib(Path(f"/proc/{child.pid}/smaps_rollup"))
        if rollup["Rss"] > 1.01 * most["Rss"]:
            parts = read_parts(child.pid, model) or parts
        most |= rollup | read_kib(Path(f"/proc/{child.pid}/status"))
        time.sleep(EVERY_S)
    if child.returncode:
        raise SystemExit(f"a side ended with {child.returncode}")
    return most, parts


def read_kib(file: Path) -> Counter[str]:
    """Return the values of a file of /proc that are in KiB; none if the process has ended."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return Counter()
    return Counter({line[0].removesuffix(":"): int(line[1]) for line in lines if line[-1:] == ["kB"]})


def read_parts(pid: int, model: Path) -> Counter[str]:
    """Return the resident KiB of the model's file, of other files, and of no file."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    except OSError:
        return Counter()
    parts, part, resident = Counter[str](), "", 0
    for line in lines:
        name, *values = line.split(maxsplit=5)
        if not name.endswith(":"):
            names = {str(model.resolve()): "model file", BUFFER: "sweep's buffer"}
            part = names.get(values[-1], "other files")
        elif name == "Rss:":
            resident = int(values[0])
        elif name == "Anonymous:":
            parts["anonymous"] += int(values[0])
            parts[part] += resident - int(values[0])
    return parts


def figures(most: Counter[str], parts: Counter[str]) -> list[str]:
    """Return a line's numbers, in MiB."""
    kib = [most["VmHWM"], most["Pss"], *(parts[part] for part in PARTS)]
    return [f"{value / 1024:,.0f}" for value in kib]


if __name__ == "__main__":
    main()
