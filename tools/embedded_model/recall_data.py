"""What the adapter that retrieves is trained on: needles of task=recall, spread over all positions of the model.

Most texts are short, and what stands before the needle, the needle, and what stands behind it are moved apart by gaps
in the positions, so that every distance up to MAX_POSITION is seen for the price of a few hundred tokens (as PoSE does,
arXiv 2309.10400). Later every other batch is of long texts, in which the needle is one sentence of many. Some examples
are word problems, so that these are not forgotten. Names and values are drawn by other seeds than any job's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

import torch

from runner.tasks.recall.cases import Asked, Recipe
from runner.tasks.recall.fillers import Filler, measured, read_filler
from runner.tasks.recall.kinds import drawn_by
from tools.embedded_model.data import Example, Piece, base_example, chat_turn
from tools.embedded_model.fit import Batch, collate, encode
from tools.embedded_model.tokenizer import MAX_POSITION, TURN_END, TURN_START

TRAINING, SCORES = "training", "scores"  # begin the seeds of needles here; those of jobs are numbers
PROBLEM_SHARE = 0.2  # word problems, of the short examples
SEVERAL_SHARE = 0.2  # two or three needles, of which one is asked for
NO_GAPS_SHARE = 0.15
SHORT_UNITS = (2, 6)  # sentences of noise in a short text
LONG_TOKENS = (300, 860)  # of noise in a long text
LONG_FROM = 0.4  # of all steps: from there on every other batch is of long texts
SHORT_ROWS, LONG_ROWS = 8, 2


class Spread(NamedTuple):
    """An example, and how many positions are left out before each of its pieces."""

    example: Example
    gaps: list[int]


class Needles:
    """Cases of task=recall as examples: a function of the seed, the number and the length."""

    def __init__(self, tokenizer: Any, seed: str) -> None:
        self.tokenizer, self.seed = tokenizer, seed

    @cached_property
    def filler(self) -> Filler:
        """The noise with the tokens of each of its sentences."""
        return measured(read_filler("noise", MAX_POSITION), lambda texts: [self.tokens_of(text) for text in texts])

    def asked(self, number: int, units: int) -> Asked:
        """Return a case in so many sentences of noise."""
        random = Random(f"{self.seed}/{number}")
        kind, depths = "single", [random.random()]
        if random.random() < SEVERAL_SHARE:
            kind, depths = "several_asked_one", sorted(random.random() for _ in range(random.randint(2, 3)))
        # a recipe's seed is only ever written into a text
        recipe = Recipe(kind, f"{self.seed}/{number}", 1, depths, "numbers", 4, self.filler)  # type: ignore[arg-type]
        return random.choice([*drawn_by(kind)(recipe)]).at(units)

    def filling(self, number: int, tokens: int) -> Asked:
        """Return a case in as much noise as fits into so many tokens, with template and answer."""
        units = SHORT_UNITS[0]
        while self._size(number, units + 1) <= tokens:
            units += max(1, self.filler.size_of(tokens - self._size(number, units)) // 2)
        return self.asked(number, units)

    def _size(self, number: int, units: int) -> int:
        return sum(self.tokens_of(piece.text) for piece in needle_example(self.asked(number, units)))

    def tokens_of(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)


def needle_example(asked: Asked) -> Example:
    """Return a case as a turn of a chat, answered in the needle's own words: a name, and behind it its value."""
    name = asked.question.partition(" for ")[2].partition(" mentioned")[0]
    turn = chat_turn("user", asked.text)
    needle = turn.index(f"for {name} is: {asked.gold[0]}.")
    start = turn.rindex("One of", 0, needle)
    end = turn.index(".", needle) + 1
    parts = (turn[: start - 1], turn[start - 1 : end], f"{turn[end:]}{TURN_START}assistant\n")
    return [
        *(Piece(part, False, is_given=True) for part in parts),
        Piece(f"{name} is: {asked.gold[0]}.{TURN_END}", True),
    ]


def spread(needles: Needles, number: int, units: int) -> Spread:
    """Return a case with gaps before the needle and behind it, of any size that the positions have room for."""
    example = needle_example(needles.asked(number, units))
    random = Random(f"{needles.seed}/{number}/gaps")
    free = max(0, MAX_POSITION - 1 - sum(needles.tokens_of(piece.text) for piece in example))
    if random.random() < NO_GAPS_SHARE:
        free = 0
    behind = int(free * random.random())  # every distance of the needle is as likely
    before = int((free - behind) * random.random())
    return Spread(example, [0, before, behind, 0])


def batches(tokenizer: Any, steps: int, seed: int) -> Iterator[Batch]:
    """Yield batches of about as many tokens each."""
    needles, number = Needles(tokenizer, f"{TRAINING}/{seed}"), 0
    for step in range(steps):
        random = Random(f"{TRAINING}/{seed}/batch/{step}")
        is_long = step >= LONG_FROM * steps and step % 2 == 1
        examples = []
        for row in range(LONG_ROWS if is_long else SHORT_ROWS):
            if is_long:
                units = needles.filler.size_of(random.randint(*LONG_TOKENS))
                examples.append(spread(needles, number + row, units))
            elif random.random() < PROBLEM_SHARE:
                problem = base_example(number + row, seed + 5)
                examples.append(Spread(problem, [0 for _ in problem]))
            else:
                examples.append(spread(needles, number + row, random.randint(*SHORT_UNITS)))
        number += len(examples)
        yield positioned(tokenizer, examples)


def positioned(tokenizer: Any, examples: Sequence[Spread]) -> Batch:
    """Return examples as a batch with the position of each token."""
    rows = [encode(tokenizer, one.example) for one in examples]
    batch = collate(rows)
    positions = torch.zeros_like(batch.ids)
    for row, one in enumerate(examples):
        moved: list[int] = []
        for piece, gap in zip(one.example, accumulate(one.gaps), strict=True):
            count = len(tokenizer.backend_tokenizer.encode(piece.text, add_special_tokens=False).ids)
            moved += range(len(moved) + gap, len(moved) + gap + count)
        length = len(rows[row][0])
        positions[row, :length] = torch.tensor(moved[:length])
        positions[row, length:] = moved[length - 1]
    return replace(batch, positions=positions)
