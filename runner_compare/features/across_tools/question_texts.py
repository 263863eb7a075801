"""Finds the questions that two evaluations share by their texts, whatever a prompt adds around
them."""

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


def normalized(text: str) -> str:
    """Return a text without the differences of case, spaces, escapes and kinds of characters that
    look alike."""
    plain = unicodedata.normalize("NFKC", text.replace("\\n", " ").replace('\\"', '"')).casefold()
    return LABELS.sub("", " ".join(plain.split()))


def same_questions(texts: Texts, base_texts: Texts) -> dict[Question, Question]:
    """Return which of their questions is which of ours; a text that would fit several is none of
    them.

    What all texts of a side begin or end with belongs to its prompts. Of the rest, two are one
    question if they are equal, or if the longer ones, as prompts with worked examples, have the
    shorter one as their last question.
    """
    prompts, base_prompts = _without_frame(texts), _without_frame(base_texts)
    if _mean_length(prompts) > _mean_length(base_prompts):
        return {our_key: their_key for their_key, our_key in _prompts_of(base_prompts, prompts).items()}
    return _prompts_of(prompts, base_prompts)


def _mean_length(texts: Texts) -> float:
    return fmean(map(len, texts.values())) if texts else 0.0


def _without_frame(texts: Texts) -> dict[Question, str]:
    """Return texts, normalized, without the words that all of them begin with and end with."""
    plain = {key: normalized(text) for key, text in texts.items()}
    if len({*plain.values()}) < 2:
        return plain
    before = _common_beginning(plain.values())
    after = _common_beginning(text[::-1] for text in plain.values())
    inner = {key: text[len(before) : len(text) - len(after)].strip() for key, text in plain.items()}
    return inner if all(inner.values()) else plain


def _common_beginning(texts: Iterable[str]) -> str:
    """Return the whole words that all texts begin with."""
    every = list(texts)
    first, last = min(every), max(every)  # all others begin with what these two share
    same = next(
        (at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first)
    )
    return first[:same].rpartition(" ")[0]


def _prompts_of(questions: Texts, prompts: Texts) -> dict[Question, Question]:
    counts = Counter(questions.values())
    by_text = {text: key for key, text in questions.items() if text and counts[text] == 1}
    by_end: dict[str, list[str]] = {}
    for text in by_text:
        if len(text) >= KEY:
            by_end.setdefault(text[-KEY:], []).append(text)
    found: dict[Question, list[Question]] = {}
    for prompt_key, prompt in prompts.items():
        text = prompt if prompt in counts else _last_in(prompt, by_end)
        if text in by_text:
            found.setdefault(by_text[text], []).append(prompt_key)
    return {key: keys[0] for key, keys in found.items() if len(keys) == 1}


def _last_in(prompt: str, by_end: Mapping[str, list[str]]) -> str:
    """Return the question that ends last in a prompt, the longest one if several end there; empty
    if none is in it."""
    for end in range(len(prompt), KEY - 1, -1):
        candidates = by_end.get(prompt[end - KEY : end], ())
        inside = [text for text in candidates if prompt.endswith(text, 0, end)]
        if inside:
            return max(inside, key=len)
    return ""
