"""One very long request among many short ones, and each alone: `python bench/long_and_short.py [--short 200]`.

A long request should not slow the short ones: they keep their rows, and its prompt is read in pieces while they decode.
So all together should take at most as long as the short ones alone plus the long one alone, as they share the passes of
decode. Prompts are random tokens; every answer continues to its limit.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from engines import Job, Outcome, head_line, markdown, model_folder, run_fresh, spread


def copy_with(positions: int, folder: Path, made: Path) -> None:
    """Copy a model's folder, its weights as links, and give it room for so many positions."""
    for file in folder.iterdir():
        if file.name == "config.json":
            settings = json.loads(file.read_text()) | {"max_position_embeddings": positions}
            (made / file.name).write_text(json.dumps(settings))
        elif file.suffix == ".safetensors":
            (made / file.name).symlink_to(file.resolve())
        elif file.is_file():
            shutil.copy(file, made / file.name)


def main() -> None:
    """Parse the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape), embedded or a FOLDER")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--short", type=int, default=200, help="requests")
    parser.add_argument("--short-prompt", type=int, default=64, help="tokens")
    parser.add_argument("--long-prompt", type=int, default=12_000, help="tokens")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        copy_with(options.long_prompt + options.new_tokens, model_folder(options.model), Path(scratch))
        measure(options, Path(scratch))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Measure by turns and print."""
    vocabulary: int = json.loads((folder / "config.json").read_text())["vocab_size"]
    chance = random.Random(0)

    def draw(tokens: int) -> list[int]:
        return [chance.randrange(vocabulary // 4, vocabulary * 3 // 4) for _ in range(tokens)]

    short, long = [draw(options.short_prompt) for _ in range(options.short)], [draw(options.long_prompt)]
    prompts_by_case = {"short ones": short, "long one": long, "all together": short + long}
    jobs = {
        name: Job("stream", str(folder), options.dtype, prompts, [options.new_tokens] * len(prompts), None)
        for name, prompts in prompts_by_case.items()
    }
    trial = run_fresh(replace(jobs["short ones"], prompts=short[:2], new_tokens=[2, 2]))  # builds the kernels
    print(f"### {options.model}, {options.dtype}: {options.short} requests of {options.short_prompt} tokens and one of "
          f"{options.long_prompt:,}, {options.new_tokens} new ones each\n")  # fmt: skip
    print(head_line(sys.argv, trial.threads), end="\n\n", flush=True)
    runs: dict[str, list[Outcome]] = {name: [] for name in jobs}
    for _ in range(options.repeats):
        for name, job in jobs.items():
            runs[name].append(run_fresh(job))
    sum_alone = [one.total_s + other.total_s for one, other in zip(runs["short ones"], runs["long one"], strict=True)]
    share = [together.total_s / alone for together, alone in zip(runs["all together"], sum_alone, strict=True)]
    rows = [
        [name, spread([run.total_s for run in outcomes]), spread(share, 2) if outcomes is runs["all together"] else "",
         spread([run.peak_mib for run in outcomes], 0)]
        for name, outcomes in runs.items()
    ]  # fmt: skip
    print(markdown([f"{options.repeats} runs of each", "s, load left out", "× the sum of both", "peak MiB"], rows))
    together, alone = runs["all together"][-1], [*runs["short ones"][-1].tokens, *runs["long one"][-1].tokens]
    equal = sum(ours == theirs for ours, theirs in zip(together.tokens, alone, strict=True))
    print(f"\noutputs as alone: {equal} of {len(alone)}")
    for note in dict.fromkeys(note for outcomes in runs.values() for run in outcomes for note in run.notes):
        print(f"- note: {note}")


if __name__ == "__main__":
    main()
