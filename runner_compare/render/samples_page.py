"""Every answer of the compared runs on one HTML page that filters them: no server, and nothing is
fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from runner_base import plain
from runner_compare.features.seeds.compute import SEED
from runner_compare.model.data import ABSENT, NotPaired, Question, Table, TableRow
from runner_compare.reader import Reader
from runner_compare.render.labels import name_of

PAGE = Path(__file__).with_name("samples_page.html")
DATA = "@DATA@"
TEXT_END = 4000  # characters of a text that the page keeps: the answer is at the end
# of all tables together: a browser still opens a page of that size in a few seconds
MAX_CHARACTERS = 40_000_000


def write_samples_page(tables: Sequence[Table], reader: Reader, out: TextIO) -> None:
    """Write the page: for each table of accuracies, every question and each run's answer."""
    room = MAX_CHARACTERS
    contents = []
    for table in tables:
        content = table_content(table, reader, room)
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


def single_jobs(table: Table) -> Iterator[TableRow]:
    """Yield the rows with verdicts; one for each job where a row stands for several seeds."""
    for row in table.rows:
        if row.run.over_seeds:
            yield from (
                replace(row, run=part, config={**row.config, SEED: part.value(SEED)}, effects=[])
                for part in row.run.parts
            )
        elif row.run.score:
            yield row


def table_content(table: Table, reader: Reader, room: int) -> dict[str, Any]:
    """Return a table's questions and answers as plain data, and the runs that are left out, with
    the reasons."""
    runs: list[dict[str, Any]] = []
    sides: list[dict[Question, dict[str, str]]] = []
    left_out: list[str] = []
    baseline = None
    for row in sorted(single_jobs(table), key=lambda row: not row.is_baseline):
        of_seed = [SEED] if SEED in row.config and SEED not in table.keys else []
        name = plain(name_of(row, [*table.keys, *of_seed]))
        try:
            side = reader.words(row.run, set(reader.of(row.run)), TEXT_END)
        except NotPaired as reason:
            left_out.append(f"{name}: {reason}")
            continue
        room -= sum(len(answer["text"]) for answer in side.values())
        if room < 0 and runs:
            left_out.append(
                f"{name}: no room for its answers on one page; --runs or --where choose fewer runs"
            )
            continue
        if row.is_baseline and baseline is None:
            baseline = len(runs)
        runs.append(_run(row, name))
        sides.append(side)
    questions = sorted({question for side in sides for question in side})
    return {
        "task": plain(table.task),
        "runs": runs,
        "baseline": baseline,
        "left_out": left_out,
        "questions": [
            [question[0], plain(_shown(sides, question)), plain(question[2])] for question in questions
        ],
        "answers": [[_answer(side.get(question)) for side in sides] for question in questions],
    }


def _run(row: TableRow, name: str) -> dict[str, Any]:
    _, n = row.run.score or (0, 0)
    accuracy = row.run.interval[0] if row.run.interval else None
    prompt = plain(row.run.facts.get("prompt", ""))
    return {"name": name, "accuracy": accuracy, "n": n, "prompt": prompt}


def _shown(sides: list[dict[Question, dict[str, str]]], question: Question) -> str:
    """Return a question as the model read it if the reader has that, else the question itself."""
    return next(
        (side[question]["question"] for side in sides if "question" in side.get(question, ())), question[1]
    )


def _answer(side: dict[str, str] | None) -> tuple[str, str, str] | None:
    if side is None:
        return None
    return (side["verdict"], plain("" if side["answer"] == ABSENT else side["answer"]), plain(side["text"]))
