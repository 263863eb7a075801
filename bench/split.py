"""How long does splitting take compared with copying? `python bench/split.py [--shape llama32_1b] [--repeats 5]`.

A checkpoint of random weights is made once, in shards. Then, in turns and each in a process of its own: `cp` of its
files; the split, as a user calls it; and the naive way, safetensors' load_file and save_file. A split's time is that
of the task, from reading the headers to the manifest; the whole command, with interpreter and Hydra, stands beside it.
None of the three waits for the disk; what the one before has left to write is written before the next one starts.
Afterwards: the same split with nothing changed, and with one shard changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

MAKE = """
import sys
from runner.config.model import LocalModelConfig
from runner.checkpoints import random_weights
model = LocalModelConfig(name="noise", shape=sys.argv[1], random_weights=True, cache_dir=sys.argv[2])
tensors = random_weights.list_tensors(random_weights.read_shape(model))
random_weights.SHARD_BYTES = sum(tensor.nbytes for tensor in tensors) // 4
print(random_weights.make(model), len(tensors))
"""
NAIVE = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
tensors = {}
for file in Path(sys.argv[1]).glob("*.safetensors"):
    tensors |= load_file(file)
names = sorted(tensors)
for part in range(2):
    half = names[part * len(names) // 2 : (part + 1) * len(names) // 2]
    save_file({name: tensors[name] for name in half}, Path(sys.argv[2]) / f"part_{part}.safetensors")
"""


@dataclass
class Run:
    """One process: its time, its peak memory, and for a split the metrics that it prints."""

    seconds: float
    peak_mib: float
    metrics: dict[str, float]


def measure(command: list[str], scratch: Path) -> Run:
    """Run a process to its end."""
    os.sync()
    with (scratch / "stdout").open("w+") as out, (scratch / "stderr").open("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=scratch, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{(scratch / 'stderr').read_text()[-2000:]}")
    text = (scratch / "stdout").read_text()
    return Run(seconds, usage.ru_maxrss / 1024, json.loads(text)["metrics"] if text.startswith("{") else {})


def spread(values: list[float], form: str) -> str:
    """Return the median, the least and the largest."""
    return f"{median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama32_1b", help="of runner/checkpoints/shapes (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--folder", help="where to write, on the disk to be measured (default: a temporary folder)")
    options = parser.parse_args()
    print(f"python bench/split.py --shape {options.shape} --repeats {options.repeats} --parts {options.parts}")
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        compare(options.shape, options.repeats, options.parts, Path(temporary))


def compare(shape: str, repeats: int, parts: int, scratch: Path) -> None:
    """Run the three commands in turns, then split again."""
    # in another process: a child's peak starts from its parent's memory, so this process stays small
    make = [sys.executable, "-c", MAKE, shape, str(scratch / "models")]
    made = subprocess.run(make, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout
    source, tensors = Path(made.split()[0]), made.split()[1]
    files = sorted(source.glob("*.safetensors"))
    total = sum(file.stat().st_size for file in files)
    print(f"{total / 1e9:.2f} GB in {tensors} tensors and {len(files)} files")
    target, parts_folder = scratch / "copy", scratch / "parts"
    split = [sys.executable, "-m", "runner", "task=split", "model=local", f"model.name={source}", "tracking=none"]
    split += [f"task.num_parts={parts}", f"task.output_dir={parts_folder}", "print=json", f"output_dir={scratch}/out"]
    commands = {
        "cp": ["cp", *map(str, files), str(target)],
        "split": [*split, "rerun=all"],
        "load_file + save_file": [sys.executable, "-c", NAIVE, str(source), str(target)],
    }
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    names = list(commands)
    for number in range(repeats):
        turn = number % len(names)  # the first one changes: pages of a removed copy are quickly available
        for name in names[turn:] + names[:turn]:
            for folder in (target, parts_folder):
                shutil.rmtree(folder, ignore_errors=True)
            target.mkdir()
            runs[name].append(measure(commands[name], scratch))
    stored = runs["split"][0].metrics["stored_mib"] * 2**20
    print(f"{'':24} {'seconds':>20} {'GB/s':>20} {'peak RSS MiB':>20}")
    for name, runs_of_command in runs.items():
        seconds = [run.metrics.get("seconds", run.seconds) for run in runs_of_command]
        written = stored if name == "split" else total
        speed = spread([written / 1e9 / one for one in seconds], ".2f")
        peak = spread([run.peak_mib for run in runs_of_command], ",.0f")
        print(f"{name:24} {spread(seconds, '.2f'):>20} {speed:>20} {peak:>20}", flush=True)
    whole = [run.seconds for run in runs["split"]]
    print(f"{'split, whole command':24} {spread(whole, '.2f'):>20}")
    against = [
        stored / one.metrics["seconds"] / (total / cp.seconds)
        for one, cp in zip(runs["split"], runs["cp"], strict=True)
    ]
    print(f"throughput of the split / of cp, round by round: {spread(against, '.2f')}")
    again(split, parts_folder, files[-1], scratch, repeats)


def again(split: list[str], parts: Path, shard: Path, scratch: Path, repeats: int) -> None:
    """Split again without a change, with and without rerun=all; then with one number of one shard changed."""
    measure([*split, "rerun=all"], scratch)
    for title, command in (("asked again", split), ("rerun=all", [*split, "rerun=all"])):
        split_runs = [measure(command, scratch) for _ in range(repeats)]
        whole = spread([run.seconds for run in split_runs], ".2f")
        task = spread([run.metrics["seconds"] for run in split_runs], ".3f") if "rerun" in title else "-"
        print(f"nothing changed, {title:12} whole command {whole} s, task {task} s")
    split_runs, written = [], 0
    for number in range(repeats):
        before = {file: file.stat().st_ino for file in parts.glob("part_*")}
        with shard.open("r+b") as stream:
            stream.seek(-2, os.SEEK_END)
            stream.write(bytes([number, 0]))
        split_runs.append(measure(split, scratch))
        written = sum(file.stat().st_ino != inode for file, inode in before.items())
    rewritten = split_runs[0].metrics
    print(
        f"one shard of {shard.parent.name} changed: {written} of {len(before)} part files written anew, "
        f"{rewritten['written_mib']:,.0f} MiB, task {spread([run.metrics['seconds'] for run in split_runs], '.2f')} s"
    )


if __name__ == "__main__":
    main()
