"""GSM8K compared with lm-evaluation-harness: `python bench/gsm8k_vs_lmeval.py [--dtype float32 --questions 32]`.

lm-eval 0.4.13 is installed into a virtual environment of its own, below outputs/, which uses this environment's
packages: both run the same torch and transformers. Its batch size is the best of several, tried first on fewer
questions. Then both run the same model folder on the same prompts, by turns, each in a fresh process, with the same
threads, limit and stop rule. A model with random weights never stops by itself, so both continue to the limit.

`--scores` measures no time: lm-eval's own task gsm8k and `task.prompt=lm_eval_5shot` ask the same model the same
questions, and prompts are compared byte for byte and scores sample by sample (gsm8k_scores.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
from gsm8k_scores import compare_scores

from runner.config.task import Gsm8kConfig
from runner.config.wording import PromptStyle
from runner.datasets.asking import build_prompt, load_shots
from runner.datasets.gsm8k import load_questions
from runner.engines.base import Message

ROOT = Path(__file__).resolve().parents[1]
HARNESS = "lm-eval==0.4.13"
NEEDS = ["evaluate", "sacrebleu", "rouge-score", "sqlitedict", "pytablewriter", "word2number", "more_itertools"]
NEEDS += ["jsonlines", "zstandard"]
BATCH_SIZES = (1, 8, 16, 32)
STOP = ["Question:"]  # as in lm-eval's gsm8k task, besides the model's own stop token


def harness_python(folder: Path) -> str:
    """Return the interpreter of lm-eval's environment, made if necessary; it must use this environment's torch."""
    python = str(folder / "bin" / "python")
    mine = importlib.util.find_spec("torch")
    assert mine is not None
    ready = folder / ".ready"
    if ready.is_file() and ready.read_text() == f"{HARNESS} {mine.origin}":
        return python
    print(f"installing {HARNESS} into {folder}", file=sys.stderr)
    venv.create(folder, with_pip=True, clear=True)
    places = [place for place in sys.path if Path(place).name == "site-packages"]
    [inner] = folder.glob("lib/python*/site-packages")
    # addsitedir also reads .pth files, which make editable installs importable
    (inner / "shared.pth").write_text("".join(f"import site; site.addsitedir({place!r})\n" for place in places))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", HARNESS])
    _run([*pip, "-c", str(ROOT / "constraints.txt"), *NEEDS])
    seen = _run([python, "-c", "import lm_eval.models.huggingface, torch; print(torch.__file__)"]).split()[-1]
    if seen != mine.origin:
        raise SystemExit(f"lm-eval's environment sees another torch: {seen}, not {mine.origin}")
    ready.write_text(f"{HARNESS} {mine.origin}")
    return python


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def load_prompts(folder: Path, data: str, limit: int, shots: int, chat: bool) -> list[str]:
    """Return the prompts as text: worked examples and the question, or the question in the model's chat template."""
    style = PromptStyle.chat if chat else PromptStyle.text
    task = Gsm8kConfig(data=data, limit=limit, prompt=style, shots=0 if chat else shots)
    items = load_questions(task)
    prompts = [build_prompt(task, item, shots) for item, shots in zip(items, load_shots(task, items)[0], strict=True)]
    if not chat:
        return [prompt for prompt in prompts if isinstance(prompt, str)]
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    turns = [[{"role": m.role, "content": m.content} for m in p if isinstance(m, Message)] for p in prompts]
    return [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in turns]


def first(job: Job, count: int) -> Job:
    """Return the same job on the first prompts only."""
    return replace(job, prompts=job.prompts[:count], new_tokens=job.new_tokens[:count])


def search(job: Job, python: str, limit_s: float) -> int:
    """Return lm-eval's best batch size, and print the time of each."""
    rows, best = [], (float("inf"), 0)
    for size in BATCH_SIZES:
        outcome = run_fresh(replace(job, rows=size, limit_s=limit_s), python)
        [took] = per_prompt_ms([outcome])
        done = f"{outcome.done} of {len(job.prompts)}"
        done += ", the longest; the rest is extrapolated" if outcome.done < len(job.prompts) else ""
        rows.append([str(size), done, f"{took:,.0f}", f"{outcome.peak_mib:,.0f}"])
        best = min(best, (took, size))
    print(markdown(["lm-eval's batch size", "questions", "ms a question", "peak MiB"], rows), flush=True)
    return best[1]


def same_outputs(one: Outcome, another: Outcome, fixed: bool) -> int:
    """Count outputs that are identical: token for token, or up to the stop text."""
    if fixed:
        return same_tokens(one, another)
    pairs = zip(one.tokens, another.tokens, one.texts, another.texts, strict=True)
    # lm-eval's rows continue after a stop text until the batch ends; both cut the texts there
    return sum(text == other_text and other[: len(own)] == own[: len(other)] for own, other, text, other_text in pairs)


def compare(job: Job, python: str, size: int, repeats: int) -> tuple[list[Outcome], list[Outcome]]:
    """Run both by turns, and check that they did the same work."""
    theirs, ours = [], []
    for _ in range(repeats):
        theirs.append(run_fresh(replace(job, kind="lmeval", rows=size), python))
        ours.append(run_fresh(job))
    check_prompts([*theirs, *ours])
    for outcome in (*theirs, *ours):
        if job.fixed and any(len(row) != most for row, most in zip(outcome.tokens, job.new_tokens, strict=True)):
            raise SystemExit("an output has not the number of tokens that was asked for: nothing can be compared")
        if outcome.threads != job.threads:
            raise SystemExit(f"{outcome.threads} threads instead of {job.threads}: nothing can be compared")
    return theirs, ours


def table(theirs: Sequence[Outcome], ours: Sequence[Outcome], size: int) -> str:
    """Return the table of both sides, figure by figure: median (least..most)."""
    sides, n = (theirs, ours), len(theirs)
    rows = [["load, s", *(spread([one.load_s for one in side]) for side in sides)]]
    rows.append(["**questions, s**", *(spread([one.total_s for one in side]) for side in sides)])
    rows.append(["of that prefill", *(spread([one.prefill_s for one in side]) for side in sides)])
    rows.append(["of that decode", *(spread([one.decode_s for one in side]) for side in sides)])
    rest = [[one.total_s - one.prefill_s - one.decode_s for one in side] for side in sides]
    rows.append(["of that the rest", *(spread(side) for side in rest)])
    rows.append(["ms a question", *(spread(per_prompt_ms(side), 0) for side in sides)])
    rows.append(["memory after loading, MiB", *(spread([one.loaded_mib for one in side], 0) for side in sides)])
    rows.append(["peak memory while running, MiB", *(spread([one.peak_mib for one in side], 0) for side in sides)])
    rows.append(["tokens through the layers", *(f"{side[0].positions:,}" for side in sides)])
    for kind in theirs[0].gflop_per_s:
        rates = [spread([one.gflop_per_s[kind] for one in side], 0) for side in sides]
        rows.append([f"products of 1024 rows, {kind} weights, GFLOP/s", *rates])
    fractions = [spread([one.matmul_fraction * 100 for one in side]) for side in sides]
    rows.append(["reached of the better of these, %", *fractions])
    return markdown([f"{n} runs of each: median (least..most)", f"{HARNESS}, batch {size}", "runner"], rows)


def measure(name: str, options: argparse.Namespace, python: str) -> None:
    """Measure and print one model."""
    folder, fixed = model_folder(name), name != "embedded"
    prompts = load_prompts(folder, options.gsm8k or "embedded", options.questions, options.shots, chat=not fixed)
    source = "of GSM8K's test questions" if options.gsm8k else "questions of the embedded generator"
    setting = f"{options.shots} worked examples, exactly {options.new_tokens} new tokens"
    setting = setting if fixed else f"chat template, at most {options.new_tokens} new tokens, natural stops"
    limits = [options.new_tokens] * len(prompts)
    job = Job("stream", str(folder), options.dtype, prompts, limits, None, fixed, [] if fixed else STOP)
    job = replace(job, threads=options.threads)
    trial = run_fresh(replace(first(job, 2), new_tokens=[2, 2], fixed=True))  # builds kernels, and tells the threads
    job = replace(job, threads=trial.threads)
    print(f"\n### {name}, {options.dtype}: {len(prompts)} {source}, {setting}\n")
    print(head_line(sys.argv, trial.threads), end="\n\n", flush=True)
    harness = replace(job, kind="lmeval")
    size = search(first(harness, options.search_questions), python, options.search_limit_s)
    theirs, ours = compare(job, python, size, options.repeats)
    print(f"\n{table(theirs, ours, size)}\n")
    print(f"- lm-eval takes **{spread(ratios(theirs, ours), 2)} times** as long, run by run, model load left out.")
    same = partial(same_outputs, fixed=fixed)
    print(f"- Identical outputs: **{same(ours[-1], theirs[-1])} of {len(prompts)}**, token for token.")
    print("- The prompts that both fed are the same, byte for byte and token for token: checked.")
    with_stop_token = sum(trial.end in row for row in ours[-1].tokens) if fixed and trial.end is not None else 0
    if with_stop_token:
        print(
            f"- {with_stop_token} of our outputs hold the stop token, which lm-eval may not choose with a fixed length."
        )
    few = min(options.disagreement_questions, len(prompts))
    many = min(few, 16)
    alone, batched = (run_fresh(replace(first(harness, few), rows=rows), python) for rows in (1, many))
    own = replace(ours[-1], tokens=ours[-1].tokens[:few], texts=ours[-1].texts[:few])
    theirs_differ, ours_differ = few - same(alone, batched), few - same(own, alone)
    print(
        f"- Of the first {few} questions, {theirs_differ} of lm-eval's own outputs differ between batch 1 and {many};"
    )
    print(f"  {ours_differ} of ours differ from those of its batch 1.")
    for note in dict.fromkeys(note for outcome in ours for note in outcome.notes):
        print(f"- note: {note}")
    sys.stdout.flush()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of questions and runs."""
    add_questions(parser)
    parser.add_argument("--repeats", type=int, default=3)


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Add the options of questions."""
    given = ROOT.parent / "shared" / "data" / "gsm8k"
    data = str(given) if given.is_dir() else ""
    parser.add_argument("--gsm8k", default=data, help="folder with GSM8K's JSONL files; '': the embedded generator")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--shots", type=int, default=5, help="worked examples where prompts are plain text")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, help="default: as our engine decides, for all")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["random", "embedded"], help="random, embedded or a FOLDER")
    add_options(parser)
    parser.add_argument("--search-questions", type=int, default=32)
    parser.add_argument("--search-limit-s", type=float, default=300.0, help="a batch size begins no batch after this")
    parser.add_argument("--disagreement-questions", type=int, default=16)
    parser.add_argument("--scores", action="store_true", help="compare prompts and scores instead of times")
    parser.add_argument("--harness", type=Path, default=ROOT / "outputs" / ".lmeval", help="where lm-eval is installed")
    options = parser.parse_args()
    python = harness_python(options.harness.absolute())
    if options.scores:
        print(f"`python {shlex.join(sys.argv)}`", end="\n\n", flush=True)
        models = [(name, model_folder(name)) for name in options.model]
        compare_scores(python, models, options.gsm8k, options.questions, options.dtype)
        return
    for name in options.model:
        measure(name, options, python)


if __name__ == "__main__":
    main()
