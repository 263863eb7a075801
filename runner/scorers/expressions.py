"""Implements task.extractor=math: finds a mathematical expression, and compares it with Math-Verify.

The answer is the content of the last LaTeX box, or else what follows `the answer is`, the last
formula, or the last number of the text. In a truncated text only a box counts. Text from a
model is parsed in a process of its own (expressions_child.py), which starts with the first
comparison and serves all that follow.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec

from runner.config.extractors import Extractor
from runner.scorers import numbers
from runner.scorers.base import Scorer
from runner.scorers.extractors import extract_canonical_answer, extract_last_boxed_text, last_match_or_none
from runner_base import ConfigError, JobFailed, child_process

PACKAGE = "math-verify"
LONGEST = 1000  # characters of an expression
DEEPEST = 20  # brackets within each other, or signs in a row
_MATH = r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\$(?P<c>[^$\n]+)\$|\\\((?P<d>.+?)\\\)"
_FORMULA = re.compile(_MATH, re.DOTALL)
_JOINED = re.compile(r"[\s$.,;]*(?:and|or)?[\s$]*")
_MARK = re.compile(r"(?:\banswer\s*(?:is|:|=)|####)[\s:*]*", re.IGNORECASE)
_END = re.compile(r"[.!?]?\**\s*(?:\n|$)|[.!?]\s+(?=[A-Z])")
_TAIL = 20_000  # characters at the end of a text in which a free answer is looked for


def require_math_verify_package() -> str:
    """Return the installed version of Math-Verify. If it is missing, a ConfigError names the install
    command.
    """
    if find_spec("math_verify") is None:
        raise ConfigError(
            f"task.extractor={Extractor.math.value} needs {PACKAGE}, which is not installed: "
            "pip install 'runner-llm[math]'",
            code="needs_package",
        )
    return version(PACKAGE)


class ExpressionScorer(Scorer):
    """Scorer for mathematical expressions, compared by Math-Verify."""

    def find(self, text: str) -> str | None:
        """Return the boxed answer, otherwise the unboxed answer. None if the last LaTeX box is not closed."""
        return find_boxed_expression(text) if "\\boxed{" in text else find_unboxed_expression(text[-_TAIL:])

    def find_in_truncated(self, text: str) -> str | None:
        return find_boxed_expression(text)

    def read_gold(self, gold_text: str) -> str:
        """Return the gold answer of a worked solution.

        The answer is in the last LaTeX box, otherwise after ####. Otherwise it is the whole text.
        """
        gold = find_boxed_expression(gold_text) or gold_text.rpartition("####")[2].strip()
        if not gold or len(gold) > LONGEST:
            raise ValueError(f"no gold answer of at most {LONGEST} characters found in {gold_text[:60]!r}")
        return gold

    def is_right(self, answer: str, gold: str) -> bool:
        return find_equal_expression(answer, (gold,))[0] is not None

    def explain_comparison_failure(self, answer: str, gold: str) -> str:
        return find_equal_expression(answer, (gold,))[1]

    def find_equal_answer(self, answer: str, other_answers: Sequence[str]) -> str:
        index, _ = find_equal_expression(answer, tuple(other_answers)) if other_answers else (None, "")
        return answer if index is None else other_answers[index]

    def close(self) -> None:
        PROCESS.close()


def find_boxed_expression(text: str) -> str | None:
    """Return the content of the last LaTeX box. Directly adjacent boxes are joined by commas."""
    found: list[str] = []
    while (content := extract_last_boxed_text(text)) or not found:
        start = text.rfind("\\boxed{")
        if start < 0 or (found and not _JOINED.fullmatch(text, start + len("\\boxed{") + len(content) + 1)):
            break
        found.insert(0, content.strip())
        text = text[:start]
        if len(found) > 16:
            break
    return _trim_answer(", ".join(filter(None, found)))


def find_unboxed_expression(text: str) -> str | None:
    """Return the answer expression of a text without a LaTeX box."""
    if (mark := last_match_or_none(_MARK.finditer(text))) is not None:
        rest = text[mark.end() :].lstrip()
        formula = _FORMULA.match(rest)
        end = _END.search(rest)
        sentence = rest[: end.start()] if end else rest
        if formula is None and (within := _FORMULA.search(sentence)):
            formula = within
        return _trim_answer(_formula_content(formula) if formula else sentence)
    if (formula := last_match_or_none(_FORMULA.finditer(text))) is not None:
        return _trim_answer(_formula_content(formula))
    lines = text.strip().splitlines()
    if lines and not re.search(r"[a-zA-Z]{3,}", lines[-1]):
        return _trim_answer(lines[-1])
    return extract_canonical_answer(text, numbers, Extractor.flexible)


def _formula_content(formula: re.Match[str]) -> str:
    return str(next(filter(None, formula.groups())))


def _trim_answer(text: str) -> str | None:
    text = text[: LONGEST + 1].strip().strip("*").strip("$").strip()
    return text or None


# ---------------------------------------------------------------------------------------- comparing


@lru_cache(maxsize=65_536)
def find_equal_expression(answer: str, candidates: tuple[str, ...]) -> tuple[int | None, str]:
    """Return the index of the candidate that equals the answer (or None), and the reason if the
    comparison failed.
    """
    if answer in candidates:
        return candidates.index(answer), ""
    if len(answer) > LONGEST:
        return None, f"is longer than {LONGEST:,} characters"
    if _is_nested_too_deeply(answer):
        return None, f"is nested more than {DEEPEST} levels deep"
    with suppress(ValueError):  # it is the usual case that all are numbers
        number = numbers.to_canonical_number(answer)
        others = [numbers.to_canonical_number(other) for other in candidates]
        return (others.index(number) if number in others else None), ""
    return PROCESS.compare(answer, candidates)


def _is_nested_too_deeply(text: str) -> bool:
    depth = 0
    for bracket in re.findall(r"[({\[\]})]", text):
        depth = depth + 1 if bracket in "({[" else max(0, depth - 1)
        if depth > DEEPEST:
            return True
    return re.search(rf"(?:[-+]\s*){{{DEEPEST}}}", text) is not None


class ComparisonProcess:
    """Child process that compares expressions, started at the first comparison. Thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def compare(self, answer: str, candidates: Sequence[str]) -> tuple[int | None, str]:
        """Return the index of the candidate that equals the answer (or None), and the reason if the
        comparison failed.

        Restarts the process if it has died.
        """
        request = json.dumps([candidates, answer]).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                if self._process is None:
                    module = "runner.scorers.expressions_child"
                    self._process = child_process.start_python_child_process(
                        "-m",
                        module,
                        should_inherit_secrets=False,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                    )
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                with suppress(BrokenPipeError):
                    self._process.stdin.write(request)
                    self._process.stdin.flush()
                if line := self._process.stdout.readline():
                    index, why = json.loads(line)
                    return index, why
                code = self._end_expression_comparison_process()
        raise JobFailed(
            f"the process that compares expressions {child_process.describe_exit_code(code)}",
            key="task.extractor",
            value="math",
            code="failed",
        )

    def close(self) -> None:
        with self._lock:
            self._end_expression_comparison_process()

    def _end_expression_comparison_process(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.communicate()  # closes its stdin
        return process.returncode


PROCESS = ComparisonProcess()
