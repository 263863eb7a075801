"""Programs in answers of many forms: each is found, and runs like the one that was meant."""

from __future__ import annotations

import pytest

from runner.options.code.extraction import build_chat_message, build_completion_prompt, extract_program
from runner.options.code.problems import CodeProblem, parse_problem

PROMPT = 'import math\n\n\ndef double(x: int) -> int:\n    """Return twice x."""\n'
PROBLEM = parse_problem(
    {
        "task_id": "a",
        "prompt": PROMPT,
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
)
DESCRIBED = parse_problem(
    {
        "task_id": 1,
        "text": "Double a number.",
        "code": "def double(x): return 2 * x",
        "test_list": ["assert double(2) == 4"],
    }
)
WHOLE = "def double(x):\n    return 2 * x\n"
ANSWERS = {
    "a fence": f"```python\n{WHOLE}```",
    "a fence without a language": f"Here it is:\n```\n{WHOLE}```\nIt doubles x.",
    "a fence that is not closed": f"```py\n{WHOLE}",
    "tildes": f"~~~python\n{WHOLE}~~~",
    "an indented fence": f"  ```python\n{WHOLE}  ```",
    "the second fence": f"First an idea:\n```python\nprint(2 * 2)\n```\nThe function:\n```python\n{WHOLE}```",
    "the first of two definitions": f"```python\n{WHOLE}```\nOr worse:\n```python\ndef double(x):\n    return x\n```",
    "a fence with prose in it": f"```python\nHere is the code:\n{WHOLE}\nThat is all!\n```",
    "no fence": WHOLE,
    "prose around it": f"Sure! This function works.\n\n{WHOLE}\nIt doubles the number, as you asked.",
    "imports and a helper": f"The code:\nimport os\nTWO = 2\ndef twice(x):\n    return TWO * x\n{WHOLE.replace('2 * x', 'twice(x)')}\nDone, isn't it?",
    "a repeated signature": PROMPT + "    return 2 * x\n",
    "a repeated signature in a fence": f"```python\n{PROMPT}    return 2 * x\n```",
    "Windows lines": f"```python\r\n{WHOLE}```".replace("\n", "\r\n").replace("\r\r", "\r"),
    "a lambda": "```python\ndouble = lambda x: 2 * x\n```",
    "the body": "    return 2 * x\n",
    "the body of several lines": "    y = x\n    y += x\n    return y\n",
    "the body without the first spaces": "y = x\n    y += x\n    return y\n",
    "the body without spaces": "y = x\ny += x\nreturn y",
    "the body in a fence": "The body:\n```python\n    return 2 * x\n```",
    "the body and prose": "    return 2 * x\n\nThis returns twice the number.",
    "the body and another function": "    return 2 * x\n\ndef other(:",
}


def run(program: str | None) -> int:
    names: dict[str, object] = {}
    assert program is not None
    exec(program, names)
    double = names["double"]
    assert callable(double)
    assert "math" in names  # the imports of the prompt are there
    return int(double(21))


@pytest.mark.parametrize("name", ANSWERS)
def test_the_program_is_found(name: str) -> None:
    assert run(extract_program(ANSWERS[name], PROBLEM)) == 42


@pytest.mark.parametrize(
    "answer",
    ["", "Sorry", "I cannot do that.", "```python\n```", "Use a loop:\n- first\n- second", "1.", '"text"'],
)
@pytest.mark.parametrize("problem", [PROBLEM, DESCRIBED], ids=["HumanEval", "MBPP"])
def test_an_answer_without_a_program_has_none(answer: str, problem: CodeProblem) -> None:
    assert extract_program(answer, problem) is None


def test_a_described_function_is_found_and_its_body_alone_is_none() -> None:
    assert extract_program(f"Yes:\n```python\n{WHOLE}```", DESCRIBED) == WHOLE
    assert extract_program("    return 2 * x\n", DESCRIBED) is None


def test_a_program_with_a_syntax_error_is_kept_so_that_it_counts_as_an_error() -> None:
    program = extract_program("```python\ndef double(x:\n    return 2\n```", PROBLEM)
    assert program is not None
    assert program.endswith("def double(x:\n    return 2")


def test_prompts_contain_the_problem() -> None:
    assert build_completion_prompt(PROBLEM) == PROMPT
    assert build_chat_message(PROBLEM, "Write it.") == f"Write it.\n\n```python\n{PROMPT.strip()}\n```"
    assert "assert double(2) == 4" in build_chat_message(DESCRIBED, "")
    assert build_completion_prompt(DESCRIBED) == '"""\nDouble a number.\nassert double(2) == 4\n"""\n'
