"""Compares the loss of the same tokens after several contexts."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner_compare.model.data import Run, Texts
from runner_compare.model.mean_pairs import cluster_field
from runner_compare.reader import Reader
from runner_compare.statistics import MIN_TEXTS, Effect
from runner_compare.statistics.contexts import contexts_of, gain_over
from runner_compare.statistics.likelihoods import by_family, units
from runner_compare.ways import Asked
from runner_compare.ways.likelihoods import check_pairs, text_clusters


@dataclass
class ContextsOfTable:
    """The differences of loss to the baseline, by run id and context."""

    effects: dict[tuple[str, int], Effect] = field(default_factory=dict)


def against_baseline(run: Run, base: Run, reader: Reader) -> dict[tuple[str, int], Effect]:
    """Return the differences of two runs at each context that both have."""
    texts, base_texts = reader.texts(run), reader.texts(base)
    found: dict[tuple[str, int], Effect] = {}
    for length in contexts_of(run.metrics):
        own_texts, others = _after(texts, length), _after(base_texts, length)
        if len(own_texts) < MIN_TEXTS or not others:
            continue
        check_pairs(own_texts, others, Asked(keys=("task.contexts",)))
        clusters = text_clusters(own_texts, others, cluster_field(run, base))
        sides = [units([score.likelihood for score in side.values()]) for side in (own_texts, others)]
        if clusters is not None:
            sides = [by_family(side, clusters) for side in sides]
        if len(sides[0]) >= MIN_TEXTS:
            found[run.run_id, length] = gain_over(*sides).effect
    return found


def _after(texts: Texts, length: int) -> Texts:
    """Return the texts after a context, numbered anew: another number of contexts is no other
    text."""
    of_context = [score for _, score in sorted(texts.items()) if score.likelihood.context == length]
    return dict(enumerate(of_context))
