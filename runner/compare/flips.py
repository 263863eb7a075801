"""The questions on which a run and its baseline differ, side by side."""

from __future__ import annotations

import json
from typing import Any

from runner.compare.data import Flip, Flips, Question, Row, Run, Table
from runner.compare.evidence import Evidence
from runner.compare.say import ABSENT, sides, versus

TEXT_END = 400  # characters: the answer stands at the end


def find_flips(run: Run, base: Run, evidence: Evidence, most: int | None = None) -> Flips:
    """Return the questions that only one of the two solved: of the lost ones, and of the won ones, at most `most`."""
    ours, theirs = evidence.of(run).solved, evidence.of_baseline(base).solved
    lost = sorted(question for question, solved in ours.items() if theirs[question] and not solved)
    won = sorted(question for question, solved in ours.items() if solved and not theirs[question])
    shown = lost[:most] + won[:most]
    our_words, their_words = words(run, set(shown), evidence), words(base, set(shown), evidence)
    questions = [Flip(*question, our_words[question], their_words[question]) for question in shown]
    both_right = sum(solved and theirs[question] for question, solved in ours.items())
    both_wrong = len(ours) - both_right - len(won) - len(lost)
    return Flips(run.job_id, base.job_id, questions, len(won), len(lost), both_right, both_wrong)


def words(run: Run, wanted: set[Question], evidence: Evidence) -> dict[Question, dict[str, str]]:
    """Return what a run said to some questions: verdict, extracted answer, and the end of its text."""
    found: dict[Question, dict[str, str]] = {}
    for part in run.parts or [run]:
        extractor = part.value("task.extractor") or ""
        with evidence.source(part).open(encoding="utf-8") as lines:
            for line in lines:
                sample = json.loads(line)
                question = (sample["index"], sample.get("question"), sample.get("gold"))
                if question in wanted:
                    found[question] = _side(sample, extractor)
    return found


def _side(sample: dict[str, Any], extractor: str) -> dict[str, str]:
    text = sample.get("text", "")
    extracted = sample.get("extracted") or {}
    answer = extracted.get(extractor, next(iter(extracted.values()), None))
    return {
        "verdict": sample["verdict"],
        "answer": ABSENT if answer is None else answer,
        "text": text if len(text) <= TEXT_END else "…" + text[-TEXT_END:],
    }


def verdict(side: dict[str, str]) -> str:
    """Return how one side of a flip came out: `wrong: 12`, `no answer: –`."""
    return f"{side['verdict'].replace('_', ' ')}: {side['answer']}"


def names(flips: Flips, table: Table) -> tuple[str, str]:
    """Return what the run and its baseline are called."""
    ours, theirs = ({row.job_id: row for row in table.rows}[job] for job in (flips.job_id, flips.baseline_job_id))
    return sides(ours, theirs, table.keys)[:2]


def headline(flips: Flips, table: Table) -> str:
    """Return what a list of flips is about, and what the other questions came to."""
    rows: dict[str, Row] = {row.job_id: row for row in table.rows}
    cut = len(flips.questions) < flips.won + flips.lost
    return (
        f"{versus(rows[flips.job_id], rows[flips.baseline_job_id], table.keys)}: {flips.lost} lost, {flips.won} won, "
        f"{flips.both_right} right in both, {flips.both_wrong} wrong in both"
        f"{f' (the first {len(flips.questions)} flips)' if cut else ''}"
    )
