"""Turns text into tokens and back, with protection against a hostile tokenizer.json.

The tokenizers library is compiled and fails with a panic, which in Python is not an Exception: code
that catches errors would miss it, and a server's thread would end. The library also has no limit on
how long its steps make a text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner_base import ConfigError, one_line

MAX_GROWTH = (
    1000  # characters that one character may become before it is tokenized, or when tokens are decoded
)
SHOWN = 200  # characters of a text in a message
STEPS = re.compile(r'"(normalizer|decoder)"\s*:\s*(?=\{)')
# parts of a pattern that match between two characters
WITHOUT_WIDTH = re.compile(r"\(\?[=!<]|\\[bBAGzZ]|\^|\$")


def ids_of(tokenizer: Any, text: str, special: bool, named: str) -> list[int]:
    """Return the token ids of a text, with or without special tokens around them; ConfigError if
    that fails."""
    with panics(f"the tokenizer of {named} cannot cut this text into tokens", text):
        ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def text_of(tokenizer: Any, ids: Sequence[int], **how: bool) -> str:
    """Return the text of token ids, as `decode` of transformers does; ConfigError if that fails."""
    with panics(f"the tokenizer of {tokenizer.name_or_path} cannot put these tokens together", [*ids]):
        text: str = tokenizer.decode(ids, **how)
    return text


@contextmanager
def panics(failed: str, what: str | list[int] = "") -> Iterator[None]:
    """Turn the library's panic into an error that shows its cause."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which cannot be imported
            raise
        shown = f": {what[:SHOWN]!r}" if what else ""
        more = f"… ({len(what):,} in all)" if len(what) > SHOWN else ""
        raise ConfigError(
            f"{failed} (the library gave up: {one_line(error)}){shown}{more}", code="failed"
        ) from error


def check_growth(file: Path) -> None:
    """Reject a tokenizer.json that turns a short text into one of any length; only its replacing
    steps are read."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return  # the load reports what is wrong
    if text.count("Replace") < 2:
        return
    for match in STEPS.finditer(text):
        try:
            step, _ = json.JSONDecoder().raw_decode(text, match.end())
            most = growth(_replacements(step))
        except (ValueError, RecursionError, TypeError, AttributeError):
            continue
        if most > MAX_GROWTH:
            raise ConfigError(
                f"its {match[1]} turns one character into up to {most:.3g}, by replacements whose "
                f"content later ones replace again; the limit is {MAX_GROWTH:,}",
                key=file,
                code="too_large",
            )


def _replacements(step: Any) -> Iterator[tuple[str, bool, str]]:
    """Yield pattern, whether it is a regular expression, and content of each replacing step, in
    their order."""
    for inner in (*step.get("normalizers", ()), *step.get("decoders", ())):
        yield from _replacements(inner)
    if step.get("type") == "Replace":
        pattern = step["pattern"]
        is_regex = "Regex" in pattern
        yield str(pattern["Regex" if is_regex else "String"]), is_regex, str(step["content"])


def growth(replacements: Iterator[tuple[str, bool, str]] | Sequence[tuple[str, bool, str]]) -> float:
    """Return a bound on how many characters one becomes, found from the last step backwards."""
    bounds: dict[str, float] = {}  # of each character in a plain pattern
    others = 1.0  # of all other characters
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
    """Whether a pattern can match between characters, so that its replacement is inserted."""
    try:
        return bool(WITHOUT_WIDTH.search(pattern) or re.search(pattern, ""))
    except (re.error, RecursionError, OverflowError):
        return True  # a dialect that Python does not know
