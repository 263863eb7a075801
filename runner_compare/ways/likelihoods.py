"""Compares the log-likelihoods of two runs on the same documents. Each document forms a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner_base import Likelihood
from runner_base.notes import Note, note
from runner_compare.model.aligned_windows import align_document_windows, select_longest_context
from runner_compare.model.data import NotPaired, Run, Texts, TooFewPairs
from runner_compare.model.mean_pairs import find_cluster_field, get_pair_clusters
from runner_compare.reader import Reader
from runner_compare.statistics import MIN_TEXTS, RunComparison, SignFlipTest
from runner_compare.statistics.likelihoods import WINDOWS, sum_likelihoods_by_document
from runner_compare.statistics.ratios import ratio_of_sums, sum_by_cluster
from runner_compare.ways import CONTEXT_KEYS, PairingOptions, with_notes

SIZES: dict[str, Callable[[Likelihood], int]] = {
    "token": lambda likelihood: likelihood.tokens,
    "byte": lambda likelihood: likelihood.bytes,
    "text": lambda _: 1,
}


def can_compare_run(run: Run) -> bool:
    return run.likelihood_unit is not None


def compare_with_baseline(
    run: Run, base: Run, reader: Reader, pairing: PairingOptions
) -> list[RunComparison]:
    if run.task_version != base.task_version:
        raise NotPaired(
            f"the task version is {run.task_version} in the run and {base.task_version} in the baseline"
        )
    if base.likelihood_unit is None:
        raise NotPaired("the baseline has scored no text")
    if run.likelihood_unit is None or run.likelihood_unit != base.likelihood_unit:
        raise NotPaired(
            f"the loss is per {run.likelihood_unit} in the run and per {base.likelihood_unit} in the baseline"
        )
    windows = run.facts.get("samples") == base.facts.get("samples") == WINDOWS
    read = (
        select_longest_context(reader.load_text_scores(run)),
        select_longest_context(reader.load_text_scores(base)),
    )
    texts, base_texts = align_document_windows(*read, is_single_text=windows)
    remarks = [
        create_context_note(run, base)
        if texts is not read[0]
        else check_same_texts(texts, base_texts, pairing)
    ]
    pairs = list(
        zip(
            *(
                sum_likelihoods_by_document([score.likelihood for score in side.values()])
                for side in (texts, base_texts)
            ),
            strict=True,
        )
    )
    differences = [likelihood.nats - base_likelihood.nats for likelihood, base_likelihood in pairs]
    sizes = [float(SIZES[run.likelihood_unit](likelihood)) for likelihood, _ in pairs]
    what, clusters = (
        WINDOWS if windows else "texts",
        get_text_clusters(texts, base_texts, find_cluster_field(run, base)),
    )
    if clusters is not None:
        field = find_cluster_field(run, base)
        what = f"clusters of documents by {field}"
        differences, sizes = (sums_by_cluster(differences, clusters), sums_by_cluster(sizes, clusters))
        remarks.insert(0, note("in_families", n=len(sizes), field=field))
    if len(differences) < MIN_TEXTS:
        shift = f"Δ {ratio_of_sums(differences, sizes):+.5f} nats/{run.likelihood_unit}".replace("-", "−")
        fix = "; a smaller task.window yields more windows" if windows else ""
        raise TooFewPairs(
            f"the test needs at least {MIN_TEXTS} {what}, but the runs share only "
            f"{len(differences)} ({shift}){fix}"
        )
    if windows:
        remarks.insert(0, note("windows_are_samples"))
    return [with_notes(RunComparison(SignFlipTest(differences, sizes, run.likelihood_unit)), *remarks)]


def create_context_note(run: Run, base: Run) -> Note:
    settings = {key: (run.get_value(key), base.get_value(key)) for key in CONTEXT_KEYS}
    return note("other_context", settings={key: pair for key, pair in settings.items() if pair[0] != pair[1]})


def get_text_clusters(texts: Texts, base_texts: Texts, cluster_field_name: str) -> list[str] | None:
    """Return the cluster of each document, in document order. None if no document has a cluster."""
    by_unit = {
        score.likelihood.unit: (score.cluster, base_texts[index].cluster) for index, score in texts.items()
    }
    return get_pair_clusters([by_unit[unit] for unit in sorted(by_unit)], cluster_field_name)


def sums_by_cluster(values: Sequence[float], clusters: Sequence[str]) -> list[float]:
    return sum_by_cluster(values, clusters)[0]


def check_same_texts(texts: Texts, base_texts: Texts, pairing: PairingOptions) -> Note | None:
    """Raise NotPaired if two runs scored different texts, tokens or prompts.

    If prompts may differ and do, a note is returned.
    """
    n = len(texts)
    same_texts = sum(
        index in base_texts and score.text == base_texts[index].text for index, score in texts.items()
    )
    if same_texts < n or len(base_texts) != n:
        raise NotPaired(
            f"only {same_texts} texts are the same in both runs (the run has {n}, the baseline has {len(base_texts)})"
        )
    different = sum(score.tokens != base_texts[index].tokens for index, score in texts.items())
    if different:
        raise NotPaired(f"{different} of {n} texts have different tokens in the run and in the baseline")
    different = sum(score.prompt != base_texts[index].prompt for index, score in texts.items())
    if different and not pairing.may_change_prompts:
        raise NotPaired(f"{different} of {n} texts have different prompts in the run and in the baseline")
    return note("different_prompts_before", different=different, n=n) if different else None
