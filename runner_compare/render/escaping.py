"""Escape untrusted texts for CSV sheets and Markdown."""

from __future__ import annotations

import re
from typing import Any

from runner_base import escape_control_characters

# with such a beginning, a program for sheets runs a cell as a formula
FORMULA = re.compile(r"^[\s']*[=+\-@]")
TAG = re.compile(r"<(?=[a-zA-Z/!?])")
ENTITY = re.compile(r"&(?=#|\w+;)")
LINK = re.compile(r"\](?=\()")  # `[words](address)`
DEFINITION = re.compile(r"^\[(?=[^\]]*\]:)")  # `[name]: address`


def escape_csv_cell(value: Any) -> Any:
    """Escape a CSV cell so that text cannot run as a formula. Numbers are unchanged."""
    if not isinstance(value, str):
        return value
    text = escape_control_characters(value)
    return f"'{text}" if FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def escape_markdown(text: str) -> str:
    """Escape a text for one line of Markdown, so that it cannot form HTML, links or pictures."""
    one_line = escape_control_characters(" ".join(text.split()))
    without_tags = TAG.sub("&lt;", ENTITY.sub("&amp;", one_line))
    return DEFINITION.sub(r"\\[", LINK.sub(r"]\\", without_tags))
