"""Answers that follow all instructions of an embedded prompt, made from the instructions' arguments alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from scripted import Reply

from runner.options.instructions.kinds import InstructionPrompt
from runner_base.result import FinishReason
from runner_engine.sessions.base import Request

LINE, EMPTY_LINE, DIVIDER, RESPONSES = "\n", "\n\n", "\n***\n", "\n******\n"


def follow(prompt: InstructionPrompt) -> str:
    """Return an answer that follows all instructions of a prompt."""
    given: dict[str, dict[str, Any]] = {
        instruction.kind.partition(":")[2]: dict(instruction.arguments) for instruction in prompt.instructions
    }
    if "constrained_response" in given:
        return "My answer is no."
    words = [*given.get("existence", {}).get("keywords", ())]
    if "json_format" in given:
        return json.dumps({"words": words})
    title = "<<a tale>> " if "title" in given else ""
    if "repeat_prompt" in given:
        return " ".join([given["repeat_prompt"]["prompt_to_repeat"], title, *words])
    if "two_responses" in given:
        return f"{title}{' '.join(words)} one{RESPONSES}two"
    text = _join_parts(given, _write_body(given, [*words, title]))
    if "postscript" in given:
        text += f"{LINE}{given['postscript']['postscript_marker']} bye"
    if "end_checker" in given:
        text += f" {given['end_checker']['end_phrase']}"
    return f'"{text}"' if "quotation" in given else text


def _write_body(given: dict[str, dict[str, Any]], words: list[str]) -> str:
    """Return the words that instructions ask for, in one sentence or as many as are asked for."""
    first = given.get("nth_paragraph_first_word", {}).get("first_word", "we")
    parts = [first, "saw", *words]
    for kind, number, relation in (
        ("frequency", "frequency", "relation"),
        ("letter_frequency", "let_frequency", "let_relation"),
        ("capital_word_frequency", "capital_frequency", "capital_relation"),
    ):
        asked = given.get(kind, {})
        if asked.get(relation) == "at least":
            words_or_letters = [asked.get("keyword") or asked.get("letter") or "BIG"] * asked[number]
            parts += ["".join(words_or_letters)] if "letter" in asked else words_or_letters
    parts += ["*part*"] * given.get("number_highlighted_sections", {}).get("num_highlights", 0)
    parts += ["[name]"] * given.get("number_placeholders", {}).get("num_placeholders", 0)
    sentences, num_words = given.get("number_sentences", {}), given.get("number_words", {})
    if num_words.get("relation") == "at least":
        parts += ["foam"] * num_words["num_words"]
    count = sentences["num_sentences"] if sentences.get("relation") == "at least" else 1
    return " ".join(parts) + "." + " We rest." * (count - 1)


def _join_parts(given: dict[str, dict[str, Any]], body: str) -> str:
    bullets = given.get("number_bullet_lists", {}).get("num_bullets", 0)
    body += "".join(f"{LINE}* point" for _ in range(bullets))
    if "multiple_sections" in given:
        asked = given["multiple_sections"]
        heads = [f"{asked['section_spliter']} {number}" for number in range(1, asked["num_sections"] + 1)]
        return LINE.join([heads[0], body, *(f"{head}{LINE}more" for head in heads[1:])])
    if "nth_paragraph_first_word" in given:
        asked = given["nth_paragraph_first_word"]
        paragraphs = ["more"] * asked["num_paragraphs"]
        paragraphs[asked["nth_paragraph"] - 1] = body
        return EMPTY_LINE.join(paragraphs)
    paragraphs = [body] + ["more"] * (given.get("number_paragraphs", {}).get("num_paragraphs", 1) - 1)
    return DIVIDER.join(paragraphs)


def following(
    prompts: list[InstructionPrompt], wrong: frozenset[int] = frozenset()
) -> Callable[[Request], Reply]:
    """Return what answers each prompt rightly, and those of some numbers with an empty line."""

    def answer(request: Request) -> Reply:
        number = int(request.id)
        return ("\n" if number in wrong else follow(prompts[number])), FinishReason.stop

    return answer
