"""Encodes and decodes text. Guards against panics of the tokenizers library and malicious
tokenizer.json files.

The tokenizers library is compiled and fails with a panic, which in Python is not an Exception: code
that catches errors would miss it, and a server's thread would end. The library also has no limit on
how much its steps lengthen a string.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner_base import ConfigError, to_one_line

MAX_GROWTH = (
    1000  # characters that one character may become before it is tokenized, or when tokens are decoded
)
SHOWN = 200  # characters of a text in a message
STEPS = re.compile(r'"(normalizer|decoder)"\s*:\s*(?=\{)')
# parts of a pattern that match between two characters
WITHOUT_WIDTH = re.compile(r"\(\?[=!<]|\\[bBAGzZ]|\^|\$")


def encode_text(tokenizer: Any, text: str, add_special_tokens: bool, model_name: str) -> list[int]:
    """Return the token ids of a string. Raises ConfigError if the tokenizer fails."""
    with catch_tokenizer_panics(f"the tokenizer of {model_name} cannot encode this text", text):
        ids: list[int] = tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
    return ids


def decode_token_ids(tokenizer: Any, token_ids: Sequence[int], **options: bool) -> str:
    """Decode token ids like transformers' `decode`. Raises ConfigError if the tokenizer fails."""
    with catch_tokenizer_panics(
        f"the tokenizer of {tokenizer.name_or_path} cannot decode these tokens", [*token_ids]
    ):
        text: str = tokenizer.decode(token_ids, **options)
    return text


@contextmanager
def catch_tokenizer_panics(message: str, shown_input: str | list[int] = "") -> Iterator[None]:
    """Context manager that raises a ConfigError with the input if the tokenizers library panics."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which cannot be imported
            raise
        shown = f": {shown_input[:SHOWN]!r}" if shown_input else ""
        more = f"… ({len(shown_input):,} in all)" if len(shown_input) > SHOWN else ""
        raise ConfigError(
            f"{message} (the library gave up: {to_one_line(error)}){shown}{more}", code="failed"
        ) from error


def reject_expanding_tokenizer_rules(file: Path) -> None:
    """Raise ConfigError if the replacement rules in a tokenizer.json can lengthen a short string too much."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return  # the load reports what is wrong
    if text.count("Replace") < 2:
        return
    for match in STEPS.finditer(text):
        try:
            step, _ = json.JSONDecoder().raw_decode(text, match.end())
            most = compute_max_text_expansion_factor(_iter_replacements(step))
        except (ValueError, RecursionError, TypeError, AttributeError):
            continue
        if most > MAX_GROWTH:
            raise ConfigError(
                f"the {match[1]} can lengthen one character to {most:.3g} characters through repeated "
                f"replacements. The limit is {MAX_GROWTH:,}",
                key=file,
                code="too_large",
            )


def _iter_replacements(step: Any) -> Iterator[tuple[str, bool, str]]:
    for inner in (*step.get("normalizers", ()), *step.get("decoders", ())):
        yield from _iter_replacements(inner)
    if step.get("type") == "Replace":
        pattern = step["pattern"]
        is_regex = "Regex" in pattern
        yield str(pattern["Regex" if is_regex else "String"]), is_regex, str(step["content"])


def compute_max_text_expansion_factor(
    replacements: Iterator[tuple[str, bool, str]] | Sequence[tuple[str, bool, str]],
) -> float:
    bounds: dict[str, float] = {}  # of each character in a plain pattern
    others = 1.0  # of all other characters
    for pattern, is_regex, content in reversed([*replacements]):
        made = sum(count * bounds.get(one, others) for one, count in Counter(content).items())
        if is_regex:
            is_empty = _can_match_empty_string(pattern)
            bounds = {one: bound + made if is_empty else max(bound, made) for one, bound in bounds.items()}
            others = others + made if is_empty else max(others, made)
        elif pattern:
            bounds |= {one: max(bounds.get(one, others), made / len(pattern)) for one in pattern}
        else:
            bounds, others = {one: bound + made for one, bound in bounds.items()}, others + made
    return max([others, *bounds.values()])


def _can_match_empty_string(pattern: str) -> bool:
    try:
        return bool(WITHOUT_WIDTH.search(pattern) or re.search(pattern, ""))
    except (re.error, RecursionError, OverflowError):
        return True  # a dialect that Python does not know
