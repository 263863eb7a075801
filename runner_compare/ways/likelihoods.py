"""Compares the log-likelihoods of two runs on the same texts, paired sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner_base import Likelihood
from runner_base.notes import Note, note
from runner_compare.model.data import NotPaired, Run, Texts, TooFew
from runner_compare.model.mean_pairs import cluster_field, clusters_of
from runner_compare.model.same_tokens import after_longest_context, in_same_pieces
from runner_compare.reader import Reader
from runner_compare.statistics import MIN_TEXTS, Compared, SignFlips
from runner_compare.statistics.likelihoods import WINDOWS, units
from runner_compare.statistics.ratios import cluster_sums, ratio
from runner_compare.ways import CONTEXT_KEYS, Asked, noting

SIZES: dict[str, Callable[[Likelihood], int]] = {
    "token": lambda likelihood: likelihood.tokens,
    "byte": lambda likelihood: likelihood.bytes,
    "text": lambda _: 1,
}


def fits(run: Run) -> bool:
    """Whether a run has log-likelihoods of texts."""
    return run.unit is not None


def compare(run: Run, base: Run, reader: Reader, asked: Asked) -> list[Compared]:
    """Compare two runs over the same texts, per token, byte or text."""
    if run.task_version != base.task_version:
        raise NotPaired(f"scored by version {run.task_version}, the baseline by version {base.task_version}")
    if base.unit is None:
        raise NotPaired("the baseline has scored no text")
    if run.unit is None or run.unit != base.unit:
        raise NotPaired(f"measured per {run.unit}, the baseline per {base.unit}")
    windows = run.facts.get("samples") == base.facts.get("samples") == WINDOWS
    read = after_longest_context(reader.texts(run)), after_longest_context(reader.texts(base))
    texts, base_texts = in_same_pieces(*read, is_one_text=windows)
    remarks = [note_contexts(run, base) if texts is not read[0] else check_pairs(texts, base_texts, asked)]
    pairs = list(
        zip(
            *(units([score.likelihood for score in side.values()]) for side in (texts, base_texts)),
            strict=True,
        )
    )
    differences = [likelihood.nats - base_likelihood.nats for likelihood, base_likelihood in pairs]
    sizes = [float(SIZES[run.unit](likelihood)) for likelihood, _ in pairs]
    what, clusters = (
        WINDOWS if windows else "texts",
        text_clusters(texts, base_texts, cluster_field(run, base)),
    )
    if clusters is not None:
        field = cluster_field(run, base)
        what = f"families of texts by {field}"
        differences, sizes = (sums_by_cluster(differences, clusters), sums_by_cluster(sizes, clusters))
        remarks.insert(0, note("in_families", n=len(sizes), field=field))
    if len(differences) < MIN_TEXTS:
        shift = f"Δ {ratio(differences, sizes):+.5f} nats/{run.unit}".replace("-", "−")
        fix = "; a smaller task.window makes more of them" if windows else ""
        raise TooFew(f"too few {what} to test: {len(differences)}, at least {MIN_TEXTS} ({shift}){fix}")
    if windows:
        remarks.insert(0, note("windows_are_samples"))
    return [noting(Compared(SignFlips(differences, sizes, run.unit)), *remarks)]


def note_contexts(run: Run, base: Run) -> Note:
    """Note which keys give the same tokens another context."""
    settings = {key: (run.value(key), base.value(key)) for key in CONTEXT_KEYS}
    return note("other_context", settings={key: pair for key, pair in settings.items() if pair[0] != pair[1]})


def text_clusters(texts: Texts, base_texts: Texts, field: str) -> list[str] | None:
    """Return the cluster of each text, in the order of `units`; None without clusters."""
    by_unit = {
        score.likelihood.unit: (score.cluster, base_texts[index].cluster) for index, score in texts.items()
    }
    return clusters_of([by_unit[unit] for unit in sorted(by_unit)], field)


def sums_by_cluster(values: Sequence[float], clusters: Sequence[str]) -> list[float]:
    return cluster_sums(values, clusters)[0]


def check_pairs(texts: Texts, base_texts: Texts, asked: Asked) -> Note | None:
    """Raise NotPaired for different texts, tokens or prompts; return a remark if prompts may differ
    and do."""
    n = len(texts)
    same_texts = sum(
        index in base_texts and score.text == base_texts[index].text for index, score in texts.items()
    )
    if same_texts < n or len(base_texts) != n:
        raise NotPaired(
            f"different texts: {n} here, {len(base_texts)} in the baseline, {same_texts} are the same"
        )
    different = sum(score.tokens != base_texts[index].tokens for index, score in texts.items())
    if different:
        raise NotPaired(f"different tokens: {different} of {n} texts have other tokens than in the baseline")
    different = sum(score.prompt != base_texts[index].prompt for index, score in texts.items())
    if different and not asked.changes_prompts:
        raise NotPaired(
            f"different prompts: {different} of {n} texts follow another prompt than in the baseline"
        )
    return note("different_prompts_before", different=different, n=n) if different else None
