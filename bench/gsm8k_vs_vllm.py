"""GSM8K compared with vLLM, OpenVINO, llama.cpp and others on one CPU: `python bench/gsm8k_vs_vllm.py [--rows 1 8]`.

So many concurrent questions, with the same token ids, the same number of new tokens, greedily, each run in a fresh
process and by turns; loading counts separately. vLLM's CPU build is in an environment of its own (`make vllm`); its
settings are the best of several, tried first. `zentorch` is vLLM with AMD's plugin of that name, in an environment
below outputs/, where the processor is AMD's. llama.cpp is built from llama-cpp-python's source into an environment
below outputs/, and reads the same weights from a .gguf file that is written here. OpenVINO GenAI (continuous batching
with a prefix cache, settings searched, too) is installed below outputs/ and reads what optimum-intel converts there:
weights as they are stored, or in 8 bits (`openvino-int8`). `lmeval` is lm-evaluation-harness' HF
backend and `generate` transformers' own, each with --batch concurrent rows. `--device cuda --sides runner generate`
compares these two on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace

from engines import Job, Outcome, head_line, markdown, model_folder, run_fresh, same_tokens, spread
from gguf_of import gguf_of
from gsm8k_vs_lmeval import ROOT, add_options, harness_python, load_prompts
from peers import (
    VLLM_DEFAULTS,
    best_openvino,
    best_vllm,
    llamacpp_python,
    openvino_python,
    openvino_settings,
    vllm_python,
    zentorch_python,
)

SIDES = ("runner", "vllm", "zentorch", "openvino", "openvino-int8", "llamacpp", "lmeval", "generate")


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
    parser.add_argument("--no-search", action="store_true", help="take the first settings of vLLM and OpenVINO")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of runner and generate")
    options = parser.parse_args()
    if options.device != "cpu" and (elsewhere := set(options.sides) - {"runner", "generate"}):
        raise SystemExit(f"--device {options.device}: only runner and generate can use it, not {', '.join(elsewhere)}")
    if "runner" not in options.sides:
        raise SystemExit("--sides: the others are compared with runner, so it has to be among them")
    folder = model_folder(options.model)
    texts = load_prompts(folder, options.gsm8k or "embedded", max(options.rows), options.shots, chat=False)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    job = Job(
        "stream", str(folder), options.dtype, prompts, [options.new_tokens] * len(prompts), None, device=options.device
    )
    trial = run_fresh(replace(job, prompts=prompts[:2], new_tokens=[2, 2], threads=options.threads))  # builds kernels
    job = replace(job, threads=trial.threads, limit_s=options.limit_s)
    how = f"{options.shots} worked examples, exactly {options.new_tokens} new tokens"
    print(f"### {options.model}, {options.dtype}: {how}")
    print(f"\n{head_line(sys.argv, trial.threads)}\n", flush=True)

    def first(count: int) -> Job:
        return replace(job, prompts=prompts[:count], new_tokens=job.new_tokens[:count])

    pythons, jobs = dict.fromkeys(options.sides, sys.executable), dict[str, Job]()
    for side in options.sides:
        jobs[side] = replace(job, kind="stream" if side == "runner" else side.removesuffix("-int8"))
        if side in ("vllm", "zentorch"):
            pythons[side] = vllm_python() if side == "vllm" else zentorch_python(ROOT / "outputs" / ".zentorch")
            settings = VLLM_DEFAULTS
            if not options.no_search:
                settings, tried = best_vllm(first(max(options.rows)), pythons[side], side)
                print(f"{tried}\n", flush=True)
            jobs[side] = replace(jobs[side], settings=settings)
        elif side.startswith("openvino"):
            pythons[side] = openvino_python(ROOT / "outputs" / ".openvino")
            weights = "int8" if side.endswith("int8") else "as-stored"
            settings = openvino_settings(folder, pythons[side], options.dtype, weights)
            if not options.no_search:
                settings, tried = best_openvino(first(max(options.rows)), pythons[side], settings)
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
