"""Reads files that list questions of a data set for `task.only` and `task.unscored`.

One entry a line (a line that begins with # is a comment), or a JSON list of entries. An entry
is the number of a question in its split, from 0 on; an id of the data set; or the SHA-256 of
the question's text, in full or its first 16 digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from runner_base import ConfigError, DataError, join_first_names, parse_json, read_text

ID = "id:"  # before an id that is a whole number, because a whole number alone is the number of a question
DIGITS = 16  # of a hash, at least
HASH = re.compile(rf"[0-9a-f]{{{DIGITS}}}|[0-9a-f]{{64}}")
FORMS = (
    f"a question's number (counted from 0), its id in the data set, or its SHA-256 (64 or {DIGITS} digits)"
)


class IdentifiableQuestion(Protocol):
    """Protocol of a question with its position, id and text in the data set."""

    @property
    def position(self) -> int: ...

    @property
    def id(self) -> str:
        """The question's id in the data set. Empty if it has none."""

    @property
    def text(self) -> str:
        """The question's text without choices."""


def hash_question_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_question_list(file: str, config_key: str) -> list[str]:
    """Read a list of questions from a file, without duplicates. Errors name `config_key`."""
    text = read_text(Path(file).expanduser(), f"{config_key}={file}").removeprefix("\ufeff")
    if text.lstrip().startswith("["):
        entries = _parse_json_list(text, f"{config_key}={file}")
    else:
        entries = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = list(dict.fromkeys(filter(None, entries)))
    if not entries:
        raise ConfigError(
            f"the file lists no question. Write one per line: {FORMS}",
            key=config_key,
            value=file,
            code="empty",
        )
    return entries


def _parse_json_list(text: str, source: str) -> list[str]:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise DataError(
            f"the list begins with [ but is not a valid JSON list ({error})", key=source, code="damaged"
        ) from error
    for value in values:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise DataError(f"{json.dumps(value)[:80]}: an entry is {FORMS}", key=source, code="damaged")
    return [str(value).strip() for value in values]


def find_positions_of_listed_questions(
    file: str, config_key: str, split: str, questions: Sequence[IdentifiableQuestion]
) -> frozenset[int]:
    """Return the positions of the listed questions in the split. Raises ConfigError if an entry matches
    no question.
    """
    entries = read_question_list(file, config_key)
    by_name: dict[str, list[int]] = {}
    for item in questions:
        digest = hash_question_text(item.text)
        names = {str(item.position), digest, digest[:DIGITS]}
        if item.id:
            names |= {f"{ID}{item.id}"} if item.id.isdecimal() else {item.id, f"{ID}{item.id}"}
        for name in names:
            by_name.setdefault(name, []).append(item.position)
    places = {entry: by_name.get(_normalize_question_name(entry), []) for entry in entries}
    if missing := [entry for entry, found in places.items() if not found]:
        raise ConfigError(
            (
                f"{len(missing)} of the {len(entries)} entries match none of the {len(questions):,} "
                f"questions in split {split}: {join_first_names(missing)}. An entry must be {FORMS}"
            ),
            key=config_key,
            value=file,
            code="not_found",
        )
    return frozenset(position for found in places.values() for position in found)


def _normalize_question_name(entry: str) -> str:
    """Return a list entry in canonical form: numbers without leading zeros, hashes in lower case."""
    if entry.isdecimal():
        return str(int(entry))
    return entry.lower() if HASH.fullmatch(entry.lower()) else entry
