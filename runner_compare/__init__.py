"""`runner-compare`: compares runs side by side, and says which differences are real.

The steps (command.py): load the runs → choose some (selection.py) → pool them, find each one's
baseline and compare, by the answers to the same questions or by repeats (table.py, ways) → show the
findings (wording.py, output.py, page.py, pictures.py). It never imports torch, and writes only what
--save and --log ask for.

The names below are the door of the comparison; each is imported at its first use.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from runner_base.first_use import at_first_use

if TYPE_CHECKING:
    from runner_compare.answer_votes import Chance as Chance
    from runner_compare.answer_votes import Votes as Votes
    from runner_compare.command import entry as entry
    from runner_compare.command import main as main
    from runner_compare.data import ABSENT as ABSENT
    from runner_compare.data import ENGINE as ENGINE
    from runner_compare.data import JOB_ID as JOB_ID
    from runner_compare.data import TEXT_END as TEXT_END
    from runner_compare.data import NotPaired as NotPaired
    from runner_compare.data import Run as Run
    from runner_compare.data import Table as Table
    from runner_compare.data import TableRow as TableRow
    from runner_compare.data import label as label
    from runner_compare.data import question_of as question_of
    from runner_compare.data import side_of as side_of
    from runner_compare.effect_words import p_value as p_value
    from runner_compare.foreign_texts import in_markdown as in_markdown
    from runner_compare.in_python import Compare as Compare
    from runner_compare.in_python import compare as compare
    from runner_compare.key_rules import KeyRules as KeyRules
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
    from runner_compare.outcomes import Answers as Answers
    from runner_compare.outcomes import Costs as Costs
    from runner_compare.outcomes import Question as Question
    from runner_compare.outcomes import QuestionCost as QuestionCost
    from runner_compare.outcomes import QuestionOutcome as QuestionOutcome
    from runner_compare.outcomes import Texts as Texts
    from runner_compare.outcomes import TextScore as TextScore
    from runner_compare.pictures import JobPicture as JobPicture
    from runner_compare.quantities import points as points
    from runner_compare.reader import SAMPLES as SAMPLES
    from runner_compare.reader import Reader as Reader
    from runner_compare.reader import no_samples as no_samples
    from runner_compare.recall_card import RecallCard as RecallCard
    from runner_compare.records import Opener as Opener
    from runner_compare.records import Records as Records
    from runner_compare.running_bets import RunningBets as RunningBets
    from runner_compare.section import Section as Section
    from runner_compare.sections.savings import graph_kind as graph_kind
    from runner_compare.sections.savings import graph_words as graph_words
    from runner_compare.seeds import rows_with_seeds as rows_with_seeds
    from runner_compare.statistics.answer_times import answer_times as answer_times
    from runner_compare.table import ComparisonOptions as ComparisonOptions
    from runner_compare.table import tabulate as tabulate
    from runner_compare.text_results import of_texts as of_texts
    from runner_compare.tool_findings import tool_card as tool_card
    from runner_compare.wording import TEAM as TEAM
    from runner_compare.wording import name_of as name_of
    from runner_compare.wording import number as number
    from runner_compare.wording import short_names as short_names

PLACES = {
    # the command, and the same from Python
    "entry": "command",  # the console script
    "main": "command",  # the command with its arguments; returns the exit code
    "compare": "in_python",  # the same as calling this package
    "Compare": "in_python",  # what this package is: a function, `compare(...)`, that has `main`
    "tabulate": "table",  # compares the runs of one task
    "ComparisonOptions": "table",  # which runs are compared with which baseline, and how
    "RunningBets": "running_bets",  # what a run that is compared while it runs has decided so far
    # what a reader of records hands over
    "Records": "records",  # all runs of a store with their reader, and what --log and --publish do there
    "Opener": "records",  # opens the records that options name
    "Reader": "reader",  # what a comparison asks for beyond a run's metrics: answers, texts, costs
    "KeyRules": "key_rules",  # which keys of a config tell runs apart
    "Run": "data",  # one finished run: its ids, config, metrics and facts
    "NotPaired": "data",  # two runs cannot be compared; the message says why
    "Question": "outcomes",  # a question's identity: index, text and gold answer
    "QuestionOutcome": "outcomes",  # whether a run solved a question, and what else is counted
    "Answers": "outcomes",  # the outcomes of a run by their questions
    "TextScore": "outcomes",  # a text's log-likelihood under a run's model
    "Texts": "outcomes",  # the scores of a run's texts
    "QuestionCost": "outcomes",  # what one question cost in tokens
    "Costs": "outcomes",  # the costs of a run by their questions
    "Votes": "answer_votes",  # how several answers to a question vote
    "Chance": "answer_votes",  # pass@k, maj@k or pass^k of a question
    "question_of": "data",  # the question of a sample
    "side_of": "data",  # one side of a flip as it is shown
    "no_samples": "reader",  # the error for a run whose samples are gone
    "SAMPLES": "reader",  # the name of their file
    "TEXT_END": "data",  # characters of a text that are shown
    "JOB_ID": "data",  # the key by which a run is named
    "ENGINE": "data",  # the fact that names the engine of another program
    "tool_card": "tool_findings",  # what a job that offers functions says of itself: the shares of each step
    "RecallCard": "recall_card",  # what a job that asks for something in long texts says of itself, and its pictures
    # what a section adds, and what it is added to
    "Section": "section",  # a feature of the comparison: its tables, sentences, JSON and pictures
    "Table": "data",  # all runs of one task, with what sections have computed
    "TableRow": "data",  # one run of a table, and how it compares
    "JobPicture": "pictures",  # a picture that jobs have drawn
    "rows_with_seeds": "seeds",  # the rows of a table that stand for several seeds
    "name_of": "wording",  # the shortest name that tells a row from the others
    "short_names": "wording",  # names by what differs among rows
    "number": "wording",  # a measurement to three digits
    "points": "quantities",  # a difference of accuracies in points
    "p_value": "effect_words",  # a p as it is shown
    "label": "data",  # a key as it is shown
    "in_markdown": "foreign_texts",  # a text of others, harmless in Markdown
    "ABSENT": "data",  # what stands where there is no value
    "TEAM": "wording",  # the parameter that names a team of agents in words
    "graph_kind": "sections.savings",  # where the graph of a team comes from
    "graph_words": "sections.savings",  # a team's graph in words
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
    "of_texts": "text_results",  # what a job records of the likelihoods of its texts
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
        from runner_compare.in_python import compare

        return compare(*runs, **options)


__getattr__ = at_first_use(__name__, PLACES)


sys.modules[__name__].__class__ = _Compare
