"""Speed of task=instructions and task=code beside others on one CPU: `python bench/code_instructions_speed.py`.

The prompts are those of the two tasks, 164 of each. All sides get the same token ids and make the same number of new
tokens, greedily, by turns, each in a fresh process; loading counts separately. `lmeval` is lm-evaluation-harness' HF
backend, as its task ifeval uses it. `evalplus` is EvalPlus's HF backend, which answers one prompt after another.
`generate` is transformers' own with --batch rows. `vllm` takes part where `make vllm` can install it. A side that
cannot be installed or fails has the reason in its line, and the others go on. The runner's time contains no verdicts;
the last line of a table says how long these take.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engines import ROOT, Job, head_line, markdown, model_folder, run_counts, run_fresh
from gsm8k_vs_vllm import FAILURES, Side, line, reason
from heading import parse_arguments
from other_engines import VLLM_DEFAULTS, evalplus_python, harness_python, vllm_python

from runner.options.code.extraction import build_chat_message
from runner.options.code.judging import CodeJudge, create_program_limits
from runner.options.code.keys import CodeConfig
from runner.options.code.problems import CodeProblem, read_code_problems
from runner.options.instructions.generated_prompts import generate_prompts
from runner.options.instructions.judging import check_response
from runner.sandbox.sandbox import Sandbox
from runner_base import Answer, FinishReason, Sample

SIDES = {
    "instructions": ("runner", "lmeval", "generate", "vllm"),
    "code": ("runner", "evalplus", "lmeval", "generate", "vllm"),
}
TEXTS = ("lmeval", "evalplus")  # they make the token ids themselves


@dataclass(frozen=True)
class Work:
    """The prompts of a task as chat messages, and how its answers are judged."""

    task: str
    messages: list[str]
    problems: list[CodeProblem]

    def measure_judging_s(self, texts: Sequence[str]) -> float:
        """Return how long the verdicts on the answers take."""
        started = time.perf_counter()
        if self.task == "instructions":
            for prompt, text in zip(generate_prompts(len(texts), [1, 2, 3], 0, []), texts, strict=True):
                check_response(text, prompt)
            return time.perf_counter() - started
        limits = create_program_limits(CodeConfig().timeout_s, CodeConfig().memory_mib)
        with CodeJudge(dict(enumerate(self.problems)), 1, Sandbox(limits)) as judge:
            answers = [Answer.from_text(text, [], FinishReason.length) for text in texts]
            judged = [
                judge.start_judging(Sample(answer, "", 0, 0.0, index)) for index, answer in enumerate(answers)
            ]
            for each in judged:
                each.result()
        return time.perf_counter() - started


def build_work(task: str, count: int, data: str) -> Work:
    """Return so many prompts of a task. If the data have fewer problems, numbered copies follow."""
    if task == "instructions":
        return Work(task, [prompt.prompt for prompt in generate_prompts(count, [1, 2, 3], 0, [])], [])
    problems = read_code_problems(data, None, "test", count)
    instruction = CodeConfig().instruction
    copies = [problems[number % len(problems)] for number in range(count)]
    messages = [
        f"{build_chat_message(problem, instruction)}" if number < len(problems)
        else f"Attempt {number}. {build_chat_message(problem, instruction)}"
        for number, problem in enumerate(copies)
    ]  # fmt: skip
    return Work(task, messages, copies)


def start_side(name: str, job: Job, texts: Sequence[str], batch: int) -> Side:
    """Return a side with its environment installed."""
    kind, python, rows = {"runner": "stream", "evalplus": "evalplus_hf"}.get(name, name), sys.executable, None
    settings = dict[str, object]()
    if name == "vllm":
        python, settings = vllm_python(), VLLM_DEFAULTS | {"max_num_seqs": max(batch, 8)}
    elif name == "lmeval":
        python = harness_python(ROOT / "outputs" / ".lmeval")
    elif name == "evalplus":
        python = evalplus_python(ROOT / "outputs" / ".evalplus")
    if name in ("lmeval", "generate"):
        rows = batch
    prompts = list(texts) if name in TEXTS else job.prompts
    return Side(
        name, python, replace(job, kind=kind, prompts=prompts, settings=settings, rows=rows), [len(texts)]
    )


def take_turns(sides: Sequence[Side], rounds: int) -> None:
    """Run every side by turns. One that fails takes no part any more."""
    for _ in range(rounds):
        for side in sides:
            if side.failure:
                continue
            (count,) = side.rows
            try:
                done = run_counts(side.job, side.rows, side.python)[count] if side.name == "vllm" else run_fresh(
                    side.job, side.python
                )  # fmt: skip
            except FAILURES as error:
                if side.name == "runner":
                    raise
                side.failure = reason(error)
                continue
            side.outcomes.setdefault(count, []).append(done)
    fed = {tuple(side.outcomes[side.rows[0]][-1].ids_sha256) for side in sides if side.outcomes}
    longest = max(fed, key=len)
    if any(ids != longest[: len(ids)] for ids in fed):
        raise SystemExit("the sides were fed different token ids: nothing can be compared")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape) or a FOLDER")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tasks", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--sides", nargs="+", help="default: all of the task")
    parser.add_argument("--prompts", type=int, default=164)
    parser.add_argument("--data", default="embedded", help="task.data of task=code")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="rows at once of lmeval and generate")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit-s", type=float, help="lm-eval and EvalPlus begin nothing after this")
    options = parse_arguments(parser)
    folder: Path = model_folder(options.model)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for task in options.tasks:
        work = build_work(task, options.prompts, options.data)
        chats = [[{"role": "user", "content": message}] for message in work.messages]
        texts = [
            str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
            for chat in chats
        ]
        ids = [tokenizer(text)["input_ids"] for text in texts]
        job = Job("stream", str(folder), options.dtype, ids, [options.new_tokens] * len(ids), None)
        trial = run_fresh(replace(job, prompts=ids[:1], new_tokens=[2]))  # builds kernels
        job = replace(job, threads=trial.threads, limit_s=options.limit_s)
        print(f"### task={task}, {options.model}, {options.dtype}: exactly {options.new_tokens} new tokens")
        print(f"\n{head_line(sys.argv, trial.threads)}\n", flush=True)
        sides = []
        for name in [name for name in SIDES[task] if not options.sides or name in options.sides]:
            try:
                sides.append(start_side(name, job, texts, options.batch))
            except FAILURES as error:
                sides.append(Side(name, "", job, [len(ids)], failure=reason(error)))
        take_turns(sides, options.repeats)
        ours = sides[0].outcomes[len(ids)]
        heads = [
            f"{len(ids)} prompts, {options.repeats} runs",
            "s, load left out",
            "x the runner",
            "tokens/s",
        ]
        lines = [
            line(side.name, side.outcomes[len(ids)], ours[: len(side.outcomes[len(ids)])])
            if side.outcomes
            else [side.name, f"failed: {side.failure}", *[""] * 5]
            for side in sides
        ]
        print(markdown([*heads, "load, s", "peak MiB", "outputs as the runner's"], lines), flush=True)
        answers = tokenizer.batch_decode(ours[-1].tokens)
        total_s = statistics.median(run.total_s for run in ours)
        print(
            f"\nVerdicts of the runner's answers: {work.measure_judging_s(answers):.1f} s of {total_s:.1f} s\n"
        )


if __name__ == "__main__":
    main()
