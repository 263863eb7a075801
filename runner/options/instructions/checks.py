"""Checks whether a response follows an instruction: one function for each kind of instruction.

The functions give the verdicts of IFEval's checkers, as lm-eval has them. Each needs time in proportion to the length
of the response; regular expressions of IFEval that do not are replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import StrEnum

from runner.options.instructions.languages import detect_language
from runner.options.instructions.sentences import count_capital_words, count_sentences

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
JSON_FENCES = ("```json", "```Json", "```JSON", "```")
ENGLISH = "en"
# how a postscript begins, where the marker is one of IFEval's own
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}


class Relation(StrEnum):
    """How a counted number must compare with the number in the instruction."""

    less_than = "less than"
    at_least = "at least"

    def compare(self, count: int, threshold: int) -> bool:
        return count < threshold if self is Relation.less_than else count >= threshold


def has_keywords(response: str, keywords: Sequence[str]) -> bool:
    return all(_compile_keyword(keyword).search(response) for keyword in keywords)


def has_keyword_frequency(response: str, keyword: str, frequency: int, relation: Relation) -> bool:
    return relation.compare(len(_compile_keyword(keyword.strip()).findall(response)), frequency)


def has_no_forbidden_words(response: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_compile_keyword(word, is_whole_word=True).search(response) for word in forbidden_words)


def _compile_keyword(keyword: str, is_whole_word: bool = False) -> re.Pattern[str]:
    """Compile a keyword as a regular expression, as IFEval does. Other text, such as `C++`, is literal."""
    border = r"\b" if is_whole_word else ""
    try:
        return re.compile(f"{border}{keyword}{border}", re.IGNORECASE)
    except re.error:
        return re.compile(f"{border}{re.escape(keyword)}{border}", re.IGNORECASE)


def has_letter_frequency(response: str, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    return let_relation.compare(response.lower().count(letter.lower()), let_frequency)


def is_in_language(response: str, language: str) -> bool:
    return detect_language(response) in (language, None)


def has_sentence_count(response: str, num_sentences: int, relation: Relation) -> bool:
    return relation.compare(count_sentences(response, max(num_sentences, 1)), num_sentences)


def has_word_count(response: str, num_words: int, relation: Relation) -> bool:
    return relation.compare(len(re.findall(r"\w+", response)), num_words)


def has_paragraph_count(response: str, num_paragraphs: int) -> bool:
    """Count paragraphs between dividers `***`. Only the first and the last one may be empty."""
    paragraphs = [paragraph.strip() for paragraph in re.split(r"\s?\*\*\*\s?", response)]
    if not all(paragraphs[1:-1]):
        return False
    num_empty = sum(not paragraphs[index] for index in {0, len(paragraphs) - 1})
    return len(paragraphs) - num_empty == num_paragraphs


def has_first_word(response: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Check the first word of a paragraph, and the number of paragraphs between empty lines."""
    paragraphs = response.split("\n\n")
    count = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth_paragraph > count or not (words := paragraphs[nth_paragraph - 1].split(maxsplit=1)):
        return False
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return count == num_paragraphs and word.lower() == first_word.lower()


def has_placeholders(response: str, num_placeholders: int) -> bool:
    return sum(map(_count_placeholders, response.split("\n"))) >= num_placeholders


def _count_placeholders(line: str) -> int:
    count = end = 0
    while (start := line.find("[", end)) >= 0 and (end := line.find("]", start) + 1):
        count += 1
    return count


def has_postscript(response: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    pattern = POSTSCRIPTS.get(marker)
    lowered = response.lower()
    if pattern is None:
        return _compile_keyword(marker.lower()).search(lowered) is not None
    return re.search(pattern, lowered) is not None


def has_bullet_count(response: str, num_bullets: int) -> bool:
    """Count bullets: lines that begin with `-` or one `*`. The text of a bullet may follow on the next line."""
    lines = [line.lstrip() for line in response.split("\n")]
    count, index = 0, 0
    while index < len(lines):
        line = lines[index]
        is_lone_star = line == "*" and index + 1 < len(lines)
        count += is_lone_star or (line.startswith("*") and line[1:2] not in ("", "*"))
        index += 1 + is_lone_star
    return count + sum(line.startswith("-") for line in lines) == num_bullets


def is_constrained_response(response: str) -> bool:
    return any(option in response for option in CONSTRAINED_RESPONSES)


def has_highlights(response: str, num_highlights: int) -> bool:
    single = re.findall(r"\*([^\n*]*)\*", response)
    double = re.findall(r"\*\*([^\n*]*)\*\*", response)
    return sum(bool(text.strip()) for text in (*single, *double)) >= num_highlights


def has_sections(response: str, section_spliter: str, num_sections: int) -> bool:
    marker = _compile_keyword(section_spliter.strip()).pattern
    return len(re.findall(rf"{marker}\s?\d+", response)) >= num_sections


def is_json(response: str) -> bool:
    text = response.strip()
    for fence in JSON_FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(response: str) -> bool:
    """Look for a line with text between the first `<<` and the last `>>`."""
    for line in response.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start <= end - 3 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def has_two_responses(response: str) -> bool:
    parts = [part.strip() for part in response.split("******")]
    if not all(parts[1:-1]):
        return False
    responses = [part for part in parts if part]
    return len(responses) == 2 and responses[0] != responses[1]


def repeats_prompt(response: str, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def has_end_phrase(response: str, end_phrase: str) -> bool:
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def has_capital_words(response: str, capital_frequency: int, capital_relation: Relation) -> bool:
    return capital_relation.compare(count_capital_words(response), capital_frequency)


def is_english_in_capitals(response: str) -> bool:
    return response.isupper() and detect_language(response) in (ENGLISH, None)


def is_english_in_lower_case(response: str) -> bool:
    return response.islower() and detect_language(response) in (ENGLISH, None)


def has_no_comma(response: str) -> bool:
    return "," not in response


def is_quoted(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'
