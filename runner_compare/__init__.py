"""`runner-compare`: compares runs side by side, and says which differences are real.

The steps (command.py): load the runs (readers) → choose some (model/selection.py) → pool them, find each one's
baseline and compare, by the answers to the same questions or by repeats (model/table.py, ways, statistics) →
compute the features → show the findings (render). It never imports torch, and writes only what --save and --log
ask for.

The names below are the door of the comparison; each is imported at its first use.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner_compare.command import entry as entry
    from runner_compare.command import main as main
    from runner_compare.features.contexts.render import of_texts as of_texts
    from runner_compare.features.recall.card import RecallCard as RecallCard
    from runner_compare.features.savings.compute import graph_kind as graph_kind
    from runner_compare.features.tool_calls.render import tool_card as tool_card
    from runner_compare.metrics import ACCURACY as ACCURACY
    from runner_compare.metrics import ENDS as ENDS
    from runner_compare.metrics import LOG_LIKELIHOOD as LOG_LIKELIHOOD
    from runner_compare.metrics import OF_CALLS as OF_CALLS
    from runner_compare.metrics import OF_GUESSES as OF_GUESSES
    from runner_compare.metrics import OF_PREFILL as OF_PREFILL
    from runner_compare.metrics import Better as Better
    from runner_compare.metrics import Metric as Metric
    from runner_compare.metrics import described as described
    from runner_compare.metrics import known_metrics as known_metrics
    from runner_compare.metrics import of_all_answers as of_all_answers
    from runner_compare.metrics import of_plug_ins as of_plug_ins
    from runner_compare.metrics import score as score
    from runner_compare.model.answer_votes import Chance as Chance
    from runner_compare.model.answer_votes import Votes as Votes
    from runner_compare.model.data import ABSENT as ABSENT
    from runner_compare.model.data import ENGINE as ENGINE
    from runner_compare.model.data import JOB_ID as JOB_ID
    from runner_compare.model.data import TEAM as TEAM
    from runner_compare.model.data import TEXT_END as TEXT_END
    from runner_compare.model.data import NotPaired as NotPaired
    from runner_compare.model.data import Run as Run
    from runner_compare.model.data import Table as Table
    from runner_compare.model.data import TableRow as TableRow
    from runner_compare.model.data import label as label
    from runner_compare.model.data import question_of as question_of
    from runner_compare.model.data import side_of as side_of
    from runner_compare.model.key_rules import KeyRules as KeyRules
    from runner_compare.model.outcomes import Answers as Answers
    from runner_compare.model.outcomes import Costs as Costs
    from runner_compare.model.outcomes import Question as Question
    from runner_compare.model.outcomes import QuestionCost as QuestionCost
    from runner_compare.model.outcomes import QuestionOutcome as QuestionOutcome
    from runner_compare.model.outcomes import Texts as Texts
    from runner_compare.model.outcomes import TextScore as TextScore
    from runner_compare.model.running_bets import RunningBets as RunningBets
    from runner_compare.model.table import ComparisonOptions as ComparisonOptions
    from runner_compare.model.table import tabulate as tabulate
    from runner_compare.python_api import Compare as Compare
    from runner_compare.python_api import compare as compare
    from runner_compare.reader import SAMPLES as SAMPLES
    from runner_compare.reader import Reader as Reader
    from runner_compare.reader import no_samples as no_samples
    from runner_compare.readers.records import Opener as Opener
    from runner_compare.readers.records import Records as Records
    from runner_compare.render.answers import cut_off_words as cut_off_words
    from runner_compare.render.answers import unread_note as unread_note
    from runner_compare.render.effects import p_value as p_value
    from runner_compare.render.escaping import in_markdown as in_markdown
    from runner_compare.render.labels import name_of as name_of
    from runner_compare.render.labels import number as number
    from runner_compare.render.labels import short_names as short_names
    from runner_compare.render.margins import level_words as level_words
    from runner_compare.render.margins import points_of_margin as points_of_margin
    from runner_compare.render.parts import table_lines as table_lines
    from runner_compare.render.pictures import JobPicture as JobPicture
    from runner_compare.render.quantities import points as points
    from runner_compare.render.running_bets import bets_verdict as bets_verdict
    from runner_compare.render.running_bets import bets_words as bets_words
    from runner_compare.render.token_figures import divergence_tables as divergence_tables
    from runner_compare.render.token_figures import figure_in_words as figure_in_words
    from runner_compare.section import Section as Section
    from runner_compare.statistics.answer_times import answer_times as answer_times

PLACES = {
    # the command, and the same from Python
    "entry": "command",  # the console script
    "main": "command",  # the command with its arguments; returns the exit code
    "compare": "python_api",  # the same as calling this package
    "Compare": "python_api",  # what this package is: a function, `compare(...)`, that has `main`
    "tabulate": "model.table",  # compares the runs of one task
    "ComparisonOptions": "model.table",  # which runs are compared with which baseline, and how
    "RunningBets": "model.running_bets",  # what a run that is compared while it runs has decided so far
    # what a reader of records hands over
    "Records": "readers.records",  # all runs of a store with their reader, and what --log and --publish do there
    "Opener": "readers.records",  # opens the records that options name
    "Reader": "reader",  # what a comparison asks for beyond a run's metrics: answers, texts, costs
    "KeyRules": "model.key_rules",  # which keys of a config tell runs apart
    "Run": "model.data",  # one finished run: its ids, config, metrics and facts
    "NotPaired": "model.data",  # two runs cannot be compared; the message says why
    "Question": "model.outcomes",  # a question's identity: index, text and gold answer
    "QuestionOutcome": "model.outcomes",  # whether a run solved a question, and what else is counted
    "Answers": "model.outcomes",  # the outcomes of a run by their questions
    "TextScore": "model.outcomes",  # a text's log-likelihood under a run's model
    "Texts": "model.outcomes",  # the scores of a run's texts
    "QuestionCost": "model.outcomes",  # what one question cost in tokens
    "Costs": "model.outcomes",  # the costs of a run by their questions
    "Votes": "model.answer_votes",  # how several answers to a question vote
    "Chance": "model.answer_votes",  # pass@k, maj@k or pass^k of a question
    "question_of": "model.data",  # the question of a sample
    "side_of": "model.data",  # one side of a flip as it is shown
    "no_samples": "reader",  # the error for a run whose samples are gone
    "SAMPLES": "reader",  # the name of their file
    "TEXT_END": "model.data",  # characters of a text that are shown
    "JOB_ID": "model.data",  # the key by which a run is named
    "ENGINE": "model.data",  # the fact that names the engine of another program
    "tool_card": "features.tool_calls.render",  # of a job that offers functions: the shares of each step
    "RecallCard": "features.recall.card",  # of a job that asks about long texts: its figures and pictures
    # what a section adds, and what it is added to
    "Section": "section",  # a feature of the comparison: its tables, sentences, JSON and pictures
    "Table": "model.data",  # all runs of one task, with what sections have computed
    "TableRow": "model.data",  # one run of a table, and how it compares
    "JobPicture": "render.pictures",  # a picture that jobs have drawn
    "name_of": "render.labels",  # the shortest name that tells a row from the others
    "short_names": "render.labels",  # names by what differs among rows
    "number": "render.labels",  # a measurement to three digits
    "table_lines": "render.parts",  # what may be concluded over all rows of a table, and the finding about each row
    "bets_verdict": "render.running_bets",  # what such a run has decided, in words
    "bets_words": "render.running_bets",  # the same with the difference and its interval
    "points": "render.quantities",  # a difference of accuracies in points
    "cut_off_words": "render.answers",  # how many answers the limit has cut off
    "unread_note": "render.answers",  # which jobs had few of their answers read
    "divergence_tables": "render.token_figures",  # the same as a report shows it
    "figure_in_words": "render.token_figures",  # one figure of it, with its interval
    "points_of_margin": "render.margins",  # a margin in words
    "level_words": "render.margins",  # the level of one of several comparisons in words
    "p_value": "render.effects",  # a p as it is shown
    "label": "model.data",  # a key as it is shown
    "in_markdown": "render.escaping",  # a text of others, harmless in Markdown
    "ABSENT": "model.data",  # what stands where there is no value
    "TEAM": "model.data",  # the parameter that names a team of agents in words
    "graph_kind": "features.savings.compute",  # where the graph of a team comes from
    # metrics, which jobs record
    "Metric": "metrics",  # a metric with its unit, direction and how it is written
    "Better": "metrics",  # whether more of it is better
    "described": "metrics",  # the metric of a key
    "known_metrics": "metrics",  # all metrics by their keys
    "of_all_answers": "metrics",  # the keys of pass@k and maj@k that jobs have
    "of_plug_ins": "metrics",  # the metrics of plug-ins that jobs have
    "score": "metrics",  # how many questions are solved, and how many there are
    "ACCURACY": "metrics",  # the keys of an accuracy and its interval
    "ENDS": "metrics",  # the endings of the keys of a value and its interval
    "of_texts": "features.contexts.render",  # what a job records of the likelihoods of its texts
    "LOG_LIKELIHOOD": "metrics",  # the keys of a log-likelihood, by unit
    "OF_CALLS": "metrics",  # the keys of the tokens of all calls
    "OF_GUESSES": "metrics",  # the keys of guessed tokens
    "OF_PREFILL": "metrics",  # the keys of the reading of prompts
    "answer_times": "statistics.answer_times",  # how long answers take at measured speeds
}
__all__ = [*PLACES]


class _Compare(ModuleType):
    """Makes this package callable: `runner.compare` is a package and a function, whichever is
    imported first."""

    def __call__(self, *runs: Any, **options: Any) -> Any:
        from runner_compare.python_api import compare

        return compare(*runs, **options)


__getattr__ = at_first_use(__name__, PLACES)


sys.modules[__name__].__class__ = _Compare
