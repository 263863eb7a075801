"""How fast is a .gguf file by llama.cpp and by our engine? `python bench/llama_cpp_turns.py --model FILE.gguf`.

`task=sweep`, as a user runs it, by turns: a round is one sweep of each side. A sweep loads the file or starts a server
once, and then asks one row at a time for exactly so many new tokens, whatever the model would say. Shown are the
median of all rounds with the lowest and the highest: milliseconds a token of the prompt (the time until the first token
comes, over the prompt's tokens), milliseconds between two tokens of the answer, seconds of the load or the server's
start and of the whole command, and the peak of the largest process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from engines import head_line, markdown, spread
from heading import parse_arguments

WAYS = {
    "llama.cpp": ["model=llama_cpp", "model.compare=false", "model.parallel=1"],
    "runner": ["model=local", "quantization=gguf", "model.device=cpu"],
    "runner, int8 activations": [
        "model=local",
        "quantization=gguf",
        "quantization.int8_activations=true",
        "model.device=cpu",
    ],
}


def main() -> None:
    """Measure by turns and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a .gguf file (make real-model)")
    parser.add_argument("--python", help="an environment with xllamacpp; else .llama_cpp (make llama_cpp)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parse_arguments(parser)
    if options.python:
        WAYS["llama.cpp"].append(f"model.python={options.python}")
    WAYS["llama.cpp"].append(f"model.context={max(options.lengths) + options.new + 16}")
    found: dict[Any, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for name in WAYS:
            for figure, value in measured(options, name).items():
                found[name, figure].append(value)
    print(head_line(["bench/llama_cpp_turns.py", *sys.argv[1:]], options.threads))
    print(f"\n{options.rounds} rounds by turns, {options.new} new tokens, one row at a time:\n")
    figures = [figure for name, figure in found if name == "runner"]
    lines = [[figure, *(spread(found[name, figure], 2) for name in WAYS)] for figure in figures]
    print(markdown(["", *WAYS], lines))


def measured(options: argparse.Namespace, name: str) -> dict[str, float]:
    """Return the figures of one sweep of a side."""
    with tempfile.TemporaryDirectory() as folder:
        job = [
            "task=sweep",
            "task.batch_sizes=[1]",
            f"task.prompt_tokens={options.lengths}".replace(" ", ""),
            f"task.new_tokens={options.new}",
            "task.repeats=1",
            "task.pictures=false",
            "tracking=none",
            "print=json",
            f"output_dir={folder}",
            f"model.name={options.model}",
            f"model.threads={options.threads}",
        ]
        command = [sys.executable, "-m", "runner", *job, *WAYS[name]]
        watched = [sys.executable, "-c", WATCH, *command]
        began = time.perf_counter()
        done = subprocess.run(watched, capture_output=True, text=True, check=False)
        whole = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        (record,) = Path(folder).glob("jobs/*/result.json")
        metrics = json.loads(record.read_text())["result"]["metrics"]
    figures = {}
    for length in options.lengths:
        key = f"batch_1_prompt_{length}"
        figures[f"prompt of {length:,}, ms/token"] = 1000 * metrics[f"ttft_s/{key}"] / length
        figures[f"new behind {length:,}, ms/token"] = 1000 * metrics[f"itl_p50_s/{key}"]
    figures["load, s"] = metrics["load_s"]
    figures["whole command, s"] = whole
    figures["peak of the largest process, MiB"] = json.loads(done.stdout.splitlines()[-1])
    return figures


WATCH = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
sys.exit(done.returncode)
"""

if __name__ == "__main__":
    main()
