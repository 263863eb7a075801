"""Computes how many distractor functions fit into each context length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.tasks.tools.cases import Case
from runner.tasks.tools.distractors import MOST
from runner_base import ConfigError

ROOM = "generation.max_new_tokens"
# the tokens of cases, each with so many further functions
PromptTokenCounter = Callable[[Sequence[tuple[Case, int]]], list[int]]


def find_max_distractor_functions(
    cases: Sequence[Case], length: int, answer_tokens: int, count_prompt_tokens: PromptTokenCounter
) -> int:
    """Return the largest number of distractor functions with which every prompt fits the context length.

    All cases get the same number of functions, so that the prompts share a prefix.
    """
    room = length - answer_tokens
    tokens = count_prompt_tokens([(case, 0) for case in cases])
    longest = max(range(len(cases)), key=tokens.__getitem__)
    if tokens[longest] > room:
        raise ConfigError(
            (
                f"the prompt of question {cases[longest].id} needs {tokens[longest]:,} tokens without "
                f"distractors. The answer needs {answer_tokens:,} more ({ROOM}). "
                f"Set at least {tokens[longest] + answer_tokens:,}"
            ),
            key="task.context_lengths",
            value=length,
            code="too_large",
        )
    low, high = 0, None
    while high is None or high - low > 1:
        middle = min(MOST, max(1, 2 * low)) if high is None else (low + high) // 2
        if count_prompt_tokens([(cases[longest], middle)])[0] <= room:
            low = middle
            if middle == MOST:
                break
        else:
            high = middle
    while (
        low and max(count_prompt_tokens([(case, low) for case in cases])) > room
    ):  # another case may be longer beside so many
        low -= 1
    return low
