"""Finds how much filler text fits each configured length, besides chat template, question and answer.

The cases of a kind and a length have the same amount of filler, so that they share a prefix. A
case with its own text has its own size. Sizes are found by counting prompts in the model's own
tokens, in a few batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.tasks.recall.cases import Case, RenderedCase
from runner_base import ConfigError

# the tokens of each prompt as the model sees it
PromptTokenCounter = Callable[[Sequence[RenderedCase]], list[int]]
ROUNDS = 60  # of counting; bisection alone needs fewer for any text
NEAR = 0.005  # of the room may stay empty, if that saves counting


@dataclass
class SizeGroup:
    """Recall cases of equal text size, and the state of the binary search for this size."""

    length: int
    room: int  # for the prompt
    cases: list[Case]
    size: int = 0
    text: int | None = None  # the haystack, where there are several
    low: int = 0  # a size that fits, and its tokens
    low_tokens: int = 0
    high: int | None = None  # a size that does not fit
    high_tokens: int = 0

    def record_tokens(self, num_tokens: int) -> None:
        """Record the number of tokens at the size that was just tested."""
        if num_tokens <= self.room:
            self.low, self.low_tokens = self.size, num_tokens
        else:
            self.high, self.high_tokens = self.size, num_tokens

    @property
    def is_size_search_finished(self) -> bool:
        """Whether the binary search has ended, because the largest possible text is found or nearly found."""
        most = self.cases[0].most
        is_near = self.low_tokens >= self.room * (1 - NEAR)
        return is_near or self.low == most or (self.high is not None and self.high <= self.low + 1)

    def propose_next_text_size(self, initial_estimate: int) -> int:
        """Return the next size to test, interpolated linearly towards the token limit."""
        most = self.cases[0].most
        if self.high is None:
            largest = (
                max(initial_estimate, self.low + 1)
                if self.low_tokens == 0 or self.low < initial_estimate
                else 2 * self.low
            )
            return min(largest, most) if most is not None else largest
        slope = (self.high_tokens - self.low_tokens) / (self.high - self.low)
        size = self.low + int((self.room - self.low_tokens) / slope)
        return min(max(size, self.low + 1), self.high - 1)


def set_largest_fitting_text_sizes(
    groups: Sequence[SizeGroup],
    estimate_size: Callable[[SizeGroup, int], int],
    count_case_tokens: PromptTokenCounter,
    answer_room_source: str,
) -> None:
    """Set the text size of each group to the largest one whose prompts fit the group's context length.
    Raises ConfigError if even the smallest text is too long.

    `estimate_size` estimates the size of a text with a given number of tokens.
    """
    for group in groups:
        group.size = max(case.least for case in group.cases)
    longest: dict[
        int, Case
    ] = {}  # the case of each group with the longest prompt, by which the size is found
    for number, tokens in enumerate(_count_prompt_tokens_by_group(groups, count_case_tokens)):
        group, most = groups[number], max(tokens)
        if most > group.room:
            raise build_prompt_too_long_error(group, most, answer_room_source)
        group.record_tokens(most)
        longest[number] = group.cases[tokens.index(most)]
    for _ in range(ROUNDS):
        open_numbers = [number for number, group in enumerate(groups) if not group.is_size_search_finished]
        if not open_numbers:
            break
        for number in open_numbers:
            group = groups[number]
            group.size = group.propose_next_text_size(
                group.size + estimate_size(group, group.room - group.low_tokens)
            )
        counted = count_case_tokens([longest[number].at(groups[number].size) for number in open_numbers])
        for number, tokens_of_case in zip(open_numbers, counted, strict=True):
            groups[number].record_tokens(tokens_of_case)
    _set_text_sizes_that_fit(groups, count_case_tokens)


def _set_text_sizes_that_fit(groups: Sequence[SizeGroup], count_case_tokens: PromptTokenCounter) -> None:
    """Set the text sizes that the search found. Reduce a size while one of its prompts is too long."""
    for group in groups:
        group.size = group.low
    left = [*groups]
    while left:
        tokens = _count_prompt_tokens_by_group(left, count_case_tokens)
        left = [group for group, of_cases in zip(left, tokens, strict=True) if max(of_cases) > group.room]
        for group in left:
            group.size -= 1


def _count_prompt_tokens_by_group(
    groups: Sequence[SizeGroup], count_case_tokens: PromptTokenCounter
) -> list[list[int]]:
    """Count the prompt tokens of every case of all groups in one batch."""
    counted = iter(count_case_tokens([case.at(group.size) for group in groups for case in group.cases]))
    return [[next(counted) for _ in group.cases] for group in groups]


def build_prompt_too_long_error(group: SizeGroup, tokens: int, answer_room_source: str) -> ConfigError:
    """Build the error for a context length that is too short even without filler text."""
    answer = group.length - group.room
    return ConfigError(
        (
            f"a prompt of task.kinds={group.cases[0].kind} needs at least {tokens:,} tokens with "
            f"this model's chat template. The answer needs {answer:,} more ({answer_room_source}). "
            f"Set at least {tokens + answer:,}"
        ),
        key="task.lengths",
        value=group.length,
        code="too_large",
    )
