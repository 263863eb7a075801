"""Recall kinds with needles: named values hidden in filler text, worded as in RULER (arXiv
2404.06654).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

from runner.tasks.recall.cases import (
    Case,
    CaseSettings,
    RenderedCase,
    ValueForm,
    evenly_spaced_depths,
    insert_needles_into_filler,
    random_word_pair,
)
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS

NEEDLE = "One of the special magic {values} for {key} is: {value}."
BEFORE = (
    "Some special magic {values} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {values} afterwards."
)
QUESTION = "What are all the special magic {values} for {query} mentioned in the provided text?"
BEGINNING = "The special magic {values} for {query} mentioned in the provided text are"
BEFORE_ONE = (
    "A special magic {value} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{value} afterwards."
)
QUESTION_OF_ONE = "What is the special magic {value} for {query} mentioned in the provided text?"
BEGINNING_OF_ONE = "The special magic {value} for {query} mentioned in the provided text is"
FORMS = {"numbers": ValueForm.number, "words": ValueForm.pair, "uuids": ValueForm.uuid}
DIGITS = 7
Needle = tuple[float, str, str]  # depth, key, value


def draw_single_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases with a single needle, one case for each depth."""
    for depth in settings.depths:
        for number in settings.case_numbers:
            random = settings.create_random(depth, number)
            ((key, value),) = _draw_needle_names_and_values(random, settings, 1)
            yield Case(
                settings.kind, number, depth, partial(_render_case, settings, [(depth, key, value)], [key])
            )


def draw_shared_text_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw one text with a needle at each depth. Each case asks for one of the needles."""
    for number in settings.case_numbers:
        drawn = _draw_needle_names_and_values(settings.create_random(number), settings, len(settings.depths))
        needles = [(depth, key, value) for depth, (key, value) in zip(settings.depths, drawn, strict=True)]
        for depth, key, _ in needles:
            yield Case(settings.kind, number, depth, partial(_render_case, settings, needles, [key]))


def draw_ask_all_cases(settings: CaseSettings) -> Iterator[Case]:
    for number in settings.case_numbers:
        drawn = _draw_needle_names_and_values(settings.create_random(number), settings, settings.needles)
        needles = [
            (depth, key, value)
            for depth, (key, value) in zip(evenly_spaced_depths(settings.needles), drawn, strict=True)
        ]
        yield Case(
            settings.kind,
            number,
            None,
            partial(_render_case, settings, needles, [key for _, key, _ in needles]),
        )


def draw_multikey_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases with one needle at each depth, and distractor needles with similar names."""
    for depth in settings.depths:
        for number in settings.case_numbers:
            random = settings.create_random(depth, number)
            ((key, value),) = _draw_needle_names_and_values(random, settings, 1)
            others = _draw_similar_names(random, key, settings.needles - 1)
            values = _draw_needle_values(random, settings, len(others), {value})
            needles = [(depth, key, value)]
            needles += [(random.random(), other, wrong) for other, wrong in zip(others, values, strict=True)]
            yield Case(settings.kind, number, depth, partial(_render_case, settings, needles, [key]))


def draw_needle_value(random: Random, value_type: str) -> str:
    """Draw a random needle value of the given type, as RULER does."""
    if value_type == "numbers":
        return str(random.randint(10 ** (DIGITS - 1), 10**DIGITS - 1))
    if value_type == "uuids":
        return str(uuid.UUID(int=random.getrandbits(128), version=4))
    return random_word_pair(random)


def format_needle_prompt(
    value_type: str, needle_names: Sequence[str], is_single_value: bool
) -> tuple[str, str, str]:
    """Return the instructions, the question, and the prefix of the answer."""
    query = (
        needle_names[0]
        if len(needle_names) == 1
        else f"{', '.join(needle_names[:-1])}, and {needle_names[-1]}"
    )
    if is_single_value:
        value = value_type.removesuffix("s")
        return (
            BEFORE_ONE.format(value=value),
            QUESTION_OF_ONE.format(value=value, query=query),
            BEGINNING_OF_ONE.format(value=value, query=query),
        )
    return (
        BEFORE.format(values=value_type),
        QUESTION.format(values=value_type, query=query),
        BEGINNING.format(values=value_type, query=query),
    )


def _render_case(
    settings: CaseSettings, needles: Sequence[Needle], keys: Sequence[str], num_units: int
) -> RenderedCase:
    sentences = [
        (depth, NEEDLE.format(values=settings.values, key=key, value=value)) for depth, key, value in needles
    ]
    gold = tuple(value for _, key, value in needles if key in keys)
    before, question, beginning = format_needle_prompt(settings.values, keys, len(gold) == 1)
    return RenderedCase(
        before,
        insert_needles_into_filler(settings.filler, num_units, sentences),
        question,
        beginning,
        gold,
        FORMS[settings.values],
    )


def _draw_needle_names_and_values(
    random: Random, settings: CaseSettings, count: int
) -> list[tuple[str, str]]:
    keys: list[str] = []
    while len(keys) < count:
        key = random_word_pair(random)
        if key not in keys and key not in settings.filler:
            keys.append(key)
    return list(zip(keys, _draw_needle_values(random, settings, count, set(keys)), strict=True))


def _draw_needle_values(
    random: Random, settings: CaseSettings, count: int, excluded_values: set[str]
) -> list[str]:
    """Draw distinct values that do not occur elsewhere in the text."""
    values: list[str] = []
    while len(values) < count:
        value = draw_needle_value(random, settings.values)
        if value not in values and value not in excluded_values and value not in settings.filler:
            values.append(value)
    return values


def _draw_similar_names(random: Random, needle_name: str, count: int) -> list[str]:
    """Draw names that share either the first or the second word with the given needle name."""
    adjective, _, noun = needle_name.partition("-")
    with_adjective = [f"{adjective}-{other}" for other in random.sample(NOUNS, count + 1) if other != noun]
    with_noun = [f"{other}-{noun}" for other in random.sample(ADJECTIVES, min(count + 1, len(ADJECTIVES)))]
    by_turns = [
        name for both in zip(with_adjective, with_noun, strict=False) for name in both if name != needle_name
    ]
    return [*by_turns, *with_adjective[len(with_noun) :]][:count]
