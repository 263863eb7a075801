"""Invented records in the formats of lm-eval's tasks, with the oddities that real ones have."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

NOUNS = [
    "bird",
    "river",
    "lamp",
    "stone",
    "café",
    "train",
    "cloud",
    "naïve_plan",
    "garden",
    "Straße",
    "engine",
    "雨",
    "window",
    "market",
    "letter",
]
VERBS = ["moves", "melts", "grows", "breaks", "shines", "stops", "floats", "turns", "hides", "burns"]
PLACES = [
    "in the sea.",
    "on a hill",
    "under ice",
    "near the old mill.",
    "at 20 °C",
    "far from home",
    "“inside” a box.",
]
Record = dict[str, Any]


def make_sentence(random: Random) -> str:
    noun = random.choice(NOUNS).replace("_", " ")
    return f"The {noun} {random.choice(VERBS)} {random.choice(PLACES)}"


def make_texts(random: Random, count: int) -> list[str]:
    """Return different texts; some are short, and some have blanks at their ends."""
    texts: dict[str, None] = {}
    while len(texts) < count:
        text = random.choice((make_sentence(random), random.choice(NOUNS), str(random.randint(1, 999))))
        texts[random.choice(("", "", " ")) + text + random.choice(("", "", " "))] = None
    return [*texts]


def make_question(random: Random) -> str:
    return f"Which statement fits? {make_sentence(random)}{random.choice(('', ' ', ' What then?', '?'))}"


def arc_record(random: Random) -> Record:
    count = random.choice((3, 4, 4, 4, 5))
    labels = random.choice(("ABCDE", "12345"))[:count]
    choices = {"text": make_texts(random, count), "label": [*labels]}
    return {"id": str(random.random()), "question": make_question(random), "choices": choices, "answerKey": random.choice(labels)}  # fmt: skip


def openbookqa_record(random: Random) -> Record:
    record = arc_record(random)
    record["question_stem"] = record.pop("question")
    record["answerKey"] = random.choice(("", " ")) + record["answerKey"]
    return record


def hellaswag_record(random: Random) -> Record:
    marks = ("", "[header] ", "[title] ", " [substeps]  ")
    endings = [
        random.choice(marks) + text + random.choice(("", " [title] More.")) for text in make_texts(random, 4)
    ]
    first = f"{random.choice(marks)}{make_sentence(random)} [title] {make_sentence(random)}"
    return {
        "activity_label": random.choice(("Playing chess", "Cooking  soup")), "ctx_a": first,
        "ctx_b": random.choice(("", "then he", "THEN the [step] man")), "endings": endings,
        "label": str(random.randrange(4)),
    }  # fmt: skip


def mmlu_record(random: Random) -> Record:
    return {
        "question": random.choice(("", " ")) + make_question(random), "subject": "high_school_physics",
        "choices": make_texts(random, 4), "answer": random.randrange(4),
    }  # fmt: skip


def winogrande_record(random: Random) -> Record:
    sentence = (
        f"{make_sentence(random)} because the _{random.choice((' ', ' was '))}{random.choice(VERBS)} often."
    )
    options = random.sample([noun for noun in NOUNS if "_" not in noun], 2)
    return {"sentence": sentence, "option1": options[0], "option2": options[1], "answer": random.choice("12")}


def truthfulqa_record(random: Random) -> Record:
    first, second = (make_texts(random, random.randint(2, 6)) for _ in range(2))
    right = random.randint(1, len(second) - 1)
    return {
        "question": make_question(random),
        "mc1_targets": {"choices": first, "labels": [1] + [0] * (len(first) - 1)},
        "mc2_targets": {"choices": second, "labels": [1] * right + [0] * (len(second) - right)},
    }


def piqa_record(random: Random) -> Record:
    first, second = make_texts(random, 2)
    return {"goal": make_question(random), "sol1": first, "sol2": second, "label": random.randrange(2)}


# by data set: its record, its file in lm-eval's tasks, and the split that is asked
TASKS: dict[str, tuple[Callable[[Random], Record], str, str]] = {
    "arc_easy": (arc_record, "arc/arc_easy.yaml", "test"),
    "arc_challenge": (arc_record, "arc/arc_challenge.yaml", "test"),
    "hellaswag": (hellaswag_record, "hellaswag/hellaswag.yaml", "validation"),
    "mmlu": (mmlu_record, "mmlu/default/mmlu_high_school_physics.yaml", "test"),
    "winogrande": (winogrande_record, "winogrande/default.yaml", "validation"),
    "truthfulqa_mc1": (truthfulqa_record, "truthfulqa/truthfulqa_mc1.yaml", "validation"),
    "truthfulqa_mc2": (truthfulqa_record, "truthfulqa/truthfulqa_mc2.yaml", "validation"),
    "piqa": (piqa_record, "piqa/piqa.yaml", "validation"),
    "openbookqa": (openbookqa_record, "openbookqa/openbookqa.yaml", "test"),
}


def make_records(name: str, count: int, split: str = "test") -> list[Record]:
    random = Random(f"{name}/{split}")
    return [TASKS[name][0](random) for _ in range(count)]
