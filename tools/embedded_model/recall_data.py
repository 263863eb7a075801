"""What the adapter that retrieves is trained on: needles of task=recall, spread over all positions
of the model.

Most texts are short, and what stands before the needle, the needle with some noise, and what stands behind it are moved
apart by gaps in the positions, so that far needles are seen for the price of a few hundred tokens (as PoSE does, arXiv
2309.10400). In the second half of the training every fifth batch is of long texts, in which the needle is one sentence
of many. Names and values are drawn by other seeds than any job's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, pairwise
from random import Random
from typing import Any, NamedTuple

import torch

from runner.tasks.recall.cases import Case, CaseSettings, RenderedCase
from runner.tasks.recall.fillers import Filler, build_filler, read_filler_units
from runner.tasks.recall.kinds import load_case_generator
from tools.embedded_model.data import Example, Piece, chat_turn
from tools.embedded_model.fit import Batch, collate, encode
from tools.embedded_model.tokenizer import MAX_POSITION, TURN_END, TURN_START

# begin the seeds of needles here; those of jobs are numbers
TRAINING, SCORES = ("training", "scores")
SEVERAL_SHARE = 0.2  # two or three needles, of which one is asked for
NO_GAPS_SHARE = 0.15
SHORT_UNITS = (2, 6)  # sentences of noise in a short text
LONG_TOKENS = (300, 860)  # of noise in a long text
# from which share of the steps on, and every how many steps, a batch is of long texts
LONG_FROM, LONG_EVERY = (0.5, 5)
SHORT_ROWS, LONG_ROWS = 8, 2
NUMBERS_A_STEP = 1000  # by which the numbers of examples go on
NEEDLE, QUESTION = "One of the special", "\nWhat is"  # how a needle and the question begin


class Spread(NamedTuple):
    """An example, and how many positions are left out before each of its pieces."""

    example: Example
    gaps: list[int]


class Needles:
    """Cases of task=recall as examples: a function of the seed, the number and the size."""

    def __init__(self, tokenizer: Any, seed: str) -> None:
        self.tokenizer, self.seed = tokenizer, seed

    @cached_property
    def filler(self) -> Filler:
        """The noise with the tokens of each of its sentences."""
        return build_filler(
            read_filler_units("noise", MAX_POSITION), lambda texts: [self.tokens_of(text) for text in texts]
        )

    def asked(self, number: int, units: int) -> RenderedCase:
        """Return a case in so many sentences of noise."""
        return self._case(number, self._random(number)).at(units)

    def spread(self, number: int, is_long: bool) -> Spread:
        """Return a case with gaps in its positions, of any size that these have room for."""
        random = self._random(number)
        case = self._case(number, random)
        units = (
            self.filler.count_units_for_tokens(random.randint(*LONG_TOKENS))
            if is_long
            else random.randint(*SHORT_UNITS)
        )
        prompt, turn, answer = example_of(case.at(units))
        example = [*_parts(prompt, random), turn, answer]
        free = max(0, MAX_POSITION - 1 - sum(self.tokens_of(piece.text) for piece in example))
        left_out = 0 if random.random() < NO_GAPS_SHARE else int(free * random.random())
        before = int(left_out * random.random())
        return Spread(example, [0, before, left_out - before, 0, 0])

    def filling(self, number: int, tokens: int) -> RenderedCase:
        """Return a case in as much noise as fits into so many tokens, with template and answer."""
        units = SHORT_UNITS[0]
        while self._size(number, units + 1) <= tokens:
            units += max(1, self.filler.count_units_for_tokens(tokens - self._size(number, units)) // 2)
        return self.asked(number, units)

    def tokens_of(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def _random(self, number: int) -> Random:
        return Random(f"{self.seed}/{number}")

    def _case(self, number: int, random: Random) -> Case:
        kind, depths = "single", []
        if random.random() < SEVERAL_SHARE:
            kind = "several_asked_one"
            depths = sorted(random.random() for _ in range(random.randint(2, 3)))
        # a recipe's seed is only ever written into a text
        seed: Any = f"{self.seed}/{number}"
        recipe = CaseSettings(kind, seed, 1, depths or [random.random()], "numbers", 4, self.filler)
        return random.choice([*load_case_generator(kind)(recipe)])

    def _size(self, number: int, units: int) -> int:
        return sum(self.tokens_of(piece.text) for piece in example_of(self.asked(number, units)))


def example_of(asked: RenderedCase) -> Example:
    """Return a case as a turn of a chat, answered in the needle's own words: a name, and behind it
    its value."""
    name = asked.question.partition(" for ")[2].partition(" mentioned")[0]
    return [
        Piece(chat_turn("user", asked.prompt_text), False, is_given=True),
        Piece(f"{TURN_START}assistant\n", False, is_given=True),
        Piece(f"{name} is: {asked.gold[0]}.{TURN_END}", True),
    ]


def batches(tokenizer: Any, steps: int, seed: int) -> Iterator[Batch]:
    """Yield the batch of each step, all of about as many tokens."""
    needles = Needles(tokenizer, f"{TRAINING}/{seed}")
    for step in range(1, steps + 1):
        is_long = step > LONG_FROM * steps and step % LONG_EVERY == 0
        first = step * NUMBERS_A_STEP
        rows = LONG_ROWS if is_long else SHORT_ROWS
        yield positioned(tokenizer, [needles.spread(first + row, is_long) for row in range(rows)])


def positioned(tokenizer: Any, examples: Sequence[Spread]) -> Batch:
    """Return examples as a batch with the position of each token."""
    rows = [encode(tokenizer, one.example) for one in examples]
    batch = collate(rows)
    positions = torch.zeros_like(batch.ids)
    for row, one in enumerate(examples):
        moved: list[int] = []
        for piece, gap in zip(one.example, accumulate(one.gaps), strict=True):
            count = len(encode(tokenizer, [piece])[0])
            moved += range(len(moved) + gap, len(moved) + gap + count)
        length = len(rows[row][0])
        positions[row, :length] = torch.tensor(moved[:length])
        positions[row, length:] = moved[length - 1]
    return replace(batch, positions=positions)


def _parts(prompt: Piece, random: Random) -> list[Piece]:
    """Cut a prompt before its first needle and at the end of a sentence behind that."""
    text = prompt.text
    start = text.index(NEEDLE)
    end = text.index(QUESTION, start)
    ends = [at for at in range(start, end) if text[at : at + 2] in (". ", ".\n")]
    cuts = (0, start - 1, random.choice(ends) + 1 if ends else end, len(text))
    return [prompt._replace(text=text[begin:stop]) for begin, stop in pairwise(cuts)]
