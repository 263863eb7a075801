"""Two metrics: one that task=words returns, and one that is computed from the answers of any
task."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from runner_base import Sample
from runner_compare.metrics import BetterDirection, Metric, PoolingRule


def answer_words(samples: Sequence[Sample]) -> float:
    """Return the mean number of words in an answer."""
    return fmean(len(one.text.split()) for sample in samples for one in sample.answers)


WORDS = Metric("words", "words", form=",.0f", pooling=PoolingRule.sum)
ANSWER_WORDS = Metric(
    "answer_words", "words an answer", form=".1f", better=BetterDirection.lower, of_samples=answer_words
)
