"""RULER's variable tracking task, identical to lm-evaluation-harness 0.4.13 for equal random draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from random import Random
from string import ascii_uppercase

from runner.tasks.recall.cases import Case, CaseSettings, RenderedCase, ValueForm

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
BEFORE = "Memorize and track the chain(s) of variable assignment hidden in the following text."
QUESTION = "Question: Find all variables that are assigned the value {value} in the text above."
# the misspelling is RULER's
BEGINNING = (
    "Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assgined the "
    "value {value}, they are: "
)
HOPS = 4
LETTERS, LETTERS_OF_EXAMPLE = 5, 3
EXAMPLE_SIZE = 5  # lines of noise in the worked example: the least that lm-evaluation-harness takes
IntegerSampler = Callable[[int, int], int]  # of a number from the first one on, below the second


def draw_tracking_cases(settings: CaseSettings) -> Iterator[Case]:
    """Draw cases with one chain of variable assignments, and a worked example before the text."""
    for number in range(settings.cases):
        yield Case(
            settings.kind,
            number,
            None,
            partial(_render_numbered_case, settings, number),
            HOPS + 2,
            has_own_size=True,
        )


def _render_numbered_case(settings: CaseSettings, case_number: int, num_lines: int) -> RenderedCase:
    """Render a case with `num_lines` lines of noise, reproducible by its case number."""
    random = settings.create_random(case_number)
    example = render_variable_tracking_example(random, random.randrange, EXAMPLE_SIZE)
    return render_variable_tracking_case(random, random.randrange, num_lines, example)


def render_variable_tracking_example(random: Random, draw_number: IntegerSampler, num_lines: int) -> str:
    """Render a worked example of variable tracking, with different variable names in each case."""
    context, value, names = _generate_text_with_assignment_chain(
        random, draw_number, num_lines, LETTERS_OF_EXAMPLE
    )
    beginning = BEGINNING.format(count=HOPS + 1, value=value)
    question = QUESTION.format(value=value)
    return f"{BEFORE}\n\n{context}\n{question} {beginning} {' '.join(names)}\n\n"


def render_variable_tracking_case(
    random: Random, draw_number: IntegerSampler, num_lines: int, example: str
) -> RenderedCase:
    context, value, names = _generate_text_with_assignment_chain(random, draw_number, num_lines, LETTERS)
    for name in example.partition(BEGINNING[-10:])[2].split():
        example = example.replace(name, "".join(random.choices(ascii_uppercase, k=len(name))))
    beginning = BEGINNING.format(count=HOPS + 1, value=value).strip()
    before = f"{example}\n\n{BEFORE}\n"
    return RenderedCase(
        before,
        context,
        QUESTION.format(value=value),
        beginning,
        tuple(names),
        ValueForm.known,
        frozenset(names),
    )


def _generate_text_with_assignment_chain(
    random: Random, draw_number: IntegerSampler, num_lines: int, name_length: int
) -> tuple[str, str, list[str]]:
    """Return a noise text that contains a chain of assignments, the assigned value, and the variable
    names.
    """
    names = ["".join(random.choices(ascii_uppercase, k=name_length)) for _ in range(HOPS + 1)]
    while len(set(names)) < HOPS + 1:
        names.append("".join(random.choices(ascii_uppercase, k=name_length)))
    names = [*dict.fromkeys(names)]
    value = str(draw_number(10_000, 99_999))
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {later} = VAR {earlier} " for earlier, later in pairwise(names)]
    sentences = [NOISE] * num_lines
    if len(sentences) <= len(chain):
        pieces = [piece for line in sentences for piece in line.split(".")]
        sentences = [f"{piece}." if piece.strip() else piece for piece in pieces]
    places = sorted(random.sample(range(len(sentences)), len(chain)))
    for at, (place, assignment) in enumerate(zip(places, chain, strict=True)):
        sentences.insert(place + at, assignment)
    return " ".join(sentences).replace(". \n", ".\n"), value, names
