from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from raising import raises

from runner.datasets.items import Item
from runner.datasets.questions import load_questions, load_worked_examples
from runner.datasets.row_layouts import RowKeys, parse_dataset_row
from runner.tasks.gsm8k.keys import Gsm8kConfig
from runner_base.errors import ConfigError, DataError

SVAMP = {
    "ID": "1",
    "Body": "Ann has 3 pens. ",
    "Question": "How many are 2 more?",
    "Equation": "(3+2)",
    "Answer": "5.0",
}
MAWPS = {
    "iIndex": 1,
    "sQuestion": "Ann has 3 pens and gets 2. How many?",
    "lEquations": ["x=3+2"],
    "lSolutions": [5.0],
}


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"question": "Q?", "answer": "3+2=5\n#### 5"}, "Q?"),
        (SVAMP | {"question_concat": "other"}, "Ann has 3 pens. How many are 2 more?"),
        (SVAMP | {"Answer": 5.0}, "Ann has 3 pens. How many are 2 more?"),
        (SVAMP | {"Answer": "5 (pens)"}, "Ann has 3 pens. How many are 2 more?"),  # as ASDiv has it
        (MAWPS, "Ann has 3 pens and gets 2. How many?"),
        ({"question": "Q?", "final_ans": "5"}, "Q?"),  # MultiArith
        ({"input": "Q?", "code": "…", "target": 5}, "Q?"),  # GSM-Hard
        ({"question": "Q?", "chain": "…", "result": "5", "result_float": 5.0}, "Q?"),  # Calc-X
    ],
)
def test_known_shapes_are_recognised(row: dict[str, Any], question: str) -> None:
    read = parse_dataset_row(row, RowKeys())
    assert (read.question, read.gold) == (question, "5")
    assert read.answer.endswith("#### 5")  # as a worked example, it shows how to end


def test_keys_of_the_users_own(tmp_path: Path) -> None:
    row = {"story": "Ann has 3.", "ask": "And 2 more?", "n": -5, "question": "another", "answer": "7"}
    read, other = (
        parse_dataset_row(row, RowKeys("story+ask", "n")),
        parse_dataset_row(row, RowKeys(answer="n")),
    )
    assert (read.question, read.answer, read.gold) == ("Ann has 3. And 2 more?", "#### -5", "-5")
    assert (other.question, other.gold) == ("another", "-5")
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(row))
    own = Gsm8kConfig(data=str(file), question_key="ask", answer_key="n", shots=1, shots_data=str(file))
    assert load_questions(own) == load_worked_examples(own) == [Item("And 2 more?", "#### -5", "-5")]


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        ({"text": "Q?", "answer": "5"}, RowKeys(), r"the key 'question' is missing\. .*: answer, text$"),
        ({"question": "Q?"}, RowKeys(), r"the key 'answer' is missing\. .*: question$"),
        (
            {"question": "Q?", "answer": "5"},
            RowKeys("body+question"),
            r"the key 'body' is missing\. .*: answer, question$",
        ),
        ({"question": "Q?", "answer": "five"}, RowKeys(), "^the answer .* a number .*'#### NUMBER'$"),
        ({"question": "Q?", "answer": "5 or 6"}, RowKeys(), "^the answer .* a number "),
        ({"question": "Q?", "answer": True}, RowKeys(), "^`answer` .* a string or a number, not true$"),
        (
            {"question": "Q?", "answer": [5, 6]},
            RowKeys(),
            r"^`answer` .* a string or a number, not \[5, 6\]$",
        ),
        (
            {"question": "Q?", "answer": float("nan")},
            RowKeys(),
            "^`answer` .* a string or a number, not NaN$",
        ),
        ({"question": " ", "answer": 5}, RowKeys(), '`question` is " ", not a string'),
        ({"Question": "N_00 pens and N_01 more?", "Answer": 5}, RowKeys(), "the question contains .* N_00 "),
    ],
)
def test_rows_that_are_no_question_with_a_number(row: dict[str, Any], keys: RowKeys, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dataset_row(row, keys)


def test_files_of_these_shapes(tmp_path: Path) -> None:
    listed, table, lists = (tmp_path / "SVAMP.json", tmp_path / "svamp.parquet", tmp_path / "mawps.parquet")
    listed.write_text(json.dumps([SVAMP, SVAMP | {"Answer": 6.0}], indent=1))
    parquet.write_table(pa.Table.from_pylist([SVAMP]), table)
    parquet.write_table(pa.Table.from_pylist([MAWPS]), lists)
    assert [item.gold for item in load_questions(Gsm8kConfig(data=str(listed)))] == ["5", "6"]
    assert [item.gold for item in load_questions(Gsm8kConfig(data=str(listed), offset=1))] == ["6"]
    assert load_questions(Gsm8kConfig(data=str(table)))[0].question == "Ann has 3 pens. How many are 2 more?"
    assert load_questions(Gsm8kConfig(data=str(lists)))[0].gold == "5"
    with raises(DataError, "damaged", str(table)):
        load_questions(Gsm8kConfig(data=str(table), question_key="text"))
    listed.write_text('[{"question": "Q?", "answer": 1}, 7]')
    with raises(DataError, "damaged", f"{listed}, entry 2"):
        load_questions(Gsm8kConfig(data=str(listed)))
    listed.write_text("[1,")
    with raises(DataError, "damaged", str(listed)):
        load_questions(Gsm8kConfig(data=str(listed)))


CHOICES = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"choices": list(CHOICES), "answer": "C"}, RowKeys(choices="choices", has_letters=True)),
        # MMLU
        ({"choices": list(CHOICES), "answer": 2}, RowKeys(choices="choices", has_letters=True)),
        ({"choices": list(CHOICES), "answer": "blue"}, RowKeys(choices="choices", has_letters=True)),
        (  # ARC, some of whose labels are numbers
            {"choices": {"text": list(CHOICES), "label": ["1", "2", "3"]}, "answerKey": "3"},
            RowKeys(answer="answerKey", choices="choices", has_letters=True),
        ),
        (  # a column for each
            {"x": "red", "y": "green", "z": "blue", "why": "Skies are. So it is (C)."},
            RowKeys(answer="why", choices="x+y+z", has_letters=True, after="So it is"),
        ),
    ],
)
def test_choices_follow_the_question_and_the_answer_is_a_letter(row: dict[str, Any], keys: RowKeys) -> None:
    read = parse_dataset_row({"question": "Sky?"} | row, keys)
    assert (read.question, read.gold) == ("Sky?\nA. red\nB. green\nC. blue", "C")
    assert (read.stem, read.choices) == ("Sky?", CHOICES)
    assert read.answer.endswith("#### C")
    assert {*keys.list_columns_to_read([*row, "question"])} == {"question", *row}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "answer": "C"}, '^the answer "C" .* letter, number or text .* 2 choices$'),
        ({"choices": ["a", "b"], "answer": 2}, "^the answer 2 .* letter, number or text .* 2 choices$"),
        ({"choices": ["a"], "answer": "A"}, r'^`choices` .* 2 to 26 choices, not \["a"\]$'),
        ({"choices": "a, b", "answer": "A"}, '^`choices` .* 2 to 26 choices, not "a, b"$'),
        ({"answer": "A"}, "the key 'choices' is missing"),
    ],
)
def test_choices_that_are_none(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dataset_row({"question": "Q?"} | row, RowKeys(choices="choices", has_letters=True))


def test_words_before_a_number() -> None:
    keys = RowKeys(after="The answer is:")
    read = parse_dataset_row({"question": "Q?", "answer": "2 and 3. The answer is: $1,205"}, keys)
    assert (read.gold, read.answer) == ("1205", "2 and 3. The answer is: $1,205\n#### 1205")
    with pytest.raises(ValueError, match="the answer has no number after 'The answer is:'"):
        parse_dataset_row({"question": "Q?", "answer": "#### 5"}, keys)
    with pytest.raises(ValueError, match='^the answer "seven" .* letter of a choice$'):
        parse_dataset_row({"question": "Q?", "answer": "seven"}, RowKeys(has_letters=True))


def test_a_row_names_its_family_of_questions(tmp_path: Path) -> None:
    file = tmp_path / "twins.jsonl"
    file.write_text(
        '{"question": "a?", "answer": 1, "story": "fox"}\n{"question": "b?", "answer": 2, "story": 7}\n'
    )
    assert [it.cluster for it in load_questions(Gsm8kConfig(data=str(file), cluster="story"))] == ["fox", "7"]
    assert [it.cluster for it in load_questions(Gsm8kConfig(data=str(file)))] == [None, None]
    with raises(DataError, "damaged", f"{file}, line 1"):
        load_questions(Gsm8kConfig(data=str(file), cluster="tale"))
    with raises(ConfigError, "unsupported", "task.cluster"):
        load_questions(Gsm8kConfig(cluster="story"))
    families = [it.cluster for it in load_questions(Gsm8kConfig(cluster="template", shuffle_seed=3))]
    assert len(set(families)) == 18
    assert {"buy", "give", "two_kinds"} < set(families)
    file.write_text('{"question": "a?", "answer": 1, "story": [1]}\n')
    with raises(DataError, "damaged", f"{file}, line 1"):
        load_questions(Gsm8kConfig(data=str(file), cluster="story"))


@pytest.mark.parametrize(
    ("row", "keys_of_code"),
    [
        (
            {
                "task_id": "HumanEval/0",
                "prompt": "def f",
                "canonical_solution": "1",
                "test": "def check",
                "entry_point": "f",
            },
            "test, entry_point",
        ),
        (
            {"task_id": 601, "text": "Write a function", "code": "def f", "test_list": ["assert f()"]},
            "code, test_list",
        ),
        (
            {"question": "Solve it", "solutions": "[]", "input_output": "{}", "answer": "1"},
            "solutions, input_output",
        ),
    ],
)
def test_programming_tasks_are_refused_with_the_reason(row: dict[str, Any], keys_of_code: str) -> None:
    why = rf"^the keys {keys_of_code} .* programming tasks\b"
    for keys in (RowKeys(), RowKeys(question="prompt", answer="canonical_solution")):
        with pytest.raises(ValueError, match=why):
            parse_dataset_row(row, keys)
        with pytest.raises(ValueError, match=why):
            keys.list_columns_to_read(list(row))
    # no such set
    parse_dataset_row({"question": "Which test is code?", "answer": "7", "test": "a", "code": "b"}, RowKeys())


MMLU = {
    "question": "Which colour has grass?",
    "subject": "botany",
    "choices": ["blue", "green", "red", "1"],
    "answer": 1,
}
ARC = {
    "id": "Mercury_1",
    "question": "Which colour has grass?",
    "choices": {"text": ["blue", "green", "red", "1"], "label": ["1", "2", "3", "4"]},
    "answerKey": "2",
}


@pytest.mark.parametrize(
    "row", [MMLU, ARC, ARC | {"choices": {"text": MMLU["choices"], "label": list("ABCD")}, "answerKey": "B"}]
)
def test_the_shapes_of_mmlu_and_arc_are_multiple_choice(row: dict[str, Any], tmp_path: Path) -> None:
    read = parse_dataset_row(row, RowKeys())
    assert read.question == "Which colour has grass?\nA. blue\nB. green\nC. red\nD. 1"
    assert (read.gold, read.answer) == ("B", "#### B")
    parquet.write_table(pa.Table.from_pylist([row, row]), tmp_path / "test.parquet")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    for name in ("test.parquet", "rows.jsonl", "rows.json"):
        task = Gsm8kConfig(data=str(tmp_path / name))
        first = load_questions(task)[0]
        assert (first.question, first.gold, first.choices[1]) == (read.question, "B", "green"), name
        assert task.choices_key == "choices"
        assert task.instruction == "Solve it step by step. End with '#### ' and the letter."
    own = Gsm8kConfig(data=str(tmp_path / "rows.jsonl"), instruction="Which?")
    load_questions(own)
    assert own.instruction == "Which?", "the user's own stays"


@pytest.mark.parametrize(
    "row",
    [
        MMLU | {"answer": 4},
        MMLU | {"answer": "1"},
        MMLU | {"answer": True},
        MMLU | {"choices": "blue, green"},
        {"question": "Q?", "choices": ["blue", "green"], "gold": 1},
        ARC | {"answerKey": "5"},
        ARC | {"choices": {"text": ["blue", "green"]}},
    ],
)
def test_other_choices_are_refused_and_the_key_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"task\.choices_key=choices and task\.answer_key=KEY"):
        parse_dataset_row(row, RowKeys())


def test_choices_that_are_named_or_empty_or_in_the_question_are_no_choices_to_recognise() -> None:
    assert (
        parse_dataset_row(MMLU | {"answer": "green"}, RowKeys(choices="choices", has_letters=True)).gold
        == "B"
    )
    assert (
        parse_dataset_row(MMLU | {"answer": "B"}, RowKeys(has_letters=True)).question
        == "Which colour has grass?"
    )
    for row in (
        {"question": "Q?", "choices": None, "answer": 5},
        {"question": "Q?", "choices": [], "answer": 5},
    ):
        assert parse_dataset_row(row, RowKeys()).gold == "5"
