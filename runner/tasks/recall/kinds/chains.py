"""Recall kind `chain`: a text contains chains of variable assignments. The model names the
variables with a given value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from string import ascii_uppercase

from runner.tasks.recall.cases import (
    Case,
    CaseSettings,
    RenderedCase,
    ValueForm,
    evenly_spaced_depths,
    insert_needles_into_filler,
)

BEFORE = "Memorize and track the chains of variable assignment hidden in the following text."
QUESTION = "Find all variables that are assigned the value {value} in the text above."
BEGINNING = "The variables that are assigned the value {value} are"
LETTERS = 5


def draw_chain_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases with two chains of variable assignments, spread evenly over the text. Each chain has
    task.needles variables.
    """
    for number in settings.case_numbers:
        random = settings.create_random(number)
        names: list[str] = []
        while len(names) < 2 * settings.needles:
            name = "".join(random.choices(ascii_uppercase, k=LETTERS))
            if name not in names and name not in settings.filler:
                names.append(name)
        values = random.sample(range(10_000, 100_000), 2)
        chains = [names[: settings.needles], names[settings.needles :]]
        sentences = [
            sentence
            for both in zip(*map(_assignment_sentences, chains, values), strict=True)
            for sentence in both
        ]
        places = evenly_spaced_depths(len(sentences))
        needles = list(zip(places, sentences, strict=True))
        yield Case(
            settings.kind, number, None, partial(_render_case, settings, needles, values[0], chains[0], names)
        )


def _assignment_sentences(names: Sequence[str], value: int) -> list[str]:
    later = [f"VAR {name} = VAR {before}." for before, name in pairwise(names)]
    return [f"VAR {names[0]} = {value}.", *later]


def _render_case(
    settings: CaseSettings,
    needles: Sequence[tuple[float, str]],
    assigned_value: int,
    gold: Sequence[str],
    variable_names: list[str],
    num_units: int,
) -> RenderedCase:
    context = insert_needles_into_filler(settings.filler, num_units, needles)
    question, beginning = QUESTION.format(value=assigned_value), BEGINNING.format(value=assigned_value)
    return RenderedCase(
        BEFORE, context, question, beginning, tuple(gold), ValueForm.known, frozenset(variable_names)
    )
