"""How much does other work on the machine slow each engine? `python bench/busy.py [--repeats 3]`.

The same questions through our engine, lm-evaluation-harness and vLLM, beside none, one and two processes in a busy
loop: how many times as long each takes as alone on the machine. Fresh processes, by turns, without loading.
`spinning` is our engine with torch's threads spinning while they wait, the default of its OpenMP library, where
`import runner` lets them sleep after some microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace

from engines import Job, head_line, markdown, model_folder, run_fresh, spread
from gsm8k_vs_lmeval import ROOT, add_options, harness_python, load_prompts
from peers import VLLM_DEFAULTS, vllm_python

SIDES = ("runner", "spinning", "lmeval", "vllm")
SPINNING = {"GOMP_SPINCOUNT": "300000"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape) or a FOLDER")
    add_options(parser)
    parser.set_defaults(questions=32, new_tokens=32)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="how many busy processes")
    options = parser.parse_args()
    folder = model_folder(options.model)
    prompts = load_prompts(folder, options.gsm8k or "embedded", options.questions, options.shots, chat=False)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in prompts]
    job = Job("stream", str(folder), options.dtype, ids, [options.new_tokens] * len(ids), None)
    trial = run_fresh(replace(job, prompts=ids[:2], new_tokens=[2, 2], threads=options.threads))  # builds kernels
    job = replace(job, threads=trial.threads)
    jobs = {
        "runner": (job, sys.executable),
        "spinning": (job, sys.executable),
        "lmeval": (replace(job, kind="lmeval", prompts=prompts, rows=16), ""),
        "vllm": (replace(job, kind="vllm", settings=VLLM_DEFAULTS), ""),
    }
    if "lmeval" in options.sides:
        jobs["lmeval"] = jobs["lmeval"][0], harness_python(ROOT / "outputs" / ".lmeval")
    if "vllm" in options.sides:
        jobs["vllm"] = jobs["vllm"][0], vllm_python()
    print(f"### {options.model}, {options.dtype}: {len(ids)} questions, exactly {options.new_tokens} new tokens\n")
    print(f"{head_line(sys.argv, trial.threads)}\n", flush=True)
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        for busy in options.busy:
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            try:
                for side in options.sides:
                    asked, python = jobs[side]
                    environment = SPINNING if side == "spinning" else {}
                    times[side, busy].append(run_fresh(asked, python, environment).total_s)
            finally:
                for other in others:
                    other.kill()
                    other.wait()
    print(
        markdown([f"s: median of {options.repeats} (least..most)", *map(beside, options.busy)], lines(options, times))
    )


def lines(options: argparse.Namespace, times: dict[tuple[str, int], list[float]]) -> list[list[str]]:
    """A line a side: its times, and how many times those without other work they are."""
    found = []
    for side in options.sides:
        alone = statistics.median(times[side, options.busy[0]])
        cells = [spread(times[side, busy]) for busy in options.busy]
        ratios = [f", {statistics.median(times[side, busy]) / alone:.2f} times" for busy in options.busy]
        found.append([side, cells[0], *(cell + ratio for cell, ratio in zip(cells[1:], ratios[1:], strict=True))])
    return found


def beside(busy: int) -> str:
    """Say what else runs."""
    return "alone" if not busy else f"beside {busy} busy process{'es' * (busy > 1)}"


if __name__ == "__main__":
    main()
