"""lm-evaluation-harness' tasks on its own backend and on ours: `python bench/lm_eval_tasks.py [--questions 64]`.

Four tasks in the forms that most of lm-eval's tasks have, over files that are written here: generation as in gsm8k,
multiple choice as in arc, a last word as in lambada, whole pages as in wikitext. The first two have worked examples.
Each runs with `--model hf` and with `--model runner`, in fresh processes and by turns, with the same weights. Only the
requests are timed, without loading. The results of all samples are compared.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engines import head_line, markdown, model_folder, spread

SIDES = ("hf", "runner")
SHAPES = {
    "generation": ("generate_until", "{{prompt}}", {"doc_to_target": "{{last}}"}),
    "multiple choice": ("multiple_choice", "{{prompt}}", {"doc_to_choice": "{{choices}}", "doc_to_target": "gold"}),
    "last word": ("loglikelihood", "{{beginning}}", {"doc_to_target": "{{last}}"}),
    "pages": ("loglikelihood_rolling", "", {"doc_to_target": "{{question}}"}),
}
TOLERANCE = 1e-4  # absolute, for a log-likelihood; relative for long sums


def main() -> None:
    """Measure and print; as a side of itself, do one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random (a 135M Llama shape), embedded or a FOLDER")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--gsm8k", default="", help="folder with GSM8K's JSONL files; '': the embedded generator")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="of hf; ours decides itself")
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, asked = options.side
        _run_side(side, json.loads(Path(asked).read_text()), Path(asked).with_suffix(".done"))
        return
    with tempfile.TemporaryDirectory() as scratch:
        _compare(options, Path(scratch))


def _compare(options: argparse.Namespace, scratch: Path) -> None:
    folder = model_folder(options.model)
    _write(options, folder, scratch)
    print(f"### {options.model}, {options.dtype}: {options.questions} questions, {options.shots} worked examples\n")
    rows = []
    threads = 0
    for shape in options.only:
        asked = {"tasks": [_task(shape, options, scratch)], "model": str(folder), "dtype": options.dtype}
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side in SIDES:
                runs[side].append(_fresh(side, asked | {"batch": options.batch}, scratch))
        threads = runs["hf"][0]["threads"]
        seconds = {side: [one["seconds"] for one in runs[side]] for side in SIDES}
        ratios = [a / b for a, b in zip(seconds["hf"], seconds["runner"], strict=True)]
        same, count = _same(runs["hf"][-1]["said"], runs["runner"][-1]["said"])
        times = (spread(seconds[side], 2) for side in SIDES)
        rows.append([shape, *times, spread(ratios, 2), f"{same} of {count}"])
    print(f"{head_line(sys.argv, threads)}\n")
    heads = ["task", f"hf, batch {options.batch}, s", "runner, s", "times as long", "the same results"]
    print(markdown(heads, rows))


def _write(options: argparse.Namespace, folder: Path, scratch: Path) -> None:
    """Write the data of the tasks."""
    from gsm8k_vs_lmeval import load_prompts  # needs the runner's own data sets

    prompts = load_prompts(folder, options.gsm8k or "embedded", options.questions, options.shots, chat=False)
    questions = load_prompts(folder, options.gsm8k or "embedded", options.questions, 0, chat=False)
    with (scratch / "test.jsonl").open("w") as file:
        for number, (prompt, question) in enumerate(zip(prompts, questions, strict=True)):
            beginning, last = question.strip().rsplit(" ", 1)
            choices = [str(number + 3 * at) for at in range(4)]
            row = {"prompt": prompt, "question": question, "beginning": beginning, "last": f" {last}"}
            file.write(json.dumps(row | {"choices": choices, "gold": number % 4}) + "\n")


def _task(shape: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return a task in the form that lm-eval reads from YAML."""
    kind, text, more = SHAPES[shape]
    task: dict[str, Any] = {
        "task": shape.replace(" ", "_"),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(scratch / "test.jsonl")}},
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": text,
        **more,
    }
    if kind == "generate_until":
        stops = {"until": ["Question:"], "do_sample": False, "max_gen_toks": options.new_tokens}
        task |= {"generation_kwargs": stops, "metric_list": [{"metric": "exact_match"}]}
    elif kind != "multiple_choice":
        task["metric_list"] = [{"metric": "perplexity" if kind == "loglikelihood" else "bits_per_byte"}]
    return task


def _fresh(side: str, asked: dict[str, Any], scratch: Path) -> dict[str, Any]:
    file = scratch / "asked.json"
    file.write_text(json.dumps(asked))
    command = [sys.executable, str(Path(__file__)), "--side", side, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    answered: dict[str, Any] = json.loads(file.with_suffix(".done").read_text())
    return answered


def _run_side(side: str, asked: dict[str, Any], answered: Path) -> None:
    """Load one backend, let lm-eval evaluate with it, and write its answers and the time of its requests."""
    import lm_eval
    import torch

    if side == "hf":
        from lm_eval.models.huggingface import HFLM

        model: Any = HFLM(asked["model"], device="cpu", dtype=asked["dtype"], batch_size=asked["batch"])
    else:
        from runner.harness.model import EngineModel

        model = EngineModel(asked["model"], dtype=asked["dtype"])
    seconds = 0.0

    def timed(name: str) -> Any:
        own = getattr(model, name)

        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal seconds
            started = time.perf_counter()
            done = own(*arguments, **more)
            seconds += time.perf_counter() - started
            return done

        return call

    for name in ("generate_until", "loglikelihood", "loglikelihood_rolling"):
        setattr(model, name, timed(name))
    results = lm_eval.simple_evaluate(
        model, tasks=asked["tasks"], log_samples=True, bootstrap_iters=0, verbosity="ERROR"
    )
    (samples,) = results["samples"].values()
    said = [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    outcome = {"seconds": seconds, "said": said, "threads": torch.get_num_threads()}
    answered.write_text(json.dumps(outcome))


def _same(one: Any, other: Any) -> tuple[int, int]:
    """Count samples with equal texts and with numbers within the tolerance."""
    assert len(one) == len(other)
    return sum(_agree(a, b) for a, b in zip(one, other, strict=True)), len(one)


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_agree(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE / 100, abs_tol=TOLERANCE)
    return bool(one == other)


if __name__ == "__main__":
    main()
