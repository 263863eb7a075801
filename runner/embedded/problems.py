"""Word problems made from templates: endless, deterministic, with the steps that lead to the answer.

A problem is a base story (one to three steps) and as many tails ("Then Ana gives away 5 apples.") as its
split asks for. Which split a base belongs to is decided by a hash of its template and numbers, so no test
story, whatever its names, items or tails, has been seen in training.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
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
LONGER_SHARE = 0.3  # of the 1–3-step problems: how many get tails, up to three steps
FOUR_STEP_SHARE = 0.08  # of the training problems: without any, longer chains lose steps


class Split(StrEnum):
    """Which problems: three disjoint sets of 1–3 steps, and two harder held-out ones."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"
    HARD = "hard"  # exactly four steps: 8 % of train has as many, with other numbers
    HARD5 = "hard5"  # exactly five steps: train has none


@dataclass(frozen=True)
class Problem:
    """A question, its worked answer (last line `#### 12`), the bare number, and how many steps it takes."""

    question: str
    answer: str
    gold: str
    steps: int


class _Story(NamedTuple):
    told: str
    ask: str
    lines: tuple[str, ...]
    value: int  # what `who` has at the end
    unit: str


class _Template(NamedTuple):
    tell: Callable[[tuple[int, ...], str, str, str], _Story]
    steps: int
    ranges: tuple[tuple[int, int], ...]  # inclusive; any draw from them makes a valid story


def problem(split: Split, index: int, seed: int = 0) -> Problem:
    """Return problem number `index` of a split: a pure function of (seed, split, index)."""
    rng = Random(f"{seed}/{split}/{index}")
    slot = _slot(index, f"{seed}/{split}")
    base_steps = _TEMPLATES[slot // _PAIRS].steps
    if split is Split.HARD:
        return _compose(rng, slot, TEST_BUCKETS, 4)
    if split is Split.HARD5:
        return _compose(rng, slot, TEST_BUCKETS, 5)
    steps = base_steps
    if base_steps < 3 and rng.random() < LONGER_SHARE:
        steps = rng.randint(base_steps + 1, 3)
    if split is Split.TRAIN:
        return _compose(rng, slot, TRAIN_BUCKETS, 4 if rng.random() < FOUR_STEP_SHARE else steps)
    return _compose(rng, slot, TEST_BUCKETS if split is Split.TEST else VALID_BUCKETS, steps)


def problems(split: Split, limit: int, seed: int = 0) -> list[Problem]:
    """Return the first `limit` problems of a split."""
    return [problem(split, index, seed) for index in range(limit)]


def practice_problem(steps: int, index: int, seed: int = 0) -> Problem:
    """Return a problem of exactly `steps` (3 or more) from the numbers of train, for an adapter to learn."""
    key = f"{seed}/practice{steps}"
    return _compose(Random(f"{key}/{index}"), _slot(index, key), TRAIN_BUCKETS, steps)


def _slot(index: int, key: str) -> int:
    """Map an index to (template, name, item), all of them once before any repeats.

    So no two of the first 8,640 questions of a split are equal, and every prefix is balanced: a stride near
    the golden ratio of the number of slots spreads neighbours apart.
    """
    return (index * _STRIDE + zlib.crc32(key.encode())) % _SLOTS


def _compose(rng: Random, slot: int, buckets: frozenset[int], steps: int) -> Problem:
    template_index, pair = divmod(slot, _PAIRS)
    who, item = NAMES[pair // len(ITEMS)], ITEMS[pair % len(ITEMS)]
    other = NAMES[(pair // len(ITEMS) + rng.randrange(1, len(NAMES))) % len(NAMES)]
    template = _TEMPLATES[template_index]
    name = template.tell.__name__  # part of the hash: renaming a template moves its problems between splits
    random = rng.random  # one call is three times cheaper than randint, and rejection makes many
    while True:
        numbers = tuple([low + int(random() * (high - low + 1)) for low, high in template.ranges])
        if zlib.crc32(f"{name}{numbers}".encode()) % BUCKETS in buckets:
            break
    told, ask, lines, value, unit = template.tell(numbers, who, other, item)
    all_lines = list(lines)
    for _ in range(steps - template.steps):
        tail, line, value = _tail(rng, who, unit, value)
        told, ask = f"{told} {tail}", f"How many {unit} does {who} have now?"
        all_lines.append(line)
    return Problem(f"{told} {ask}", "\n".join([*all_lines, f"#### {value}"]), str(value), len(all_lines))


def _tail(rng: Random, who: str, unit: str, value: int) -> tuple[str, str, int]:
    """One more step that fits the value: what is told, its line of the answer, the new value."""
    kinds = ["get"] if value < 4 else ["get", "give"]
    if value % 2 == 0:
        kinds.append("half")
    if value <= 100:
        kinds.append("double")
    kind = rng.choice(kinds)
    if kind == "get" and value + 2 <= MAX_VALUE:
        n = rng.randint(2, min(40, MAX_VALUE - value))
        return (
            f"Then {who} gets {n} more {unit}.",
            f"Then {who} has {value}+{n}={value + n} {unit}.",
            value + n,
        )
    if kind == "half":
        half = value // 2
        return f"Then {who} gives away half of the {unit}.", f"Then {who} has {value}/2={half} {unit}.", half
    if kind == "double":
        twice = value * 2
        return f"Then {who} doubles the number of {unit}.", f"Then {who} has {value}*2={twice} {unit}.", twice
    n = rng.randint(2, min(40, value - 2))
    return f"Then {who} gives away {n} {unit}.", f"Then {who} has {value}-{n}={value - n} {unit}.", value - n


# ---- one step ----------------------------------------------------------------------------------------------


def _buy(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b = n
    c = a + b
    return _Story(
        f"{who} has {a} {item}. {who} buys {b} more.",
        f"How many {item} does {who} have?",
        (f"{who} has {a}+{b}={c} {item}.",),
        c,
        item,
    )


def _give(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    b, c = n
    a = b + c
    return _Story(
        f"{who} has {a} {item} and gives {b} to {other}.",
        f"How many {item} are left?",
        (f"{who} has {a}-{b}={c} {item} left.",),
        c,
        item,
    )


def _boxes(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b = n
    c = a * b
    return _Story(
        f"{who} has {a} boxes with {b} {item} in each.",
        f"How many {item} does {who} have?",
        (f"{who} has {a}*{b}={c} {item}.",),
        c,
        item,
    )


def _share(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    b, c = n
    a = b * c
    return _Story(
        f"{b} children share {a} {item} equally. {who} is one of them.",
        f"How many {item} does {who} get?",
        (f"{who} gets {a}/{b}={c} {item}.",),
        c,
        item,
    )


def _times(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    a, b = n
    c = a * b
    return _Story(
        f"{other} has {a} {item}. {who} has {b} times as many.",
        f"How many {item} does {who} have?",
        (f"{who} has {a}*{b}={c} {item}.",),
        c,
        item,
    )


def _cost(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    a, b = n
    c = a * b
    return _Story(
        f"{who} sells {a} {item} to {other} for {b} dollars each.",
        f"How many dollars does {who} get?",
        (f"{who} gets {a}*{b}={c} dollars.",),
        c,
        "dollars",
    )


def _rate(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b = n
    c = a * b
    return _Story(
        f"{who} finds {a} {item} every day for {b} days.",
        f"How many {item} does {who} have?",
        (f"In {b} days {who} finds {a}*{b}={c} {item}.",),
        c,
        item,
    )


# ---- two steps ---------------------------------------------------------------------------------------------


def _boxes_plus(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b, c = n
    d, e = a * b, a * b + c
    return _Story(
        f"{who} has {a} bags with {b} {item} in each and {c} more {item} on a table.",
        f"How many {item} does {who} have?",
        (f"The bags hold {a}*{b}={d} {item}.", f"{who} has {d}+{c}={e} {item}."),
        e,
        item,
    )


def _boxes_minus(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b, c = n
    d, e = a * b, a * b - c
    return _Story(
        f"{who} gets {a} boxes with {b} {item} in each, but {c} {item} are lost.",
        f"How many {item} are left?",
        (f"The boxes hold {a}*{b}={d} {item}.", f"{who} has {d}-{c}={e} {item} left."),
        e,
        item,
    )


def _buy_give(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    a, b, c = n
    d, e = a + b, a + b - c
    return _Story(
        f"{who} has {a} {item}, buys {b} more and gives {c} to {other}.",
        f"How many {item} does {who} have left?",
        (f"After buying, {who} has {a}+{b}={d} {item}.", f"{who} has {d}-{c}={e} {item} left."),
        e,
        item,
    )


def _more_total(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    a, b = n
    c, d = a + b, a + a + b
    return _Story(
        f"{who} has {a} {item}. {other} has {b} more than {who}, and gives all of them to {who}.",
        f"How many {item} does {who} have then?",
        (f"{other} has {a}+{b}={c} {item}.", f"{who} has {a}+{c}={d} {item}."),
        d,
        item,
    )


def _times_total(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    a, b = n
    c, d = a * b, a + a * b
    return _Story(
        f"{who} has {a} {item}. {other} has {b} times as many, and gives all of them to {who}.",
        f"How many {item} does {who} have then?",
        (f"{other} has {a}*{b}={c} {item}.", f"{who} has {a}+{c}={d} {item}."),
        d,
        item,
    )


def _earn_spend(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b, c = n
    d, e = a * b, a * b - c
    return _Story(
        f"{who} earns {a} dollars a day for {b} days and spends {c} dollars on {item}.",
        f"How many dollars does {who} have left?",
        (f"{who} earns {a}*{b}={d} dollars.", f"{who} has {d}-{c}={e} dollars left."),
        e,
        "dollars",
    )


def _share_buy(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    b, c, d = n
    a, e = b * c, c + d
    return _Story(
        f"{b} friends share {a} {item} equally. {who} is one of them and gets {d} more from {other}.",
        f"How many {item} does {who} have?",
        (f"Each friend gets {a}/{b}={c} {item}.", f"{who} has {c}+{d}={e} {item}."),
        e,
        item,
    )


def _cost_change(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b, c = n
    d, e = a * b, a * b + c
    return _Story(
        f"{who} has {e} dollars and buys {a} {item} for {b} dollars each.",
        f"How many dollars does {who} have left?",
        (f"The {item} cost {a}*{b}={d} dollars.", f"{who} has {e}-{d}={c} dollars left."),
        c,
        "dollars",
    )


def _pool_share(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    d, q, b = n
    c = d * q
    a = c - b
    return _Story(
        f"{who} has {a} {item} and {other} has {b}. They put them in {d} equal bags, and {who} takes one bag.",
        f"How many {item} does {who} take?",
        (f"Together they have {a}+{b}={c} {item}.", f"{who} takes {c}/{d}={q} {item}."),
        q,
        item,
    )


def _half_give(n: tuple[int, ...], who: str, other: str, item: str) -> _Story:
    h, c = n
    a, e = 2 * h, h - c
    return _Story(
        f"{who} has {a} {item}, gives half of them to {other} and loses {c}.",
        f"How many {item} does {who} have left?",
        (f"Half of them is {a}/2={h} {item}.", f"{who} has {h}-{c}={e} {item} left."),
        e,
        item,
    )


# ---- three steps -------------------------------------------------------------------------------------------


def _two_kinds(n: tuple[int, ...], who: str, _other: str, item: str) -> _Story:
    a, b, c, d = n
    e, f = a * b, c * d
    return _Story(
        f"{who} has {a} boxes with {b} {item} in each and {c} bags with {d} {item} in each.",
        f"How many {item} does {who} have?",
        (
            f"The boxes hold {a}*{b}={e} {item}.",
            f"The bags hold {c}*{d}={f} {item}.",
            f"{who} has {e}+{f}={e + f} {item}.",
        ),
        e + f,
        item,
    )


_TEMPLATES = (
    _Template(_buy, 1, ((5, 99), (3, 60))),
    _Template(_give, 1, ((3, 60), (4, 80))),
    _Template(_boxes, 1, ((2, 9), (3, 25))),
    _Template(_share, 1, ((2, 9), (3, 30))),
    _Template(_times, 1, ((3, 25), (2, 9))),
    _Template(_cost, 1, ((3, 25), (2, 9))),
    _Template(_rate, 1, ((3, 25), (2, 9))),
    _Template(_boxes_plus, 2, ((2, 9), (3, 20), (2, 40))),
    _Template(_boxes_minus, 2, ((3, 9), (5, 20), (2, 12))),
    _Template(_buy_give, 2, ((5, 80), (3, 50), (2, 6))),
    _Template(_more_total, 2, ((5, 60), (3, 40))),
    _Template(_times_total, 2, ((3, 20), (2, 9))),
    _Template(_earn_spend, 2, ((5, 25), (3, 9), (2, 12))),
    _Template(_share_buy, 2, ((2, 9), (3, 25), (2, 40))),
    _Template(_cost_change, 2, ((2, 9), (2, 12), (3, 60))),
    _Template(_pool_share, 2, ((2, 9), (4, 25), (2, 6))),
    _Template(_half_give, 2, ((8, 60), (2, 6))),
    _Template(_two_kinds, 3, ((2, 9), (2, 12), (2, 9), (2, 12))),
)
_PAIRS = len(NAMES) * len(ITEMS)
_SLOTS = len(_TEMPLATES) * _PAIRS
_STRIDE = 5341  # coprime to _SLOTS = 8,640
