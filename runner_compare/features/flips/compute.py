"""Find flips: questions that only one of two runs solved."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.model.data import Run, Table
from runner_compare.reader import Reader

FLIPS_A_PAIR, PAIRS = 50, 20  # the most that the page shows: lost ones, won ones, and pairs of runs


@dataclass
class Flip:
    """A question that only one of two runs solved."""

    index: int
    question: str
    gold: str
    ours: dict[str, str]  # verdict, answer, text
    theirs: dict[str, str]
    won: bool  # whether this run solved it, and the baseline did not


@dataclass
class Flips:
    """Questions that either a run or its baseline solved, but not both, and the counts of all outcomes."""

    job_id: str
    baseline_job_id: str
    won: int
    lost: int
    both_right: int
    both_wrong: int
    questions: list[Flip]  # those of the won and lost ones that are shown


@dataclass
class TableFlips:
    """Flips between the two runs that --flips selects."""

    pairs: list[Flips] = field(default_factory=list)


def select_flips_for_html_page(table: Table, reader: Reader) -> list[Flips]:
    """Find the flips that the HTML page shows for a table.

    The page shows only the first paired comparisons.
    """
    effects = [(row, row.effect.counts) for row in table.rows if row.effect]
    flipped = [row for row, counts in effects if counts.get("wins") or counts.get("losses")]
    # whose answers are those of several jobs
    flipped = [row for row in flipped if not row.run.over_seeds][:PAIRS]
    return [
        find_flipped_questions(row.run, row.baseline.run, reader, FLIPS_A_PAIR)
        for row in flipped
        if row.baseline
    ]


def find_flipped_questions(
    run: Run, base: Run, reader: Reader, max_flips_per_direction: int | None = None
) -> Flips:
    """Find the questions that exactly one of the two runs solved.

    `max_flips_per_direction` limits the lost and the won questions separately.
    """
    answers, base_answers = reader.load_answers(run), reader.load_baseline_answers(base)
    # the baseline may have fewer
    answers = {question: answer for question, answer in answers.items() if question in base_answers}
    lost = sorted(
        question
        for question, answer in answers.items()
        if base_answers[question].solved and not answer.solved
    )
    won = sorted(
        question
        for question, answer in answers.items()
        if answer.solved and not base_answers[question].solved
    )
    shown = lost[:max_flips_per_direction] + won[:max_flips_per_direction]
    shown_answers, shown_base_answers = (
        reader.load_answer_texts(run, set(shown)),
        reader.load_answer_texts(base, set(shown)),
    )
    questions = [
        Flip(
            question[0],
            shown_answers[question].pop("question", question[1]),
            question[2],
            shown_answers[question],
            shown_base_answers[question],
            answers[question].solved,
        )
        for question in shown
    ]
    both_right = sum(answer.solved and base_answers[question].solved for question, answer in answers.items())
    both_wrong = len(answers) - both_right - len(won) - len(lost)
    return Flips(run.job_id, base.job_id, len(won), len(lost), both_right, both_wrong, questions)
