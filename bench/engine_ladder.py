"""Which step gains how much speed? `python bench/engine_ladder.py [--questions 32]`.

The first step is transformers' `generate` over left-padded batches of 16 with sdpa attention. Each later step switches
one more thing on, with the same questions and lengths of answers. The last line is not a step, but transformers' own
continuous batching. Every run is a process of its own, and the steps alternate over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from engines import (
    Job,
    Outcome,
    check_prompts,
    head_line,
    markdown,
    model_folder,
    per_prompt_ms,
    run_fresh,
    same_tokens,
    spread,
)
from heading import parse_arguments
from questions import add_options, load_prompts

BATCH = 16
MORE_ROWS = (64, 128)
FEW = 8  # questions for the slowest line
BESIDE = f"beside it: transformers' `generate_batch`, {FEW} questions"  # no step of ours


def ladder(job: Job) -> dict[str, Job]:
    """Return the steps, each with one thing more than the one before."""
    bare = replace(job, kind="stream", rows=BATCH, off=["kernels", "share", "packed", "fused"])
    return {
        f"`generate`, batch {BATCH}": replace(job, kind="generate", rows=BATCH),
        "our plain loop: finished rows go": replace(job, kind="plain", rows=BATCH),
        "a stream: rows enter and leave": bare,
        "+ the shared prefix once": replace(bare, off=["kernels", "packed", "fused"]),
        "+ compiled kernels: attention, norms": replace(bare, off=["packed", "fused"]),
        "+ packed weights": replace(bare, off=["fused"]),
        "+ a pass in a single call": replace(bare, off=[]),
        **{
            f"+ {rows} rows at once": replace(bare, off=[], rows=rows)
            for rows in MORE_ROWS
            if rows <= len(job.prompts)
        },
        BESIDE: replace(
            job, kind="generate_batch", prompts=job.prompts[:FEW], new_tokens=job.new_tokens[:FEW]
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape), embedded or a FOLDER")
    add_options(parser)
    options = parse_arguments(parser)
    folder: Path = model_folder(options.model)
    prompts = load_prompts(options.gsm8k or "embedded", options.questions, options.shots)
    job = Job("stream", str(folder), options.dtype, prompts, [options.new_tokens] * len(prompts), None)
    # builds kernels
    trial = run_fresh(replace(job, prompts=prompts[:2], new_tokens=[2, 2], threads=options.threads))
    job = replace(job, threads=trial.threads)
    source = "of GSM8K's test questions" if options.gsm8k else "questions of the embedded generator"
    print(f"### {options.model}, {options.dtype}: {len(prompts)} {source}, {options.shots} worked examples, exactly "
          f"{options.new_tokens} new tokens\n")  # fmt: skip
    print(head_line(sys.argv, trial.threads), end="\n\n", flush=True)
    steps = ladder(job)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            outcomes[name].append(run_fresh(step))
            if name != BESIDE:
                check_prompts([outcomes[name][-1], outcomes[next(iter(steps))][0]])
    print(table(outcomes))
    for name, runs in outcomes.items():
        for note in dict.fromkeys(note for run in runs for note in run.notes):
            print(f"- {name}: {note}")


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Return the table, a line per step: median (least..most)."""
    rows: list[list[str]] = []
    base = before = next(iter(outcomes.values()))
    for name, runs in outcomes.items():
        took = per_prompt_ms(runs)
        gains = [one / other for one, other in zip(per_prompt_ms(before), took, strict=True)]
        so_far = [one / other for one, other in zip(per_prompt_ms(base), took, strict=True)]
        rows.append([
            name,
            spread(took, 0),
            spread(gains, 2) if rows and name != BESIDE else "",
            spread(so_far, 1) if rows else "1",
            spread([run.prefill_s for run in runs]),
            spread([run.decode_s for run in runs]),
            f"{statistics.median(run.peak_mib for run in runs):,.0f}",
            f"{same_tokens(base[-1], runs[-1])} of {runs[-1].done}",
        ])  # fmt: skip
        before = runs
    head = [
        "step",
        "ms a question",
        "× the step before",
        "× `generate`",
        "prefill, s",
        "decode, s",
        "peak MiB",
    ]
    return markdown([*head, "outputs as the first"], rows)


if __name__ == "__main__":
    main()
