"""Flips: the questions that one of two runs solved and the other did not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Flip:
    """A question that one of two runs solved and the other did not."""

    index: int
    question: str
    gold: str
    ours: dict[str, str]  # verdict, answer, text
    theirs: dict[str, str]
    won: bool  # whether this run solved it, and the baseline did not


@dataclass
class Flips:
    """The flips between a run and its baseline, and the number of questions with each of the four
    outcomes."""

    job_id: str
    baseline_job_id: str
    won: int
    lost: int
    both_right: int
    both_wrong: int
    questions: list[Flip]  # those of the won and lost ones that are shown
