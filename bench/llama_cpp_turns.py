"""What a .gguf file costs by llama.cpp and by our engine: `python bench/llama_cpp_turns.py --model FILE.gguf`.

Whole commands are run by turns, each with a short and a long prompt, and with few and many new tokens, on one thread.
What counts is processor time of the command and of all that it has started, which another load of the machine changes
little; a difference of two lengths leaves start and load out. The least of all rounds is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from runner.store.jobs import read_samples
from runner_base import machine

WORDS = (
    "The harbour was quiet that morning, and the three boats had not come back from the islands. "
)
ASKED = "Write a very long story about this harbour."  # which no model ends within so many tokens
PROMPTS, NEW = (4, 64), (16, 144)  # times that the words stand in the prompt, and new tokens
WAYS = {
    "llama.cpp": [
        "model=llama_cpp",
        "model.compare=false",
        "model.parallel=1",
        "model.context=4096",
    ],
    "runner": ["model=local", "quantization=gguf", "model.device=cpu"],
    "runner, int8 activations": [
        "model=local",
        "quantization=gguf",
        "quantization.int8_rows=true",
        "model.device=cpu",
    ],
}


def main() -> None:
    """Measure by turns, print the least."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a .gguf file (make real-model)")
    parser.add_argument(
        "--python", help="an environment with xllamacpp; else .llama_cpp (make llama_cpp)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.python:
        WAYS["llama.cpp"].append(f"model.python={options.python}")
    cases = [(PROMPTS[0], NEW[0]), (PROMPTS[1], NEW[0]), (PROMPTS[0], NEW[1])]
    spent: dict[Any, list[tuple[float, int, int, float]]] = defaultdict(list)
    for _ in range(options.rounds):
        for case in cases:
            for name in WAYS:
                spent[name, case].append(measured(options.model, name, *case))
    print(f"{machine.name()}; one thread, the least of {options.rounds} rounds by turns")
    print(f"{'':26}{'start, s':>10}{'prompt, ms/token':>18}{'new, ms/token':>16}{'peak MiB':>10}")
    for name in WAYS:
        short, prompt, new = (min(spent[name, case]) for case in cases)
        of_prompt = 1000 * (prompt[0] - short[0]) / (prompt[1] - short[1])
        of_new = 1000 * (new[0] - short[0]) / (new[2] - short[2])
        print(f"{name:26}{short[0]:>10.1f}{of_prompt:>18.2f}{of_new:>16.2f}{prompt[3]:>10,.0f}")


def measured(model: str, name: str, times: int, new: int) -> tuple[float, int, int, float]:
    """Return processor seconds, tokens of the prompt, new tokens, and MiB of the largest process."""
    with tempfile.TemporaryDirectory() as folder:
        job = [
            "task=generate",
            f"task.prompt='{WORDS * times}{ASKED}'",
            "tracking=none",
            "print=json",
        ]
        job += [f"generation.max_new_tokens={new}", f"output_dir={folder}", f"model.name={model}"]
        command = [sys.executable, "-m", "runner", *job, *WAYS[name], "model.threads=1"]
        watched = [sys.executable, "-c", WATCH, *command]
        done = subprocess.run(watched, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        seconds, mib = json.loads(done.stdout.splitlines()[-1])
        (path,) = Path(folder).glob("jobs/*/samples.jsonl")
        (sample,) = read_samples(path).values()
    answer = sample.answer
    new_tokens = len(answer.token_ids) if answer.new_tokens is None else answer.new_tokens
    if new_tokens < new:
        raise SystemExit(f"{name}: the answer ended after {new_tokens} of {new} tokens")
    return seconds, sample.prompt_tokens, new_tokens, mib


WATCH = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
spent = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024]))
sys.exit(done.returncode)
"""

if __name__ == "__main__":
    main()
