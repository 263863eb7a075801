"""Read the samples of an inspect_ai log with limited memory.

A log contains whole conversations; of a hundred thousand of them only hashes, verdicts and
numbers fit into memory. Texts are read again on demand.
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
from runner_base.progress import iterate_with_progress
from runner_compare.readers import (
    ANYTHING,
    LONGEST_TEXT,
    MIB,
    NULL,
    JsonOutline,
    Parser,
    SampleTexts,
    get_sample_cluster,
    read_bytes,
    to_finite_number,
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
    value: Any = None
    answer: Any = None


class LoggedOutput(msgspec.Struct):
    completion: Raw = NULL


class LoggedSample(msgspec.Struct):
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
    """A sample's score in one epoch. The number is None if the score is not numeric."""

    number: float | None
    is_grade: bool
    answer: str | None


class Epoch(NamedTuple):
    """Answer and scores of one sample in one epoch."""

    sample_id: str
    number: int
    question: str  # its hash
    gold: str
    scores: dict[str, Score]
    has_error: bool
    family: str | None
    fields: tuple[str, ...]  # of the sample's metadata, where it has no such family


class LogSamples:
    """Samples of an inspect_ai log, read one at a time."""

    def __init__(self, path: Path, cluster: str | None) -> None:
        self.path, self.cluster = path, cluster
        self._names: dict[str, str] = {}  # of each sample's first file in the archive

    def iter_archive_epochs(self, archive: Archive) -> Iterator[Epoch]:
        for name in iterate_with_progress(
            archive.json_names_in_folder(FOLDER), f"reading {self.path.name}", "files"
        ):
            where = f"{self.path}, {name}"
            epoch = self._convert_sample_to_epoch(ONE.parse(archive.read_member(name), where), where)
            self._names.setdefault(epoch.sample_id, name)
            yield epoch

    def iter_json_epochs(self, logged: Raw) -> Iterator[Epoch]:
        """Yield the epochs of all samples of a log stored as one JSON file."""
        for number, raw in enumerate(SEVERAL.parse(logged, str(self.path), "samples"), 1):
            where = f"{self.path}, sample {number}"
            yield self._convert_sample_to_epoch(ONE.parse(raw, where), where)

    def read_texts(self, score: str, sample_ids: Collection[str]) -> Iterator[tuple[str, SampleTexts]]:
        """Yield the question and answer texts of some samples by sample id. Reads the log again."""
        if self.path.suffix == SUFFIX:
            with Archive(self.path) as archive:
                for sample_id in sample_ids:
                    name = self._names[sample_id]
                    if name in archive.members:
                        where = f"{self.path}, {name}"
                        yield (
                            sample_id,
                            _get_sample_texts(ONE.parse(archive.read_member(name), where), score, where),
                        )
        else:
            content, shown = read_bytes(self.path), set(sample_ids)
            for raw in SEVERAL.parse(
                JsonOutline.from_bytes(content, str(self.path)).parts["samples"], str(self.path)
            ):
                sample = ONE.parse(raw, str(self.path))
                if str(sample.id) in shown:
                    shown.remove(str(sample.id))
                    yield str(sample.id), _get_sample_texts(sample, score, str(self.path))

    def _convert_sample_to_epoch(self, sample: LoggedSample, source: str) -> Epoch:
        for key in ("input", "target", "scores", "metadata"):
            size = len(bytes(getattr(sample, key)))
            if size > MOST_BYTES:
                raise DataError(
                    f"{key} has {size // MIB} MiB, which exceeds the size limit", key=source, code="too_large"
                )
        family, fields = get_sample_cluster(
            _select_scalar_fields(sample.metadata, source) if self.cluster else None, self.cluster
        )
        logged, completion = (
            SCORES.parse(sample.scores, source, "scores") or {},
            _read_completion(sample, source),
        )
        return Epoch(
            str(sample.id),
            sample.epoch,
            _hash_text(join_message_texts(INPUT.parse(sample.input, source, "input"))),
            _shorten_text(join_message_texts(TARGET.parse(sample.target, source, "target"))),
            dict(
                pair
                for name, score in logged.items()
                for pair in _iter_scores(name, score, completion, source)
            ),
            bytes(sample.error) not in NO_ERROR,
            family,
            fields,
        )


def _select_scalar_fields(metadata: Raw, source: str) -> dict[str, Any]:
    fields = FIELDS.parse(metadata, source, "metadata") or {}
    return {
        key: ANYTHING.parse(raw, source) for key, raw in fields.items() if bytes(raw)[:1] not in (b"[", b"{")
    }


def _get_sample_texts(sample: LoggedSample, score: str, source: str) -> SampleTexts:
    """Return a sample's question and answer, and the answer that a scorer extracted."""
    scores = SCORES.parse(sample.scores, source) or {}
    found = scores.get(score) or scores.get(score.partition(".")[0])
    answer = found.answer if found and isinstance(found.answer, str) else None
    text = _read_completion(sample, source)[-LONGEST_TEXT:]
    return SampleTexts(join_message_texts(INPUT.parse(sample.input, source)), answer, text)


def _read_completion(sample: LoggedSample, source: str) -> str:
    raw = sample.output.completion if sample.output else NULL
    return str(ANYTHING.parse(raw, source)) if bytes(raw).startswith(b'"') else ""


def join_message_texts(field: Any) -> str:
    """Join messages or accepted targets into one text, with one item per line."""
    if isinstance(field, str):
        return field
    parts = [part.get("content", part.get("text", "")) if isinstance(part, dict) else part for part in field]
    return "\n".join(
        join_message_texts(part) if isinstance(part, str | list) else json.dumps(part) for part in parts
    )


def _iter_scores(name: str, score: LoggedScore, completion: str, source: str) -> Iterator[tuple[str, Score]]:
    """Yield the name and value of each score. Every entry of a dictionary score is a separate score."""
    # the whole text is no vote
    is_extracted = isinstance(score.answer, str) and score.answer != completion
    answer = _shorten_text(score.answer) if is_extracted else None
    values = score.value if isinstance(score.value, dict) else None
    named = (
        {name: score.value} if values is None else {f"{name}.{key}": value for key, value in values.items()}
    )
    for full_name, value in named.items():
        if value is None:
            raise DataError(f"the score {full_name} has no value", key=source, code="damaged")
        is_grade = isinstance(value, str)
        yield (
            sys.intern(full_name),
            Score(GRADES.get(value) if is_grade else to_finite_number(value), is_grade, answer),
        )


def _hash_text(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _shorten_text(text: str) -> str:
    """Truncate a long text and append its hash, so that different texts remain different."""
    return text if len(text) <= LONGEST_GOLD else f"{text[:LONGEST_GOLD]}… ({_hash_text(text)})"
