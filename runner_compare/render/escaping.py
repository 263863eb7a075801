"""Texts that somebody else has written, in files that other programs open: sheets (CSV) and
Markdown."""

from __future__ import annotations

import re
from typing import Any

from runner_base import plain

# with such a beginning, a program for sheets runs a cell as a formula
FORMULA = re.compile(r"^[\s']*[=+\-@]")
TAG = re.compile(r"<(?=[a-zA-Z/!?])")
ENTITY = re.compile(r"&(?=#|\w+;)")
LINK = re.compile(r"\](?=\()")  # `[words](address)`
DEFINITION = re.compile(r"^\[(?=[^\]]*\]:)")  # `[name]: address`


def in_sheet(value: Any) -> Any:
    """Return a cell of a sheet: a text never runs as a formula, and has no control characters;
    numbers stay."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def in_markdown(text: str) -> str:
    """Return a text on one line as Markdown shows it: neither HTML nor a link or a picture comes of
    it."""
    one_line = plain(" ".join(text.split()))
    without_tags = TAG.sub("&lt;", ENTITY.sub("&amp;", one_line))
    return DEFINITION.sub(r"\\[", LINK.sub(r"]\\", without_tags))
