"""Loads the calibration texts for a quantization, and checks that they do not contain evaluation texts.

A model that was quantized on its evaluation texts scores too high there. So a shared text,
found by its hash, is an error, and a shared run of 13 words is a note.
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
from runner.datasets.items import QuestionSource, read_questions
from runner.datasets.question_selection import QuestionSelection
from runner.datasets.row_layouts import RowKeys
from runner_base import ConfigError, DataError, read_text
from runner_base.notes import Note, note
from runner_base.texts import iter_json_lines

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
    """Calibration texts of a quantization, with the name of their source."""

    name: str
    texts: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 of all calibration texts in order."""
        return hashlib.sha256(json.dumps(self.texts, ensure_ascii=False).encode()).hexdigest()


def read_calibration_texts(source_name: str) -> Calibration:
    texts = tuple(text for text in _iter_calibration_texts(source_name, KEY, "train") if text.strip())
    if not texts:
        raise DataError("the file contains no text", key=KEY, value=source_name, code="empty")
    return Calibration(source_name, texts)


def require_no_evaluation_overlap(calibration: Calibration, evaluation_names: Sequence[str]) -> list[Note]:
    """Raise ConfigError if a calibration text is also an evaluation text.

    Returns notes on shared word sequences and on evaluations that could not be read.
    """
    notes = []
    words = [_split_words(text) for text in calibration.texts]
    hashes, runs = (
        {_hash_words(text) for text in words},
        {run for text in words for run in _word_ngrams(text)},
    )
    for name in evaluation_names:
        try:
            texts = [_split_words(text) for text in _iterate_evaluation_texts(name)]
        except ConfigError as error:
            notes.append(note("evaluation_unread", "warning", evaluation=name, error=str(error)))
            continue
        texts = [text for text in texts if text]
        if same := [text for text in texts if _hash_words(text) in hashes]:
            raise ConfigError(
                (
                    f"{len(same)} documents of the evaluation {name} are also calibration documents, "
                    f"such as “{_shorten_words(same[0])}”. The evaluation would be biased. "
                    "Give other calibration documents"
                ),
                key=KEY,
                value=calibration.name,
                code="conflict",
            )
        if alike := [(text, run) for text in texts if (run := _find_shared_ngram(text, runs)) is not None]:
            notes.append(
                note(
                    "shared_words",
                    "warning",
                    calibration=calibration.name,
                    words=RUN,
                    alike=len(alike),
                    texts=len(texts),
                    evaluation=name,
                    shown=_shorten_words(alike[0][1]),
                )
            )
    return notes


def _iterate_evaluation_texts(name: str) -> Iterator[str]:
    found = data_sets.find_data_set(name)
    yield from _iter_calibration_texts(
        name if found is None else str(found.keys["data"]), "task.check_overlap_with", "test"
    )


def _iter_calibration_texts(name: str, key: str, split: str) -> Iterator[str]:
    """Yield calibration texts from files, or generated word problems if the name is `embedded`."""
    if name == EMBEDDED:
        source = QuestionSource(EMBEDDED, split, key, RowKeys())
        for item in read_questions(source, QuestionSelection(PROBLEMS)):
            yield f"{item.question}\n{item.answer}"
        return
    for path in _find_text_files(name, key):
        if path.suffix != ".jsonl":
            yield read_text(path, f"{key}={name}")
            continue
        for number, row in iter_json_lines(path):
            yield _join_record_texts(f"{path}, line {number}", row)


def _find_text_files(name: str, key: str) -> list[Path]:
    path = Path(name).expanduser()
    names = sorted(glob.glob(str(path), recursive=True)) or [str(path)]
    if path.is_dir():
        names = sorted(str(file) for file in path.iterdir() if file.suffix in SUFFIXES)
    files = [Path(found) for found in names]
    if not files or not all(file.is_file() for file in files):
        need = f"Give {EMBEDDED}, or a file, folder or glob pattern with the suffix {' or '.join(SUFFIXES)}"
        raise ConfigError(f"no such files exist. {need}", key=key, value=name, code="not_found")
    return files


def _join_record_texts(location: str, json_record: Any) -> str:
    parts = (
        [json_record[key] for key in TEXT_KEYS if key in json_record]
        if isinstance(json_record, dict)
        else [json_record]
    )
    texts = [part for part in parts if isinstance(part, str)]
    if not texts:
        raise DataError(
            f"the record has no text. Each record needs at least one of the keys {', '.join(TEXT_KEYS)}",
            key=location,
            code="damaged",
        )
    return "\n".join(texts)


# --------------------------------------------------------------------------------- what both have


def _split_words(text: str) -> tuple[str, ...]:
    """Split a text into lower-case words without punctuation."""
    return tuple(re.findall(r"\w+", text.casefold()))


def _hash_words(words: Sequence[str]) -> bytes:
    return hashlib.sha256(" ".join(words).encode()).digest()


def _word_ngrams(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[start : start + RUN] for start in range(len(words) - RUN + 1))


def _find_shared_ngram(words: tuple[str, ...], ngrams: set[tuple[str, ...]]) -> tuple[str, ...] | None:
    return next((run for run in _word_ngrams(words) if run in ngrams), None)


def _shorten_words(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()} …"
