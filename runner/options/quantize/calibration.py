"""The texts that a recipe reads, and whether any text of an evaluation is among them.

A model that was quantized on the texts of its evaluation looks better there than it is. So a text
that both have is an error, found by its hash, and a run of words that both have is a note.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config import data_sets
from runner.datasets.items import QuestionSource, read_items
from runner.datasets.question_selection import QuestionSelection
from runner.datasets.shapes import Keys
from runner_base import ConfigError, DataError, read_text
from runner_base.notes import Note, note
from runner_base.texts import read_json_lines

KEY = "task.calibration"
EMBEDDED = "embedded"
PROBLEMS = 1_000  # of the embedded generator
SUFFIXES = (".txt", ".md", ".jsonl")
# keys of a row that make up its text, in this order
TEXT_KEYS = ("text", "system", "question", "prompt", "continuation", "answer", "completion")
RUN = 13  # words: as GPT-3's authors looked for texts of an evaluation in its training
SHOWN = 60  # characters of a run that both have


@dataclass(frozen=True)
class Calibration:
    """Texts, and where they come from."""

    name: str
    texts: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Identify the texts, in order."""
        return hashlib.sha256(json.dumps(self.texts, ensure_ascii=False).encode()).hexdigest()


def read_calibration(name: str) -> Calibration:
    """Return the texts that task.calibration names."""
    texts = tuple(text for text in _texts(name, KEY, "train") if text.strip())
    if not texts:
        raise DataError("there is no text in it", key=KEY, value=name, code="empty")
    return Calibration(name, texts)


def check_apart(calibration: Calibration, evaluations: Sequence[str]) -> list[Note]:
    """Raise ConfigError if an evaluation's text is among the calibration's; return notes on what
    they share, and on what could not be compared."""
    notes = []
    words = [_words(text) for text in calibration.texts]
    hashes, runs = {_hash(text) for text in words}, {run for text in words for run in _runs(text)}
    for name in evaluations:
        try:
            texts = [_words(text) for text in _evaluated(name)]
        except ConfigError as error:
            notes.append(note("evaluation_unread", "warning", evaluation=name, error=str(error)))
            continue
        texts = [text for text in texts if text]
        if same := [text for text in texts if _hash(text) in hashes]:
            raise ConfigError(
                f"{len(same)} of its texts are texts of the evaluation {name}, such as "
                f"“{_shown(same[0])}”: a model that has read them looks better there than it is. Give other texts",
                key=KEY,
                value=calibration.name,
                code="conflict",
            )
        if alike := [(text, run) for text in texts if (run := _first_shared(text, runs)) is not None]:
            notes.append(
                note(
                    "shared_words",
                    "warning",
                    calibration=calibration.name,
                    words=RUN,
                    alike=len(alike),
                    texts=len(texts),
                    evaluation=name,
                    shown=_shown(alike[0][1]),
                )
            )
    return notes


def _evaluated(name: str) -> Iterator[str]:
    """Yield the texts of an evaluation: a data set's name, or a file."""
    found = data_sets.find(name)
    yield from _texts(name if found is None else str(found.keys["data"]), "task.evaluation", "test")


def _texts(name: str, key: str, split: str) -> Iterator[str]:
    """Yield the texts of files, or of the embedded generator."""
    if name == EMBEDDED:
        source = QuestionSource(EMBEDDED, split, key, Keys())
        for item in read_items(source, QuestionSelection(PROBLEMS)):
            yield f"{item.question}\n{item.answer}"
        return
    for path in _files(name, key):
        if path.suffix != ".jsonl":
            yield read_text(path, f"{key}={name}")
            continue
        for number, row in read_json_lines(path):
            yield _text_of(f"{path}, line {number}", row)


def _files(name: str, key: str) -> list[Path]:
    path = Path(name).expanduser()
    names = sorted(glob.glob(str(path), recursive=True)) or [str(path)]
    if path.is_dir():
        names = sorted(str(file) for file in path.iterdir() if file.suffix in SUFFIXES)
    files = [Path(found) for found in names]
    if not files or not all(file.is_file() for file in files):
        need = f"give {EMBEDDED}, {', '.join(SUFFIXES)} files, a folder of them, or a pattern"
        raise ConfigError(f"there are no such files: {need}", key=key, value=name, code="not_found")
    return files


def _text_of(where: str, row: Any) -> str:
    """Return the text of a row: its parts, one after the other."""
    parts = [row[key] for key in TEXT_KEYS if key in row] if isinstance(row, dict) else [row]
    texts = [part for part in parts if isinstance(part, str)]
    if not texts:
        raise DataError(
            f"no text: a row has {', '.join(TEXT_KEYS)}, or some of them", key=where, code="damaged"
        )
    return "\n".join(texts)


# --------------------------------------------------------------------------------- what both have


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a text: spaces, capital letters and signs make no other text."""
    return tuple(re.findall(r"\w+", text.casefold()))


def _hash(words: Sequence[str]) -> bytes:
    return hashlib.sha256(" ".join(words).encode()).digest()


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[start : start + RUN] for start in range(len(words) - RUN + 1))


def _first_shared(words: tuple[str, ...], runs: set[tuple[str, ...]]) -> tuple[str, ...] | None:
    return next((run for run in _runs(words) if run in runs), None)


def _shown(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()} …"
