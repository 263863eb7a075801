"""Two runs on the same given texts: by how much the one finds them more likely, paired sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from runner.compare.data import NotPaired, Run, Texts
from runner.compare.pairing import MAKES_PROMPTS
from runner.compare.runs import SampleReader
from runner.core.effects import Effect, paired_likelihoods
from runner.core.result import Likelihood
from runner.scorers.likelihoods import units

SIZES: dict[str, Callable[[Likelihood], int]] = {
    "token": lambda it: it.tokens,
    "byte": lambda it: it.bytes,
    "text": lambda _: 1,
}


def compare_likelihoods(run: Run, base: Run, reader: SampleReader, asked: Sequence[str] = ()) -> Effect:
    """Compare two runs over the same texts, token by token or by what else both are divided by.

    `asked` are the keys that the comparison is about.
    """
    if run.task_version != base.task_version:
        raise NotPaired(f"scored by version {run.task_version}, the baseline by version {base.task_version}")
    if base.unit is None:
        raise NotPaired("the baseline has scored no text")
    if run.unit is None or run.unit != base.unit:
        raise NotPaired(f"counted by {run.unit}s, the baseline by {base.unit}s")
    ours, theirs = reader.texts(run), reader.texts(base)
    remark = check_pairs(ours, theirs, asked)
    pairs = list(zip(*(units([one.found for one in side.values()]) for side in (ours, theirs)), strict=True))
    if len(pairs) < 2:
        raise NotPaired("a single sample says nothing of how samples differ")
    differences = [mine.nats - other.nats for mine, other in pairs]
    sizes = [float(SIZES[run.unit](mine)) for mine, _ in pairs]
    return replace(paired_likelihoods(differences, sizes, run.unit), remark=remark)


def check_pairs(ours: Texts, theirs: Texts, asked: Sequence[str]) -> str | None:
    """Refuse what cannot be paired; return what a reader has to know of prompts that differ and may."""
    n = len(ours)
    same = sum(index in theirs and one.text == theirs[index].text for index, one in ours.items())
    if same < n or len(theirs) != n:
        raise NotPaired(f"other texts: {n} here, {len(theirs)} in the baseline, {same} are the same")
    other = sum(one.tokens != theirs[index].tokens for index, one in ours.items())
    if other:
        raise NotPaired(f"other tokens: {other} of {n} texts are cut into other tokens than in the baseline")
    other = sum(one.prompt != theirs[index].prompt for index, one in ours.items())
    if other and not any(key.startswith(MAKES_PROMPTS) for key in asked):
        raise NotPaired(f"other prompts: {other} of {n} texts stand behind other words than in the baseline")
    return f"other prompts before {other} of {n} texts" if other else None
