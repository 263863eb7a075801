"""The samples of an inspect_ai log: of each epoch only what is compared is kept, its texts are read
again when shown.

A log has all of a conversation; of a hundred thousand of them only hashes, verdicts and numbers fit
into memory.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from runner_base import DataError
from runner_base.progress import watched
from runner_compare.readers import (
    ANYTHING,
    LONGEST_TEXT,
    MIB,
    NULL,
    Outline,
    Parser,
    SampleTexts,
    as_number,
    family_of,
    read_bytes,
)
from runner_compare.readers.archive import Archive

SUFFIX = ".eval"
FOLDER = "samples/"  # in an archive
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
LONGEST_GOLD = (
    200  # characters of a gold answer, and of an extracted one, that are kept; of a longer one also its hash
)
NO_ERROR = (b"null", b'""', b"{}", b"[]", b"false")
MOST_BYTES = 16 * MIB  # of a sample's input, target, scores or metadata


class LoggedScore(msgspec.Struct):
    """What a scorer says of a sample."""

    value: Any = None
    answer: Any = None


class LoggedOutput(msgspec.Struct):
    """What the model answered."""

    completion: Raw = NULL


class LoggedSample(msgspec.Struct):
    """What is read of a sample in a log."""

    id: str | int
    epoch: int
    input: Raw
    target: Raw
    scores: Raw = NULL
    output: LoggedOutput | None = None
    error: Raw = NULL
    metadata: Raw = NULL


ONE: Parser[LoggedSample] = Parser(LoggedSample)
SEVERAL: Parser[list[Raw]] = Parser(list[Raw])
INPUT: Parser[str | list[Any]] = Parser(str | list[Any])
TARGET: Parser[str | list[str]] = Parser(str | list[str])
SCORES: Parser[dict[str, LoggedScore] | None] = Parser(dict[str, LoggedScore] | None)
FIELDS: Parser[dict[str, Raw] | None] = Parser(dict[str, Raw] | None)


class Score(NamedTuple):
    """A score of one epoch: its number, None where it has none."""

    number: float | None
    is_grade: bool
    answer: str | None


class Epoch(NamedTuple):
    """How a sample was answered in one epoch."""

    sample_id: str
    number: int
    question: str  # its hash
    gold: str
    scores: dict[str, Score]
    has_error: bool
    family: str | None
    fields: tuple[str, ...]  # of the sample's metadata, where it has no such family


class Samples:
    """All samples of a log, which are read one at a time."""

    def __init__(self, path: Path, cluster: str | None) -> None:
        self.path, self.cluster = path, cluster
        self._names: dict[str, str] = {}  # of each sample's first file in the archive

    def of_archive(self, archive: Archive) -> Iterator[Epoch]:
        """Yield the epochs in an archive."""
        for name in watched(archive.names_below(FOLDER), f"reading {self.path.name}"):
            where = f"{self.path}, {name}"
            epoch = self._kept(ONE.read(archive.read(name), where), where)
            self._names.setdefault(epoch.sample_id, name)
            yield epoch

    def of_json(self, logged: Raw) -> Iterator[Epoch]:
        """Yield the epochs in a log that is one JSON file."""
        for number, raw in enumerate(SEVERAL.read(logged, str(self.path), "samples"), 1):
            where = f"{self.path}, sample {number}"
            yield self._kept(ONE.read(raw, where), where)

    def texts(self, score: str, sample_ids: Collection[str]) -> Iterator[tuple[str, SampleTexts]]:
        """Yield what is shown of some samples, which are read again."""
        if self.path.suffix == SUFFIX:
            with Archive(self.path) as archive:
                for sample_id in sample_ids:
                    name = self._names[sample_id]
                    if name in archive.members:
                        where = f"{self.path}, {name}"
                        yield sample_id, _texts(ONE.read(archive.read(name), where), score, where)
        else:
            content, shown = read_bytes(self.path), set(sample_ids)
            for raw in SEVERAL.read(Outline.of(content, str(self.path)).parts["samples"], str(self.path)):
                sample = ONE.read(raw, str(self.path))
                if str(sample.id) in shown:
                    shown.remove(str(sample.id))
                    yield str(sample.id), _texts(sample, score, str(self.path))

    def _kept(self, sample: LoggedSample, where: str) -> Epoch:
        for key in ("input", "target", "scores", "metadata"):
            size = len(bytes(getattr(sample, key)))
            if size > MOST_BYTES:
                raise DataError(
                    f"{key} has {size // MIB} MiB, more than are read", key=where, code="too_large"
                )
        family, fields = family_of(_scalars(sample.metadata, where) if self.cluster else None, self.cluster)
        logged, completion = (SCORES.read(sample.scores, where, "scores") or {}, _completion(sample, where))
        return Epoch(
            str(sample.id),
            sample.epoch,
            _hash(text_of(INPUT.read(sample.input, where, "input"))),
            _short(text_of(TARGET.read(sample.target, where, "target"))),
            dict(pair for name, score in logged.items() for pair in _scores(name, score, completion, where)),
            bytes(sample.error) not in NO_ERROR,
            family,
            fields,
        )


def _scalars(metadata: Raw, where: str) -> dict[str, Any]:
    """Return the fields that hold a text or a number."""
    fields = FIELDS.read(metadata, where, "metadata") or {}
    return {
        key: ANYTHING.read(raw, where) for key, raw in fields.items() if bytes(raw)[:1] not in (b"[", b"{")
    }


def _texts(sample: LoggedSample, score: str, where: str) -> SampleTexts:
    """Return what is shown of a sample, with what a scorer extracted."""
    scores = SCORES.read(sample.scores, where) or {}
    found = scores.get(score) or scores.get(score.partition(".")[0])
    answer = found.answer if found and isinstance(found.answer, str) else None
    text = _completion(sample, where)[-LONGEST_TEXT:]
    return SampleTexts(text_of(INPUT.read(sample.input, where)), answer, text)


def _completion(sample: LoggedSample, where: str) -> str:
    raw = sample.output.completion if sample.output else NULL
    return str(ANYTHING.read(raw, where)) if bytes(raw).startswith(b'"') else ""


def text_of(field: Any) -> str:
    """Return an input or a target as text: messages, and targets of which any is right, one below
    the other."""
    if isinstance(field, str):
        return field
    parts = [part.get("content", part.get("text", "")) if isinstance(part, dict) else part for part in field]
    return "\n".join(text_of(part) if isinstance(part, str | list) else json.dumps(part) for part in parts)


def _scores(name: str, score: LoggedScore, completion: str, where: str) -> Iterator[tuple[str, Score]]:
    """Yield a score by its name; a score of several values is several scores."""
    # the whole text is no vote
    is_extracted = isinstance(score.answer, str) and score.answer != completion
    answer = _short(score.answer) if is_extracted else None
    values = score.value if isinstance(score.value, dict) else None
    named = (
        {name: score.value} if values is None else {f"{name}.{key}": value for key, value in values.items()}
    )
    for full_name, value in named.items():
        if value is None:
            raise DataError(f"the score {full_name} has no value", key=where, code="damaged")
        is_grade = isinstance(value, str)
        yield (
            sys.intern(full_name),
            Score(GRADES.get(value) if is_grade else as_number(value), is_grade, answer),
        )


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _short(text: str) -> str:
    """Return a text, or the beginning of a long one with its hash, so that equal ones stay
    equal."""
    return text if len(text) <= LONGEST_GOLD else f"{text[:LONGEST_GOLD]}… ({_hash(text)})"
