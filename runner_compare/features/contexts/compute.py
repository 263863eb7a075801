"""Compare two runs' loss on the same tokens at several context lengths."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.model.data import Run, Texts
from runner_compare.model.mean_pairs import find_cluster_field
from runner_compare.reader import Reader
from runner_compare.statistics import MIN_TEXTS, Effect
from runner_compare.statistics.context_gains import (
    create_log_likelihood_difference_test,
    list_context_lengths,
)
from runner_compare.statistics.likelihoods import sum_likelihoods_by_cluster, sum_likelihoods_by_document
from runner_compare.ways import PairingOptions
from runner_compare.ways.likelihoods import check_same_texts, get_text_clusters


@dataclass
class TableContextEffects:
    """Loss differences between runs and their baseline, by run id and context length."""

    effects: dict[tuple[str, int], Effect] = field(default_factory=dict)


def compare_losses_by_context_length(run: Run, base: Run, reader: Reader) -> dict[tuple[str, int], Effect]:
    """Compare the losses of two runs at each context length that both runs measured."""
    texts, base_texts = reader.load_text_scores(run), reader.load_text_scores(base)
    found: dict[tuple[str, int], Effect] = {}
    for length in list_context_lengths(run.metrics):
        own_texts, others = (
            _select_texts_by_context_length(texts, length),
            _select_texts_by_context_length(base_texts, length),
        )
        if len(own_texts) < MIN_TEXTS or not others:
            continue
        check_same_texts(own_texts, others, PairingOptions(keys=("task.context_lengths",)))
        clusters = get_text_clusters(own_texts, others, find_cluster_field(run, base))
        sides = [
            sum_likelihoods_by_document([score.likelihood for score in side.values()])
            for side in (own_texts, others)
        ]
        if clusters is not None:
            sides = [sum_likelihoods_by_cluster(side, clusters) for side in sides]
        if len(sides[0]) >= MIN_TEXTS:
            found[run.run_id, length] = create_log_likelihood_difference_test(*sides).effect
    return found


def _select_texts_by_context_length(texts: Texts, length: int) -> Texts:
    """Return the texts that were scored with one context length, renumbered from 0.

    So two runs stay comparable if they measured different numbers of context lengths.
    """
    of_context = [score for _, score in sorted(texts.items()) if score.likelihood.context == length]
    return dict(enumerate(of_context))
