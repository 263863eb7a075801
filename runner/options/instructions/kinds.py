"""The kinds of instructions with IFEval's ids: their arguments, and the function that checks a response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.options.instructions import checks
from runner.options.instructions.checks import Relation
from runner_base import format_truncated_repr

Parser = Callable[[Any], Any]  # raises ValueError with what the value must be


def parse_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ValueError("must be a whole number from 0")
    return int(value)


def parse_position(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
        raise ValueError("must be a whole number from 1")
    return int(value)


def parse_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    return value


def parse_words(value: Any) -> tuple[str, ...]:
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(word, str) and word for word in value)
    ):
        raise ValueError("must be a list of words")
    return tuple(value)


def parse_letter(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 1:
        raise ValueError("must be one character")
    return value


def parse_relation(value: Any) -> Relation:
    try:
        return Relation(value)
    except ValueError:
        raise ValueError(f"must be one of: {', '.join(Relation)}") from None


@dataclass(frozen=True)
class Kind:
    """A kind of instruction. `follows` gets a response, and the arguments by name."""

    follows: Callable[..., bool]
    parsers: Mapping[str, Parser] = field(default_factory=dict)
    needs_langdetect: bool = False


KINDS: Mapping[str, Kind] = {
    "keywords:existence": Kind(checks.has_keywords, {"keywords": parse_words}),
    "keywords:frequency": Kind(
        checks.has_keyword_frequency,
        {"keyword": parse_text, "frequency": parse_count, "relation": parse_relation},
    ),
    "keywords:forbidden_words": Kind(checks.has_no_forbidden_words, {"forbidden_words": parse_words}),
    "keywords:letter_frequency": Kind(
        checks.has_letter_frequency,
        {"letter": parse_letter, "let_frequency": parse_count, "let_relation": parse_relation},
    ),
    "language:response_language": Kind(
        checks.is_in_language, {"language": parse_text}, needs_langdetect=True
    ),
    "length_constraints:number_sentences": Kind(
        checks.has_sentence_count, {"num_sentences": parse_count, "relation": parse_relation}
    ),
    "length_constraints:number_paragraphs": Kind(checks.has_paragraph_count, {"num_paragraphs": parse_count}),
    "length_constraints:number_words": Kind(
        checks.has_word_count, {"num_words": parse_count, "relation": parse_relation}
    ),
    "length_constraints:nth_paragraph_first_word": Kind(
        checks.has_first_word,
        {"num_paragraphs": parse_count, "nth_paragraph": parse_position, "first_word": parse_text},
    ),
    "detectable_content:number_placeholders": Kind(
        checks.has_placeholders, {"num_placeholders": parse_count}
    ),
    "detectable_content:postscript": Kind(checks.has_postscript, {"postscript_marker": parse_text}),
    "detectable_format:number_bullet_lists": Kind(checks.has_bullet_count, {"num_bullets": parse_count}),
    "detectable_format:constrained_response": Kind(checks.is_constrained_response),
    "detectable_format:number_highlighted_sections": Kind(
        checks.has_highlights, {"num_highlights": parse_count}
    ),
    "detectable_format:multiple_sections": Kind(
        checks.has_sections, {"section_spliter": parse_text, "num_sections": parse_count}
    ),
    "detectable_format:json_format": Kind(checks.is_json),
    "detectable_format:title": Kind(checks.has_title),
    "combination:two_responses": Kind(checks.has_two_responses),
    "combination:repeat_prompt": Kind(checks.repeats_prompt, {"prompt_to_repeat": parse_text}),
    "startend:end_checker": Kind(checks.has_end_phrase, {"end_phrase": parse_text}),
    "startend:quotation": Kind(checks.is_quoted),
    "change_case:capital_word_frequency": Kind(
        checks.has_capital_words, {"capital_frequency": parse_count, "capital_relation": parse_relation}
    ),
    "change_case:english_capital": Kind(checks.is_english_in_capitals, needs_langdetect=True),
    "change_case:english_lowercase": Kind(checks.is_english_in_lower_case, needs_langdetect=True),
    "punctuation:no_comma": Kind(checks.has_no_comma),
}


@dataclass(frozen=True)
class Instruction:
    """One verifiable instruction of a prompt."""

    kind: str
    arguments: Mapping[str, Any]

    @classmethod
    def from_arguments(cls, kind: str, arguments: Mapping[str, Any]) -> Instruction:
        """Check the arguments. Raises ValueError if one is missing, unknown or malformed."""
        parsers = KINDS[kind].parsers
        given = {name: value for name, value in arguments.items() if value is not None}
        if unknown := sorted(given.keys() - parsers.keys()):
            raise ValueError(f"{kind} has no argument {unknown[0]}")
        parsed = {}
        for name, parse in parsers.items():
            if name not in given:
                raise ValueError(f"{kind} needs the argument {name}")
            try:
                parsed[name] = parse(given[name])
            except ValueError as error:
                raise ValueError(f"{kind}: {name}={format_truncated_repr(given[name])} {error}") from None
        return cls(kind, parsed)

    def is_followed(self, response: str) -> bool:
        return bool(response.strip()) and KINDS[self.kind].follows(response, **self.arguments)

    def __str__(self) -> str:
        arguments = (
            f"{name}={', '.join(value) if isinstance(value, tuple) else value}"
            for name, value in self.arguments.items()
        )
        return f"{self.kind}({'; '.join(arguments)})" if self.arguments else self.kind


@dataclass(frozen=True)
class InstructionPrompt:
    """A prompt with the instructions that its answer must follow."""

    key: str
    prompt: str
    instructions: tuple[Instruction, ...]

    @property
    def gold(self) -> str:
        return " | ".join(map(str, self.instructions))
