"""Match questions of two evaluations by text.

The match ignores text that prompts add around a question.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean

from runner_compare.model.outcomes import Question

KEY = 16  # characters: the ends of questions that are looked up in prompts; shorter questions must be a whole text
LABELS = re.compile(r"^(?:question|problem|q)\s*[:.]\s*|\s*\b(?:answer|solution|a)\s*:$")

Texts = Mapping[Question, str]


def normalize_text(text: str) -> str:
    """Normalize a question for text matching: case, whitespace, Unicode form, escapes and labels
    like `Question:`.
    """
    plain = unicodedata.normalize("NFKC", text.replace("\\n", " ").replace('\\"', '"')).casefold()
    return LABELS.sub("", " ".join(plain.split()))


def match_questions(texts: Texts, base_texts: Texts) -> dict[Question, Question]:
    """Map each question of one evaluation to the question with the same text in the other.

    A common beginning or end of all texts of a side belongs to its prompts, and is removed. Two
    remaining texts are one question if they are equal, or if the longer one, as a prompt with
    worked examples, ends in the shorter one. A text that fits several questions is not matched.
    """
    prompts, base_prompts = (
        _strip_common_prefix_and_suffix(texts),
        _strip_common_prefix_and_suffix(base_texts),
    )
    if _mean_length(prompts) > _mean_length(base_prompts):
        return {
            our_key: their_key
            for their_key, our_key in _match_questions_to_prompts(base_prompts, prompts).items()
        }
    return _match_questions_to_prompts(prompts, base_prompts)


def _mean_length(texts: Texts) -> float:
    return fmean(map(len, texts.values())) if texts else 0.0


def _strip_common_prefix_and_suffix(texts: Texts) -> dict[Question, str]:
    plain = {key: normalize_text(text) for key, text in texts.items()}
    if len({*plain.values()}) < 2:
        return plain
    before = _find_common_prefix(plain.values())
    after = _find_common_prefix(text[::-1] for text in plain.values())
    inner = {key: text[len(before) : len(text) - len(after)].strip() for key, text in plain.items()}
    return inner if all(inner.values()) else plain


def _find_common_prefix(texts: Iterable[str]) -> str:
    every = list(texts)
    first, last = min(every), max(every)  # all others begin with what these two share
    same = next(
        (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first)
    )
    return first[:same].rpartition(" ")[0]


def _match_questions_to_prompts(questions: Texts, prompts: Texts) -> dict[Question, Question]:
    counts = Counter(questions.values())
    by_text = {text: key for key, text in questions.items() if text and counts[text] == 1}
    by_end: dict[str, list[str]] = {}
    for text in by_text:
        if len(text) >= KEY:
            by_end.setdefault(text[-KEY:], []).append(text)
    found: dict[Question, list[Question]] = {}
    for prompt_key, prompt in prompts.items():
        text = prompt if prompt in counts else _find_last_question(prompt, by_end)
        if text in by_text:
            found.setdefault(by_text[text], []).append(prompt_key)
    return {key: keys[0] for key, keys in found.items() if len(keys) == 1}


def _find_last_question(prompt: str, questions_by_ending: Mapping[str, list[str]]) -> str:
    """Return the last question that a prompt contains.

    If several questions end at the same position, the longest one wins.
    """
    for end in range(len(prompt), KEY - 1, -1):
        candidates = questions_by_ending.get(prompt[end - KEY : end], ())
        inside = [text for text in candidates if prompt.endswith(text, 0, end)]
        if inside:
            return max(inside, key=len)
    return ""
