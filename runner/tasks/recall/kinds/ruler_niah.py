"""RULER's needle-in-a-haystack tasks, identical to lm-evaluation-harness 0.4.13 for equal random draws.

Tasks whose haystack is an essay in RULER use RULER's noise here, because essays are not
included. Names consist of our words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from runner.tasks.recall.cases import Case, CaseSettings, RenderedCase
from runner.tasks.recall.fillers import NOISE
from runner.tasks.recall.kinds.needles import FORMS, NEEDLE, draw_needle_value, format_needle_prompt
from runner.tasks.recall.vocabulary import ADJECTIVES, NOUNS

ORDER_SEED = 42  # of the needles in a text, the same in all
PAIRS = sorted(f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS)


@dataclass(frozen=True)
class NiahTask:
    """Parameters of one needle-in-a-haystack task of RULER."""

    keys: int = 1
    values_of_each: int = 1
    asked: int = 1  # keys
    in_needles: bool = False  # the haystack is made of other needles
    key_type: str = "words"
    value_type: str = "numbers"


TASKS = {
    "niah_single_1": NiahTask(),
    "niah_multikey_1": NiahTask(keys=4),
    "niah_multikey_2": NiahTask(in_needles=True),
    "niah_multikey_3": NiahTask(in_needles=True, key_type="uuids", value_type="uuids"),
    "niah_multivalue": NiahTask(values_of_each=4),
    "niah_multiquery": NiahTask(keys=4, asked=4),
}


def draw_niah_cases(settings: CaseSettings) -> Iterator[Case]:
    kind = TASKS[settings.kind]
    for number in range(settings.cases):
        least = max(2, kind.keys * kind.values_of_each)
        yield Case(
            settings.kind,
            number,
            None,
            partial(_render_numbered_case, settings, number, kind),
            least,
            has_own_size=True,
        )


def _render_numbered_case(
    settings: CaseSettings, number: int, niah_task: NiahTask, num_lines: int
) -> RenderedCase:
    """Render a case with a haystack of `num_lines` lines. The case number seeds the random generator."""
    return render_niah_case(settings.create_random(number), niah_task, num_lines)


def render_niah_case(
    random: Random, niah_task: NiahTask, num_lines: int, names: Sequence[str] = PAIRS
) -> RenderedCase:
    keys: list[str] = []
    values: list[list[str]] = []
    needles: list[str] = []
    for _ in range(niah_task.keys):
        keys.append(_draw_unused_key(random, niah_task, names, keys))
        values.append([])
        for _ in range(niah_task.values_of_each):
            values[-1].append(_draw_niah_value(random, niah_task.value_type, names))
            needles.append(NEEDLE.format(values=niah_task.value_type, key=keys[-1], value=values[-1][-1]))
    Random(ORDER_SEED).shuffle(needles)
    lines = [_draw_haystack_line(random, niah_task, names, keys) for _ in range(num_lines)]
    places = sorted(random.sample(range(num_lines), len(needles)), reverse=True)
    for place, needle in zip(places, needles, strict=True):
        lines.insert(place, needle)
    asked = random.sample(range(niah_task.keys), niah_task.asked)
    gold = tuple(value for at in asked for value in values[at])
    before, question, beginning = format_needle_prompt(
        niah_task.value_type, [keys[at] for at in asked], len(gold) == 1
    )
    return RenderedCase(before, "\n".join(lines), question, beginning, gold, FORMS[niah_task.value_type])


def _draw_haystack_line(
    random: Random, niah_task: NiahTask, name_pool: Sequence[str], used_keys: Sequence[str]
) -> str:
    if not niah_task.in_needles:
        return NOISE
    key = _draw_unused_key(random, niah_task, name_pool, used_keys)
    return NEEDLE.format(
        values=niah_task.value_type, key=key, value=_draw_niah_value(random, niah_task.value_type, name_pool)
    )


def _draw_unused_key(
    random: Random, niah_task: NiahTask, name_pool: Sequence[str], used_keys: Sequence[str]
) -> str:
    """Draw a needle name that no question uses. lm-evaluation-harness does not check for duplicates."""
    key = _draw_niah_value(random, niah_task.key_type, name_pool)
    while key in used_keys:
        key = _draw_niah_value(random, niah_task.key_type, name_pool)
    return key


def _draw_niah_value(random: Random, value_type: str, name_pool: Sequence[str]) -> str:
    return random.choice(name_pool) if value_type == "words" else draw_needle_value(random, value_type)
