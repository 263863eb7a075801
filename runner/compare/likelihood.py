"""Two runs on the same given texts: by how much the one finds them more likely, paired sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.compare.data import Finding, NotPaired, Row, Run, Shift, Texts
from runner.compare.pairing import ALPHA, MAKES_PROMPTS
from runner.compare.runs import Evidence
from runner.core.ratios import detectable_shift, paired_p, ratio, ratio_error, ratio_interval
from runner.core.result import Likelihood
from runner.core.stats import holm
from runner.scorers.likelihoods import units

SIZES: dict[str, Callable[[Likelihood], int]] = {
    "token": lambda it: it.tokens,
    "byte": lambda it: it.bytes,
    "text": lambda _: 1,
}


def compare_likelihoods(run: Run, base: Run, evidence: Evidence, asked: Sequence[str] = ()) -> Shift:
    """Compare two runs over the same texts, token by token or by what else both are divided by.

    `asked` are the keys that the comparison is about.
    """
    if run.task_version != base.task_version:
        raise NotPaired(f"scored by version {run.task_version}, the baseline by version {base.task_version}")
    if base.unit is None:
        raise NotPaired("the baseline has scored no text")
    if run.unit is None or run.unit != base.unit:
        raise NotPaired(f"counted by {run.unit}s, the baseline by {base.unit}s")
    ours, theirs = evidence.texts(run), evidence.texts(base)
    remark = check_pairs(ours, theirs, asked)
    pairs = list(zip(*(units([one.found for one in side.values()]) for side in (ours, theirs)), strict=True))
    if len(pairs) < 2:
        raise NotPaired("a single sample says nothing of how samples differ")
    differences = [mine.nats - other.nats for mine, other in pairs]
    sizes = [float(SIZES[run.unit](mine)) for mine, _ in pairs]
    return Shift(
        base.job_id,
        ratio(differences, sizes),
        *ratio_interval(differences, sizes),
        ratio_error(differences, sizes),
        paired_p(differences),
        len(pairs),
        int(sum(sizes)),
        run.unit,
        remark=remark,
    )


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


def judge_shifts(rows: list[Row]) -> None:
    """Adjust p over all such comparisons of a table and decide what each one shows."""
    compared = [row.shift for row in rows if row.shift is not None]
    for it, p_holm in zip(compared, holm([one.p for one in compared]), strict=True):
        it.p_holm = p_holm
        if p_holm < ALPHA:
            it.finding = Finding.better if it.difference > 0 else Finding.worse
        it.detectable_difference = detectable_shift(it.error, it.samples, ALPHA / len(compared))
