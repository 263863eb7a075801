"""task.extractor=math: finds an answer that is a mathematical expression, and compares it with
Math-Verify.

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
from runner.scorers.extractors import extract, last_box_content, last_match
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


def require_math_verify() -> str:
    """Return the version of Math-Verify. ConfigError names the command that installs it."""
    if find_spec("math_verify") is None:
        raise ConfigError(
            f"task.extractor={Extractor.math.value} needs {PACKAGE}, which is not installed: "
            "pip install 'runner-llm[math]'",
            code="needs_package",
        )
    return version(PACKAGE)


class ExpressionScorer(Scorer):
    """Scorer with Math-Verify's comparison of expressions."""

    def find(self, text: str) -> str | None:
        """Return the boxed answer, or else the unboxed one. None if the last box is not closed."""
        return find_boxed(text) if "\\boxed{" in text else find_unboxed(text[-_TAIL:])

    def find_in_truncated(self, text: str) -> str | None:
        """Return the boxed answer of a truncated text."""
        return find_boxed(text)

    def read_gold(self, answer: str) -> str:
        """Return the content of a solution's last box, or the text after ####, or the whole answer."""
        gold = find_boxed(answer) or answer.rpartition("####")[2].strip()
        if not gold or len(gold) > LONGEST:
            raise ValueError(f"no expression of at most {LONGEST} characters found in {answer[:60]!r}")
        return gold

    def is_right(self, answer: str, gold: str) -> bool:
        return compare_expression(answer, (gold,))[0] is not None

    def explain_comparison_failure(self, answer: str, gold: str) -> str:
        return compare_expression(answer, (gold,))[1]

    def find_equal_answer(self, answer: str, others: Sequence[str]) -> str:
        index, _ = compare_expression(answer, tuple(others)) if others else (None, "")
        return answer if index is None else others[index]

    def close(self) -> None:
        PROCESS.close()


def find_boxed(text: str) -> str | None:
    """Return the content of the last box, or of several boxes in direct succession."""
    found: list[str] = []
    while (content := last_box_content(text)) or not found:
        start = text.rfind("\\boxed{")
        if start < 0 or (found and not _JOINED.fullmatch(text, start + len("\\boxed{") + len(content) + 1)):
            break
        found.insert(0, content.strip())
        text = text[:start]
        if len(found) > 16:
            break
    return _trim_answer(", ".join(filter(None, found)))


def find_unboxed(text: str) -> str | None:
    """Return the answer in a text without a box."""
    if (mark := last_match(_MARK.finditer(text))) is not None:
        rest = text[mark.end() :].lstrip()
        formula = _FORMULA.match(rest)
        end = _END.search(rest)
        sentence = rest[: end.start()] if end else rest
        if formula is None and (within := _FORMULA.search(sentence)):
            formula = within
        return _trim_answer(_formula_content(formula) if formula else sentence)
    if (formula := last_match(_FORMULA.finditer(text))) is not None:
        return _trim_answer(_formula_content(formula))
    lines = text.strip().splitlines()
    if lines and not re.search(r"[a-zA-Z]{3,}", lines[-1]):
        return _trim_answer(lines[-1])
    return extract(text, numbers, Extractor.flexible)


def _formula_content(formula: re.Match[str]) -> str:
    return str(next(filter(None, formula.groups())))


def _trim_answer(text: str) -> str | None:
    text = text[: LONGEST + 1].strip().strip("*").strip("$").strip()
    return text or None


# ---------------------------------------------------------------------------------------- comparing


@lru_cache(maxsize=65_536)
def compare_expression(answer: str, candidates: tuple[str, ...]) -> tuple[int | None, str]:
    """Return the index of the candidate that equals an answer, or why that is unknown."""
    if answer in candidates:
        return candidates.index(answer), ""
    if len(answer) > LONGEST:
        return None, f"is longer than {LONGEST:,} characters"
    if _is_nested_too_deeply(answer):
        return None, f"is nested more than {DEEPEST} levels deep"
    with suppress(ValueError):  # it is the usual case that all are numbers
        number = numbers.parse_number(answer)
        others = [numbers.parse_number(other) for other in candidates]
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
    """The comparison process, started at the first request. Thread-safe."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def compare(self, answer: str, candidates: Sequence[str]) -> tuple[int | None, str]:
        """Return the index of the equal candidate. Restarts the process if it has died."""
        request = json.dumps([candidates, answer]).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                if self._process is None:
                    module = "runner.scorers.expressions_child"
                    self._process = child_process.start_python(
                        "-m", module, inherit_secrets=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                    )
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                with suppress(BrokenPipeError):
                    self._process.stdin.write(request)
                    self._process.stdin.flush()
                if line := self._process.stdout.readline():
                    index, why = json.loads(line)
                    return index, why
                code = self._end_process()
        raise JobFailed(
            f"the process that compares expressions {child_process.describe_exit_code(code)}",
            key="task.extractor",
            value="math",
            code="failed",
        )

    def close(self) -> None:
        """End the process if it runs."""
        with self._lock:
            self._end_process()

    def _end_process(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.communicate()  # closes its stdin
        return process.returncode


PROCESS = ComparisonProcess()
