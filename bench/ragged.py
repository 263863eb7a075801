"""Nothing shared and very different lengths, compared with `generate`: `python bench/ragged.py [--requests 128]`.

Prompts of random tokens and answers of fixed lengths, both spread evenly over their orders of magnitude. transformers'
`generate` runs each batch to the longest answer of its rows, and the rest is cut off. It gets its best batch size, and
the better of two orders: as given, and by the length of the prompt. A third order, by the length of the answer, is
unknown before the answers exist; it is shown as a bound. Our stream gets each answer's length as its limit, and admits
long rows first.
"""

from __future__ import annotations

import argparse
import json
import math
import random
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
    ratios,
    run_fresh,
    same_tokens,
    spread,
)
from heading import parse_arguments

BATCH_SIZES = (1, 4, 8, 16, 32)
ORDERS = {"given": "as given", "prompt": "by prompt", "answer": "by answer"}
MIN_PROMPT, MIN_ANSWER = 16, 16


def draw(
    count: int, vocabulary: int, longest_prompt: int, longest_answer: int, seed: int
) -> tuple[list[list[int]], list[int]]:
    """Return prompts that share nothing, and the limit of each."""
    chance = random.Random(seed)
    # special tokens and padding are at a vocabulary's two ends
    ordinary = (vocabulary // 4, vocabulary * 3 // 4)

    def length(least: int, most: int) -> int:
        return round(math.exp(chance.uniform(math.log(min(least, most)), math.log(most))))

    prompts = [[chance.randrange(*ordinary) for _ in range(length(MIN_PROMPT, longest_prompt))]
               for _ in range(count)]  # fmt: skip
    return prompts, [length(MIN_ANSWER, longest_answer) for _ in range(count)]


def search(job: Job) -> tuple[Job, Job]:
    """Try batch sizes and orders; return the best job with a possible order, and the best with the
    third."""
    tried: dict[str, list[tuple[float, int, Job]]] = {order: [] for order in ORDERS}
    rows = []
    for size in BATCH_SIZES:
        for order in ORDERS if size > 1 else ["given"]:
            settings = replace(job, rows=size, order=order)
            [took] = per_prompt_ms([run_fresh(settings)])
            for same in ORDERS if size == 1 else [order]:  # the order has no effect on single rows
                tried[same].append((took, size, replace(settings, order=same)))
        rows.append([str(size), *(f"{tried[order][-1][0]:,.0f}" for order in ORDERS)])
    head = ["`generate`, batch size", *(f"{words}, ms a request" for words in ORDERS.values())]
    print(markdown(head, rows), end="\n\n", flush=True)
    known = min([*tried["given"], *tried["prompt"]], key=lambda one: one[0])
    return known[2], min(tried["answer"], key=lambda one: one[0])[2]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        default="random",
        help="random (a 135M Llama), mixture (of 32 experts, 192M), embedded or a FOLDER",
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--longest-prompt", type=int, default=1024)
    parser.add_argument("--longest-answer", type=int, default=512)
    parser.add_argument(
        "--search-requests", type=int, default=64, help="of them, to find the best batch size"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: as our engine decides, for both")
    parser.add_argument("--seed", type=int, default=0)
    options = parse_arguments(parser)
    folder = str(model_folder(options.model))
    vocabulary: int = json.loads((Path(folder) / "config.json").read_text())["vocab_size"]
    longest = options.longest_prompt, options.longest_answer
    prompts, limits = draw(options.requests, vocabulary, *longest, options.seed)
    job = Job("stream", folder, options.dtype, prompts, limits, None)
    # builds kernels
    trial = run_fresh(replace(job, prompts=prompts[:2], new_tokens=[2, 2], threads=options.threads))
    job = replace(job, threads=trial.threads)
    print(f"### {options.model}, {options.dtype}: {len(prompts)} requests, prompts of {min(map(len, prompts))} to "
          f"{max(map(len, prompts))} tokens ({sum(map(len, prompts)):,} in all), answers of {min(limits)} to "
          f"{max(limits)} ({sum(limits):,})\n")  # fmt: skip
    print(head_line(sys.argv, trial.threads), end="\n\n", flush=True)
    few = options.search_requests
    best, bound = search(replace(job, kind="generate", prompts=prompts[:few], new_tokens=limits[:few]))
    sides = {
        f"`generate`, batch {best.rows}, {ORDERS[best.order]}": replace(
            best, prompts=prompts, new_tokens=limits
        ),
        f"`generate`, batch {bound.rows}, {ORDERS[bound.order]}": replace(
            bound, prompts=prompts, new_tokens=limits
        ),
        "runner": job,
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            outcomes[name].append(run_fresh(side))
    check_prompts([run for runs in outcomes.values() for run in runs])
    ours = outcomes["runner"]
    rows = [
        [
            name,
            spread([run.total_s for run in runs]),
            "1" if runs is ours else spread(ratios(runs, ours), 2),
            spread([run.prefill_s for run in runs]),
            spread([run.decode_s for run in runs]),
            f"{runs[0].positions:,}",
            spread([run.peak_mib for run in runs], 0),
            "" if runs is ours else f"{same_tokens(runs[-1], ours[-1])} of {len(prompts)}",
        ]
        for name, runs in outcomes.items()
    ]
    head = [
        f"{options.repeats} runs of each: median (least..most)",
        "s, load left out",
        "× the runner",
        "prefill, s",
        "decode, s",
    ]
    print(markdown([*head, "tokens through the layers", "peak MiB", "outputs as the runner's"], rows))
    for note in dict.fromkeys(note for run in ours for note in run.notes):
        print(f"- note: {note}")


if __name__ == "__main__":
    main()
