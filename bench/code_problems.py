"""Programming problems and answers to them, for comparisons of task=code with other programs.

The problems are the embedded ones and the functions below. The answers are right, wrong, slow, of another type,
or do what an answer should not do.
"""

from __future__ import annotations

import ast
import inspect
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.options.code.problems import EMBEDDED_FILE

HUMANEVAL, MBPP = "humaneval", "mbpp"


@dataclass(frozen=True)
class Problem:
    """A problem as EvalPlus stores it. The prompt and the solution together are a program."""

    dataset: str
    task_id: str
    prompt: str
    solution: str
    entry_point: str
    base_input: list[list[Any]]
    atol: float = 0

    @property
    def program(self) -> str:
        return self.prompt + self.solution


def mean_of_squares(numbers: list[float]) -> float:
    """Return the mean of the squares of the numbers."""
    return sum(number * number for number in numbers) / len(numbers)


def compound_interest(amount: float, rate: float, years: int) -> float:
    """Return what an amount grows to in so many years, rounded to cents."""
    return round(amount * (1 + rate) ** years, 2)


def normalize(numbers: list[float]) -> list[float]:
    """Divide the numbers by their sum."""
    total = sum(numbers)
    return [number / total for number in numbers]


def count_words(text: str) -> dict[str, int]:
    """Count each word of a text in lower case."""
    counts: dict[str, int] = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def list_letters(text: str) -> set[str]:
    """Return the letters that a text contains."""
    return {letter for letter in text if letter.isalpha()}


def split_by_parity(numbers: list[int]) -> tuple[list[int], list[int]]:
    """Return the even and the odd numbers."""
    return [n for n in numbers if n % 2 == 0], [n for n in numbers if n % 2]


def find_first(text: str, letter: str) -> int | None:
    """Return the position of a letter, or None."""
    return text.index(letter) if letter in text else None


def rotate(values: list[int], steps: int) -> list[int]:
    """Rotate a list to the right, in place, and return it."""
    if values:
        steps %= len(values)
        values[:] = values[-steps:] + values[:-steps] if steps else values
    return values


def multiply_matrices(left: list[list[float]], right: list[list[float]]) -> list[list[float]]:
    """Return the product of two matrices."""
    return [[sum(a * b for a, b in zip(row, column)) for column in zip(*right)] for row in left]  # noqa: B905


def is_sorted(values: list[int]) -> bool:
    """Return whether no value is below the one before it."""
    return all(first <= second for first, second in zip(values, values[1:]))  # noqa: B905, RUF007


def factorial(number: int) -> int:
    """Return the factorial of a number from 0 to 200."""
    result = 1
    for factor in range(2, min(abs(number), 200) + 1):
        result *= factor
    return result


def distance(first: list[float], second: list[float]) -> float:
    """Return the distance of two points."""
    return float(sum((a - b) ** 2 for a, b in zip(first, second)) ** 0.5)  # noqa: B905


def count_vowels(text: str) -> int:
    """Write a function that counts the vowels of a text."""
    return sum(letter in "aeiou" for letter in text.lower())


def area_of_circle(radius: float) -> float:
    """Write a function that finds the area of a circle."""
    import math

    return math.pi * radius * radius


def sum_pairs(pairs: list[list[int]]) -> list[int]:
    """Write a function that adds the two numbers of each pair."""
    return [sum(pair) for pair in pairs]


def merge_dictionaries(keys: list[str], values: list[int]) -> dict[str, int]:
    """Write a function that makes a dictionary of keys and values."""
    return dict(zip(keys, values))  # noqa: B905


def remove_repeats(values: list[int]) -> list[int]:
    """Write a function that keeps the first of equal values."""
    return list(dict.fromkeys(values))


def largest_product(values: list[int]) -> int:
    """Write a function that finds the largest product of two values."""
    return max(a * b for n, a in enumerate(values) for b in values[n + 1 :])


def to_binary(number: int) -> str:
    """Write a function that writes a number in binary digits."""
    return bin(number)[2:] if number >= 0 else "-" + bin(number)[3:]


def interleave(first: list[int], second: list[int]) -> list[int]:
    """Write a function that takes from two lists by turns."""
    return [value for pair in zip(first, second) for value in pair]  # noqa: B905


def is_palindrome(text: str) -> bool:
    """Write a function that finds whether a text reads the same from behind."""
    return text == text[::-1]


def harmonic_sum(number: int) -> float:
    """Write a function that adds 1/1, 1/2 ... 1/number."""
    return sum(1 / n for n in range(1, min(number, 1000) + 1))


def smallest_and_largest(values: list[int]) -> tuple[int, int]:
    """Write a function that finds the smallest and the largest value."""
    return min(values), max(values)


def shared_letters(first: str, second: str) -> list[str]:
    """Write a function that lists the letters of both texts in alphabetical order."""
    return sorted(set(first) & set(second))


INVENTED: tuple[tuple[Any, list[list[Any]], float], ...] = (
    (mean_of_squares, [[[1.0, 2.0, 3.0]], [[0.5]], [[-1.5, 1.5]]], 0),
    (compound_interest, [[100.0, 0.05, 2], [2500.0, 0.011, 10], [1.0, 0.5, 0]], 0.001),
    (normalize, [[[1.0, 3.0]], [[0.1, 0.2, 0.3]], [[5.0]]], 0),
    (count_words, [["the cat the dog"], [""], ["A a b"]], 0),
    (list_letters, [["hello"], [""], ["a1b2"]], 0),
    (split_by_parity, [[[1, 2, 3, 4]], [[]], [[7, -2]]], 0),
    (find_first, [["hello", "l"], ["hello", "z"], ["a", "a"]], 0),
    (rotate, [[[1, 2, 3, 4], 1], [[], 3], [[5, 6], 4], [[1, 2, 3], -1]], 0),
    (multiply_matrices, [[[[1.0, 2.0]], [[3.0], [4.0]]], [[[0.5]], [[0.25]]]], 1e-6),
    (is_sorted, [[[1, 2, 2]], [[2, 1]], [[]]], 0),
    (factorial, [[0], [5], [30]], 0),
    (distance, [[[0.0, 0.0], [3.0, 4.0]], [[1.5], [2.0]], [[], []]], 0),
    (count_vowels, [["Education"], ["rhythm"], [""]], 0),
    (area_of_circle, [[1.0], [2.5], [0.0]], 0),
    (sum_pairs, [[[[1, 2], [3, 4]]], [[]], [[[-1, 1]]]], 0),
    (merge_dictionaries, [[["a", "b"], [1, 2]], [[], []], [["x"], [5, 6]]], 0),
    (remove_repeats, [[[1, 2, 1]], [[]], [[3, 3, 3]]], 0),
    (largest_product, [[[1, 2, 3]], [[-4, -5, 1]], [[0, 7]]], 0),
    (to_binary, [[10], [0], [-5]], 0),
    (interleave, [[[1, 2], [3, 4]], [[], [1]], [[5], [6]]], 0),
    (is_palindrome, [["anna"], ["Anna"], [""]], 0),
    (harmonic_sum, [[1], [4], [10]], 0),
    (smallest_and_largest, [[[3, 1, 2]], [[5]], [[-1, -9]]], 0),
    (shared_letters, [["hello", "yellow"], ["a", "b"], ["", "x"]], 0),
)


def list_problems() -> list[Problem]:
    """Return the embedded and the invented problems."""
    rows = [json.loads(line) for line in EMBEDDED_FILE.read_text(encoding="utf-8").splitlines()]
    found = [
        Problem(
            HUMANEVAL,
            f"HumanEval/{number}",
            row["prompt"],
            row["canonical_solution"],
            row["entry_point"],
            [*_iter_called_arguments(row["test"])],
        )
        for number, row in enumerate(rows)
    ]
    for number, (function, inputs, atol) in enumerate(INVENTED):
        source, is_mbpp = inspect.getsource(function), function.__doc__.startswith("Write ")
        head = source[: source.index('"""', source.index('"""') + 3) + 4]
        lines = [line.partition("  # noqa")[0] for line in source[len(head) :].splitlines()]
        body = "\n".join(lines) + "\n"
        dataset, task_id = (
            (MBPP, f"Mbpp/{900 + number}") if is_mbpp else (HUMANEVAL, f"HumanEval/{number + 20}")
        )
        found.append(Problem(dataset, task_id, head, body, function.__name__, inputs, atol))
    return found


def _iter_called_arguments(test: str) -> Iterator[list[Any]]:
    for node in ast.walk(ast.parse(test)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "candidate":
            yield [eval(ast.unparse(argument)) for argument in node.args]  # the embedded tests


# Each is a body of a function that has the right function as `inner`, and the arguments as `args`.
BODIES = {
    "returns nothing": "pass",
    "raises": "raise ValueError('no')",
    "raises at the third call": "calls.append(1)\nif len(calls) > 2:\n    raise ValueError\nreturn inner(*args)",
    "wrong at the second call": "calls.append(1)\nreturn inner(*args) if len(calls) != 2 else object()",
    "waits a little": "import time\ntime.sleep(0.01)\nreturn inner(*args)",
    "prints": "print(args)\nreturn inner(*args)",
    "prints 3,000 characters a call": "print('x' * 3000)\nreturn inner(*args)",
    "prints to stderr": "import sys\nprint(args, file=sys.stderr)\nreturn inner(*args)",
    "returns a text": "return str(inner(*args))",
    "exchanges lists and tuples": "value = inner(*args)\nkinds = {list: tuple, tuple: list}\n"
    "return kinds.get(type(value), lambda v: v)(value)",
    "exchanges integers and floats": "value = inner(*args)\nif type(value) is int and abs(value) < 2 ** 50:\n"
    "    return float(value)\nif type(value) is float and value == int(value):\n    return int(value)\nreturn value",
    "returns 1 for True": "value = inner(*args)\nreturn int(value) if isinstance(value, bool) else value",
    "off by 1e-9": "return shift(inner(*args), 1e-9)",
    "off by 1e-4": "return shift(inner(*args), 1e-4)",
    "off by 1": "value = inner(*args)\nreturn value + 1 if isinstance(value, (int, float)) else [value]",
    "numpy's types": "import numpy as np\nvalue = inner(*args)\n"
    "return np.float64(value) if isinstance(value, float) else np.int64(value) if type(value) is int and "
    "abs(value) < 2 ** 60 else value",
    "numpy's arrays": "import numpy as np\nvalue = inner(*args)\nis_flat = isinstance(value, list) and "
    "all(isinstance(v, float) for v in value)\nreturn np.array(value) if is_flat and value else value",
    "clears its arguments": "value = inner(*args)\nvalue = list(value) if isinstance(value, list) else value\n"
    "for argument in args:\n    if isinstance(argument, list):\n        argument.clear()\nreturn value",
    "reverses its arguments first": "for argument in args:\n    if isinstance(argument, list):\n"
    "        argument.reverse()\nreturn inner(*args)",
    "sys.exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "exit": "exit()",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "endless recursion": "return again(*args)",
    "recursion of 300 calls": "def deep(n):\n    return inner(*args) if n == 0 else deep(n - 1)\nreturn deep(300)",
    "a generator": "yield inner(*args)",
    "catches all errors": "try:\n    1 / 0\nexcept:\n    pass\nreturn inner(*args)",
    "returns NaN": "return float('nan')",
    "reads a line": "input()\nreturn inner(*args)",
    "opens a file": "open('data.txt')\nreturn inner(*args)",
    "starts a program": "import subprocess\nsubprocess.run(['true'])\nreturn inner(*args)",
    "asserts": "assert inner(*args) is None\nreturn inner(*args)",
    "holds 20 MiB": "held = bytearray(20 * 2 ** 20)\nreturn inner(*args)",
    "warns": "import warnings\nwarnings.warn('slow')\nreturn inner(*args)",
    "remembers the base inputs": "return inner(*args) if repr(list(args)) in known else object()",
    "wrong on the base inputs": "return object() if repr(list(args)) in known else inner(*args)",
}
# Whole programs; {program} is the right one, {name} its function.
PROGRAMS = {
    "right": "{program}",
    "another name": "{program}\n{name}_solution = {name}\ndel {name}\n",
    "no Python": "def {name}(*args):\n    return (\n",
    "prints when it is read": "print('loading')\n{program}\nprint({name})\n",
    "raises when it is read": "{program}\nraise ValueError\n",
    "exits when it is read": "{program}\nraise SystemExit(0)\n",
    "has a main part": "{program}\nif __name__ == '__main__':\n    raise ValueError\n",
    "a lambda": "{program}\ninner = {name}\n{name} = lambda *args: inner(*args)\n",
    "a class": "{program}\ninner = {name}\nclass {name}:\n    def __new__(cls, *args):\n        return inner(*args)\n",
    "an object": "{program}\nclass Callable:\n    inner = staticmethod({name})\n    def __call__(self, *args):\n"
    "        return self.inner(*args)\n{name} = Callable()\n",
    "a cached function": "import functools\n{program}\n{name} = functools.lru_cache({name})\n",
    "a wrapped function": "import functools\n{program}\n{name} = functools.wraps({name})(lambda *a, f={name}: f(*a))\n",
    "asynchronous": "{program}\ninner = {name}\nasync def {name}(*args):\n    return inner(*args)\n",
    "a partial function": "import functools\n{program}\n{name} = functools.partial({name})\n",
    "its own tests": "{program}\ndef check(candidate):\n    pass\nassert callable({name})\n",
    "a module that is missing": "import no_such_module\n{program}",
    "unused imports": "import typing, collections, itertools, math, re, heapq, bisect, string\n{program}",
    "numpy": "import numpy as np\n{program}",
    "not ASCII": "größe = 'ß'\n{program}",
}
# Few problems get these, because one of the two programs waits, or because the verdicts differ for a known reason.
RARE = {
    "endless": "while True:\n    pass",
    "1.5 s a call": "import time\ntime.sleep(1.5)\nreturn inner(*args)",
    "equal to everything": "class Equal:\n    def __eq__(self, other):\n        return True\nreturn Equal()",
    "replaces numpy.allclose": "import numpy\nnumpy.allclose = lambda *_, **__: True\nreturn shift(inner(*args), 0.5)",
    "a thread": "from concurrent.futures import ThreadPoolExecutor\n"
    "return ThreadPoolExecutor(1).submit(inner, *args).result()",
    "reads all input": "import sys\nsys.stdin.read()\nreturn inner(*args)",
}
HELPERS = """
inner, calls, known = {name}, [], {known!r}
def shift(value, step):
    if isinstance(value, float):
        return value + step
    return [shift(each, step) for each in value] if isinstance(value, list) else value
def {name}(*args):
{body}
again = {name}
"""
CHATS = {
    "a fence": "```python\n{program}```",
    "prose around a fence": "Sure, here is the function:\n\n```python\n{program}```\n\nIt uses a loop.",
    "a fence without a language": "```\n{program}```",
    "examples in another fence": "```python\n{program}```\nExample:\n```python\nprint({name})\n```",
    "a fence that is not closed": "Here it is:\n```python\n{program}",
    "no fence": "{program}",
    "prose, no fence": "The function is below.\n\n{program}\nI hope that this helps you!",
    "two attempts, the second in prose": "```python\n{program}```\nOr shorter: `return None`.",
    "helper and function in two fences": "First a helper:\n```python\nLIMIT = 10\n```\nThen:\n```python\n{program}```",
    "an indented fence": "1. The function:\n\n   ```python\n{indented}   ```\n",
    "a console session": "```python\n{program}```\n```\n>>> {name}\n<function>\n```",
    "only prose": "I would loop over the values and collect the result.",
}


@dataclass(frozen=True)
class StoredAnswer:
    """An answer to a problem: of which kind it is, and what a model would have written."""

    kind: str
    problem: Problem
    program: str  # a whole program; empty for chat answers
    text: str


def list_answers(problems: list[Problem], kinds_each: int, seed: int) -> list[StoredAnswer]:
    """Return a right answer and so many others to each problem, all rare answers, and all chat answers."""
    rng = random.Random(seed)
    kinds = [*BODIES, *PROGRAMS]
    found = []
    for number, problem in enumerate(problems):
        picked = ["right", *rng.sample(kinds, kinds_each)]
        picked += [kind for at, kind in enumerate(RARE) if (number + at) % 8 == 0]
        for kind in picked:
            program = _write_program(kind, problem)
            found.append(StoredAnswer(kind, problem, program, f"```python\n{program}\n```"))
    for problem in problems[:20]:
        indented = "".join(f"   {line}\n" for line in problem.program.splitlines())
        for kind, chat in CHATS.items():
            text = chat.format(program=problem.program, name=problem.entry_point, indented=indented)
            found.append(StoredAnswer(f"chat: {kind}", problem, "", text))
    return found


def _write_program(kind: str, problem: Problem) -> str:
    if template := PROGRAMS.get(kind):
        return template.format(program=problem.program, name=problem.entry_point)
    body = "\n".join(f"    {line}" for line in (BODIES | RARE)[kind].splitlines())
    known = [repr(arguments) for arguments in problem.base_input]
    return problem.program + HELPERS.format(name=problem.entry_point, known=known, body=body)
