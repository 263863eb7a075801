"""Make the questions of task=tools that ship: `python -m tools.tool_calls_data` writes
conf/dataset/tool_calls.jsonl.

Functions and wordings are those of tool_functions.py. The seed decides everything, so that the file
is the same wherever it is made; a test compares the two. The lines of functions come first, then
those of questions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tools.tool_functions import FUNCTIONS, Function, Wording

FILE = Path(__file__).resolve().parents[1] / "conf" / "dataset" / "tool_calls.jsonl"
SEED = 7
COUNTS = {"simple": 90, "multiple": 90, "parallel": 70, "irrelevant": 70}
JOINTS = ("{first} {second}", "Some things, please. {first} {second}", "{first} And then: {second}")
SMALL_TALK = (
    "Thank you, that was all for today.",
    "Write a short poem about a lighthouse.",
    "Why is the sky blue?",
    "Tell me a joke about two snails.",
    "What is the difference between a hare and a rabbit?",
    "Who are you?",
    "Explain in two sentences how a sail works.",
    "Which number comes after seven?",
    "Name three colors.",
    "How do I tie a bowline?",
    "I feel a bit tired. Any advice?",
    "What rhymes with orchard?",
    "Describe an elephant to somebody who has never seen one.",
    "Is a tomato a fruit?",
    "Summarize what a haiku is.",
    "Good evening!",
    "Give me a riddle.",
    "What does the word 'ferry' mean?",
    "How many legs does a spider have?",
    "Who wrote the story of the ugly duckling?",
    "What is the opposite of narrow?",
    "Continue: one, two, three,",
    "Please say nothing but the word yes.",
    "What is paper made of?",
)
Call = tuple[str, dict[str, list[Any]]]
Case = dict[str, Any]


def asked(random: Random, function: Function) -> tuple[str, Call]:
    """Draw a question that a function answers, and the call that it wants."""
    wording: Wording = random.choice(function.wordings)
    values = {name: random.choice(function.parameter(name).pool) for name in wording.slots}
    said = wording.text.format(**{name: in_words(value) for name, value in values.items()})
    return said, (function.name, wanted(function, values | wording.fixed))


def wanted(function: Function, values: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the allowed values of each parameter; what is not said may be left out, or have its
    usual value."""
    allowed: dict[str, list[Any]] = {}
    for parameter in function.parameters:
        if parameter.name in values:
            allowed[parameter.name] = [values[parameter.name]]
        elif not parameter.is_required:
            allowed[parameter.name] = [*dict.fromkeys((parameter.default, ""))]
    return allowed


def in_words(value: Any) -> str:
    """Return a value as a question says it."""
    if isinstance(value, list):
        *most, last = map(str, value)
        return f"{', '.join(most)} and {last}" if most else last
    return f"{value:g}" if isinstance(value, float) else str(value)


def others(random: Random, of: Sequence[Function], count: int, is_same_domain: bool) -> list[Function]:
    """Draw functions beside some: of their domains, or of none of them."""
    domains, names = {one.domain for one in of}, {one.name for one in of}
    fitting = [
        one for one in FUNCTIONS if (one.domain in domains) is is_same_domain and one.name not in names
    ]
    return random.sample(fitting, min(count, len(fitting)))


def simple(random: Random) -> Case:
    """One function, which is wanted."""
    function = random.choice(FUNCTIONS)
    question, call = asked(random, function)
    return _case(question, [function], [call])


def multiple(random: Random) -> Case:
    """Several functions, most of them of one domain, of which one is wanted."""
    function = random.choice(FUNCTIONS)
    question, call = asked(random, function)
    beside = others(random, [function], 2, True) + others(random, [function], 1, False)
    return _case(question, _shuffled(random, [function, *beside]), [call])


def parallel(random: Random) -> Case:
    """Two or three calls, of one function or of several."""
    count = random.choice((2, 2, 3))
    is_one = random.random() < 0.5
    functions = [random.choice(FUNCTIONS)] * count if is_one else random.sample(FUNCTIONS, count)
    while True:
        drawn = [asked(random, function) for function in functions]
        calls = [call for _, call in drawn]
        if all(call not in calls[:at] for at, call in enumerate(calls)):
            break
    first, *further = (question for question, _ in drawn)
    text = random.choice(JOINTS).format(first=first, second=" ".join(further))
    offered = {function.name: function for function in functions}
    beside = others(random, functions, 2, random.random() < 0.5)
    return _case(text, _shuffled(random, [*offered.values(), *beside]), calls)


def irrelevant(random: Random) -> Case:
    """A question that none of the offered functions answers."""
    if random.random() < 0.3:
        return _case(random.choice(SMALL_TALK), random.sample(FUNCTIONS, 3), [])
    function = random.choice(FUNCTIONS)
    question, _ = asked(random, function)
    return _case(question, others(random, [function], random.choice((1, 2, 3)), False), [])


def _shuffled(random: Random, functions: Sequence[Function]) -> list[Function]:
    return random.sample(functions, len(functions))


def _case(question: str, functions: Sequence[Function], calls: Sequence[Call]) -> Case:
    return {"question": question, "functions": [one.name for one in functions], "calls": calls}


MAKERS = {"simple": simple, "multiple": multiple, "parallel": parallel, "irrelevant": irrelevant}


def lines() -> list[str]:
    """Return the lines of the file."""
    objects: list[dict[str, Any]] = [{"function": function.schema} for function in FUNCTIONS]
    seen: set[str] = set()
    for category, count in COUNTS.items():
        number = drawn = 0
        while number < count:
            case = MAKERS[category](Random(f"{SEED}/{category}/{drawn}"))
            drawn += 1
            if case["question"] in seen:
                continue
            seen.add(case["question"])
            objects.append({"id": f"{category}_{number}", "category": category, **case})
            number += 1
    return [json.dumps(one, ensure_ascii=False) for one in objects]


if __name__ == "__main__":
    FILE.write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")
    print(f"wrote {FILE.name}: {FILE.stat().st_size:,} bytes")
