"""EvalPlus's own verdicts in a process of its own. See code_vs_evalplus.py.

It reads a request as JSON from stdin: problems with base inputs, and answers. It writes the inputs that EvalPlus's
mutation adds, what the solutions return, and EvalPlus's verdict on each answer to the file that the request names.
"""

from __future__ import annotations

import inspect
import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evalplus.eval import PASS, is_floats  # type: ignore[import-not-found]
from evalplus.evaluate import check_correctness, trusted_exec  # type: ignore[import-not-found]
from evalplus.gen.type_mut import TypedMutGen  # type: ignore[import-not-found]
from evalplus.gen.util import trusted_check_exec  # type: ignore[import-not-found]
from evalplus.sanitize import sanitize  # type: ignore[import-not-found]

TRIES = 20  # mutations for each input that is wanted


def mutate_inputs(problem: dict[str, Any], wanted: int) -> list[Any]:
    """Return other inputs that the solution accepts, by EvalPlus's type-aware mutation."""
    random.seed(problem["task_id"])
    program = problem["prompt"] + problem["canonical_solution"]
    mutation = TypedMutGen(deepcopy(problem["base_input"]), problem["entry_point"], program)
    found: list[Any] = []
    seen = {str(arguments) for arguments in problem["base_input"]}
    for _ in range(TRIES * wanted):
        arguments = mutation.mutate(random.choice([*problem["base_input"], *found]))
        is_accepted = len(str(arguments)) < 2000 and str(arguments) not in seen
        if is_accepted and trusted_check_exec(program, [arguments], problem["entry_point"]):
            seen.add(str(arguments))
            found.append(arguments)
        if len(found) == wanted:
            break
    return found


def find_expected(problem: dict[str, Any]) -> dict[str, Any]:
    """Return the solution's outputs and seconds, as EvalPlus computes them."""
    found: dict[str, Any] = {}
    program, name = problem["prompt"] + problem["canonical_solution"], problem["entry_point"]
    for part in ("base", "plus"):
        inputs = deepcopy(problem[f"{part}_input"])
        found[part], found[f"{part}_time"] = trusted_exec(program, inputs, name, record_time=True)
    return found


def main() -> None:
    """Judge the answers."""
    request = json.load(sys.stdin)
    problems = {problem["task_id"]: problem for problem in request["problems"]}
    for problem in problems.values():
        problem["plus_input"] = mutate_inputs(problem, request["num_plus"])
    expected = {task_id: find_expected(problem) for task_id, problem in problems.items()}

    def judge(answer: dict[str, str]) -> dict[str, str]:
        problem = problems[answer["task_id"]]
        solution = answer["program"] or sanitize(answer["text"], problem["entry_point"])
        done = check_correctness(
            problem["dataset"], 0, problem, solution, expected[answer["task_id"]], fast_check=True
        )
        return {"base": done["base"][0], "plus": done["plus"][0], "solution": solution}

    with ThreadPoolExecutor(request["threads"]) as threads:
        verdicts = list(threads.map(judge, request["answers"]))
    inputs = {
        task_id: {
            "base_input": repr(problem["base_input"]),
            "plus_input": repr(problem["plus_input"]),
            "base": repr(expected[task_id]["base"]),
            "plus": repr(expected[task_id]["plus"]),
        }
        for task_id, problem in problems.items()
    }
    done = {
        "version": version("evalplus"),
        "pass": PASS,
        "is_floats": inspect.getsource(is_floats),
        "problems": inputs,
        "verdicts": verdicts,
    }
    Path(request["answer"]).write_text(json.dumps(done))


if __name__ == "__main__":
    main()
