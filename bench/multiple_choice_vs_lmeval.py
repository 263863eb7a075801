"""Does task=multiple_choice equal lm-eval's tasks? `python bench/multiple_choice_vs_lmeval.py --model embedded`.

lm-eval 0.4.13 is installed into a virtual environment of its own, below outputs/, which uses this environment's
packages. Both sides get the same invented records in the formats of nine of lm-eval's tasks, and the same model.
Compared are the texts of all requests, the log-likelihoods, and each question's scores. The control is lm-eval with our
engine inside (`--model runner`): there only the prompts and scores are lm-eval's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engines import ROOT, markdown, model_folder
from heading import parse_arguments
from other_engines import harness_python

from runner.records.jobs import read_samples
from runner_base import Sample
from runner_base.scored_choices import compute_gold_probability

sys.path.insert(0, str(ROOT / "tests" / "support"))
from choice_records import TASKS, make_records

SHOTS = (0, 2)
WITHOUT_SHOTS = {"truthfulqa_mc1", "truthfulqa_mc2"}  # their prompts have examples of their own
LARGEST_DIFFERENCE = 1e-3  # nats, in float32
FIRST_EXAMPLES = "dev"  # the split of MMLU's examples
MC2 = "truthfulqa_mc2"


def write_data(folder: Path, count: int) -> dict[str, dict[str, str]]:
    """Write the records of all tasks, and return the files by task and split."""
    files: dict[str, dict[str, str]] = {}
    for name, (_, _, asked) in TASKS.items():
        splits = {asked: count, FIRST_EXAMPLES if name == "mmlu" else "train": 12}
        files[name] = {}
        for split, number in splits.items():
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            lines = (json.dumps(record, ensure_ascii=False) for record in make_records(name, number, split))
            path.write_text("".join(f"{line}\n" for line in lines))
            files[name][split] = str(path)
        for split in {"train", "validation", "test"} - files[name].keys():
            files[name][split] = files[name][asked]  # a split that the task names and does not ask
    return files


def list_cases() -> list[tuple[str, int]]:
    return [(name, shots) for name in TASKS for shots in SHOTS if not shots or name not in WITHOUT_SHOTS]


def ask_lm_eval(
    python: str, files: dict[str, dict[str, str]], model: str | None, engine: str, dtype: str
) -> dict[str, list[dict[str, Any]]]:
    """Return each question's requests, log-likelihoods and scores, by task and number of examples."""
    tasks = [
        {"name": name, "yaml": TASKS[name][1], "files": files[name], "shots": shots}
        for name, shots in list_cases()
    ]
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        job = {"tasks": tasks, "model": model, "engine": engine, "dtype": dtype, "answer": str(answer)}
        command = [python, str(Path(__file__).with_name("lmeval_choices_side.py"))]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"lm-eval failed:\n{done.stderr[-3000:]}")
        results: dict[str, list[dict[str, Any]]] = json.loads(answer.read_text())
        return results


def run_ours(model: Path, data: Path, name: str, shots: int, dtype: str, output: Path) -> list[Sample]:
    """Run the job like a user, and return the record of each question."""
    overrides = [
        "model=auto", f"model.name={model}", f"model.dtype={dtype}", "task=multiple_choice", f"task.data={data}",
        f"task.format={name}", f"task.split={TASKS[name][2]}", "task.limit=null", f"task.shots={shots}",
        f"output_dir={output}", "tracking=none", "print=none",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "runner", *overrides], check=True, cwd=ROOT)
    [job] = (output / "jobs").iterdir()
    samples = read_samples(job / "samples.jsonl")
    return [samples[index] for index in sorted(samples)]


def our_requests(data: Path, name: str, shots: int) -> list[list[list[str]]]:
    from runner.options.multiple_choice.keys import MultipleChoiceConfig
    from runner.options.multiple_choice.questions import load_choice_questions

    task = MultipleChoiceConfig(data=str(data), format=name, split=TASKS[name][2], shots=shots, limit=None)
    return [
        [[context, text] for context, text in zip(question.contexts, question.continuations, strict=True)]
        for question in load_choice_questions(task).questions
    ]


def read_score(sample: Sample, metric: str, name: str) -> float:
    """Return what lm-eval calls this metric of a question."""
    choices = sample.choice_likelihoods or []
    if name == MC2:
        return compute_gold_probability(choices)
    letter = (sample.answer.extracted or {})[metric] or ""
    return float(not choices[ord(letter) - ord("A")].is_other)


def count_equal_scores(samples: list[Sample], theirs: list[dict[str, Any]], name: str) -> dict[str, int]:
    """Return how many questions have equal scores, by metric."""
    counts = {}
    for metric in theirs[0]["scores"]:
        if metric != "acc" and name == "winogrande":
            continue  # lm-eval divides by the lengths of the contexts, and does not report these metrics
        pairs = zip(samples, theirs, strict=True)
        counts[metric] = sum(
            abs(read_score(sample, metric, name) - other["scores"][metric]) < LARGEST_DIFFERENCE
            for sample, other in pairs
        )
    return counts


def compare(
    title: str, folder: Path, model: Path, dtype: str, others: dict[str, dict[str, list[dict[str, Any]]]]
) -> bool:
    """Print a table with the differences from each other side. Returns whether all is equal."""
    rows: list[list[str]] = []
    is_equal = True
    for name, shots in list_cases():
        with tempfile.TemporaryDirectory() as place:
            samples = run_ours(model, folder / name, name, shots, dtype, Path(place))
        requests = our_requests(folder / name, name, shots)
        for engine, found in others.items():
            theirs = found[f"{name}/{shots}"]
            same = sum(mine == other["requests"] for mine, other in zip(requests, theirs, strict=True))
            differences = [
                abs(choice.nats - nats)
                for sample, other in zip(samples, theirs, strict=True)
                for choice, nats in zip(sample.choice_likelihoods or [], other["nats"], strict=True)
            ]
            scores = count_equal_scores(samples, theirs, name)
            is_equal &= same == len(theirs) and {*scores.values()} == {len(theirs)}
            is_equal &= max(differences) < LARGEST_DIFFERENCE
            cells = [name, str(shots), engine, f"{same} of {len(theirs)}", f"{max(differences):.1e}"]
            counts = " · ".join(f"{metric} {count}" for metric, count in scores.items())
            rows.append([*cells, str(len(differences)), counts])
    print(f"\n{title}, {dtype}\n")
    heads = ["task", "examples", "lm-eval with", "equal requests", "largest difference, nats", "texts"]
    print(markdown([*heads, "equal scores"], rows), flush=True)
    return is_equal


def write_pins(found: dict[str, list[dict[str, Any]]], path: Path, count: int) -> None:
    """Write the first requests of each task, as tests compare them."""
    with path.open("w", encoding="utf-8") as file:
        for key, results in found.items():
            name, _, shots = key.partition("/")
            requests = [result["requests"] for result in results[:count]]
            line = {"task": name, "shots": int(shots), "requests": requests}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def main() -> None:
    """Compare requests, log-likelihoods and scores, and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="+", default=["embedded"], help="random, embedded or a FOLDER")
    parser.add_argument("--questions", type=int, default=50, help="of each task")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--harness", type=Path, default=ROOT / "outputs" / ".lmeval")
    parser.add_argument("--pin", type=Path, help="write lm-eval's requests to this file, and stop")
    options = parse_arguments(parser)
    python = harness_python(options.harness.absolute())
    print(f"`python {shlex.join(sys.argv)}`", end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = write_data(folder, options.questions)
        if options.pin:
            write_pins(ask_lm_eval(python, files, None, "hf", options.dtype), options.pin, 6)
            return
        equal = []
        for model_name in options.model:
            model = model_folder(model_name)
            others = {
                label: ask_lm_eval(python, files, str(model), engine, options.dtype)
                for label, engine in (("transformers", "hf"), ("our engine", "runner"))
            }
            equal.append(compare(str(model_name), folder, model, options.dtype, others))
    if not all(equal):
        raise SystemExit("not all is equal")


if __name__ == "__main__":
    main()
