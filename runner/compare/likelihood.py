"""Compares the log-likelihoods of two runs on the same texts, paired sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from runner.compare.data import NotPaired, Run, Texts, TooFew
from runner.compare.pairing import PROMPT_KEYS
from runner.compare.runs import SampleReader
from runner.core.effects import Effect, paired_likelihoods
from runner.core.ratios import FEWEST_TEXTS, ratio
from runner.core.result import Likelihood
from runner.scorers.likelihoods import units

SIZES: dict[str, Callable[[Likelihood], int]] = {
    "token": lambda it: it.tokens,
    "byte": lambda it: it.bytes,
    "text": lambda _: 1,
}


def compare_likelihoods(run: Run, base: Run, reader: SampleReader, compared_keys: Sequence[str] = ()) -> Effect:
    """Compare two runs over the same texts, per token, byte or text.

    `compared_keys` are the keys that are compared.
    """
    if run.task_version != base.task_version:
        raise NotPaired(f"scored by version {run.task_version}, the baseline by version {base.task_version}")
    if base.unit is None:
        raise NotPaired("the baseline has scored no text")
    if run.unit is None or run.unit != base.unit:
        raise NotPaired(f"measured per {run.unit}, the baseline per {base.unit}")
    ours, theirs = reader.texts(run), reader.texts(base)
    remark = check_pairs(ours, theirs, compared_keys)
    pairs = list(zip(*(units([one.likelihood for one in side.values()]) for side in (ours, theirs)), strict=True))
    differences = [mine.nats - other.nats for mine, other in pairs]
    sizes = [float(SIZES[run.unit](mine)) for mine, _ in pairs]
    if len(pairs) < FEWEST_TEXTS:
        shift = f"Δ {ratio(differences, sizes):+.5f} nats/{run.unit}".replace("-", "−")
        raise TooFew(f"too few texts to test: {len(pairs)}, at least {FEWEST_TEXTS} ({shift})")
    return replace(paired_likelihoods(differences, sizes, run.unit), remark=remark)


def check_pairs(ours: Texts, theirs: Texts, compared_keys: Sequence[str]) -> str | None:
    """Raise NotPaired for different texts, tokens or prompts; return a remark if prompts may differ and do."""
    n = len(ours)
    same_texts = sum(index in theirs and one.text == theirs[index].text for index, one in ours.items())
    if same_texts < n or len(theirs) != n:
        raise NotPaired(f"different texts: {n} here, {len(theirs)} in the baseline, {same_texts} are the same")
    different = sum(one.tokens != theirs[index].tokens for index, one in ours.items())
    if different:
        raise NotPaired(f"different tokens: {different} of {n} texts have other tokens than in the baseline")
    different = sum(one.prompt != theirs[index].prompt for index, one in ours.items())
    if different and not any(key.startswith(PROMPT_KEYS) for key in compared_keys):
        raise NotPaired(f"different prompts: {different} of {n} texts follow another prompt than in the baseline")
    return f"different prompts before {different} of {n} texts" if different else None
