"""Generates any number of word problems with worked answers from templates. Equal seeds give
equal problems.

A problem is a base story (one to three steps) and as many tails ("Then Ana gives away 5
apples.") as its split needs. A hash of the base's template and numbers decides its split, so
no test story, whatever its names, items or tails, has been seen in training.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from random import Random
from typing import NamedTuple

# fmt: off
NAMES = (
    "Ana", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Ivy", "Jack", "Kate", "Leo",
    "Maria", "Noah", "Olivia", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Yusuf", "Zoe", "Omar",
)
ITEMS = (
    "apples", "books", "marbles", "pencils", "cookies", "stickers", "coins", "shells", "cards", "balls",
    "flowers", "stamps", "candies", "eggs", "toys", "oranges", "buttons", "cups", "stones", "muffins",
)
# fmt: on
MAX_VALUE = 499  # no number in a problem, its steps or its answer is larger
BUCKETS = 20
TEST_BUCKETS = frozenset({0, 1})
VALID_BUCKETS = frozenset({2})
TRAIN_BUCKETS = frozenset(range(3, BUCKETS))
LONGER_SHARE = 0.3  # share of the 1–3-step problems that get tails, up to three steps
FOUR_STEP_SHARE = 0.08  # share of the training problems: without any, longer chains lose steps


class Split(StrEnum):
    """Splits of generated word problems. No problem is in two splits.

    Three splits have problems with 1–3 steps. Two splits are harder.
    """

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"
    HARD = "hard"  # exactly four steps: 8 % of train has as many, with other numbers
    HARD5 = "hard5"  # exactly five steps: train has none


_NUMBER = re.compile(r"\d+")
HARD_STEPS = {Split.HARD: 4, Split.HARD5: 5}


@dataclass(frozen=True)
class Problem:
    """A word problem with its question, worked answer, gold answer and number of steps.

    The last line of the worked answer is `#### 12`.
    """

    question: str
    answer: str
    gold: str
    steps: int


class _Template(NamedTuple):
    """Template of a word problem. Placeholders such as {a} are replaced by numbers."""

    name: str  # part of the hash: another name would move its problems between splits
    ranges: tuple[tuple[int, int], ...]  # inclusive; all numbers in them make a valid story
    value: str  # which number `who` has at the end
    unit: str
    numbers: Callable[..., dict[str, int]]
    story: str
    lines: tuple[str, ...]  # one per step
    ask: str = "How many {item} does {who} have?"


def generate_problem(split: Split, index: int, seed: int = 0) -> Problem:
    """Return the problem with this index in a split. Equal seeds, splits and indices give equal problems."""
    return _generate_word_problem(*_draw_story_and_step_count(split, index, seed))


def generate_perturbed_problem(split: Split, index: int, seed: int = 0) -> Problem:
    """Return a variant of the problem of `generate_problem`, with other numbers and another answer."""
    original = generate_problem(split, index, seed)
    rng, slot, buckets, steps = _draw_story_and_step_count(split, index, seed)
    friend = _draw_friend(rng, slot)
    for attempt in count():
        other = _generate_word_problem(
            Random(f"{seed}/{split}/{index}/twin{attempt}"), slot, buckets, steps, friend
        )
        is_same_story = _NUMBER.sub("#", other.question) == _NUMBER.sub("#", original.question)
        if is_same_story and other.gold != original.gold:
            return other
    raise AssertionError("there is always another draw")


def problem_template_name(split: Split, index: int, seed: int = 0) -> str:
    return _TEMPLATES[_map_index_to_story(index, f"{seed}/{split}") // _PAIRS].name.strip("_")


def _draw_story_and_step_count(
    split: Split, index: int, seed: int
) -> tuple[Random, int, frozenset[int], int]:
    rng = Random(f"{seed}/{split}/{index}")
    slot = _map_index_to_story(index, f"{seed}/{split}")
    if split in HARD_STEPS:
        return rng, slot, TEST_BUCKETS, HARD_STEPS[split]
    steps = base_steps = len(_TEMPLATES[slot // _PAIRS].lines)
    if base_steps < 3 and rng.random() < LONGER_SHARE:
        steps = rng.randint(base_steps + 1, 3)
    if split is Split.TRAIN:
        return rng, slot, TRAIN_BUCKETS, 4 if rng.random() < FOUR_STEP_SHARE else steps
    return rng, slot, TEST_BUCKETS if split is Split.TEST else VALID_BUCKETS, steps


def generate_problems(split: Split, limit: int, seed: int = 0) -> list[Problem]:
    return [generate_problem(split, index, seed) for index in range(limit)]


def generate_practice_problem(steps: int, index: int, seed: int = 0) -> Problem:
    """Return a training problem with exactly `steps` steps (at least 3) and numbers of the train split."""
    key = f"{seed}/practice{steps}"
    return _generate_word_problem(
        Random(f"{key}/{index}"), _map_index_to_story(index, key), TRAIN_BUCKETS, steps
    )


def _map_index_to_story(index: int, key: str) -> int:
    """Return the story for an index: a combination of template, name and item. A story repeats only
    after all others.

    So no two of the first DISTINCT questions of a split are equal, and every prefix is balanced: a
    stride near the golden ratio of the number of slots spreads neighbours apart.
    """
    return (index * _STRIDE + zlib.crc32(key.encode())) % DISTINCT


def _draw_friend(rng: Random, slot: int) -> str:
    """Draw the second person of a story, always different from the first."""
    return NAMES[(slot % _PAIRS // len(ITEMS) + rng.randrange(1, len(NAMES))) % len(NAMES)]


def _generate_word_problem(
    rng: Random, story_index: int, answer_buckets: frozenset[int], steps: int, friend: str | None = None
) -> Problem:
    template_index, pair = divmod(story_index, _PAIRS)
    who, item = NAMES[pair // len(ITEMS)], ITEMS[pair % len(ITEMS)]
    other = friend or _draw_friend(rng, story_index)
    template = _TEMPLATES[template_index]
    random = rng.random  # three times cheaper than randint, and rejection makes many calls
    while True:
        drawn = tuple([low + int(random() * (high - low + 1)) for low, high in template.ranges])
        if zlib.crc32(f"{template.name}{drawn}".encode()) % BUCKETS in answer_buckets:
            break
    numbers = template.numbers(*drawn)
    filled_in = {"who": who, "other": other, "item": item, **numbers}
    story, ask, unit = (text.format_map(filled_in) for text in (template.story, template.ask, template.unit))
    all_lines = [line.format_map(filled_in) for line in template.lines]
    value = numbers[template.value]
    for _ in range(steps - len(template.lines)):
        tail, line, value = _draw_additional_step(rng, who, unit, value)
        story, ask = f"{story} {tail}", f"How many {unit} does {who} have now?"
        all_lines.append(line)
    return Problem(f"{story} {ask}", "\n".join([*all_lines, f"#### {value}"]), str(value), len(all_lines))


def _draw_additional_step(rng: Random, person: str, unit: str, current_value: int) -> tuple[str, str, int]:
    kinds = ["get"] if current_value < 4 else ["get", "give"]
    if current_value % 2 == 0:
        kinds.append("half")
    if current_value <= 100:
        kinds.append("double")
    kind = rng.choice(kinds)
    if kind == "get" and current_value + 2 <= MAX_VALUE:
        n = rng.randint(2, min(40, MAX_VALUE - current_value))
        does, change, new_value = f"gets {n} more {unit}", f"+{n}", current_value + n
    elif kind == "half":
        does, change, new_value = f"gives away half of the {unit}", "/2", current_value // 2
    elif kind == "double":
        does, change, new_value = f"doubles the number of {unit}", "*2", current_value * 2
    else:
        n = rng.randint(2, min(40, current_value - 2))
        does, change, new_value = f"gives away {n} {unit}", f"-{n}", current_value - n
    return (
        f"Then {person} {does}.",
        f"Then {person} has {current_value}{change}={new_value} {unit}.",
        new_value,
    )


_TEMPLATES = (
    _Template(
        "_buy",
        ((5, 99), (3, 60)),
        "c",
        "{item}",
        lambda a, b: {"a": a, "b": b, "c": a + b},
        "{who} has {a} {item}. {who} buys {b} more.",
        ("{who} has {a}+{b}={c} {item}.",),
    ),
    _Template(
        "_give",
        ((3, 60), (4, 80)),
        "c",
        "{item}",
        lambda b, c: {"b": b, "c": c, "a": b + c},
        "{who} has {a} {item} and gives {b} to {other}.",
        ("{who} has {a}-{b}={c} {item} left.",),
        "How many {item} are left?",
    ),
    _Template(
        "_boxes",
        ((2, 9), (3, 25)),
        "c",
        "{item}",
        lambda a, b: {"a": a, "b": b, "c": a * b},
        "{who} has {a} boxes with {b} {item} in each.",
        ("{who} has {a}*{b}={c} {item}.",),
    ),
    _Template(
        "_share",
        ((2, 9), (3, 30)),
        "c",
        "{item}",
        lambda b, c: {"b": b, "c": c, "a": b * c},
        "{b} children share {a} {item} equally. {who} is one of them.",
        ("{who} gets {a}/{b}={c} {item}.",),
        "How many {item} does {who} get?",
    ),
    _Template(
        "_times",
        ((3, 25), (2, 9)),
        "c",
        "{item}",
        lambda a, b: {"a": a, "b": b, "c": a * b},
        "{other} has {a} {item}. {who} has {b} times as many.",
        ("{who} has {a}*{b}={c} {item}.",),
    ),
    _Template(
        "_cost",
        ((3, 25), (2, 9)),
        "c",
        "dollars",
        lambda a, b: {"a": a, "b": b, "c": a * b},
        "{who} sells {a} {item} to {other} for {b} dollars each.",
        ("{who} gets {a}*{b}={c} dollars.",),
        "How many dollars does {who} get?",
    ),
    _Template(
        "_rate",
        ((3, 25), (2, 9)),
        "c",
        "{item}",
        lambda a, b: {"a": a, "b": b, "c": a * b},
        "{who} finds {a} {item} every day for {b} days.",
        ("In {b} days {who} finds {a}*{b}={c} {item}.",),
    ),
    _Template(
        "_boxes_plus",
        ((2, 9), (3, 20), (2, 40)),
        "e",
        "{item}",
        lambda a, b, c: {"a": a, "b": b, "c": c, "d": a * b, "e": a * b + c},
        "{who} has {a} bags with {b} {item} in each and {c} more {item} on a table.",
        ("The bags hold {a}*{b}={d} {item}.", "{who} has {d}+{c}={e} {item}."),
    ),
    _Template(
        "_boxes_minus",
        ((3, 9), (5, 20), (2, 12)),
        "e",
        "{item}",
        lambda a, b, c: {"a": a, "b": b, "c": c, "d": a * b, "e": a * b - c},
        "{who} gets {a} boxes with {b} {item} in each, but {c} {item} are lost.",
        ("The boxes hold {a}*{b}={d} {item}.", "{who} has {d}-{c}={e} {item} left."),
        "How many {item} are left?",
    ),
    _Template(
        "_buy_give",
        ((5, 80), (3, 50), (2, 6)),
        "e",
        "{item}",
        lambda a, b, c: {"a": a, "b": b, "c": c, "d": a + b, "e": a + b - c},
        "{who} has {a} {item}, buys {b} more and gives {c} to {other}.",
        ("After buying, {who} has {a}+{b}={d} {item}.", "{who} has {d}-{c}={e} {item} left."),
        "How many {item} does {who} have left?",
    ),
    _Template(
        "_more_total",
        ((5, 60), (3, 40)),
        "d",
        "{item}",
        lambda a, b: {"a": a, "b": b, "c": a + b, "d": a + a + b},
        "{who} has {a} {item}. {other} has {b} more than {who}, and gives all of them to {who}.",
        ("{other} has {a}+{b}={c} {item}.", "{who} has {a}+{c}={d} {item}."),
        "How many {item} does {who} have then?",
    ),
    _Template(
        "_times_total",
        ((3, 20), (2, 9)),
        "d",
        "{item}",
        lambda a, b: {"a": a, "b": b, "c": a * b, "d": a + a * b},
        "{who} has {a} {item}. {other} has {b} times as many, and gives all of them to {who}.",
        ("{other} has {a}*{b}={c} {item}.", "{who} has {a}+{c}={d} {item}."),
        "How many {item} does {who} have then?",
    ),
    _Template(
        "_earn_spend",
        ((5, 25), (3, 9), (2, 12)),
        "e",
        "dollars",
        lambda a, b, c: {"a": a, "b": b, "c": c, "d": a * b, "e": a * b - c},
        "{who} earns {a} dollars a day for {b} days and spends {c} dollars on {item}.",
        ("{who} earns {a}*{b}={d} dollars.", "{who} has {d}-{c}={e} dollars left."),
        "How many dollars does {who} have left?",
    ),
    _Template(
        "_share_buy",
        ((2, 9), (3, 25), (2, 40)),
        "e",
        "{item}",
        lambda b, c, d: {"b": b, "c": c, "d": d, "a": b * c, "e": c + d},
        "{b} friends share {a} {item} equally. {who} is one of them and gets {d} more from {other}.",
        ("Each friend gets {a}/{b}={c} {item}.", "{who} has {c}+{d}={e} {item}."),
    ),
    _Template(
        "_cost_change",
        ((2, 9), (2, 12), (3, 60)),
        "c",
        "dollars",
        lambda a, b, c: {"a": a, "b": b, "c": c, "d": a * b, "e": a * b + c},
        "{who} has {e} dollars and buys {a} {item} for {b} dollars each.",
        ("The {item} cost {a}*{b}={d} dollars.", "{who} has {e}-{d}={c} dollars left."),
        "How many dollars does {who} have left?",
    ),
    _Template(
        "_pool_share",
        ((2, 9), (4, 25), (2, 6)),
        "q",
        "{item}",
        lambda d, q, b: {"d": d, "q": q, "b": b, "c": d * q, "a": d * q - b},
        "{who} has {a} {item} and {other} has {b}. They put them in {d} equal bags, and {who} takes one bag.",
        ("Together they have {a}+{b}={c} {item}.", "{who} takes {c}/{d}={q} {item}."),
        "How many {item} does {who} take?",
    ),
    _Template(
        "_half_give",
        ((8, 60), (2, 6)),
        "e",
        "{item}",
        lambda h, c: {"h": h, "c": c, "a": 2 * h, "e": h - c},
        "{who} has {a} {item}, gives half of them to {other} and loses {c}.",
        ("Half of them is {a}/2={h} {item}.", "{who} has {h}-{c}={e} {item} left."),
        "How many {item} does {who} have left?",
    ),
    _Template(
        "_two_kinds",
        ((2, 9), (2, 12), (2, 9), (2, 12)),
        "g",
        "{item}",
        lambda a, b, c, d: {"a": a, "b": b, "c": c, "d": d, "e": a * b, "f": c * d, "g": a * b + c * d},
        "{who} has {a} boxes with {b} {item} in each and {c} bags with {d} {item} in each.",
        (
            "The boxes hold {a}*{b}={e} {item}.",
            "The bags hold {c}*{d}={f} {item}.",
            "{who} has {e}+{f}={g} {item}.",
        ),
    ),
)
_PAIRS = len(NAMES) * len(ITEMS)
DISTINCT = len(_TEMPLATES) * _PAIRS  # 8,640 questions of a split before one repeats
_STRIDE = 5341  # coprime to DISTINCT
