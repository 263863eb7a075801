"""Each kind of instruction with responses that follow it and responses that do not."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import pytest
from ifeval_peer import INSTRUCTIONS
from raising import raises

from runner.options.instructions import languages
from runner.options.instructions.kinds import KINDS, Instruction
from runner_base.errors import ConfigError

Case = tuple[str, dict[str, Any], list[str], list[str]]
PARAGRAPHS = {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}
CASES: list[Case] = [
    ("keywords:existence", {"keywords": ["sun", "moon"]}, ["The Moon and the sun."], ["The sun.", ""]),
    ("keywords:existence", {"keywords": ["(moon"]}, ["a (Moon"], ["a moon"]),
    (
        "keywords:frequency",
        {"keyword": "sun", "frequency": 2, "relation": "at least"},
        ["sun Sun", "sunsun"],
        ["sun", "s u n"],
    ),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "less than"}, ["sun", "moon"], ["sun, sun"]),
    ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, ["sunny", "moon"], ["The Sun."]),
    (
        "keywords:letter_frequency",
        {"letter": "A", "let_frequency": 3, "let_relation": "at least"},
        ["aAa"],
        ["aa b", "bcd"],
    ),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["#a"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two? Three!", "He said “Go.” She went. They met Mr. Lee."],
        ["One. Two", "Mr. Lee met Dr. Wu at 5 p.m. in the U.S. capital.", "3.14 is pi"],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, ["One"], ["A cat. A dog."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***\na\n***\nb"], ["a\n\nb", "a ****** b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["a b c", "it's me"], ["a b", "well-known"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["a b"], ["a b c"]),
    (
        "length_constraints:nth_paragraph_first_word",
        PARAGRAPHS,
        ["One.\n\nThen two.", "One\n\n\"then,\" two"],
        ["Then.\n\nTwo.", "One.\n\nThen two.\n\nThree.", "Then", "One\n\n\n\nThen"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] [b]"], ["[a", "[a] b]", "[a\n] [b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Hi. P.S. Yo", "p. s. yo"], ["PS yo", "P.S"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["p.p.s. yo"], ["P.S. yo"]),
    ("detectable_content:postscript", {"postscript_marker": "Note:"}, ["note: yo"], ["note yo"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n  - b", "x\n\n* a\n- b", "*\n* a\n* b"],
        ["* a", "* a\n* b\n* c", "** a\n** b", "a * b * c"],
    ),
    ("detectable_format:constrained_response", {}, ["My answer is yes.", "Hm. My answer is no."], ["my answer is yes.", "Yes."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* *b*", "**a** *b*"], ["*a*", "** ** * *", "*a\nb*"]),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        ["Part 1\na\nPart 2\nb", "Part1 Part2"],
        ["Part 1", "part 1 part 2", "Part one Part two"],
    ),
    ("detectable_format:json_format", {}, ['{"a": 1}', "```json\n[1]\n```", "null"], ["{a: 1}", "a", "[" * 10_000]),
    ("detectable_format:title", {}, ["<<a>>", "x <<a b>> y"], ["<<>>", "<< >>", "<a>", "<<a\nb>>"]),
    ("combination:two_responses", {}, ["a******b", "******a******b******"], ["a", "a******a", "a******b******c", "a************b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say so."}, ["say so. Yes.", " Say so."], ["Yes. Say so.", "Say"]),
    ("startend:end_checker", {"end_phrase": "The end."}, ["It is the end.", 'So. "The end."'], ["The end. Or not.", "The end"]),
    ("startend:quotation", {}, ['"a"', ' "a b" '], ['"', '"a', "a", "'a'", "“a”"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA AND", "I'M", "CANNOT", "(A,B)"],
        ["NASA", "Nasa And", "I'm", "A-B"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": "less than"}, ["Nasa"], ["I am"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]  # fmt: skip
ENGLISH = "this is a sentence about the weather in the north of the country, and it is written in English"
GERMAN = "Das ist ein Satz über das Wetter im Norden des Landes, und er ist auf Deutsch geschrieben."
BY_LANGUAGE: list[Case] = [
    ("language:response_language", {"language": "de"}, [GERMAN, "12 34"], [ENGLISH]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper(), "12"]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH.upper(), GERMAN.lower(), "12"]),
]


def check(kind: str, arguments: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    instruction = Instruction.from_arguments(kind, arguments)
    assert [text for text in right if not instruction.is_followed(text)] == []
    assert [text for text in wrong if instruction.is_followed(text)] == []
    assert not instruction.is_followed("")
    assert not instruction.is_followed(" \n")


@pytest.mark.parametrize(
    ("kind", "arguments", "right", "wrong"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_right_and_wrong_responses(
    kind: str, arguments: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    check(kind, arguments, right, wrong)


@pytest.mark.parametrize(("kind", "arguments", "right", "wrong"), BY_LANGUAGE)
def test_languages(kind: str, arguments: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    pytest.importorskip("langdetect")
    check(kind, arguments, right, wrong)


def test_each_kind_has_a_case() -> None:
    assert {kind for kind, *_ in (*CASES, *BY_LANGUAGE)} == KINDS.keys() == {kind for kind, _ in INSTRUCTIONS}


def test_without_langdetect_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "PACKAGE", "a_package_that_is_not_there")
    with raises(ConfigError, "needs_package") as caught:
        languages.require_langdetect("language:response_language")
    assert "runner-llm[instructions]" in str(caught.value)
    assert "task.exclude_kinds=[language:response_language]" in str(caught.value)


SIZE = 10**6
HOSTILE = [
    " ", "\n", "\t\n", "[", "[]", "*", "**", "* ", "\n*", "\n-", "<", "<<", "<< >>", ">>", ".", "!", "?!", ". ", "...a ",
    '."', "P.", "p. ", "p.p.", "Mr. ", "1. a ", "A. b ", "Section", "Section 1", "0", "river ", "boat", "a", "a ", "A",
    "I'M ", "N'T", "'", '"', ",", "{", "[1,", '{"a":', "```", "\n\n", "\n\n\n", "***", "***\n", "******", "河", "é", "🙂",
    "\u2028", "\x00", "Later", "http://a.b/", "a@b.c ", "\\", "-", "_",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("unit", HOSTILE)
def test_a_megabyte_is_checked_in_less_than_a_second(unit: str) -> None:
    text = "x" + unit * (SIZE // len(unit)) + "y"
    has_package = find_spec("langdetect") is not None
    for kind, arguments in INSTRUCTIONS:
        if KINDS[kind].needs_langdetect and not has_package:
            continue
        instruction = Instruction.from_arguments(kind, arguments)
        start = time.process_time()
        instruction.is_followed(text)
        assert time.process_time() - start < 1, instruction
