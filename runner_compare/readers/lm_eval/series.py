"""One metric of an lm-eval task, with its value for each document."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner_base import DataError, Likelihood
from runner_compare.metrics import LOG_LIKELIHOODS, BetterDirection
from runner_compare.model.data import Answers, Question, QuestionOutcome, Texts, TextScore
from runner_compare.model.question_metrics import compute_mean_metric, parse_lm_eval_metric_value
from runner_compare.readers.lm_eval.files import (
    Document,
    Documents,
    Results,
    format_question_and_answers,
    iter_sample_lines,
)
from runner_compare.readers.tool_run import format_flip_with_question, to_finite_number
from runner_compare.statistics.accuracy_intervals import compute_accuracy_metrics
from runner_compare.statistics.ratios import compute_ratio_interval, ratio_of_sums
from runner_compare.ways.likelihoods import sums_by_cluster

OF_TEXTS = ("perplexity",)  # metrics that hold a document's log-likelihood
# metrics that hold it with the size to divide by
OF_BYTES = ("bits_per_byte", "byte_perplexity", "word_perplexity")

LARGEST = 2**53  # bytes of a document
MOST_NATS = 700.0  # whose perplexity is a number


@dataclass
class Series:
    results: Results
    task: str
    metric: str
    filter: str
    documents: Documents
    # another run has a fraction for some document in this task and metric
    is_beside_numbers: bool = False

    @property
    def name(self) -> str:
        """The name in lm-eval's tables."""
        return f"{self.task} {self.metric},{self.filter}"

    @property
    def samples_path(self) -> Path:
        return self.results.samples_path(self.task)

    @property
    def is_log_likelihood(self) -> bool:
        kind = (self.results.find_task_entry_in_results("configs", self.task) or {}).get("output_type")
        return self.metric in OF_BYTES or (self.metric in OF_TEXTS and kind == "loglikelihood")

    @property
    def has_verdict_per_document(self) -> bool:
        """Whether each document has a verdict, with higher values being better."""
        if self.is_beside_numbers:
            return False
        values = [document.values[self.metric] for document in self.documents.values()]
        is_lower = self.results.get_metric_direction(self.task, self.metric) is BetterDirection.lower
        return not is_lower and all(value in (0, 1) for value in values)

    @property
    def has_only_numbers(self) -> bool:
        """Whether the metric's values are plain numbers: no verdicts, no log-likelihoods."""
        return not self.is_log_likelihood and not self.has_verdict_per_document

    @property
    def can_be_compared(self) -> bool:
        """Whether every document has a value."""
        return bool(self.documents) and (not self.has_only_numbers or None not in self.metric_values.values())

    @property
    def metric_values(self) -> dict[int, float | None]:
        """Metric value of each document. None for a metric that is defined only over all documents
        together.
        """
        return {
            key: parse_lm_eval_metric_value(document.values[self.metric])
            for key, document in self.documents.items()
        }

    def load_answers(self) -> Answers:
        """Return the outcome of each document of the series."""
        return {
            document.pairing_key: QuestionOutcome(
                document.values[self.metric] == 1, document.prompt_hash, document.cluster
            )
            for document in self.documents.values()
        }

    def load_metric_values(self) -> Answers:
        numbers = self.metric_values
        return {
            document.pairing_key: QuestionOutcome(
                False, document.prompt_hash, document.cluster, number=numbers[document.doc_id]
            )
            for document in self.documents.values()
        }

    def load_text_scores(self) -> Texts:
        return {
            document.doc_id: TextScore(
                (document.doc_hash, document.target),
                document.prompt_hash,
                (),
                self.get_document_likelihood(document),
                document.cluster,
            )
            for document in self.documents.values()
        }

    def load_answer_texts(
        self, questions: Collection[Question], max_chars: int
    ) -> Iterator[tuple[Question, dict[str, str]]]:
        shown = {
            document.line: document
            for document in self.documents.values()
            if document.pairing_key in questions
        }
        for number, values in iter_sample_lines(self.samples_path) if shown else ():
            if document := shown.get(number):
                question, answer, text = format_question_and_answers(values)
                yield (
                    document.pairing_key,
                    format_flip_with_question(
                        document.values[self.metric] == 1, answer, text, question, max_chars
                    ),
                )

    def get_document_likelihood(self, document: Document) -> Likelihood:
        value, size = document.values[self.metric], 1
        if self.metric in OF_BYTES and isinstance(value, list) and len(value) == 2:
            value, counted = value
            size = len(document.target.encode()) if self.metric == "word_perplexity" else counted
        nats = to_finite_number(value)
        if nats is None or not isinstance(size, int) or not 0 < size < LARGEST:
            shown = str(value)[:40]
            raise DataError(
                f"{self.metric} is not a log-likelihood: {shown}",
                key=f"{self.samples_path}, line {document.line}",
                code="damaged",
            )
        return Likelihood(document.doc_id, nats, 0, size, len(document.target), 0)


def compute_series_metrics(series: Series) -> dict[str, float]:
    """Compute the run metrics of a series: an accuracy, a log-likelihood or a mean, with its interval."""
    if series.is_log_likelihood:
        return _compute_likelihood_metrics(series)
    if series.has_verdict_per_document:
        return _compute_verdict_metrics(series)
    return compute_mean_metric(series.metric, series.metric_values.values())


def _compute_verdict_metrics(series: Series) -> dict[str, float]:
    solved = [document.values[series.metric] == 1 for document in series.documents.values()]
    families = [document.cluster for document in series.documents.values()]
    return {"correct": float(sum(solved)), **compute_accuracy_metrics(solved, families)}


def _compute_likelihood_metrics(series: Series) -> dict[str, float]:
    """Compute the log-likelihood per byte or per document with its interval.

    Also returns lm-eval's own metric.
    """
    unit = "byte" if series.metric in OF_BYTES else "text"
    likelihoods = [series.get_document_likelihood(document) for document in series.documents.values()]
    nats, sizes = (
        [likelihood.nats for likelihood in likelihoods],
        [float(likelihood.bytes) if unit == "byte" else 1.0 for likelihood in likelihoods],
    )
    families = [document.cluster or "" for document in series.documents.values()]
    if all(families):
        nats, sizes = sums_by_cluster(nats, families), sums_by_cluster(sizes, families)
    key, mean = LOG_LIKELIHOODS[unit], ratio_of_sums(nats, sizes)
    figures = {"n": float(len(likelihoods)), key: mean}
    if all(families):
        figures["families"] = float(len(nats))
    if (ends := compute_ratio_interval(nats, sizes, upper=0.0)) is not None:
        figures |= {f"{key}_low": ends[0], f"{key}_high": ends[1]}
    if unit == "byte":
        return figures | {"bits_per_byte": -mean / math.log(2)}
    return figures | ({"perplexity": math.exp(-mean)} if -mean < MOST_NATS else {})
