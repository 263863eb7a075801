"""The scored requests are those of lm-eval 0.4.13, which bench/multiple_choice_vs_lmeval.py --pin has recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from choice_records import TASKS, make_records

from runner.options.multiple_choice.formats import list_format_names
from runner.options.multiple_choice.keys import MultipleChoiceConfig
from runner.options.multiple_choice.questions import load_choice_questions

RECORDED = Path(__file__).with_name("lm_eval_requests.jsonl")
LINES: list[dict[str, Any]] = [*map(json.loads, RECORDED.read_text().splitlines())]


def test_all_formats_of_lm_eval_are_recorded() -> None:
    assert {line["task"] for line in LINES} == {*TASKS} == {*list_format_names()} - {"plain", "embedded"}
    assert {line["task"] for line in LINES if line["shots"]} == {*TASKS} - {
        "truthfulqa_mc1",
        "truthfulqa_mc2",
    }


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line['task']}-{line['shots']}")
def test_requests_are_lm_evals(tmp_path: Path, line: dict[str, Any]) -> None:
    name, shots, count = line["task"], line["shots"], len(line["requests"])
    asked = TASKS[name][2]
    for split, number in ((asked, count), ("train", 12), ("dev", 12)):
        records = make_records(name, number, split)
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    task = MultipleChoiceConfig(data=str(tmp_path), format=name, split=asked, shots=shots)
    questions = load_choice_questions(task).questions
    ours = [
        [[context, text] for context, text in zip(question.contexts, question.continuations, strict=True)]
        for question in questions
    ]
    assert ours == line["requests"]
    assert len({context for question in ours for context, _ in question}) > 1
