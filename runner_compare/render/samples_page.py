"""HTML page with all answers of the compared runs. The page works without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from runner_base import escape_control_characters
from runner_compare.features.seeds.compute import SEED
from runner_compare.model.data import ABSENT, NotPaired, Question, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.labels import format_row_name

PAGE = Path(__file__).with_name("samples_page.html")
DATA = "@DATA@"
TEXT_END = 4000  # characters of a text that the page keeps: the answer is at the end
# of all tables together: a browser still opens a page of that size in a few seconds
MAX_CHARACTERS = 40_000_000


def write_samples_page(tables: Sequence[Table], reader: Reader, out: TextIO) -> None:
    room = MAX_CHARACTERS
    contents = []
    for table in tables:
        content = build_samples_table_data(table, reader, room)
        room -= sum(len(text) for answers in content["answers"] for _, _, text in filter(None, answers))
        contents.append(content)
    data = json.dumps({"tables": contents}, ensure_ascii=False, separators=(",", ":"))
    # Only "<" can end a script element; in JSON it can be written as an escape.
    page = PAGE.read_text(encoding="utf-8")
    out.write(
        page.replace(
            DATA, data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        )
    )


def iter_single_job_rows(table: Table) -> Iterator[TableRow]:
    """Yield the rows with verdicts. A row that combines several seeds yields one row per job."""
    for row in table.rows:
        if row.run.over_seeds:
            yield from (
                replace(row, run=part, config={**row.config, SEED: part.get_value(SEED)}, effects=[])
                for part in row.run.parts
            )
        elif row.run.correct_and_total:
            yield row


def build_samples_table_data(table: Table, reader: Reader, max_chars: int) -> dict[str, Any]:
    runs: list[dict[str, Any]] = []
    sides: list[dict[Question, dict[str, str]]] = []
    left_out: list[str] = []
    baseline = None
    for row in sorted(iter_single_job_rows(table), key=lambda row: not row.is_baseline):
        of_seed = [SEED] if SEED in row.config and SEED not in table.keys else []
        name = escape_control_characters(format_row_name(row, [*table.keys, *of_seed]))
        try:
            side = reader.load_answer_texts(row.run, set(reader.load_answers(row.run)), TEXT_END)
        except NotPaired as reason:
            left_out.append(f"{name}: {reason}")
            continue
        max_chars -= sum(len(answer["text"]) for answer in side.values())
        if max_chars < 0 and runs:
            left_out.append(
                f"{name}: the page is too small for its answers. Select fewer runs with --runs or --where"
            )
            continue
        if row.is_baseline and baseline is None:
            baseline = len(runs)
        runs.append(_build_run_summary(row, name))
        sides.append(side)
    questions = sorted({question for side in sides for question in side})
    return {
        "task": escape_control_characters(table.task),
        "runs": runs,
        "baseline": baseline,
        "left_out": left_out,
        "questions": [
            [
                question[0],
                escape_control_characters(_question_text(sides, question)),
                escape_control_characters(question[2]),
            ]
            for question in questions
        ],
        "answers": [[_answer_content(side.get(question)) for side in sides] for question in questions],
    }


def _build_run_summary(row: TableRow, name: str) -> dict[str, Any]:
    _, n = row.run.correct_and_total or (0, 0)
    accuracy = row.run.accuracy_interval[0] if row.run.accuracy_interval else None
    prompt = escape_control_characters(row.run.facts.get("prompt", ""))
    return {"name": name, "accuracy": accuracy, "n": n, "prompt": prompt}


def _question_text(sides: list[dict[Question, dict[str, str]]], question: Question) -> str:
    """Return the recorded prompt of a question, or the question itself if no prompt was recorded."""
    return next(
        (side[question]["question"] for side in sides if "question" in side.get(question, ())), question[1]
    )


def _answer_content(side: dict[str, str] | None) -> tuple[str, str, str] | None:
    if side is None:
        return None
    return (
        side["verdict"],
        escape_control_characters("" if side["answer"] == ABSENT else side["answer"]),
        escape_control_characters(side["text"]),
    )
