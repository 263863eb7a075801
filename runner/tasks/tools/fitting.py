"""How many further functions each length has room for, with template, question and the room for an
answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.tasks.tools.cases import Case
from runner.tasks.tools.distractors import MOST
from runner_base import ConfigError

ROOM = "generation.max_new_tokens"
# the tokens of cases, each with so many further functions
Count = Callable[[Sequence[tuple[Case, int]]], list[int]]


def further_functions(cases: Sequence[Case], length: int, answer: int, count: Count) -> int:
    """Return how many further functions fit into a length beside any case: as many for all, so that
    they are shared."""
    room = length - answer
    tokens = count([(case, 0) for case in cases])
    longest = max(range(len(cases)), key=tokens.__getitem__)
    if tokens[longest] > room:
        raise ConfigError(
            f"question {cases[longest].id} takes {tokens[longest]:,} tokens in this model's "
            f"template with its own functions, and {ROOM} for the answer {answer:,}: give at least "
            f"{tokens[longest] + answer:,}",
            key="task.fill",
            value=length,
            code="too_large",
        )
    low, high = 0, None
    while high is None or high - low > 1:
        middle = min(MOST, max(1, 2 * low)) if high is None else (low + high) // 2
        if count([(cases[longest], middle)])[0] <= room:
            low = middle
            if middle == MOST:
                break
        else:
            high = middle
    while (
        low and max(count([(case, low) for case in cases])) > room
    ):  # another case may be longer beside so many
        low -= 1
    return low
