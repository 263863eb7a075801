"""Verdicts of task=code and EvalPlus on the same stored answers: `python bench/code_vs_evalplus.py`.

The problems are the embedded ones and invented ones in EvalPlus's format (bench/code_problems.py). EvalPlus adds
inputs by its type-aware mutation, computes the expected outputs, and judges the answers (bench/evalplus_side.py), in
an environment of its own. The same inputs and outputs become tests in the form of the data sets HumanEval+ and MBPP+,
and task=code judges the same answers by them. Both have a verdict by the base inputs, and one by all inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from code_problems import MBPP, RARE, Problem, StoredAnswer, list_answers, list_problems
from heading import ROOT, parse_arguments
from other_engines import evalplus_python

from runner.options.code.judging import OUTCOME, CodeJudge, create_program_limits
from runner.options.code.problems import read_code_problems
from runner.sandbox.sandbox import Sandbox
from runner_base import Answer, FinishReason, Sample, Verdict

# The assertion of the data sets, after EvalPlus's is_floats. An exact match counts, or a float within the tolerance.
ASSERTION = """
def assertion(out, exp, atol):
    is_equal = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if is_equal or atol == 0:
        assert is_equal
    else:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
"""


@dataclass(frozen=True)
class JudgedAnswer:
    """The verdicts of both programs on an answer, by the base inputs or by all."""

    answer: StoredAnswer
    inputs: str
    is_right: bool
    is_right_for_evalplus: bool
    outcome: str

    @property
    def is_equal(self) -> bool:
        return self.is_right == self.is_right_for_evalplus


def judge_by_evalplus(
    python: str, problems: Sequence[Problem], answers: Sequence[StoredAnswer], num_plus: int
) -> Any:
    """Return EvalPlus's inputs, outputs and verdicts."""
    with tempfile.TemporaryDirectory() as folder:
        answer_path = Path(folder, "answer.json")
        request = {
            "answer": str(answer_path),
            "num_plus": num_plus,
            "threads": len(os.sched_getaffinity(0)),
            "problems": [
                {
                    "dataset": problem.dataset,
                    "task_id": problem.task_id,
                    "prompt": problem.prompt,
                    "canonical_solution": problem.solution,
                    "entry_point": problem.entry_point,
                    "base_input": problem.base_input,
                    "atol": problem.atol,
                }
                for problem in problems
            ],
            "answers": [
                {"task_id": answer.problem.task_id, "program": answer.program, "text": answer.text}
                for answer in answers
            ],
        }
        side = Path(__file__).with_name("evalplus_side.py")
        subprocess.run(
            [python, str(side)], input=json.dumps(request), text=True, check=True, stdout=subprocess.DEVNULL
        )
        return json.loads(answer_path.read_text())


def write_record(
    problem: Problem, found: dict[str, str], is_floats: str, parts: Sequence[str]
) -> dict[str, Any]:
    """Return a record in the form of HumanEval+ or MBPP+, with tests of these parts of the inputs."""
    inputs, results = (" + ".join(found[f"{part}{end}"] for part in parts) for end in ("_input", ""))
    called = problem.entry_point if problem.dataset == MBPP else "candidate"
    lines = [
        f"inputs = {inputs}",
        f"results = {results}",
        "for inp, exp in zip(inputs, results):",
        f"    assertion({called}(*inp), exp, {problem.atol!r})",
    ]
    head = f"import numpy as np\n\n{is_floats}{ASSERTION}\n"
    if problem.dataset == MBPP:
        return {
            "task_id": problem.task_id,
            "prompt": problem.prompt,
            "code": problem.program,
            "test_list": [f"assert {called}(*{problem.base_input[0]!r}) is not None"],
            "test_imports": [],
            "test": head + "\n".join(lines),
        }
    return {
        "task_id": problem.task_id,
        "prompt": problem.prompt,
        "entry_point": problem.entry_point,
        "canonical_solution": problem.solution,
        "test": head + "def check(candidate):\n" + "\n".join(f"    {line}" for line in lines),
    }


def judge_by_task(
    records: Sequence[dict[str, Any]], answers: Sequence[StoredAnswer], timeout_s: int
) -> list[Answer]:
    """Return the answers with the verdicts of task=code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "problems.jsonl")
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        problems = read_code_problems(str(path), None, "test", None)
    places = {problem.id: number for number, problem in enumerate(problems)}
    sandbox = Sandbox(create_program_limits(timeout_s, 1024))
    with CodeJudge(dict(enumerate(problems)), 1, sandbox) as judge:
        judged: list[Future[Sample]] = []
        for answer in answers:
            sample = Sample(
                Answer.from_text(answer.text, [], FinishReason.stop),
                "",
                0,
                0.0,
                places[answer.problem.task_id],
            )
            judged.append(judge.start_judging(sample))
        return [each.result().answer for each in judged]


def print_table(judged: Sequence[JudgedAnswer]) -> None:
    """Print the number of equal verdicts by inputs, and by kind of answer where they differ."""
    print(
        "| inputs | answers | both right | both wrong | equal | different |\n|---|---:|---:|---:|---:|---:|"
    )
    for inputs in ("base", "base and plus"):
        some = [each for each in judged if each.inputs == inputs]
        equal = [each for each in some if each.is_equal]
        right = sum(each.is_right for each in equal)
        numbers = (len(some), right, len(equal) - right, len(equal), len(some) - len(equal))
        print(f"| {inputs} | {' | '.join(f'{number:,}' for number in numbers)} |")
    print(
        "\n| kind of answer | verdicts | EvalPlus passes, task=code | task=code passes, EvalPlus does not |"
    )
    print("|---|---:|---:|---:|")
    counts = Counter(each.answer.kind for each in judged)
    for kind in sorted({each.answer.kind for each in judged if not each.is_equal}):
        some = [each for each in judged if each.answer.kind == kind and not each.is_equal]
        outcomes = Counter(each.outcome for each in some if not each.is_right)
        stricter = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "0"
        print(f"| {kind} | {counts[kind]} | {stricter} | {sum(each.is_right for each in some)} |")


def main() -> None:
    """Judge the same answers by both, and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", help="interpreter of an environment with evalplus")
    parser.add_argument("--kinds", type=int, default=18, help="kinds of answers to each problem")
    parser.add_argument("--plus", type=int, default=25, help="inputs that are added to each problem")
    parser.add_argument("--timeout-s", type=int, default=10, help="task.timeout_s")
    parser.add_argument("--problems", type=int, help="so many problems instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="KIND", help="only these kinds of answers")
    parser.add_argument("--show", help="print the programs of this kind whose verdicts differ")
    options = parse_arguments(parser)
    problems = list_problems()[: options.problems]
    answers = list_answers(problems, options.kinds, options.seed)
    answers = [answer for answer in answers if not options.only or answer.kind in options.only]
    started = time.monotonic()
    theirs = judge_by_evalplus(
        options.python or evalplus_python(ROOT / "outputs" / ".evalplus"), problems, answers, options.plus
    )
    counted = f"{len(problems)} problems, {len(answers):,} answers"
    print(f"EvalPlus {theirs['version']}: {counted}, {time.monotonic() - started:.0f} s", flush=True)
    judged: list[JudgedAnswer] = []
    for inputs, parts in (("base", ["base"]), ("base and plus", ["base", "plus"])):
        started = time.monotonic()
        records = [
            write_record(each, theirs["problems"][each.task_id], theirs["is_floats"], parts)
            for each in problems
        ]
        found = judge_by_task(records, answers, options.timeout_s)
        print(f"task=code, {inputs}: {time.monotonic() - started:.0f} s")
        for answer, ours, verdict in zip(answers, found, theirs["verdicts"], strict=True):
            is_right = all(verdict[part] == theirs["pass"] for part in parts)
            outcome = str((ours.extracted or {})[OUTCOME])
            judged.append(JudgedAnswer(answer, inputs, ours.verdict is Verdict.correct, is_right, outcome))
            if answer.kind == options.show and judged[-1].is_right != is_right:
                print(
                    f"--- {inputs}, {answer.problem.task_id}\n{answer.text}\n{ours.extracted}\nEvalPlus: {verdict}"
                )
    print()
    print_table(judged)
    common = [each for each in judged if each.answer.kind not in RARE]
    print(
        f"\n{sum(each.is_equal for each in common):,} of {len(common):,} verdicts on usual answers are equal"
    )


if __name__ == "__main__":
    main()
