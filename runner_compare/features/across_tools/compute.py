"""Compares evaluations of one task by several tools. Matches questions by their text (--across-tools).

Each tool has its own ids, prompts and scorers, so without this option their runs are in
separate tables. Here the first path's evaluation is the baseline of all others, on the
questions whose texts all of them have. A difference may come from the models, the prompts
or the scorers: a note with each verdict names the other differences.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

from runner_base import ConfigError, join_first_names, print_message
from runner_base.notes import Note, note
from runner_compare.features.across_tools.question_texts import match_questions, normalize_text
from runner_compare.model.data import ABSENT, Answers, Question, Run
from runner_compare.model.repeated_answers import compute_repeated_answer_metrics
from runner_compare.reader import Reader
from runner_compare.readers.lm_eval.config_keys import FOLDER_KEY
from runner_compare.readers.lm_eval.evaluations import FilesReader
from runner_compare.readers.tool_run import METRIC
from runner_compare.statistics.accuracy_intervals import compute_accuracy_metrics

OPTION = "--across-tools"
LM_EVAL = "lm-evaluation-harness"
TOOL_KEY = "tool"
FILTER = "task.filter"
WHOLE = 10**9  # characters: no text is longer
NOT_NAMED = (FOLDER_KEY, METRIC, FILTER, "model.name")  # which rows are named by


@dataclass
class MatchedRun:
    """Answers of one run to the questions that every compared tool evaluated."""

    run: Run  # as its tool has written it
    reader: Reader
    by_question: dict[Question, Question]  # shared question -> that of the run
    asked: int  # questions of the run
    outcomes: Answers

    def load_answers(self) -> Answers:
        return {shared: self.outcomes[own]._replace(prompt=None) for shared, own in self.by_question.items()}

    def load_answer_texts(
        self, questions: Collection[Question], max_chars: int
    ) -> Iterator[tuple[Question, dict[str, str]]]:
        own = {self.by_question[shared]: shared for shared in questions if shared in self.by_question}
        for question, side in self.reader.load_answer_texts(self.run, set(own), max_chars).items():
            yield own[question], side


class SharedQuestionsReader(FilesReader):
    """Reader that returns answers only to questions that every compared tool evaluated."""

    def __init__(self, matched: dict[str, MatchedRun]) -> None:
        super().__init__()
        self.matched = matched

    def load_run_answers(self, run: Run) -> Answers:
        """Return the run's outcome on each question that every compared tool evaluated."""
        return self.matched[run.run_id].load_answers()

    def load_answer_texts(
        self, run: Run, questions: set[Question], max_chars: int = WHOLE
    ) -> dict[Question, dict[str, str]]:
        return dict(self.matched[run.run_id].load_answer_texts(questions, max_chars))

    def create_pairing_note(self, run: Run, base: Run) -> Note:
        sides = base, run
        matched, own = self.matched[base.run_id], self.matched[run.run_id]
        return note(
            "paired_by_text",
            n=len(own.by_question),
            asked=(matched.asked, own.asked),
            tools=tuple(map(tool_name, sides)),
            scorers=tuple(map(_scorer_name, sides)),
            settings=_find_differing_settings(matched.run, own.run),
        )


def tool_name(run: Run) -> str:
    return run.params.get(TOOL_KEY, run.tool or LM_EVAL)


def pair_questions_across_tools(
    runs: Sequence[Run], paths: Sequence[str], reader: Reader
) -> tuple[list[Run], SharedQuestionsReader]:
    """Restrict runs to the questions that all of them answered. Returns the runs, baseline first,
    and a reader.

    Raises ConfigError if no question is shared.
    """
    scored = [run for run in runs if run.correct_and_total and run.number is None]
    base = _find_baseline(scored, paths)
    texts, answers = _load_question_texts(base, reader), reader.load_answers(base)
    pairs: dict[str, dict[Question, Question]] = {}
    chosen = [base]
    for run in scored:
        if run is base:
            continue
        found = match_questions(texts, _load_question_texts(run, reader))
        if found:
            pairs[run.run_id] = found
            chosen.append(run)
        else:
            print_message(
                f"note: {OPTION}: {run.job_id} is omitted, because it shares no question with {base.job_id}"
            )
    if len(chosen) == 1:
        _raise_no_shared_questions(base, scored, reader)
    shared = [question for question in answers if all(question in found for found in pairs.values())]
    if not shared:
        raise ConfigError(
            f"no question of {base.job_id} occurs in all other evaluations. Compare fewer evaluations",
            key=OPTION,
            code="empty",
        )
    names = {question: (at, texts[question], "") for at, question in enumerate(shared)}
    matched = {}
    for run in chosen:
        own = {
            names[question]: pairs[run.run_id][question] if run is not base else question
            for question in shared
        }
        outcomes = answers if run is base else reader.load_answers(run)
        matched[run.run_id] = MatchedRun(run, reader, own, len(outcomes), outcomes)
    return [
        _restrict_run_to_shared_questions(run, matched[run.run_id]) for run in chosen
    ], SharedQuestionsReader(matched)


def _find_baseline(runs: Sequence[Run], paths: Sequence[str]) -> Run:
    first = [run for run in runs if run.params.get(FOLDER_KEY, "").startswith(paths[0])]
    if len(first) == 1:
        return first[0]
    if not first:
        raise ConfigError(
            f"the baseline {paths[0]} (the first path) contains no verdicts. Start with another path",
            key=OPTION,
            code="empty",
        )
    several = join_first_names([run.job_id for run in first], 4)
    keys = sorted(key for key in first[0].params if len({run.params.get(key) for run in first}) > 1)
    example = f'--where "{keys[0]}={first[0].params.get(keys[0])}"' if keys else "--where"
    raise ConfigError(
        f"the baseline {paths[0]} contains {len(first)} evaluations ({several}). Select one with {example}",
        key=OPTION,
        code="ambiguous",
    )


def _load_question_texts(run: Run, reader: Reader) -> dict[Question, str]:
    """Return the text of each question of a run, read from the tool's log."""
    sides = reader.load_answer_texts(run, set(reader.load_answers(run)), WHOLE)
    return {question: side.get("question", "") for question, side in sides.items()}


def _raise_no_shared_questions(baseline: Run, runs: Sequence[Run], reader: Reader) -> NoReturn:
    error = partial(ConfigError, key=OPTION, code="empty")
    if len(runs) == 1:
        raise error("only one evaluation was found. Add the logs of another tool to --results")
    for run in runs:
        if not any(" " in normalize_text(text) for text in _load_question_texts(run, reader).values()):
            raise error(
                f"the log of {run.job_id} ({tool_name(run)}) contains question ids "
                "but no question texts, so its questions cannot be matched"
            )
    raise error(f"no prompt of the other evaluations contains a question of {baseline.job_id}")


def _restrict_run_to_shared_questions(run: Run, matched: MatchedRun) -> Run:
    outcomes = list(matched.load_answers().values())
    figures = compute_accuracy_metrics(
        [outcome.accuracy for outcome in outcomes],
        [outcome.cluster for outcome in outcomes],
        [outcome.num_answers for outcome in outcomes],
    )
    figures |= {
        "correct": float(sum(outcome.solved for outcome in outcomes))
    } | compute_repeated_answer_metrics([(outcome.right, outcome.votes) for outcome in outcomes])
    names = {key: run.params[key] for key in ("model.name", METRIC, FILTER, FOLDER_KEY) if key in run.params}
    params = {TOOL_KEY: tool_name(run)} | names
    return replace(run, task="across tools", task_version="", params=params, metrics=figures, errors=0)


def _scorer_name(run: Run) -> str:
    of_filter = run.params.get(FILTER, "none")
    return run.params.get(METRIC, ABSENT) + (f" {of_filter}" if of_filter != "none" else "")


def _find_differing_settings(baseline: Run, run: Run) -> dict[str, tuple[str | None, str | None]]:
    """Return both values of each config key that differs between two runs, or None for a missing value."""
    keys = sorted((baseline.params.keys() | run.params.keys()) - {*NOT_NAMED})
    pairs = {key: (baseline.params.get(key), run.params.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not _are_equal_settings(*pair)}


def _are_equal_settings(value: str | None, other_value: str | None) -> bool:
    """Whether two setting values are equal as text or as numbers."""
    if value is None or other_value is None:
        return value is other_value
    try:
        return float(value) == float(other_value)
    except ValueError:
        return value == other_value
