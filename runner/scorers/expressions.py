r"""Finds an answer that is a mathematical expression, and has Math-Verify compare it:
task.extractor=math.

The answer is what the last \boxed{} holds, or else what follows `the answer is`, the last formula,
or the last number of the text. Of a text that was cut off only a box counts. What a model wrote is
parsed in a process of its own (expressions_child.py), which starts with the first comparison and is
kept for all that follow.
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
from runner.scorers.extracting import extract, last, last_box
from runner_base import ConfigError, JobFailed, child

PACKAGE = "math-verify"
LONGEST = 1000  # characters of an expression
DEEPEST = 20  # brackets within each other, or signs in a row
_MATH = r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\$(?P<c>[^$\n]+)\$|\\\((?P<d>.+?)\\\)"
_FORMULA = re.compile(_MATH, re.DOTALL)
_JOINED = re.compile(r"[\s$.,;]*(?:and|or)?[\s$]*")
_MARK = re.compile(r"(?:\banswer\s*(?:is|:|=)|####)[\s:*]*", re.IGNORECASE)
_END = re.compile(r"[.!?]?\**\s*(?:\n|$)|[.!?]\s+(?=[A-Z])")
_TAIL = 20_000  # characters at the end of a text in which a free answer is looked for


def require_package() -> str:
    """Return the version of Math-Verify; ConfigError with the command that installs it."""
    if find_spec("math_verify") is None:
        raise ConfigError(
            f"task.extractor={Extractor.math.value} needs {PACKAGE}, which is not installed: "
            "pip install 'runner-llm[math]'",
            code="needs_package",
        )
    return version(PACKAGE)


class Expressions(Scorer):
    """Math-Verify's comparison."""

    def find(self, text: str) -> str | None:
        """Return the boxed answer, or else the free one; none if the last box does not end."""
        return boxed(text) if "\\boxed{" in text else free(text[-_TAIL:])

    def find_in_cut_off(self, text: str) -> str | None:
        """Return the boxed answer."""
        return boxed(text)

    def read_gold(self, answer: str) -> str:
        """Return what the last box of a solution holds, or what follows ####, or the whole
        answer."""
        gold = boxed(answer) or answer.rpartition("####")[2].strip()
        if not gold or len(gold) > LONGEST:
            raise ValueError(f"no expression of at most {LONGEST} characters can be found in {answer[:60]!r}")
        return gold

    def is_right(self, answer: str, gold: str) -> bool:
        """Whether an answer is equal to the right one."""
        return compared(answer, (gold,))[0] is not None

    def why_not(self, answer: str, gold: str) -> str:
        """Say why an answer could not be compared; empty if it was."""
        return compared(answer, (gold,))[1]

    def among(self, answer: str, others: Sequence[str]) -> str:
        """Return the first of other answers that this one is equal to, else itself."""
        index, _ = compared(answer, tuple(others)) if others else (None, "")
        return answer if index is None else others[index]

    def close(self) -> None:
        """End the process."""
        PROCESS.close()


def boxed(text: str) -> str | None:
    """Return what the last box holds; of boxes that follow each other directly, all of them."""
    found: list[str] = []
    while (content := last_box(text)) or not found:
        start = text.rfind("\\boxed{")
        if start < 0 or (found and not _JOINED.fullmatch(text, start + len("\\boxed{") + len(content) + 1)):
            break
        found.insert(0, content.strip())
        text = text[:start]
        if len(found) > 16:
            break
    return _kept(", ".join(filter(None, found)))


def free(text: str) -> str | None:
    """Return the answer in a text without a box."""
    if (mark := last(_MARK.finditer(text))) is not None:
        rest = text[mark.end() :].lstrip()
        formula = _FORMULA.match(rest)
        end = _END.search(rest)
        sentence = rest[: end.start()] if end else rest
        if formula is None and (within := _FORMULA.search(sentence)):
            formula = within
        return _kept(_content(formula) if formula else sentence)
    if (formula := last(_FORMULA.finditer(text))) is not None:
        return _kept(_content(formula))
    lines = text.strip().splitlines()
    if lines and not re.search(r"[a-zA-Z]{3,}", lines[-1]):
        return _kept(lines[-1])
    return extract(text, numbers, Extractor.flexible)


def _content(formula: re.Match[str]) -> str:
    return str(next(filter(None, formula.groups())))


def _kept(text: str) -> str | None:
    text = text[: LONGEST + 1].strip().strip("*").strip("$").strip()
    return text or None


# ---------------------------------------------------------------------------------------- comparing


@lru_cache(maxsize=65_536)
def compared(answer: str, among: tuple[str, ...]) -> tuple[int | None, str]:
    """Return which of the expressions is equal to an answer, or why that is not known."""
    if answer in among:
        return among.index(answer), ""
    if len(answer) > LONGEST:
        return None, f"is longer than {LONGEST:,} characters"
    if _is_too_deep(answer):
        return None, f"is nested more than {DEEPEST} deep"
    with suppress(ValueError):  # it is the usual case that all are numbers
        number = numbers.plain_number(answer)
        others = [numbers.plain_number(other) for other in among]
        return (others.index(number) if number in others else None), ""
    return PROCESS.ask(answer, among)


def _is_too_deep(text: str) -> bool:
    depth = 0
    for bracket in re.findall(r"[({\[\]})]", text):
        depth = depth + 1 if bracket in "({[" else max(0, depth - 1)
        if depth > DEEPEST:
            return True
    return re.search(rf"(?:[-+]\s*){{{DEEPEST}}}", text) is not None


class Process:
    """The process that compares, which starts when it is asked first; several threads may ask."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, answer: str, among: Sequence[str]) -> tuple[int | None, str]:
        """Ask which expression is equal to an answer; start the process again if it has died."""
        request = json.dumps([among, answer]).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                if self._process is None:
                    module = "runner.scorers.expressions_child"
                    self._process = child.start(
                        "-m", module, is_trusted=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                    )
                assert self._process.stdin is not None
                assert self._process.stdout is not None
                with suppress(BrokenPipeError):
                    self._process.stdin.write(request)
                    self._process.stdin.flush()
                if line := self._process.stdout.readline():
                    index, why = json.loads(line)
                    return index, why
                code = self._end()
        raise JobFailed(
            f"the process that compares answers {child.describe_exit(code)}",
            key="task.extractor",
            value="math",
            code="failed",
        )

    def close(self) -> None:
        """End the process, if it runs."""
        with self._lock:
            self._end()

    def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.communicate()  # closes its stdin
        return process.returncode


PROCESS = Process()
