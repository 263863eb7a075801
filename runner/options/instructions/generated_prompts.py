"""Generates prompts with one to three instructions that one answer can follow together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from omegaconf import OmegaConf

from runner.options.instructions.checks import Relation
from runner.options.instructions.kinds import Instruction, InstructionPrompt
from runner_base import ConfigError

CONSTRAINED, REPEAT = "detectable_format:constrained_response", "combination:repeat_prompt"
EXISTENCE, FORBIDDEN, TITLE = "keywords:existence", "keywords:forbidden_words", "detectable_format:title"
NO_COMMA = "punctuation:no_comma"
# kinds that an answer can only follow together with these
ONLY_WITH: Mapping[str, frozenset[str]] = {
    CONSTRAINED: frozenset(),
    REPEAT: frozenset({EXISTENCE, TITLE, NO_COMMA}),
    "detectable_format:json_format": frozenset({EXISTENCE, FORBIDDEN}),
    "combination:two_responses": frozenset({EXISTENCE, FORBIDDEN, TITLE, NO_COMMA}),
}
CONFLICTS = frozenset(
    map(
        frozenset,
        (
            ("length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word"),
            ("length_constraints:number_paragraphs", "detectable_format:multiple_sections"),
            ("length_constraints:nth_paragraph_first_word", "detectable_format:multiple_sections"),
            ("detectable_format:number_highlighted_sections", "detectable_format:multiple_sections"),
            ("startend:quotation", TITLE),
            ("startend:end_checker", "detectable_content:postscript"),
        ),
    )
)


@dataclass(frozen=True)
class Wording:
    """Texts and words from which prompts are made."""

    requests: list[str]
    topics: list[str]
    questions: list[str]
    keywords: list[str]
    first_words: list[str]
    end_phrases: list[str]
    markers: list[str]
    common_letters: list[str]
    rare_letters: list[str]
    instructions: dict[str, str]


@cache
def load_wording() -> Wording:
    texts: Any = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("wording.yaml")))
    return Wording(**texts)


def list_generated_kinds() -> list[str]:
    """Return the kinds in the embedded prompts, which are those that need no language detection."""
    return [*load_wording().instructions]


def generate_prompts(
    count: int, num_instructions: Sequence[int], seed: int, excluded_kinds: Sequence[str]
) -> list[InstructionPrompt]:
    """Return the first `count` prompts. A prompt depends on its number and the other arguments only."""
    kinds = [kind for kind in list_generated_kinds() if kind not in excluded_kinds]
    starts = {
        number: [kind for kind in kinds if _can_start(kind, number, kinds)] for number in num_instructions
    }
    if empty := [number for number, possible in starts.items() if not possible]:
        raise ConfigError(
            f"no prompt with {empty[0]} instructions can be made from the kinds that are not excluded. "
            "Exclude fewer kinds, or set task.num_instructions=[1]",
            key="task.exclude_kinds",
            value=",".join(excluded_kinds),
            code="conflict",
        )
    prompts = []
    for position in range(count):
        cycle, place = divmod(position, len(num_instructions))
        number = num_instructions[place]
        rng = Random(f"{seed}/{number}/{cycle}")
        first = starts[number][cycle % len(starts[number])]
        prompts.append(
            _make_prompt(
                f"embedded_{number}_{cycle}", _choose_random_instruction_kinds(first, number, kinds, rng), rng
            )
        )
    return prompts


def _can_start(kind: str, number: int, kinds: Sequence[str]) -> bool:
    return number == 1 or any(
        _can_extend_with_compatible_kinds([kind, other], number, kinds)
        for other in kinds
        if are_compatible(kind, other)
    )


def _can_extend_with_compatible_kinds(chosen: list[str], number: int, kinds: Sequence[str]) -> bool:
    fitting = [kind for kind in kinds if all(are_compatible(kind, other) for other in chosen)]
    if len(chosen) >= number:
        return True
    return any(_can_extend_with_compatible_kinds([*chosen, kind], number, kinds) for kind in fitting)


def are_compatible(first: str, second: str) -> bool:
    if first == second or frozenset({first, second}) in CONFLICTS:
        return False
    return all(other in ONLY_WITH.get(kind, {other}) for kind, other in ((first, second), (second, first)))


def _choose_random_instruction_kinds(first: str, number: int, kinds: Sequence[str], rng: Random) -> list[str]:
    chosen = [first]
    while len(chosen) < number:
        fitting = [
            kind
            for kind in kinds
            if all(are_compatible(kind, other) for other in chosen)
            and _can_extend_with_compatible_kinds([*chosen, kind], number, kinds)
        ]
        chosen.append(rng.choice(fitting))
    return sorted(chosen, key=lambda kind: kind == REPEAT)  # whose sentence refers to all text before it


def _make_prompt(key: str, kinds: Sequence[str], rng: Random) -> InstructionPrompt:
    wording = load_wording()
    if CONSTRAINED in kinds:
        request = rng.choice(wording.questions)
    else:
        request = rng.choice(wording.requests).format(topic=rng.choice(wording.topics))
    words = rng.sample(wording.keywords, len(wording.keywords))  # no word is drawn twice
    sentences, instructions = [request], []
    for kind in kinds:
        arguments = (
            {"prompt_to_repeat": " ".join(sentences)}
            if kind == REPEAT
            else _draw_random_instruction_arguments(kind, rng, words)
        )
        instructions.append(Instruction.from_arguments(kind, arguments))
        sentences.append(_format_instruction(wording.instructions[kind], arguments))
    return InstructionPrompt(key, " ".join(sentences), tuple(instructions))


def _format_instruction(template: str, arguments: Mapping[str, Any]) -> str:
    texts = {
        name: " and ".join(value) if isinstance(value, list) else value for name, value in arguments.items()
    }
    return template.format(**texts)


def _draw_random_instruction_arguments(kind: str, rng: Random, words: list[str]) -> dict[str, Any]:
    """Draw an instruction's arguments such that an answer can follow any three instructions together."""
    draw = ARGUMENTS.get(kind)
    return draw(rng, words) if draw is not None else {}


def _draw_keyword_frequency(rng: Random, words: list[str]) -> dict[str, Any]:
    relation = rng.choice([*Relation])
    return {"keyword": words.pop(), "frequency": rng.randint(2, 4), "relation": relation.value}


def _draw_letter_frequency(rng: Random, _words: list[str]) -> dict[str, Any]:
    wording = load_wording()
    if rng.random() < 0.5:
        return {
            "letter": rng.choice(wording.rare_letters),
            "let_frequency": rng.randint(1, 3),
            "let_relation": Relation.less_than.value,
        }
    return {
        "letter": rng.choice(wording.common_letters),
        "let_frequency": rng.choice((10, 20, 30)),
        "let_relation": Relation.at_least.value,
    }


def _draw_counted(
    name: str, relation_name: str, less_than: Sequence[int], at_least: Sequence[int]
) -> Callable[[Random, list[str]], dict[str, Any]]:
    def draw(rng: Random, _words: list[str]) -> dict[str, Any]:
        relation = rng.choice([*Relation])
        count = rng.choice(less_than if relation is Relation.less_than else at_least)
        return {name: count, relation_name: relation.value}

    return draw


def _draw_first_word(rng: Random, _words: list[str]) -> dict[str, Any]:
    count = rng.randint(2, 4)
    first_word = rng.choice(load_wording().first_words)
    return {"num_paragraphs": count, "nth_paragraph": rng.randint(1, count), "first_word": first_word}


ARGUMENTS: Mapping[str, Callable[[Random, list[str]], dict[str, Any]]] = {
    EXISTENCE: lambda _rng, words: {"keywords": [words.pop(), words.pop()]},
    "keywords:frequency": _draw_keyword_frequency,
    FORBIDDEN: lambda _rng, words: {"forbidden_words": [words.pop(), words.pop()]},
    "keywords:letter_frequency": _draw_letter_frequency,
    "length_constraints:number_sentences": _draw_counted(
        "num_sentences", "relation", (4, 5, 6, 8), (2, 3, 4, 6, 8)
    ),
    "length_constraints:number_paragraphs": lambda rng, _words: {"num_paragraphs": rng.randint(2, 4)},
    "length_constraints:number_words": _draw_counted(
        "num_words", "relation", (60, 80, 100, 150), (20, 30, 50, 80, 120)
    ),
    "length_constraints:nth_paragraph_first_word": _draw_first_word,
    "detectable_content:number_placeholders": lambda rng, _words: {"num_placeholders": rng.randint(1, 4)},
    "detectable_content:postscript": lambda rng, _words: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
    "detectable_format:number_bullet_lists": lambda rng, _words: {"num_bullets": rng.randint(2, 5)},
    "detectable_format:number_highlighted_sections": lambda rng, _words: {
        "num_highlights": rng.randint(1, 3)
    },
    "detectable_format:multiple_sections": lambda rng, _words: {
        "section_spliter": rng.choice(load_wording().markers),
        "num_sections": rng.randint(2, 4),
    },
    "startend:end_checker": lambda rng, _words: {"end_phrase": rng.choice(load_wording().end_phrases)},
    "change_case:capital_word_frequency": _draw_counted(
        "capital_frequency", "capital_relation", (3, 4, 6), (2, 4, 6)
    ),
}
