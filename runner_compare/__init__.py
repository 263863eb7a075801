"""`runner-compare`: compares runs and reports which differences are statistically significant.

The steps (command.py): load the runs (readers) → select some (model/selection.py) → pool
them, find each one's baseline and compare, by the answers to the same questions or by
repeated measurements (model/table.py, ways, statistics) → compute the features → show the
findings (render). It never imports torch, and writes only what --save and --log request.

The public names below are imported at their first use.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from runner_base.lazy_imports import create_lazy_getattr

if TYPE_CHECKING:
    from runner_compare.console_script import entry as entry
    from runner_compare.console_script import main as main
    from runner_compare.features.contexts.render import (
        build_text_likelihood_records as build_text_likelihood_records,
    )
    from runner_compare.features.recall.card import RecallCard as RecallCard
    from runner_compare.features.savings.compute import get_agent_graph_origin as get_agent_graph_origin
    from runner_compare.features.tool_calls.render import add_tool_call_metrics as add_tool_call_metrics
    from runner_compare.metrics import ACCURACY as ACCURACY
    from runner_compare.metrics import ENDS as ENDS
    from runner_compare.metrics import LOG_LIKELIHOOD as LOG_LIKELIHOOD
    from runner_compare.metrics import OF_CALLS as OF_CALLS
    from runner_compare.metrics import OF_GUESSES as OF_GUESSES
    from runner_compare.metrics import OF_PREFILL as OF_PREFILL
    from runner_compare.metrics import BetterDirection as BetterDirection
    from runner_compare.metrics import Metric as Metric
    from runner_compare.metrics import correct_and_total as correct_and_total
    from runner_compare.metrics import find_metric as find_metric
    from runner_compare.metrics import known_metrics as known_metrics
    from runner_compare.metrics import list_max_k_vote_metric_keys as list_max_k_vote_metric_keys
    from runner_compare.metrics import plug_in_metric_keys as plug_in_metric_keys
    from runner_compare.model.data import ABSENT as ABSENT
    from runner_compare.model.data import ENGINE as ENGINE
    from runner_compare.model.data import JOB_ID as JOB_ID
    from runner_compare.model.data import TEAM as TEAM
    from runner_compare.model.data import TEXT_END as TEXT_END
    from runner_compare.model.data import NotPaired as NotPaired
    from runner_compare.model.data import Run as Run
    from runner_compare.model.data import Table as Table
    from runner_compare.model.data import TableRow as TableRow
    from runner_compare.model.data import format_flip_side as format_flip_side
    from runner_compare.model.data import key_label as key_label
    from runner_compare.model.data import question_identity as question_identity
    from runner_compare.model.interim_comparison import InterimComparison as InterimComparison
    from runner_compare.model.key_rules import KeyRules as KeyRules
    from runner_compare.model.outcomes import Answers as Answers
    from runner_compare.model.outcomes import Costs as Costs
    from runner_compare.model.outcomes import Question as Question
    from runner_compare.model.outcomes import QuestionCost as QuestionCost
    from runner_compare.model.outcomes import QuestionOutcome as QuestionOutcome
    from runner_compare.model.outcomes import Texts as Texts
    from runner_compare.model.outcomes import TextScore as TextScore
    from runner_compare.model.repeated_answers import AnswerVotes as AnswerVotes
    from runner_compare.model.repeated_answers import RepeatedAnswerMetric as RepeatedAnswerMetric
    from runner_compare.model.table import ComparisonOptions as ComparisonOptions
    from runner_compare.model.table import build_comparison_table as build_comparison_table
    from runner_compare.python_api import Compare as Compare
    from runner_compare.python_api import compare as compare
    from runner_compare.reader import SAMPLES as SAMPLES
    from runner_compare.reader import Reader as Reader
    from runner_compare.reader import missing_samples_error as missing_samples_error
    from runner_compare.readers.records import Records as Records
    from runner_compare.readers.records import RecordsOpener as RecordsOpener
    from runner_compare.release_gate.python_api import GateResult as GateResult
    from runner_compare.release_gate.python_api import gate as gate
    from runner_compare.render.answers import format_cut_off_message as format_cut_off_message
    from runner_compare.render.answers import (
        format_unextracted_answers_message as format_unextracted_answers_message,
    )
    from runner_compare.render.effects import format_p_value as format_p_value
    from runner_compare.render.escaping import escape_markdown as escape_markdown
    from runner_compare.render.interim_verdicts import format_interim_summary as format_interim_summary
    from runner_compare.render.interim_verdicts import format_interim_verdict as format_interim_verdict
    from runner_compare.render.labels import format_number as format_number
    from runner_compare.render.labels import format_row_name as format_row_name
    from runner_compare.render.labels import shorten_row_names as shorten_row_names
    from runner_compare.render.margins import format_margin_points as format_margin_points
    from runner_compare.render.margins import format_significance_level as format_significance_level
    from runner_compare.render.parts import conclusion_and_findings as conclusion_and_findings
    from runner_compare.render.pictures import JobPicture as JobPicture
    from runner_compare.render.quantities import format_percentage_points as format_percentage_points
    from runner_compare.render.token_metrics import build_divergence_tables as build_divergence_tables
    from runner_compare.render.token_metrics import format_metric as format_metric
    from runner_compare.section import Section as Section
    from runner_compare.statistics.answer_times import estimate_answer_times as estimate_answer_times

PLACES = {
    # the command, and the same from Python
    "entry": "console_script",  # the console script
    "main": "console_script",  # the command with its arguments; returns the exit code
    "gate": "release_gate.python_api",  # the same as `runner-compare gate`
    "GateResult": "release_gate.python_api",  # what it returns: the verdicts, as text and as a data frame
    "compare": "python_api",  # the same as calling this package
    "Compare": "python_api",  # what this package is: a function, `compare(...)`, that has `main`
    "build_comparison_table": "model.table",  # compares the runs of one task
    "ComparisonOptions": "model.table",  # which runs are compared with which baseline, and how
    "InterimComparison": "model.interim_comparison",  # what a run that is compared while it runs has decided so far
    # what a reader of records hands over
    "Records": "readers.records",  # all runs of a store with their reader, and what --log and --publish do there
    "RecordsOpener": "readers.records",  # opens the records that options name
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
    "AnswerVotes": "model.repeated_answers",  # how several answers to a question vote
    "RepeatedAnswerMetric": "model.repeated_answers",  # pass@k, maj@k or pass^k of a question
    "question_identity": "model.data",  # the question of a sample
    "format_flip_side": "model.data",  # one side of a flip as it is shown
    "missing_samples_error": "reader",  # the error for a run whose samples are gone
    "SAMPLES": "reader",  # the name of their file
    "TEXT_END": "model.data",  # characters of a text that are shown
    "JOB_ID": "model.data",  # the key by which a run is named
    "ENGINE": "model.data",  # the fact that names the engine of another program
    "add_tool_call_metrics": "features.tool_calls.render",  # of a job that offers functions: the shares of each step
    "RecallCard": "features.recall.card",  # of a job that asks about long texts: its figures and pictures
    # what a section adds, and what it is added to
    "Section": "section",  # a feature of the comparison: its tables, sentences, JSON and pictures
    "Table": "model.data",  # all runs of one task, with what sections have computed
    "TableRow": "model.data",  # one run of a table, and how it compares
    "JobPicture": "render.pictures",  # a picture that jobs have drawn
    "format_row_name": "render.labels",  # the shortest name that tells a row from the others
    "shorten_row_names": "render.labels",  # names by what differs among rows
    "format_number": "render.labels",  # a measurement to three digits
    "conclusion_and_findings": "render.parts",  # the answer for a table, and a finding for each run
    "format_interim_verdict": "render.interim_verdicts",  # the verdict on a run that is still going on, as text
    "format_interim_summary": "render.interim_verdicts",  # the same with the difference and its interval
    "format_percentage_points": "render.quantities",  # a difference of accuracies in points
    "format_cut_off_message": "render.answers",  # the number of answers that reached their token limit
    "format_unextracted_answers_message": "render.answers",  # which jobs had few of their answers read
    "build_divergence_tables": "render.token_metrics",  # the same as a report shows it
    "format_metric": "render.token_metrics",  # a metric with its interval, as text
    "format_margin_points": "render.margins",  # a margin as text
    "format_significance_level": "render.margins",  # the confidence level of one of several comparisons, as text
    "format_p_value": "render.effects",  # a p-value as text
    "key_label": "model.data",  # the label of a key
    "escape_markdown": "render.escaping",  # a text of others, harmless in Markdown
    "ABSENT": "model.data",  # the text for a missing value
    "TEAM": "model.data",  # the parameter that names a team of agents in words
    "get_agent_graph_origin": "features.savings.compute",  # where the graph of a team comes from
    # metrics, which jobs record
    "Metric": "metrics",  # a metric with its unit, direction and how it is written
    "BetterDirection": "metrics",  # whether more of it is better
    "find_metric": "metrics",  # the metric of a key
    "known_metrics": "metrics",  # all metrics by their keys
    "list_max_k_vote_metric_keys": "metrics",  # the keys of pass@k and maj@k that jobs have
    "plug_in_metric_keys": "metrics",  # the metrics of plug-ins that jobs have
    "correct_and_total": "metrics",  # how many questions are solved, and how many there are
    "ACCURACY": "metrics",  # the keys of an accuracy and its interval
    "ENDS": "metrics",  # the endings of the keys of a value and its interval
    "build_text_likelihood_records": "features.contexts.render",  # what a job records of the likelihoods of its texts
    "LOG_LIKELIHOOD": "metrics",  # the keys of a log-likelihood, by unit
    "OF_CALLS": "metrics",  # metric keys of the tokens of all calls
    "OF_GUESSES": "metrics",  # metric keys of draft tokens
    "OF_PREFILL": "metrics",  # metric keys of prefill
    "estimate_answer_times": "statistics.answer_times",  # how long answers take at measured speeds
}
__all__ = [*PLACES]


class _CallableModule(ModuleType):
    """Module type that lets users call runner_compare(...) like the function `compare`."""

    def __call__(self, *runs: Any, **options: Any) -> Any:
        from runner_compare.python_api import compare

        return compare(*runs, **options)


__getattr__ = create_lazy_getattr(__name__, PLACES)


sys.modules[__name__].__class__ = _CallableModule
