"""Does *more context helps up to N tokens* claim too much? `python bench/compare/contexts_null.py [--draws 300]`.

The same tokens of texts are scored after four contexts. Each text has a loss of its own, and what a longer context
gains differs from text to text: it is normal, or skewed, where a context helps few texts much. First the gains end at a
known context: how often does the sentence name a longer one, and how often that one? The control takes the longest
context that gains over the next shorter one by Student's test, wherever shorter ones gain nothing. Then the loss by
position: how often does the interval of a bin miss the truth, if a text moves all of its windows, and how often if
windows are counted as samples?
"""

from __future__ import annotations

import sys

import numpy as np
from simulation import Limits, Numbers, Rate, Table, begin

from runner_base import Likelihood
from runner_compare.metrics.likelihoods import HELPS_UP_TO, LOSS
from runner_compare.statistics import ALPHA
from runner_compare.statistics.context_gains import compute_loss_metrics_by_context_length
from runner_compare.statistics.position_loss import compute_loss_metrics_by_position
from runner_compare.statistics.stats import student_p_value

TOKENS, LENGTHS = 64, (256, 1024, 4096, 16384)
# nats a token: standard deviations of a text and of a gain, and a true gain
OF_TEXT, SPREAD, GAIN = (0.8, 0.1, 0.1)
WINDOWS, OF_WINDOW = 12, 0.3


def gains_of_texts(generator: np.random.Generator, texts: int, kind: str) -> Numbers:
    """Return by how much a context's gain in each text differs from its mean."""
    if kind == "skewed":
        return SPREAD * (generator.exponential(size=texts) - 1.0)
    return SPREAD * generator.standard_normal(texts)


def losses(generator: np.random.Generator, texts: int, kind: str, helping: int) -> Numbers:
    """Return the loss of each text after each context, of which the first `helping` longer ones
    help."""
    of_texts = generator.normal(3, OF_TEXT, texts)
    means = np.cumsum([0.0, *(GAIN * (step < helping) for step in range(len(LENGTHS) - 1))])
    return np.array([of_texts - mean - gains_of_texts(generator, texts, kind) for mean in means])


def claimed(of_contexts: Numbers) -> int:
    """Return up to which of the contexts the sentence says that more helps."""
    parts = [
        Likelihood(text, -loss * TOKENS, TOKENS, 1, 1, 0, context=length)
        for length, of_context in zip(LENGTHS, of_contexts.tolist(), strict=True)
        for text, loss in enumerate(of_context)
    ]
    return LENGTHS.index(int(compute_loss_metrics_by_context_length(parts, {})[HELPS_UP_TO]))


def claimed_without_order(of_contexts: Numbers) -> int:
    """Return the longest context that gains over the next shorter one, by Student's test."""
    found = 0
    for longer in range(1, len(LENGTHS)):
        gains = of_contexts[longer - 1] - of_contexts[longer]
        t = float(gains.mean() / (gains.std(ddof=1) / len(gains) ** 0.5))
        if t > 0 and student_p_value(t, len(gains) - 1) < ALPHA:
            found = longer
    return found


def holds(generator: np.random.Generator, texts: int, are_samples: bool) -> bool:
    """Whether the interval of a bin holds the truth, 2 nats a token."""
    parts: list[Likelihood] = []
    for text in range(texts):
        of_text = generator.normal(2, OF_TEXT)
        for _ in range(WINDOWS):
            nats = -512 * (of_text + generator.normal(0, OF_WINDOW))
            unit = len(parts) if are_samples else text
            parts.append(Likelihood(unit, nats, 512, 1, 1, 0, by_position=[[9, 512, nats]]))
    found = compute_loss_metrics_by_position(parts, {})
    return bool(found[f"{LOSS}_low/position_512"] <= 2 <= found[f"{LOSS}_high/position_512"])


def main() -> int:
    """Print the tables."""
    draws, generator, started = begin("contexts_null", __doc__, 300, "draws")
    limits = Limits()
    heads = (
        "texts",
        "gains",
        "true",
        "claims too much %",
        "claims just that %",
        "without an order: too much %",
    )
    table = Table("more context helps up to N tokens", *heads)
    for texts in (50, 60, 100, 200):
        for kind in ("normal", "skewed"):
            for helping in range(len(LENGTHS)):
                drawn = [losses(generator, texts, kind, helping) for _ in range(draws)]
                found = [claimed(it) for it in drawn]
                too_much = Rate(sum(it > helping for it in found), draws)
                control = Rate(sum(claimed_without_order(it) > helping for it in drawn), draws)
                limits.false.append(too_much)
                just = Rate(sum(it == helping for it in found), draws)
                table.row(texts, kind, f"{LENGTHS[helping]:,}", too_much, just, control)
    table = Table("the interval of a bin by position misses the truth", "texts", "by text %", "by window %")
    for texts in (10, 50, 60, 200):
        missed = [
            Rate(sum(not holds(generator, texts, it) for _ in range(draws)), draws) for it in (False, True)
        ]
        limits.missed.append(missed[0])
        table.row(texts, *missed)
    return limits.conclude(started)


if __name__ == "__main__":
    sys.exit(main())
