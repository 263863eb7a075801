"""RULER's tasks on the most frequent words of a list or text. The prompts equal those of
lm-evaluation-harness 0.4.13.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from math import pi
from random import Random
from string import ascii_lowercase

from runner.tasks.recall.cases import Case, CaseSettings, RenderedCase, ValueForm
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


def draw_common_word_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases with word lists in which ten words occur more often than all others."""
    for number in range(settings.cases):
        most = len(WORDS)
        yield Case(
            settings.kind,
            number,
            None,
            partial(_render_numbered_word_list, settings, number),
            COMMON + 2,
            most,
            has_own_size=True,
        )


def draw_frequent_word_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases with coded words. A word's frequency is proportional to 1 / rank²."""
    for number in range(settings.cases):
        yield Case(
            settings.kind,
            number,
            None,
            partial(_render_numbered_coded_text, settings, number),
            60,
            has_own_size=True,
        )


def _render_numbered_word_list(settings: CaseSettings, number: int, num_words: int) -> RenderedCase:
    random = settings.create_random(number)
    return render_common_words_case(random, random, num_words, settings.length)


def render_common_words_case(
    random: Random, shuffle_random: Random, num_words: int, length: int, words: Sequence[str] = WORDS
) -> RenderedCase:
    """Render a case with `num_words` different words.

    An unused example is drawn first, as in lm-evaluation-harness, to get the same random numbers.
    """
    if length < LONG:
        _draw_word_list(random, shuffle_random, 20, 3, 1, words)
        listed, common = _draw_word_list(random, shuffle_random, num_words, 6, 1, words)
    else:
        _draw_word_list(random, shuffle_random, 40, 10, 3, words)
        listed, common = _draw_word_list(random, shuffle_random, num_words, 30, 3, words)
    context = " ".join(f"{place}. {word}" for place, word in enumerate(listed, 1))
    return RenderedCase(
        BEFORE, context, QUESTION, BEGINNING, tuple(common), ValueForm.known, frozenset(listed)
    )


def _draw_word_list(
    random: Random,
    shuffle_random: Random,
    num_words: int,
    common_repeats: int,
    other_repeats: int,
    words: Sequence[str],
) -> tuple[list[str], list[str]]:
    drawn = random.sample(words, num_words)
    common, others = drawn[:COMMON], drawn[COMMON:]
    listed = common * common_repeats + others * other_repeats
    shuffle_random.shuffle(listed)
    return listed, common


def _render_numbered_coded_text(settings: CaseSettings, number: int, num_words: int) -> RenderedCase:
    return render_frequent_words_case(settings.create_random(number), num_words, settings.length)


def render_frequent_words_case(random: Random, num_words: int, length: int) -> RenderedCase:
    count = length // TOKENS_A_CODED_WORD
    drawn = ["".join(random.choices(ascii_lowercase, k=CODED_LETTERS)) for _ in range(count)]
    while len(set(drawn)) < count:
        drawn.append("".join(random.choices(ascii_lowercase, k=CODED_LETTERS)))
    vocabulary = sorted(set(drawn))
    Random(ORDER_SEED).shuffle(vocabulary)
    vocabulary[0] = DOTS
    counts = [int(num_words * rank**-2.0 / ZETA_OF_2) for rank in range(1, len(vocabulary) + 1)]
    text = [*chain.from_iterable(repeat(word, times) for word, times in zip(vocabulary, counts, strict=True))]
    Random(ORDER_SEED).shuffle(text)
    gold = tuple(vocabulary[1 : 1 + FREQUENT])
    context = CODED.format(text=" ".join(text))
    return RenderedCase(
        "", context, QUESTION_OF_CODED, BEGINNING_OF_CODED, gold, ValueForm.known, frozenset(vocabulary[1:])
    )
