"""RULER's lists of words: which are the most common ones, string for string as in
lm-evaluation-harness 0.4.13."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from math import pi
from random import Random
from string import ascii_lowercase

from runner.tasks.recall.cases import Asked, Case, Form, Recipe
from runner.tasks.recall.kinds.ruler_niah import PAIRS
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS

LONG = 4096  # tokens, from which on words are repeated more often
COMMON = 10  # words are asked for
ORDER_SEED = 42
BEFORE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often."
)
QUESTION = "Question: What are the 10 most common words in the above list?"
BEGINNING = "Answer: The top 10 words that appear most often in the list are:"
CODED = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {text}"
)
QUESTION_OF_CODED = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
    "appeared words in the above coded text?"
)
BEGINNING_OF_CODED = (
    "Answer: According to the coded text above, the three most frequently appeared words are:"
)
CODED_LETTERS = 6
FREQUENT = 3  # words are asked for
TOKENS_A_CODED_WORD = 50  # of the length, for each word of the vocabulary
ZETA_OF_2 = pi**2 / 6
DOTS = "..."  # instead of the most frequent word: noise
WORDS = sorted({*ADJECTIVES, *NOUNS, *PAIRS})


def common_words(recipe: Recipe) -> Iterator[Case]:
    """Draw lists in which ten words appear more often than the others."""
    for number in range(recipe.cases):
        most = len(WORDS)
        yield Case(
            recipe.kind, number, None, partial(_common, recipe, number), COMMON + 2, most, has_own_size=True
        )


def frequent_words(recipe: Recipe) -> Iterator[Case]:
    """Draw texts of coded words, whose frequencies fall with the square of their rank."""
    for number in range(recipe.cases):
        yield Case(recipe.kind, number, None, partial(_frequent, recipe, number), 60, has_own_size=True)


def _common(recipe: Recipe, number: int, size: int) -> Asked:
    """Return a list with so many different words."""
    random = recipe.random(number)
    return common_by(random, random, size, recipe.length)


def common_by(random: Random, order: Random, size: int, length: int, words: Sequence[str] = WORDS) -> Asked:
    """Return what these random numbers make of so many words; the harness draws an example first,
    and sends none."""
    if length < LONG:
        _list(random, order, 20, 3, 1, words)
        listed, common = _list(random, order, size, 6, 1, words)
    else:
        _list(random, order, 40, 10, 3, words)
        listed, common = _list(random, order, size, 30, 3, words)
    context = " ".join(f"{place}. {word}" for place, word in enumerate(listed, 1))
    return Asked(BEFORE, context, QUESTION, BEGINNING, tuple(common), Form.known, frozenset(listed))


def _list(
    random: Random, order: Random, size: int, of_common: int, of_others: int, words: Sequence[str]
) -> tuple[list[str], list[str]]:
    drawn = random.sample(words, size)
    common, others = drawn[:COMMON], drawn[COMMON:]
    listed = common * of_common + others * of_others
    order.shuffle(listed)
    return listed, common


def _frequent(recipe: Recipe, number: int, size: int) -> Asked:
    """Return a text of about so many coded words."""
    return frequent_by(recipe.random(number), size, recipe.length)


def frequent_by(random: Random, size: int, length: int) -> Asked:
    """Return what these random numbers make of about so many coded words."""
    count = length // TOKENS_A_CODED_WORD
    drawn = ["".join(random.choices(ascii_lowercase, k=CODED_LETTERS)) for _ in range(count)]
    while len(set(drawn)) < count:
        drawn.append("".join(random.choices(ascii_lowercase, k=CODED_LETTERS)))
    vocabulary = sorted(set(drawn))
    Random(ORDER_SEED).shuffle(vocabulary)
    vocabulary[0] = DOTS
    counts = [int(size * rank**-2.0 / ZETA_OF_2) for rank in range(1, len(vocabulary) + 1)]
    text = [*chain.from_iterable(repeat(word, times) for word, times in zip(vocabulary, counts, strict=True))]
    Random(ORDER_SEED).shuffle(text)
    gold = tuple(vocabulary[1 : 1 + FREQUENT])
    context = CODED.format(text=" ".join(text))
    return Asked(
        "", context, QUESTION_OF_CODED, BEGINNING_OF_CODED, gold, Form.known, frozenset(vocabulary[1:])
    )
