"""GSM8K compared with vLLM, llama.cpp and others on one CPU: `python bench/gsm8k_vs_vllm.py [--rows 1 8 32 128]`.

So many concurrent questions, with the same token ids, the same number of new tokens, greedily, each run in a fresh
process and by turns; loading counts separately. vLLM's CPU build is in an environment of its own (`make vllm`); its
settings are the best of several, tried first. llama.cpp is built from llama-cpp-python's source into an environment
below outputs/, and reads the same weights from a .gguf file that is written here. `lmeval` is lm-evaluation-harness' HF
backend and `generate` transformers' own, each with --batch concurrent rows.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import venv
from dataclasses import replace
from itertools import product
from pathlib import Path

from engines import Job, Outcome, head_line, markdown, model_folder, run_fresh, same_tokens, spread
from gguf_of import gguf_of
from gsm8k_vs_lmeval import ROOT, add_options, harness_python, load_prompts

LLAMACPP = "llama-cpp-python==0.3.36"
SIDES = ("runner", "vllm", "llamacpp", "lmeval", "generate")
MAX_SEQUENCES = (128, 256)  # of vLLM
MAX_TOKENS = (2048, 8192)
DEFAULT_SETTINGS: dict[str, object] = {"max_num_seqs": 128, "max_num_batched_tokens": 8192, "eager": False}


def llamacpp_python(folder: Path) -> str:
    """Return the interpreter of llama.cpp's environment, built from its source if necessary."""
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.is_file() or ready.read_text() != LLAMACPP:
        print(f"building {LLAMACPP} into {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-binary"]
        subprocess.run([*pip, "llama-cpp-python", LLAMACPP], check=True)
        ready.write_text(LLAMACPP)
    return str(python)


def vllm_python() -> str:
    """Return the interpreter of vLLM's environment."""
    python = ROOT / ".vllm" / "bin" / "python"
    if not python.is_file():
        subprocess.run(["make", "vllm"], cwd=ROOT, check=True)
    return str(python)


def best_vllm(job: Job, python: str) -> tuple[dict[str, object], str]:
    """Return vLLM's best settings for a job, of several and compiled or not, and a table of all."""
    rows, best = [], (float("inf"), dict[str, object]())
    for sequences, tokens, eager in product(MAX_SEQUENCES, MAX_TOKENS, (False, True)):
        settings: dict[str, object] = {
            "max_num_seqs": sequences,
            "max_num_batched_tokens": tokens,
            "eager": eager,
        }
        took = run_fresh(replace(job, kind="vllm", settings=settings), python)
        kind = "eager" if eager else "compiled"
        rows.append([f"{sequences} sequences, {tokens} tokens, {kind}", f"{took.total_s:.1f}", f"{took.load_s:.0f}"])
        if took.total_s < best[0]:
            best = took.total_s, settings
    return best[1], markdown([f"vLLM, {len(job.prompts)} questions", "s", "load and warm up, s"], rows)


def line(side: str, runs: list[Outcome], ours: list[Outcome]) -> list[str]:
    """A side's figures: median (least..most)."""
    total = sum(map(len, runs[-1].tokens))
    times = [one.total_s / other.total_s for one, other in zip(runs, ours, strict=True)]
    late = "> " if runs[-1].notes == ["the time was up"] else ""
    return [
        side,
        late + spread([run.total_s for run in runs]),
        "1" if side == "runner" else late + spread(times, 2),
        f"{statistics.median(total / run.total_s for run in runs):,.0f}",
        f"{statistics.median(run.load_s for run in runs):.1f}",
        f"{statistics.median(run.peak_mib for run in runs):,.0f}",
        "" if side == "runner" else f"{same_tokens(ours[-1], runs[-1])} of {runs[-1].done}",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape) or a FOLDER with a Llama")
    add_options(parser)
    parser.set_defaults(repeats=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128], help="how many questions at once")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["runner", "vllm", "llamacpp"])
    parser.add_argument("--batch", type=int, default=32, help="rows at once of lmeval and generate")
    parser.add_argument("--limit-s", type=float, default=300.0, help="llama.cpp and lm-eval begin nothing after this")
    parser.add_argument("--no-search", action="store_true", help="take vLLM's first settings")
    options = parser.parse_args()
    if "runner" not in options.sides:
        raise SystemExit("--sides: the others are compared with runner, so it has to be among them")
    folder = model_folder(options.model)
    texts = load_prompts(folder, options.gsm8k or "embedded", max(options.rows), options.shots, chat=False)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    job = Job("stream", str(folder), options.dtype, prompts, [options.new_tokens] * len(prompts), None)
    trial = run_fresh(replace(job, prompts=prompts[:2], new_tokens=[2, 2], threads=options.threads))  # builds kernels
    job = replace(job, threads=trial.threads, limit_s=options.limit_s)
    how = f"{options.shots} worked examples, exactly {options.new_tokens} new tokens"
    print(f"### {options.model}, {options.dtype}: {how}")
    print(f"\n{head_line(sys.argv, trial.threads)}\n", flush=True)

    def first(count: int) -> Job:
        return replace(job, prompts=prompts[:count], new_tokens=job.new_tokens[:count])

    pythons, jobs = dict.fromkeys(options.sides, sys.executable), dict[str, Job]()
    for side in options.sides:
        jobs[side] = replace(job, kind="stream" if side == "runner" else side)
        if side == "vllm":
            pythons[side] = vllm_python()
            settings = DEFAULT_SETTINGS
            if not options.no_search:
                settings, tried = best_vllm(first(max(options.rows)), pythons[side])
                print(f"{tried}\n", flush=True)
            jobs[side] = replace(jobs[side], settings=settings)
        elif side == "llamacpp":
            pythons[side] = llamacpp_python(ROOT / "outputs" / ".llamacpp")
            jobs[side] = replace(jobs[side], settings={"gguf": str(gguf_of(folder, options.dtype, ROOT / "outputs"))})
        elif side == "lmeval":
            pythons[side] = harness_python(ROOT / "outputs" / ".lmeval")
    for count in options.rows:
        outcomes: dict[str, list[Outcome]] = {side: [] for side in options.sides}
        fed_before: list[str] | None = None
        for _ in range(options.repeats):
            for side, asked in jobs.items():
                fed = texts[:count] if side == "lmeval" else prompts[:count]
                rows = min(options.batch, count) if side in ("lmeval", "generate") else None
                some = replace(asked, prompts=fed, new_tokens=asked.new_tokens[:count], rows=rows)
                outcome = run_fresh(some, pythons[side])
                if fed_before not in (None, outcome.ids_sha256):
                    raise SystemExit(f"{side} was fed other token ids: nothing can be compared")
                fed_before = outcome.ids_sha256
                outcomes[side].append(outcome)
        head = [f"{count} question(s), {options.repeats} runs", "s, load left out", "x the runner", "tokens/s"]
        lines = [line(side, runs, outcomes["runner"]) for side, runs in outcomes.items()]
        print(markdown([*head, "load, s", "peak MiB", "outputs as the runner's"], lines), end="\n\n", flush=True)
        share = statistics.median(run.matmul_fraction for run in outcomes["runner"])
        print(
            f"The runner reached {share:.0%} of the machine's matrix rate, attention not counted as work.\n", flush=True
        )


if __name__ == "__main__":
    main()
