from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from raising import raises

from runner.options.code.problems import CodeProblem, parse_problem, read_code_problems
from runner.sandbox.program_tests import TestOutcome, run_program_with_tests
from runner.sandbox.sandbox import Sandbox
from runner_base.errors import DataError

WRONG = json.loads(Path(__file__).with_name("wrong_solutions.json").read_text())
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "from math import floor\n\n\ndef helper(x):\n    return x\n\n\ndef half(x: float) -> int:\n"
    '    """Return half of x, rounded down."""\n',
    "entry_point": "half",
    "canonical_solution": "    return floor(helper(x) / 2)\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(5) == helper(2)\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to find the height of a tree.",
    "code": "class Node:\n    def __init__(self, left=None):\n        self.left = left\n"
    "def height(node):\n    return 1 + height(node.left) if node else 0\n",
    "test_list": ["assert height(root) == 2", "assert height(None) == 0"],
    "test_setup_code": "root = Node(Node())",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 8,
    "prompt": "Write a function to find a root.",
    "code": "def root(x):\n    return x ** 0.5",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(4), 2)"],
}
MBPP_PLUS = SANITIZED | {
    "test": "import numpy as np\nfor x in [1, 4]:\n    assert np.allclose(root(x) ** 2, x)\n"
}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox()


def run(sandbox: Sandbox, problem: CodeProblem, program: str) -> TestOutcome:
    return run_program_with_tests(sandbox, program, problem.tests, problem.names).outcome


@pytest.mark.parametrize(
    ("row", "entry_point", "wrong"),
    [
        (HUMANEVAL, "half", "def half(x):\n    return x"),
        (
            MBPP,
            "height",
            "class Node:\n    def __init__(self, left=None):\n        pass\ndef height(node):\n    return 2",
        ),
        (SANITIZED, "root", "def root(x):\n    return x"),
        (MBPP_PLUS, "root", "def root(x):\n    return x"),
    ],
    ids=["HumanEval", "MBPP", "MBPP sanitized", "MBPP+"],
)
def test_each_format_judges_its_solution_right_and_another_wrong(
    row: dict[str, Any], entry_point: str, wrong: str, sandbox: Sandbox
) -> None:
    problem = parse_problem(row)
    assert problem.entry_point == entry_point
    assert run(sandbox, problem, problem.solution) is TestOutcome.passed
    assert run(sandbox, problem, wrong) is TestOutcome.failed


def iter_embedded_programs() -> Iterator[tuple[CodeProblem, str, TestOutcome]]:
    for problem in read_code_problems("embedded", None, "test", None):
        yield problem, problem.solution, TestOutcome.passed
        yield problem, problem.prompt + WRONG[problem.entry_point], TestOutcome.failed


@pytest.mark.slow
def test_the_embedded_solutions_pass_and_obvious_mistakes_fail(sandbox: Sandbox) -> None:
    cases = [*iter_embedded_programs()]
    with ThreadPoolExecutor(2) as threads:
        outcomes = threads.map(lambda case: run(sandbox, *case[:2]), cases)
    assert len(cases) == 40
    for (problem, _, expected), outcome in zip(cases, outcomes, strict=True):
        # a mistake may also raise an error, as one that expects a single kind of value does
        assert (outcome is TestOutcome.passed) == (expected is TestOutcome.passed), problem.entry_point
        assert outcome in (TestOutcome.passed, TestOutcome.failed, TestOutcome.error)


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (HUMANEVAL, MBPP, SANITIZED)))
    problems = read_code_problems(str(file), None, "test", 2)
    assert [problem.id for problem in problems] == ["HumanEval/0", "7"]
    assert problems[0].preamble.startswith("from math import floor")
    assert "def half" not in problems[0].preamble


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": None},
        {"prompt": "def other():\n"},
        {"entry_point": "not a name"},
        {"test": "def check(candidate:\n"},
        {"canonical_solution": ""},
    ],
)
def test_a_malformed_record_is_named_by_its_line(change: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(HUMANEVAL) + "\n" + json.dumps(HUMANEVAL | change) + "\n")
    with raises(DataError, "damaged", f"{file}, line 2"):
        read_code_problems(str(file), None, "test", None)


@pytest.mark.parametrize(
    "change", [{"test_list": []}, {"test_list": "assert 1"}, {"code": "x = 1"}, {"text": ""}]
)
def test_a_malformed_record_of_mbpp_is_named_by_its_line(change: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps(MBPP | change) + "\n")
    with raises(DataError, "damaged", f"{file}, line 1"):
        read_code_problems(str(file), None, "test", None)
