"""Recall kind `count`: count an event in a text that also contains similar events."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from runner.tasks.recall.cases import (
    Case,
    CaseSettings,
    RenderedCase,
    ValueForm,
    insert_needles_into_filler,
    random_word_pair,
)

EVENT = "The bell of the {name} rang."
BEFORE = (
    "Bells ring in the following text. Count how often each of them rings. I will ask you "
    "about one of them afterwards."
)
QUESTION = (
    "How many times did the bell of the {name} ring in the provided text? End with '#### ' and the number."
)
BEGINNING = "The number of times is ####"
FEWEST, MOST = 2, 9


def draw_counting_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases that ask how often one of two bells rings in a text."""
    for number in settings.case_numbers:
        random = settings.create_random(number)
        asked, other = random.sample([random_word_pair(random) for _ in range(20)], 2)
        while other == asked:
            other = random_word_pair(random)
        times = random.randint(FEWEST, MOST)
        events = [EVENT.format(name=asked)] * times + [EVENT.format(name=other)] * random.randint(
            FEWEST, MOST
        )
        needles = [(random.random(), event) for event in events]
        yield Case(settings.kind, number, None, partial(_render_case, settings, needles, asked, times))


def _render_case(
    settings: CaseSettings, needles: list[tuple[float, str]], name: str, num_rings: int, num_units: int
) -> RenderedCase:
    context = insert_needles_into_filler(settings.filler, num_units, needles)
    return RenderedCase(
        BEFORE, context, QUESTION.format(name=name), BEGINNING, (str(num_rings),), ValueForm.total
    )
