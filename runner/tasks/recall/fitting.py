"""How much text each case gets: as much as fits into its length, with template, question and the
room for an answer.

The cases of a kind and a length have the same amount of filler, so that they share its beginning. A
case whose text is its own has a size of its own. Sizes are found by counting prompts in the model's
own tokens, a few lists of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.tasks.recall.cases import Asked, Case
from runner_base import ConfigError

Count = Callable[[Sequence[Asked]], list[int]]  # the tokens of each prompt as the model sees it
ROUNDS = 60  # of counting; bisection alone needs fewer for any text
NEAR = 0.005  # of the room may stay empty, if that saves counting


@dataclass
class Group:
    """Cases of one length that have the same size."""

    length: int
    room: int  # for the prompt
    cases: list[Case]
    size: int = 0
    text: int | None = None  # the haystack, where there are several
    low: int = 0  # a size that fits, and its tokens
    low_tokens: int = 0
    high: int | None = None  # a size that does not fit
    high_tokens: int = 0

    def note(self, tokens: int) -> None:
        """Note how many tokens the size took."""
        if tokens <= self.room:
            self.low, self.low_tokens = self.size, tokens
        else:
            self.high, self.high_tokens = self.size, tokens

    @property
    def is_found(self) -> bool:
        """Whether no larger size fits, or hardly any text would be won."""
        most = self.cases[0].most
        is_near = self.low_tokens >= self.room * (1 - NEAR)
        return is_near or self.low == most or (self.high is not None and self.high <= self.low + 1)

    def next_size(self, guess: int) -> int:
        """Return the size to try next: where a line through what is known reaches the room."""
        most = self.cases[0].most
        if self.high is None:
            largest = max(guess, self.low + 1) if self.low_tokens == 0 or self.low < guess else 2 * self.low
            return min(largest, most) if most is not None else largest
        slope = (self.high_tokens - self.low_tokens) / (self.high - self.low)
        size = self.low + int((self.room - self.low_tokens) / slope)
        return min(max(size, self.low + 1), self.high - 1)


def fit(groups: Sequence[Group], guess: Callable[[Group, int], int], count: Count, room_words: str) -> None:
    """Find the size of each group; ConfigError where not even the smallest one fits.

    `guess` says for a group and a number of tokens about how large a text of them is.
    """
    for group in groups:
        group.size = max(case.least for case in group.cases)
    longest: dict[
        int, Case
    ] = {}  # the case of each group with the longest prompt, by which the size is found
    for number, tokens in enumerate(_tokens_of_all(groups, count)):
        group, most = groups[number], max(tokens)
        if most > group.room:
            raise too_short(group, most, room_words)
        group.note(most)
        longest[number] = group.cases[tokens.index(most)]
    for _ in range(ROUNDS):
        open_numbers = [number for number, group in enumerate(groups) if not group.is_found]
        if not open_numbers:
            break
        for number in open_numbers:
            group = groups[number]
            group.size = group.next_size(group.size + guess(group, group.room - group.low_tokens))
        counted = count([longest[number].at(groups[number].size) for number in open_numbers])
        for number, tokens_of_case in zip(open_numbers, counted, strict=True):
            groups[number].note(tokens_of_case)
    _let_all_fit(groups, count)


def _let_all_fit(groups: Sequence[Group], count: Count) -> None:
    """Take the found sizes, and smaller ones where another case of a group turns out to be
    longer."""
    for group in groups:
        group.size = group.low
    left = [*groups]
    while left:
        tokens = _tokens_of_all(left, count)
        left = [group for group, of_cases in zip(left, tokens, strict=True) if max(of_cases) > group.room]
        for group in left:
            group.size -= 1


def _tokens_of_all(groups: Sequence[Group], count: Count) -> list[list[int]]:
    """Count every case of some groups at once."""
    counted = iter(count([case.at(group.size) for group in groups for case in group.cases]))
    return [[next(counted) for _ in group.cases] for group in groups]


def too_short(group: Group, tokens: int, room_words: str) -> ConfigError:
    """Say that a length has no room for a case's question."""
    answer = group.length - group.room
    return ConfigError(
        f"a question of task.kinds={group.cases[0].kind} takes {tokens:,} tokens in this "
        f"model's template with the least text, and {room_words} for the answer {answer:,}: give at least "
        f"{tokens + answer:,}",
        key="task.lengths",
        value=group.length,
        code="too_large",
    )
