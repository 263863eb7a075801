"""--across-tools: evaluations of one task by several tools, paired by the text of their questions.

Each tool has ids, prompts and scorers of its own, so that their rows stand in tables of their own.
Here the first path's evaluation is the baseline of all others, on the questions whose texts all of
them have. A difference may come from the models, the prompts or the scorers: a note beside each
verdict names what else differs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

from runner_base import ConfigError, few, say
from runner_base.notes import Note, note
from runner_compare.features.across_tools.question_texts import normalized, same_questions
from runner_compare.model.answer_votes import figures_of
from runner_compare.model.data import ABSENT, Answers, Question, Run
from runner_compare.reader import Reader
from runner_compare.readers.lm_eval.evaluations import FilesReader
from runner_compare.readers.lm_eval.keys import FOLDER_KEY
from runner_compare.readers.tool_run import METRIC
from runner_compare.statistics.clustered_share import accuracy_figures

OPTION = "--across-tools"
LM_EVAL = "lm-evaluation-harness"
TOOL_KEY = "tool"
FILTER = "task.filter"
WHOLE = 10**9  # characters: no text is longer
NOT_NAMED = (FOLDER_KEY, METRIC, FILTER, "model.name")  # which rows are named by


@dataclass
class Matched:
    """A run's answers to the shared questions, by these."""

    run: Run  # as its tool has written it
    reader: Reader
    by_question: dict[Question, Question]  # shared question -> that of the run
    asked: int  # questions of the run
    outcomes: Answers

    def answers(self) -> Answers:
        return {shared: self.outcomes[own]._replace(prompt=None) for shared, own in self.by_question.items()}

    def words(self, wanted: Collection[Question], most: int) -> Iterator[tuple[Question, dict[str, str]]]:
        """Yield the answers to some shared questions."""
        own = {self.by_question[shared]: shared for shared in wanted if shared in self.by_question}
        for question, side in self.reader.words(self.run, set(own), most).items():
            yield own[question], side


class AcrossReader(FilesReader):
    """Gives access to the shared questions of several tools."""

    def __init__(self, matched: dict[str, Matched]) -> None:
        super().__init__()
        self.matched = matched

    def of_one(self, run: Run) -> Answers:
        """Return which shared questions were answered correctly."""
        return self.matched[run.run_id].answers()

    def words(self, run: Run, wanted: set[Question], most: int = WHOLE) -> dict[Question, dict[str, str]]:
        """Return a run's answers to some shared questions."""
        return dict(self.matched[run.run_id].words(wanted, most))

    def remark(self, run: Run, base: Run) -> Note:
        """Return how the two were paired, and what besides the compared settings differs."""
        sides = base, run
        matched, own = self.matched[base.run_id], self.matched[run.run_id]
        return note(
            "paired_by_text",
            n=len(own.by_question),
            asked=(matched.asked, own.asked),
            tools=tuple(map(tool_of, sides)),
            scorers=tuple(map(_scorer, sides)),
            settings=_settings(matched.run, own.run),
        )


def tool_of(run: Run) -> str:
    return run.params.get(TOOL_KEY, run.tool or LM_EVAL)


def across_tools(
    runs: Sequence[Run], places: Sequence[str], reader: Reader
) -> tuple[list[Run], AcrossReader]:
    """Return the runs on the questions that all share, the baseline first; ConfigError if none are
    shared."""
    scored = [run for run in runs if run.score and run.number is None]
    base = _baseline(scored, places)
    texts, answers = _texts(base, reader), reader.of(base)
    pairs: dict[str, dict[Question, Question]] = {}
    chosen = [base]
    for run in scored:
        if run is base:
            continue
        found = same_questions(texts, _texts(run, reader))
        if found:
            pairs[run.run_id] = found
            chosen.append(run)
        else:
            say(f"note: {OPTION}: left out, none of its questions is one of {base.job_id}: {run.job_id}")
    if len(chosen) == 1:
        _refuse_none(base, scored, reader)
    shared = [question for question in answers if all(question in found for found in pairs.values())]
    if not shared:
        raise ConfigError(
            f"no question of {base.job_id} is one of all others: choose fewer of them",
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
        outcomes = answers if run is base else reader.of(run)
        matched[run.run_id] = Matched(run, reader, own, len(outcomes), outcomes)
    return [_on_shared(run, matched[run.run_id]) for run in chosen], AcrossReader(matched)


def _baseline(runs: Sequence[Run], places: Sequence[str]) -> Run:
    first = [run for run in runs if run.params.get(FOLDER_KEY, "").startswith(places[0])]
    if len(first) == 1:
        return first[0]
    if not first:
        raise ConfigError(
            f"{places[0]} has no verdicts on questions, and the first path is the baseline",
            key=OPTION,
            code="empty",
        )
    several = few([run.job_id for run in first], 4)
    keys = sorted(key for key in first[0].params if len({run.params.get(key) for run in first}) > 1)
    example = f'--where "{keys[0]}={first[0].params.get(keys[0])}"' if keys else "--where"
    raise ConfigError(
        f"{places[0]} has {len(first)} evaluations ({several}): choose one, e.g. with {example}",
        key=OPTION,
        code="ambiguous",
    )


def _texts(run: Run, reader: Reader) -> dict[Question, str]:
    """Return the text of each of a run's questions, as its log has it."""
    sides = reader.words(run, set(reader.of(run)), WHOLE)
    return {question: side.get("question", "") for question, side in sides.items()}


def _refuse_none(base: Run, runs: Sequence[Run], reader: Reader) -> NoReturn:
    """Raise the reason why no question of the baseline was found anywhere."""
    error = partial(ConfigError, key=OPTION, code="empty")
    if len(runs) == 1:
        raise error("there is nothing else to compare: give the logs of another tool to --results")
    for run in runs:
        if not any(" " in normalized(text) for text in _texts(run, reader).values()):
            raise error(
                f"the log of {run.job_id} ({tool_of(run)}) has no texts of its questions, only ids: nothing pairs them"
            )
    raise error(f"no question of {base.job_id} is in the prompts of any other evaluation")


def _on_shared(run: Run, matched: Matched) -> Run:
    """Return a run with the figures of the shared questions."""
    outcomes = list(matched.answers().values())
    figures = accuracy_figures(
        [outcome.mean for outcome in outcomes],
        [outcome.cluster for outcome in outcomes],
        [outcome.samples for outcome in outcomes],
    )
    figures |= {"correct": float(sum(outcome.solved for outcome in outcomes))} | figures_of(
        [(outcome.right, outcome.votes) for outcome in outcomes]
    )
    names = {key: run.params[key] for key in ("model.name", METRIC, FILTER, FOLDER_KEY) if key in run.params}
    params = {TOOL_KEY: tool_of(run)} | names
    return replace(run, task="across tools", task_version="", params=params, metrics=figures, errors=0)


def _scorer(run: Run) -> str:
    """Return by what a run's answers were judged."""
    of_filter = run.params.get(FILTER, "none")
    return run.params.get(METRIC, ABSENT) + (f" {of_filter}" if of_filter != "none" else "")


def _settings(base: Run, run: Run) -> dict[str, tuple[str | None, str | None]]:
    """Return the settings that only one of two runs has, or that differ."""
    keys = sorted((base.params.keys() | run.params.keys()) - {*NOT_NAMED})
    pairs = {key: (base.params.get(key), run.params.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not _are_equal(*pair)}


def _are_equal(value: str | None, other: str | None) -> bool:
    """Whether two values are the same, also where tools write numbers in their own ways."""
    if value is None or other is None:
        return value is other
    try:
        return float(value) == float(other)
    except ValueError:
        return value == other
