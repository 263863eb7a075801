"""The steps of a problem's worked answer."""

import re
from typing import NamedTuple

from runner.datasets.word_problems import Problem

_SUM = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


class Step(NamedTuple):
    """One line of a worked answer in its parts; `line` has {sum} in place of `3+4=7`."""

    line: str
    left: int
    sign: str
    right: int
    value: int


def steps_of(one: Problem) -> list[Step]:
    """Split a worked answer into its steps."""
    steps = []
    for line in one.answer.splitlines()[:-1]:
        match = _SUM.search(line)
        assert match is not None, line
        left, sign, right, value = match.groups()
        steps.append(Step(_SUM.sub("{sum}", line), int(left), sign, int(right), int(value)))
    return steps
