"""Cutting text into tokens and putting it together again, where a tokenizer.json of another's may be hostile.

The tokenizers library is compiled, and gives up by a panic: in Python that is no Exception, so it would pass by all
that catches errors, and end a server's thread. And it has no bound on what its steps make of a text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.core.errors import ConfigError, one_line

MOST_GROWTH = 1000  # characters that one character may become before it is cut into tokens, or when tokens are read
SHOWN = 200  # characters of a text in a message
STEPS = re.compile(r'"(normalizer|decoder)"\s*:\s*(?=\{)')
WITHOUT_WIDTH = re.compile(r"\(\?[=!<]|\\[bBAGzZ]|\^|\$")  # what a pattern can find between two characters


def ids_of(tokenizer: Any, text: str, special: bool, named: str) -> list[int]:
    """Return the token ids of a text, with or without special tokens around them; ConfigError where that fails."""
    with panics(f"the tokenizer of {named} cannot cut this text into tokens", text):
        ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def text_of(tokenizer: Any, ids: Sequence[int], **how: bool) -> str:
    """Return the text of token ids, as `decode` of transformers does; ConfigError where that fails."""
    with panics(f"the tokenizer of {tokenizer.name_or_path} cannot put these tokens together", [*ids]):
        text: str = tokenizer.decode(ids, **how)
    return text


@contextmanager
def panics(failed: str, what: str | list[int] = "") -> Iterator[None]:
    """Turn the library's panic into an error that says over what it was."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of pyo3, which gives no way to import it
            raise
        shown = f": {what[:SHOWN]!r}" if what else ""
        more = f"… ({len(what):,} in all)" if len(what) > SHOWN else ""
        raise ConfigError(f"{failed} (the library gave up: {one_line(error)}){shown}{more}") from error


def check_growth(file: Path) -> None:
    """Refuse a tokenizer.json that makes a text of any length out of a short one; only those steps of it are read."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return  # whoever loads it says what is wrong
    if text.count("Replace") < 2:
        return
    for found in STEPS.finditer(text):
        try:
            step, _ = json.JSONDecoder().raw_decode(text, found.end())
            most = growth(_replacements(step))
        except (ValueError, RecursionError, TypeError, AttributeError):
            continue
        if most > MOST_GROWTH:
            raise ConfigError(
                f"{file}: its {found[1]} makes up to {most:.3g} characters out of one, by replacements whose "
                f"content later ones replace again; at most {MOST_GROWTH:,} are made"
            )


def _replacements(step: Any) -> Iterator[tuple[str, bool, str]]:
    """Return pattern, whether it is a regular expression, and content of each step that replaces, in their order."""
    for inner in (*step.get("normalizers", ()), *step.get("decoders", ())):
        yield from _replacements(inner)
    if step.get("type") == "Replace":
        pattern = step["pattern"]
        is_regex = "Regex" in pattern
        yield str(pattern["Regex" if is_regex else "String"]), is_regex, str(step["content"])


def growth(replacements: Iterator[tuple[str, bool, str]] | Sequence[tuple[str, bool, str]]) -> float:
    """Return a bound on how many characters one becomes; from the last step on, each character has its own."""
    bounds: dict[str, float] = {}
    others = 1.0  # the bound of characters that no plain pattern has
    for pattern, is_regex, content in reversed([*replacements]):
        made = sum(count * bounds.get(one, others) for one, count in Counter(content).items())
        if is_regex:
            is_empty = _may_be_empty(pattern)
            bounds = {one: bound + made if is_empty else max(bound, made) for one, bound in bounds.items()}
            others = others + made if is_empty else max(others, made)
        elif pattern:
            bounds |= {one: max(bounds.get(one, others), made / len(pattern)) for one in pattern}
        else:
            bounds, others = {one: bound + made for one, bound in bounds.items()}, others + made
    return max([others, *bounds.values()])


def _may_be_empty(pattern: str) -> bool:
    """Whether a pattern can match between characters, so that what is put there is added to them."""
    try:
        return bool(WITHOUT_WIDTH.search(pattern) or re.search(pattern, ""))
    except (re.error, RecursionError, OverflowError):
        return True  # of another dialect
