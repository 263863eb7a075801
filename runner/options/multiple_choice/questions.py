"""Questions of task=multiple_choice with their prompts, from the embedded generator, a file or the Hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from runner.config.questions import EMBEDDED
from runner.datasets.items import QuestionSource, iter_question_rows, parse_json_row
from runner.datasets.question_selection import QuestionSelection
from runner.datasets.questions import reject_large_embedded_count
from runner.datasets.row_layouts import RowKeys
from runner.options.multiple_choice.embedded_questions import generate_multiple_choice_records
from runner.options.multiple_choice.formats import (
    PLAIN,
    YAML_SUFFIXES,
    ChoiceFormat,
    ChoiceRecord,
    load_multiple_choice_format,
    parse_record,
)
from runner.options.multiple_choice.keys import MultipleChoiceConfig
from runner.scorers import LETTERS
from runner_base import ConfigError, DataError

LM_EVAL_SEED = 1234  # of the examples that lm-eval draws
MAX_DRAWN = 1_000_000  # questions before the last one for which examples are drawn: this takes seconds


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with its choices, the indices of the right ones, and the texts that are scored."""

    text: str  # with the lettered choices
    choices: tuple[str, ...]
    gold: tuple[int, ...]
    contexts: tuple[str, ...]  # what stands before each scored text; often equal
    continuations: tuple[str, ...]  # the scored texts
    subject: str | None = None

    @property
    def gold_letters(self) -> str:
        return ", ".join(LETTERS[index] for index in self.gold)

    @property
    def chance(self) -> float:
        """The probability that a random choice is right."""
        return len(self.gold) / len(self.choices)


@dataclass(frozen=True)
class LoadedQuestions:
    """The questions of a job, and the format and the source that they come from."""

    questions: list[ChoiceQuestion]
    form: ChoiceFormat
    data: str
    split: str


def load_choice_questions(task: MultipleChoiceConfig) -> LoadedQuestions:
    """Return the selected questions. Raises DataError with file and line of a malformed record."""
    form = _load_multiple_choice_format(task)
    data = form.data or task.data
    split = task.split or form.split
    # a folder has the subset's files alone, unless task.subset names one of its folders
    subset = task.subset or (None if Path(data).exists() else form.subset)
    selection = QuestionSelection(task.limit, shuffle_seed=task.shuffle_seed)
    source = QuestionSource(data, split, "task.data", RowKeys(), subset)
    records = [*_iter_choice_records(source, selection, form)]
    examples = _load_examples(task, form, source, records)
    questions = [_build_question(record, shots) for (_, record), shots in zip(records, examples, strict=True)]
    if not questions:
        raise ConfigError(
            f"split {split} holds no questions. Give a file with records",
            key="task.data",
            value=data,
            code="empty",
        )
    return LoadedQuestions(questions, form, data, split)


def _load_multiple_choice_format(task: MultipleChoiceConfig) -> ChoiceFormat:
    if task.format is not None:
        return replace(load_multiple_choice_format(task.format, "task.format"), data=None, subset=None)
    path = Path(task.data).expanduser()
    if path.suffix in YAML_SUFFIXES:
        form = load_multiple_choice_format(task.data, "task.data")
        if form.data is None:
            need = "the description of a data set needs the key data with a file, a folder or a Hub id"
            raise ConfigError(need, key=path, code="missing")
        return form
    is_location = "/" in task.data or path.suffix or (path.exists() and task.data != EMBEDDED)
    return load_multiple_choice_format(PLAIN if is_location else task.data, "task.data")


def _iter_choice_records(
    source: QuestionSource, selection: QuestionSelection, form: ChoiceFormat
) -> Iterator[tuple[int, ChoiceRecord]]:
    """Yield the selected records with their positions in the split."""
    if source.data == EMBEDDED:
        assert selection.limit is not None
        reject_large_embedded_count(EMBEDDED, "task.limit", selection.limit, selection.limit)
        rows: Any = (
            (f"embedded question {number}", row)
            for number, row in enumerate(generate_multiple_choice_records(source.split, selection.limit))
        )
    else:
        rows = iter_question_rows(source, lambda names: names)
    for position, (location, row) in selection.select_rows(rows):
        try:
            yield position, parse_record(parse_json_row(row), form)
        except ValueError as error:
            raise DataError(
                f"{error}. Correct or remove this record", key=location, code="damaged"
            ) from error


def _load_examples(
    task: MultipleChoiceConfig,
    form: ChoiceFormat,
    source: QuestionSource,
    records: Sequence[tuple[int, ChoiceRecord]],
) -> list[Sequence[ChoiceRecord]]:
    """Return the worked examples of each question."""
    if not task.shots:
        return [()] * len(records)
    split = form.shots_split
    is_single_file = task.shots_data is None and Path(source.data).expanduser().is_file()
    if is_single_file or (task.shots_data is None and (split is None or split == source.split)):
        raise ConfigError(
            "the data has no other split with worked examples. Give task.shots_data=FILE",
            key="task.shots",
            value=task.shots,
            code="missing",
        )
    subset = None if task.shots_data else source.subset
    pool_source = replace(
        source,
        data=task.shots_data or source.data,
        split=split or source.split,
        key="task.shots_data",
        subset=subset,
    )
    limit = task.shots if source.data == EMBEDDED and task.shots_data is None else None
    pool = [record for _, record in _iter_choice_records(pool_source, QuestionSelection(limit), form)]
    if form.shots_order == "first":
        return [_take_first_examples_of_subject(pool, record.subject, task.shots) for _, record in records]
    if len(pool) < task.shots:
        raise _make_too_few_examples_error(task.shots, len(pool))
    last = max(position for position, _ in records)
    if last >= MAX_DRAWN:
        need = f"examples are drawn for at most {MAX_DRAWN:,} questions"
        raise ConfigError(need, key="task.shots", value=task.shots, code="too_large")
    # as lm-eval does for tasks without a test split: one more is drawn, in case the question is among them
    num_drawn = min(task.shots + (form.split != "test"), len(pool))
    generator = Random(LM_EVAL_SEED)
    drawn = [generator.sample(pool, num_drawn) for _ in range(last + 1)]
    return [
        [each for each in drawn[position] if each.values != record.values][: task.shots]
        for position, record in records
    ]


def _take_first_examples_of_subject(
    pool: Sequence[ChoiceRecord], subject: str | None, count: int
) -> Sequence[ChoiceRecord]:
    found = [record for record in pool if record.subject == subject][:count]
    if len(found) < count:
        raise _make_too_few_examples_error(count, len(found), subject)
    return found


def _make_too_few_examples_error(wanted: int, found: int, subject: str | None = None) -> ConfigError:
    of_subject = f" of the subject {subject}" if subject is not None else ""
    need = f"there are only {found} worked examples{of_subject}. Use a smaller number"
    return ConfigError(need, key="task.shots", value=wanted, code="too_large")


def _build_question(record: ChoiceRecord, examples: Sequence[ChoiceRecord]) -> ChoiceQuestion:
    prefix = record.description + "".join(example.example for example in examples)
    return ChoiceQuestion(
        record.question,
        record.choices,
        record.gold,
        tuple(prefix + prompt for prompt in record.prompts),
        record.continuations,
        record.subject,
    )


def hash_choice_questions(questions: Sequence[ChoiceQuestion]) -> str:
    """Return the SHA-256 of all questions, prompts and scored texts."""
    plain = [astuple(question) for question in questions]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()


def hash_prompt_format(form: ChoiceFormat, keys: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what decides about the prompts besides the records."""
    plain = [[form.question, form.prompt, form.continuation, form.description, form.shots_order], dict(keys)]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
