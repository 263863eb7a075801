"""Do our prompts and scores equal those of lm-evaluation-harness? `python bench/gsm8k_vs_lmeval.py --model embedded`.

lm-eval 0.4.13 is installed into a virtual environment of its own, below outputs/, which uses this environment's
packages: both run the same torch and transformers. lm-eval's own task gsm8k makes the prompts, generates, filters and
scores there. Ours does the same by `task.prompt=lm_eval_5shot` on the same files and model folder. Prompts are compared
byte for byte and scores sample by sample. Times are compared by gsm8k_vs_vllm.py (`--sides runner lmeval`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines import ROOT, markdown, model_folder
from heading import parse_arguments
from other_engines import harness_python
from questions import add_data

from runner.config.extractors import Extractor
from runner.config.wording import PromptStyle
from runner.datasets.question_prompts import (
    build_question_prompt,
    get_few_shot_stop_strings,
    load_few_shot_examples,
)
from runner.datasets.questions import load_questions
from runner.datasets.word_problems import DISTINCT, Split, generate_problems
from runner.records.jobs import read_samples
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base import Sample

AWKWARD = ROOT / "tests" / "scorers" / "awkward_outputs.jsonl"
NEW_TOKENS = 256  # of both
SCORED = (Extractor.strict.value, Extractor.flexible.value)


def ask_lm_eval(
    python: str, data: Path, answers: list[str] | None = None, **request: Any
) -> list[dict[str, Any]]:
    """Return prompt, text, and each filter's answer and score, question by question."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer.json")
        defaults = {
            "model": None,
            "answers": answers or [],
            "data": str(data),
            "limit": None,
            "answer": str(answer),
        }
        command = [python, str(Path(__file__).with_name("lmeval_scores_side.py"))]
        done = subprocess.run(
            command, input=json.dumps(defaults | request), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"lm-eval failed:\n{done.stderr[-2000:]}")
        results: list[dict[str, Any]] = json.loads(answer.read_text())
        return results


def write_rows(file: Path, rows: list[tuple[str, str]]) -> None:
    """Write questions and answers as the lines of a data set."""
    lines = (json.dumps({"question": question, "answer": answer}) for question, answer in rows)
    file.write_text("".join(f"{line}\n" for line in lines))


def write_embedded(folder: Path, split: Split, questions: int) -> Path:
    """Write embedded problems as files for both sides: all of train, and the first ones of a split
    as test."""
    folder.mkdir()
    for name, source, count in (("train", Split.TRAIN, DISTINCT), ("test", split, questions)):
        write_rows(
            folder / f"{name}.jsonl", [(one.question, one.answer) for one in generate_problems(source, count)]
        )
    return folder


def check_awkward(python: str, folder: Path) -> None:
    """Run lm-eval again on the outputs of tests/scorers, and compare with the recorded results."""
    known = [json.loads(line) for line in AWKWARD.read_text().splitlines()]
    folder.mkdir()
    write_rows(folder / "train.jsonl", [("?", "#### 1")] * 9)
    write_rows(folder / "test.jsonl", [("?", f"#### {one['gold']}") for one in known])
    results = ask_lm_eval(python, folder, [one["output"] for one in known])
    different = [
        one["output"]
        for one, now in zip(known, results, strict=True)
        if any(one[by] != now[by] for by in SCORED)
    ]
    if different:
        raise SystemExit(f"{AWKWARD.name}: lm-eval finds something else in {different}")
    differing = sum("why" in one for one in known)
    print(f"- Awkward outputs: lm-eval's filters find what the {len(known)} lines of {AWKWARD.name} say.")
    print(
        f"  On {len(known) - differing} of them our scores are its scores; for {differing} the line says why not."
    )


def check_prompts(python: str, task: Gsm8kConfig, data: Path, name: str) -> list[str]:
    """Compare all prompts of a data set byte for byte, and return them."""
    items = load_questions(task)
    pairs = zip(items, load_few_shot_examples(task, items)[0], strict=True)
    ours = [str(build_question_prompt(task, item, shots)) for item, shots in pairs]
    theirs = ask_lm_eval(python, data)
    same = sum(one == other["prompt"] for one, other in zip(ours, theirs, strict=True))
    print(f"- Prompts of {name}: {same} of {len(ours)} are lm-eval's, byte for byte.", flush=True)
    if same != len(ours):
        raise SystemExit("the prompts differ")
    assert theirs[0]["settings"] == {
        "until": list(get_few_shot_stop_strings(task)),
        "do_sample": False,
        "temperature": 0.0,
    }
    return ours


def has_room(model: Path, prompts: list[str], name: str) -> bool:
    """Whether the longest prompt and its answer fit into the model; lm-eval would cut it
    silently."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    need = max(len(ids) for ids in tokenizer(prompts, verbose=False)["input_ids"]) + NEW_TOKENS
    room: int = json.loads((model / "config.json").read_text())["max_position_embeddings"]
    if need > room:
        print(
            f"- {name} is left out: its prompts and answers take {need} tokens, the model has room for {room}."
        )
    return need <= room


def run_ours(model: Path, data: str, limit: int, dtype: str, output: Path) -> list[Sample]:
    """Run the job like a user, and return the record of each question."""
    overrides = [
        "model=auto",
        f"model.name={model}",
        f"model.dtype={dtype}",
        f"output_dir={output}",
        "tracking=none",
    ]
    overrides += [f"task.data={data}", f"task.limit={limit}", "task.prompt=lm_eval_5shot", "print=none"]
    subprocess.run([sys.executable, "-m", "runner", *overrides], check=True, cwd=ROOT)
    [job] = (output / "jobs").iterdir()
    samples = read_samples(job / "samples.jsonl")
    return [samples[index] for index in sorted(samples)]


def check_scores(python: str, model: Path, title: str, folder: Path, limit: int, dtype: str) -> None:
    """Let both sides answer and score the same questions, and compare sample by sample."""
    with tempfile.TemporaryDirectory() as place:
        ours = run_ours(model, str(folder), limit, dtype, Path(place))
    theirs = ask_lm_eval(python, folder, model=str(model), dtype=dtype, batch_size=16, limit=limit)
    texts = sum(one.answer.text == other["text"] for one, other in zip(ours, theirs, strict=True))
    rows: list[list[str]] = []
    differ: list[tuple[str, int]] = []
    for by in SCORED:
        mine = [(one.answer.extracted or {})[by] == one.gold for one in ours]
        its = [other[by][1] for other in theirs]
        same = sum(one == other for one, other in zip(mine, its, strict=True))
        differ += [(by, at) for at in range(limit) if mine[at] != its[at]]
        rows.append([by, f"{sum(its)} of {limit}", f"{sum(mine)} of {limit}", f"{same} of {limit}"])
    print(f"\n{title}, {dtype}: {texts} of {limit} texts are the same\n")
    print(markdown(["score", "lm-eval", "runner", "the same, sample by sample"], rows), flush=True)
    for by, at in differ:
        one, other = ours[at], theirs[at]
        found = (one.answer.extracted or {})[by]
        text = "another text" if one.answer.text != other["text"] else f"…{one.answer.text[-80:]!r}"
        print(f"- {by}, question {at}, gold {one.gold}: lm-eval found {other[by][0]!r}, we {found!r}: {text}")


def main() -> None:
    """Compare prompts, filters and scores, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", nargs="+", default=["random", "embedded"], help="random, embedded or a FOLDER"
    )
    parser.add_argument(
        "--harness", type=Path, default=ROOT / "outputs" / ".lmeval", help="where lm-eval is installed"
    )
    add_data(parser)
    options = parse_arguments(parser)
    python, questions = harness_python(options.harness.absolute()), options.questions
    print(f"`python {shlex.join(sys.argv)}`", end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as place:
        check_awkward(python, Path(place, "awkward"))
        ours = Gsm8kConfig(prompt=PromptStyle.lm_eval_5shot, limit=questions)
        made = {
            split: write_embedded(Path(place, split.value), split, questions)
            for split in (Split.TEST, Split.HARD5)
        }
        asked = {f"embedded {split.value}": (replace(ours, split=split.value), made[split]) for split in made}
        if options.gsm8k:
            asked["GSM8K test"] = replace(ours, data=options.gsm8k, limit=None), Path(options.gsm8k)
        prompts = {name: check_prompts(python, task, folder, name) for name, (task, folder) in asked.items()}
        for model_name in options.model:
            model = model_folder(model_name)
            for name, (_, folder) in asked.items():
                if has_room(model, prompts[name][:questions], name):
                    title = f"{model_name}, {questions} questions of {name}"
                    check_scores(python, model, title, folder, questions, options.dtype)


if __name__ == "__main__":
    main()
