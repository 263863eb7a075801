"""Finds the question and the answer in a data set record, by configured keys or by a known
layout.

Choices whose columns tell which of them is right, as GPQA's, are always shuffled: otherwise
each right one would be A.

The answer is a worked one that ends in `#### NUMBER`, as in GSM8K, or the number alone. With
choices it is a letter, which may be given as letter, as the number of a choice from 0 on, or as
its text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from runner.config.extractors import Extractor
from runner.config.questions import QuestionsConfig
from runner.scorers import LETTERS, find_gold_letter, find_gold_number, load_scorer
from runner_base import join_first_names

# GSM8K and many more · SVAMP, ASDiv · other spellings · MAWPS as published · GSM-Hard
QUESTIONS = ("question", "Body+Question", "Question", "problem", "sQuestion", "input")
# … · SVAMP, ASDiv · MultiArith · MAWPS as published · Calc-X's MAWPS, SVAMP and ASDiv · GSM-Hard ·
# ARC · GPQA
ANSWERS = (
    *("answer", "Answer", "final_ans", "final_answer", "lSolutions", "result", "target", "answerKey"),
    "Correct Answer",
)
CHOICES = (
    "choices"  # of MMLU: a list, and `answer` is a number from 0 on; of ARC: text and label, and `answerKey`
)
# HumanEval · MBPP · APPS: each answer is a program
PROGRAMMING = (("test", "entry_point"), ("code", "test_list"), ("solutions", "input_output"))
OPTIONS = "options"  # of MMLU-Pro: a list; `answer` is the letter, and `answer_index` its number from 0 on
# a column for each choice
GPQA = ("Correct Answer", *(f"Incorrect Answer {number}" for number in (1, 2, 3)))
# what task.choices_key becomes where the rows show it
KNOWN_CHOICES = (CHOICES, OPTIONS, "+".join(GPQA))
# ARC and Calc-X · SVAMP, ASDiv · MMLU-Pro · MAWPS as published · MATH-500 · GPQA
IDS = ("id", "ID", "question_id", "iIndex", "unique_id", "Record ID")
UNIT = re.compile(r"\s*\([^()]*\)\s*$")  # 9 (apples), in ASDiv
# N_00 and number0 replace numbers in masked questions
MASKED = re.compile(r"\bN_\d\d\b|\bnumber\d\b")


@dataclass(frozen=True)
class RowKeys:
    """Keys of a data set record that contain the question, answer, choices and cluster. A + in a key
    joins several fields.
    """

    question: str | None = None
    answer: str | None = None
    choices: str | None = None
    has_letters: bool = False  # the gold answer is the letter of a choice, and not a number
    after: str | None = None  # the words before it; None: ####
    cluster: str | None = None  # names the family of questions that a row belongs to
    scorer: str | None = None  # of expressions, or of a plug-in: it reads the gold answer
    choices_seed: int | None = None  # shuffles the choices of each question; None: as the row has them

    @classmethod
    def from_task(cls, task: QuestionsConfig) -> RowKeys:
        keys = task.question_key, task.answer_key, task.choices_key
        return cls(
            *keys, task.has_letters, task.answer_marker, task.cluster, task.gold_scorer, task.choices_seed
        )

    def find_question_and_answer_keys(self, columns: Collection[str]) -> tuple[tuple[str, ...], str]:
        """Return the keys of the question, and the key of the answer. Raises ValueError if a key is
        missing.
        """
        if of_code := next((keys for keys in PROGRAMMING if all(key in columns for key in keys)), None):
            raise ValueError(
                f"the keys {', '.join(of_code)} belong to programming tasks, which are not supported. "
                "Answers must be numbers, letters or expressions"
            )
        question = _find_column_key(self.question, QUESTIONS, columns, "question")
        return tuple(question.split("+")), _find_column_key(self.answer, ANSWERS, columns, "answer")

    @property
    def scorer_override(self) -> str:
        return (
            f"task.extractor={self.scorer}" if self.scorer == Extractor.math else f"task.scorer={self.scorer}"
        )

    @property
    def required_answer_description(self) -> str:
        if self.scorer is not None:
            return f"an answer that {self.scorer_override} can read"
        if self.has_letters:
            return "an answer that is the letter of a choice"
        return f"an answer that is a number or ends in '{self.after or '####'} NUMBER'"

    def list_columns_to_read(self, columns: Collection[str]) -> list[str]:
        parts, answer = self.find_question_and_answer_keys(columns)
        known = [key for key in (CHOICES, "answerKey", OPTIONS, "answer_index", *GPQA) if key in columns]
        named = *self.choice_keys(columns), *self.cluster_keys(columns), *_find_id_key(columns)
        return list(dict.fromkeys([*parts, answer, *known, *named]))

    def detect_choice_keys(self, row: Mapping[str, Any]) -> RowKeys:
        """Detect the layout of a record with answer choices, and return a copy with the keys of this layout.

        Raises ValueError for an unknown layout.
        """
        choices, options = row.get(CHOICES), row.get(OPTIONS)
        if self.choices is not None or self.has_letters or self.scorer is not None:
            return self
        if all(key in row for key in GPQA) and self.answer is None:
            return replace(self, choices="+".join(GPQA), has_letters=True)
        if (
            isinstance(options, list)
            and {"answer", "answer_index"} <= row.keys()
            and self.answer in (None, "answer")
        ):
            return replace(self, choices=OPTIONS, has_letters=True)
        if not choices:
            return self
        has_labels = isinstance(choices, Mapping) and {"text", "label"} <= choices.keys()
        answer = self.answer or ("answerKey" if has_labels else "answer")
        value = row.get(answer)
        if has_labels:
            is_known = isinstance(choices["label"], list) and str(value) in map(str, choices["label"])
        else:
            is_known = isinstance(choices, list) and type(value) is int and 0 <= value < len(choices)
        if is_known:
            return replace(self, answer=answer, choices=CHOICES, has_letters=True)
        raise ValueError(
            f"the layout of `{CHOICES}` is unknown: {_truncate_json(choices)}. "
            "In MMLU's layout it is a list, and `answer` is the index of the right choice. In ARC's layout it "
            "has `text` and `label`, and `answerKey` is the right label. "
            f"For other layouts set task.choices_key={CHOICES} and task.answer_key=KEY. "
            "The answer must be a letter, a number or the text of a choice"
        )

    def shuffle_seed(self, answer_key: str, choice_keys: Sequence[str]) -> int | None:
        """Return the seed for shuffling the choices, or None to keep their order.

        Choices are always shuffled if the correct one has a column of its own.
        """
        return 0 if self.choices_seed is None and answer_key in choice_keys else self.choices_seed

    def cluster_keys(self, columns: Collection[str]) -> list[str]:
        return [] if self.cluster is None else [_find_column_key(self.cluster, (), columns, "cluster")]

    def choice_keys(self, columns: Collection[str]) -> list[str]:
        """Return the key of the list of choices, or one key per choice. Empty without choices."""
        return (
            [] if self.choices is None else _find_column_key(self.choices, (), columns, "choices").split("+")
        )


@dataclass(frozen=True)
class ParsedRow:
    """Question, answer, choices, id and cluster of one data set row."""

    question: str  # with its choices, if there are any
    answer: str  # with its working, if there is any
    gold: str
    choices: tuple[str, ...] = ()
    stem: str = ""  # the question without the choices
    id: str = ""
    cluster: str | None = None
    choices_key: str | None = None  # named, or of a known shape


def parse_dataset_row(row: Mapping[str, Any], keys: RowKeys) -> ParsedRow:
    keys = keys.detect_choice_keys(row)
    parts, answer_key = keys.find_question_and_answer_keys(row)
    texts = [_require_text(row, key) for key in parts]
    question = texts[0] if len(texts) == 1 else " ".join(text.strip() for text in texts)
    if masked := MASKED.search(question):
        raise ValueError(
            f"the question contains the placeholder {masked[0]} instead of a number. Use unmasked data"
        )
    stem, labels = question, tuple(LETTERS)
    choices: tuple[str, ...] = ()
    if choice_keys := keys.choice_keys(row):
        labels, choices = _parse_choices(row, choice_keys)
    if keys.scorer is not None:
        value = row[answer_key]
        answer = worked = str(value) if isinstance(value, int | float) else _require_text(row, answer_key)
        gold = load_scorer(keys.scorer).read_gold(answer)
    elif keys.has_letters:
        answer, gold = _parse_answer_letter(row[answer_key], labels, choices, keys.after)
        seed = keys.shuffle_seed(answer_key, choice_keys)
        if choices and seed is not None:
            order = shuffled_choice_order(choices, stem, seed)
            gold = LETTERS[order.index(LETTERS.index(gold))]
            # its working may speak of other letters
            answer, choices = (gold, tuple(choices[at] for at in order))
    else:
        answer = _parse_answer_text(row, answer_key)
        gold = find_gold_number(answer, keys.after)
    question = append_choices(stem, choices)
    # as a worked example, an answer without #### would teach the model to leave it out
    if keys.scorer is None:
        worked = (
            answer if "####" in answer else f"#### {gold}" if keys.after is None else f"{answer}\n#### {gold}"
        )
    row_id = next((str(row[key]) for key in _find_id_key(row) if isinstance(row[key], str | int)), "")
    cluster = next((parse_cluster_name(row, key) for key in keys.cluster_keys(row)), None)
    return ParsedRow(question, worked, gold, choices, stem if choices else "", row_id, cluster, keys.choices)


def append_choices(question: str, choices: Sequence[str]) -> str:
    """Return the question followed by its choices, labelled A, B, C …. Without choices, return the
    question unchanged.
    """
    return "\n".join(
        [question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))]
    )


def shuffled_choice_order(choices: Sequence[str], question: str, seed: int) -> list[int]:
    """Return the choices' shuffled order. It depends only on the seed, the question and the number of
    choices.
    """
    return Random(f"{seed} {question}").sample(range(len(choices)), len(choices))


def _find_id_key(columns: Collection[str]) -> list[str]:
    return [key for key in IDS if key in columns][:1]


def parse_cluster_name(row: Mapping[str, Any], key: str) -> str:
    """Return the cluster name of a row. Raises ValueError if the row has none."""
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(
            f"`{key}` must name the question's cluster as text or a number, not {_truncate_json(value)}"
        )
    return str(value)


def _find_column_key(
    configured_key: str | None, default_keys: Collection[str], columns: Collection[str], description: str
) -> str:
    """Return the first key that the table has. A key such as `a+b` joins several columns."""
    for wanted in default_keys if configured_key is None else (configured_key,):
        if all(key in columns for key in wanted.split("+")):
            return wanted
    missing = (
        description
        if configured_key is None
        else next(key for key in configured_key.split("+") if key not in columns)
    )
    raise ValueError(f"the key {missing!r} is missing. Keys found: {join_first_names(sorted(columns), 8)}")


def _require_text(row: Mapping[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` is {_truncate_json(value)}, not a string")
    return value


def _parse_answer_text(row: Mapping[str, Any], key: str) -> str:
    """Return an answer as text, without a unit in parentheses. A list with one element is unpacked."""
    value = row[key]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` must be a string or a number, not {_truncate_json(value)}")
    return value if "####" in value else UNIT.sub("", value)


def _parse_choices(row: Mapping[str, Any], keys: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    texts: Any = row[keys[0]] if len(keys) == 1 else [row[key] for key in keys]
    labels: Any = LETTERS
    if isinstance(texts, Mapping) and {"text", "label"} <= texts.keys():  # as in ARC
        labels, texts = texts["label"], texts["text"]
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(LETTERS) or len(labels) < len(texts):
        raise ValueError(
            f"`{'+'.join(keys)}` must be a list of 2 to {len(LETTERS)} choices, not {_truncate_json(texts)}"
        )
    return tuple(map(str, labels)), tuple(str(text).strip() for text in texts)


def _parse_answer_letter(
    value: Any, labels: Sequence[str], choices: Sequence[str], mark_text: str | None
) -> tuple[str, str]:
    if isinstance(value, int) and not isinstance(value, bool) and str(value) not in labels:
        letter = LETTERS[value] if 0 <= value < len(choices) else None
    else:
        text = str(value).strip()
        letter = LETTERS[labels.index(text)] if choices and text in labels else None
        if letter is None and text in choices:
            letter = LETTERS[choices.index(text)]
        letter = letter or find_gold_letter(text, mark_text)
    if letter is None or (choices and letter not in LETTERS[: len(choices)]):
        more = f"letter, number or text of one of {len(choices)} choices" if choices else "letter of a choice"
        raise ValueError(f"the answer {_truncate_json(value)} is not the {more}")
    return str(value), letter


def _truncate_json(value: Any) -> str:
    return json.dumps(value, default=str)[:80]
