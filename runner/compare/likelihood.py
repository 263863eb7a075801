"""Two runs on the same given texts: by how much the one finds them more likely, paired sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runner.compare.data import Finding, NotPaired, Row, Run, Shift
from runner.compare.pairing import ALPHA, MAKES_PROMPTS
from runner.compare.runs import Evidence
from runner.core.errors import EvidenceError
from runner.core.metrics import LOG_LIKELIHOOD
from runner.core.ratios import detectable_shift, paired_p, ratio, ratio_error, ratio_interval
from runner.core.result import Likelihood
from runner.core.stats import holm
from runner.scorers.likelihoods import units
from runner.store.jobs import read_samples

SAME = 1e-9  # nats a token by which a file may differ from what was logged: MLflow keeps numbers as they are


class Scored(NamedTuple):
    """What a line of samples.jsonl says of one continuation."""

    text: tuple[str | None, str | None]
    prompt: str
    tokens: tuple[int, ...]
    found: Likelihood


Texts = dict[int, Scored]


def compare_likelihoods(run: Run, base: Run, evidence: Evidence, asked: Sequence[str] = ()) -> Shift:
    """Compare two runs over the tokens of the same texts; `asked` are the keys that the comparison is about."""
    if run.task_version != base.task_version:
        raise NotPaired(f"scored by version {run.task_version}, the baseline by version {base.task_version}")
    if LOG_LIKELIHOOD not in base.metrics:
        raise NotPaired("the baseline has scored no text")
    ours, theirs = texts_of(run, evidence), texts_of(base, evidence)
    remark = check_pairs(ours, theirs, asked)
    pairs = list(zip(*(units([one.found for one in side.values()]) for side in (ours, theirs)), strict=True))
    if len(pairs) < 2:
        raise NotPaired("a single sample says nothing of how samples differ")
    differences, tokens = [mine.nats - other.nats for mine, other in pairs], [float(mine.tokens) for mine, _ in pairs]
    return Shift(
        base.job_id,
        ratio(differences, tokens),
        *ratio_interval(differences, tokens),
        ratio_error(differences, tokens),
        paired_p(differences),
        len(pairs),
        int(sum(tokens)),
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


def texts_of(run: Run, evidence: Evidence) -> Texts:
    """Return what a run has scored, from the first whole file that agrees with what was logged."""

    def agrees(texts: Texts) -> bool:
        of = units([one.found for one in texts.values()])
        logged = run.metrics[LOG_LIKELIHOOD]
        return bool(of) and math.isclose(ratio([it.nats for it in of], [it.tokens for it in of]), logged, abs_tol=SAME)

    return evidence.whole(run, read_texts, agrees, LOG_LIKELIHOOD)


def read_texts(path: Path) -> Texts:
    """Return what a file of samples says of each text; EvidenceError with file and line where one was changed."""
    try:
        samples = read_samples(path).values()
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read ({error.strerror})") from error
    return {
        one.index: Scored((one.question, one.gold), one.prompt_sha256, tuple(one.token_ids), one.likelihood)
        for one in samples
        if one.likelihood is not None
    }
