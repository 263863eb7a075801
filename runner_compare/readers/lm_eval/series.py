"""One metric of one task of lm-evaluation-harness, document by document, and the figures of a run
of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner_base import DataError, Likelihood
from runner_compare.metrics import LOG_LIKELIHOODS, Better
from runner_compare.model.data import Answers, Question, QuestionOutcome, Texts, TextScore
from runner_compare.model.question_numbers import mean_of, number_of
from runner_compare.readers.lm_eval.files import Document, Documents, Results, lines, question_and_answers
from runner_compare.readers.tool_run import as_number, side_with_question
from runner_compare.statistics.clustered_share import accuracy_figures
from runner_compare.statistics.ratios import ratio, ratio_interval
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
    def path(self) -> Path:
        """The file of its samples."""
        return self.results.samples(self.task)

    @property
    def is_of_texts(self) -> bool:
        """Whether the metric is the log-likelihood of texts."""
        kind = (self.results.of("configs", self.task) or {}).get("output_type")
        return self.metric in OF_BYTES or (self.metric in OF_TEXTS and kind == "loglikelihood")

    @property
    def is_of_verdicts(self) -> bool:
        """Whether the metric says right or wrong for every document, and right is better."""
        if self.is_beside_numbers:
            return False
        values = [document.values[self.metric] for document in self.documents.values()]
        is_lower = self.results.better(self.task, self.metric) is Better.lower
        return not is_lower and all(value in (0, 1) for value in values)

    @property
    def is_of_numbers_only(self) -> bool:
        """Whether it can be compared neither as a text nor as verdicts."""
        return not self.is_of_texts and not self.is_of_verdicts

    @property
    def can_be_compared(self) -> bool:
        """Whether there are documents, and each has a number where they have to be compared by
        numbers."""
        return bool(self.documents) and (not self.is_of_numbers_only or None not in self.numbers.values())

    @property
    def numbers(self) -> dict[int, float | None]:
        """The number of each document; None where it has none, as for a class that is counted over
        all documents."""
        return {key: number_of(document.values[self.metric]) for key, document in self.documents.items()}

    def answers(self) -> Answers:
        """Return which documents were answered correctly."""
        return {
            document.key: QuestionOutcome(
                document.values[self.metric] == 1, document.prompt_hash, document.cluster
            )
            for document in self.documents.values()
        }

    def number_answers(self) -> Answers:
        """Return the metric of each document."""
        numbers = self.numbers
        return {
            document.key: QuestionOutcome(
                False, document.prompt_hash, document.cluster, number=numbers[document.doc_id]
            )
            for document in self.documents.values()
        }

    def texts(self) -> Texts:
        """Return the log-likelihood of each text."""
        return {
            document.doc_id: TextScore(
                (document.doc_hash, document.target),
                document.prompt_hash,
                (),
                self.likelihood(document),
                document.cluster,
            )
            for document in self.documents.values()
        }

    def words(self, wanted: Collection[Question], most: int) -> Iterator[tuple[Question, dict[str, str]]]:
        """Yield the answers to some documents, which are read from the file again."""
        shown = {document.line: document for document in self.documents.values() if document.key in wanted}
        for number, values in lines(self.path) if shown else ():
            if document := shown.get(number):
                question, answer, text = question_and_answers(values)
                yield (
                    document.key,
                    side_with_question(document.values[self.metric] == 1, answer, text, question, most),
                )

    def likelihood(self, document: Document) -> Likelihood:
        """Return the log-likelihood of a document's text."""
        value, size = document.values[self.metric], 1
        if self.metric in OF_BYTES and isinstance(value, list) and len(value) == 2:
            value, counted = value
            size = len(document.target.encode()) if self.metric == "word_perplexity" else counted
        nats = as_number(value)
        if nats is None or not isinstance(size, int) or not 0 < size < LARGEST:
            shown = str(value)[:40]
            raise DataError(
                f"{self.metric} is not a log-likelihood: {shown}",
                key=f"{self.path}, line {document.line}",
                code="damaged",
            )
        return Likelihood(document.doc_id, nats, 0, size, len(document.target), 0)


def figures_of(series: Series) -> dict[str, float]:
    """Return what a run of this series has as metrics: an accuracy, a log-likelihood or a mean,
    with its interval."""
    if series.is_of_texts:
        return _likelihoods(series)
    if series.is_of_verdicts:
        return _counts(series)
    return mean_of(series.metric, series.numbers.values())


def _counts(series: Series) -> dict[str, float]:
    solved = [document.values[series.metric] == 1 for document in series.documents.values()]
    families = [document.cluster for document in series.documents.values()]
    return {"correct": float(sum(solved)), **accuracy_figures(solved, families)}


def _likelihoods(series: Series) -> dict[str, float]:
    """Return the log-likelihood per byte or text, with its interval, and lm-eval's own figure."""
    unit = "byte" if series.metric in OF_BYTES else "text"
    likelihoods = [series.likelihood(document) for document in series.documents.values()]
    nats, sizes = (
        [likelihood.nats for likelihood in likelihoods],
        [float(likelihood.bytes) if unit == "byte" else 1.0 for likelihood in likelihoods],
    )
    families = [document.cluster or "" for document in series.documents.values()]
    if all(families):
        nats, sizes = sums_by_cluster(nats, families), sums_by_cluster(sizes, families)
    key, mean = LOG_LIKELIHOODS[unit], ratio(nats, sizes)
    figures = {"n": float(len(likelihoods)), key: mean}
    if all(families):
        figures["families"] = float(len(nats))
    if (ends := ratio_interval(nats, sizes, most=0.0)) is not None:
        figures |= {f"{key}_low": ends[0], f"{key}_high": ends[1]}
    if unit == "byte":
        return figures | {"bits_per_byte": -mean / math.log(2)}
    return figures | ({"perplexity": math.exp(-mean)} if -mean < MOST_NATS else {})
