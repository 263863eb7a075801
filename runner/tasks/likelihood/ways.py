"""How a job is compared with its reference: by whole distributions, or by what the reference kept.
Not a task.

Where task.exact leaves it open, whole distributions are compared if both models are predicted to
fit into the free memory beside each other. Free memory changes from hour to hour, and a job's id
must not: what has begun in the output folder goes on in its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runner.estimates.fit import Fit, fit, free_mib_by_device
from runner.tasks import Job, RunnerConfig, kind_of, own_config, resolve
from runner.tasks.likelihood.exact import EXACT, EXACT_HASH, second_of
from runner.tasks.likelihood.keys import DRAWN, KEPT, LikelihoodConfig
from runner.tasks.likelihood.reference import KEY, TOP_K_HASH, find
from runner.tasks.named_job import SCORING, is_id, job_of, overridden
from runner_base import ConfigError, RunnerError
from runner_base.notes import Note, note
from runner_engine import Capability

ROOM = 0.8  # of the free memory that both models may take by prediction


@dataclass(frozen=True)
class Way:
    """One of the two ways, with what identifies a job that is compared so."""

    is_exact: bool
    hashes: dict[str, str]
    reference: Job | None = (
        None  # that must run first; None: there is none, or its model is loaded beside the job's
    )
    second: RunnerConfig | None = None  # of the model that is loaded beside
    keep_top_k: int = 0  # of the job itself
    why: Note | None = None  # why it is not exact, where that was left open


def chosen(config: RunnerConfig, version: int, hashes: dict[str, str], categories: Mapping[str, str]) -> Way:
    """Return the way of a job; `categories` are the hashes of the kinds of text, of which tables
    are made."""
    task = own_config(config, LikelihoodConfig)
    if task.reference is None:
        return Way(False, hashes, keep_top_k=task.keep_top_k)
    if task.exact:
        return _whole(config, version, hashes, categories, second_of(config))
    kept = _kept(config, version, hashes, categories)
    if task.exact is False:
        return kept
    why, second = _why_impossible(config)
    if second is None:
        assert why is not None
        return _because(kept, why, is_possible=False)
    whole = _whole(config, version, hashes, categories, second)
    if _has_begun(config, version, whole):
        return whole
    if _has_begun(config, version, kept):
        return _because(kept, note("has_begun"))
    too_large = _why_too_large(config, second)
    return whole if too_large is None else _because(kept, too_large)


def _whole(
    config: RunnerConfig,
    version: int,
    hashes: dict[str, str],
    categories: Mapping[str, str],
    second: RunnerConfig,
) -> Way:
    task = own_config(config, LikelihoodConfig)
    reference = find(config, version, hashes, is_exact=True)
    if reference is None:
        # the job would be compared with itself
        return Way(True, hashes, keep_top_k=task.keep_top_k)
    found = hashes | {"reference": reference.job_id, **categories, EXACT_HASH: "true"}
    return Way(True, found, second=second, keep_top_k=task.keep_top_k)


def _kept(config: RunnerConfig, version: int, hashes: dict[str, str], categories: Mapping[str, str]) -> Way:
    task = own_config(config, LikelihoodConfig)
    named = task.reference or ""
    if not is_id(named, task):
        check_draws(overridden(config, KEY, named, SCORING), f"{KEY}={named}")
    reference = find(config, version, hashes, is_exact=False)
    if reference is None:  # the job is the reference: it keeps what the others are compared with
        keep_top_k = task.keep_top_k or KEPT
        return Way(False, hashes | {TOP_K_HASH: str(keep_top_k)}, keep_top_k=keep_top_k)
    return Way(
        False, hashes | {"reference": reference.job_id, **categories}, reference, keep_top_k=task.keep_top_k
    )


def check_scores(capabilities: frozenset[Capability], what: str) -> None:
    """Raise ConfigError if an engine tells no scores of the tokens that a reference keeps."""
    if Capability.token_scores not in capabilities:
        raise ConfigError(
            f"{what} needs {Capability.token_scores}, which this engine does not offer: use model=local, which "
            "computes whole distributions, or model=vllm",
            code="unsupported",
        )


def check_draws(config: RunnerConfig, what: str) -> None:
    """Raise ConfigError if a model cannot keep what others are compared with."""
    if Capability.drawn_tokens not in kind_of(config.model).capabilities(config):
        raise ConfigError(
            f"a reference keeps tokens that are drawn from whole distributions, and this model's server hands "
            f"out none. Let the runner's own engine read the reference: {KEY}='model=local model.name=NAME'",
            key=what,
            code="unsupported",
        )


def _because(way: Way, reason: Note, is_possible: bool = True) -> Way:
    """Return the way with the reason why it is not the exact one; a reference is compared with
    nothing."""
    if way.reference is None:
        return way
    fix = EXACT if is_possible else None
    why = note("compared_with_kept", kept=KEPT, drawn=DRAWN, reason=reason, fix=fix)
    return replace(way, why=why)


def _has_begun(config: RunnerConfig, version: int, way: Way) -> bool:
    return job_of(config, version, way.hashes).samples_path.exists()


def _why_impossible(config: RunnerConfig) -> tuple[Note | None, RunnerConfig | None]:
    """Return the config of the model to load beside; without one, why it cannot be loaded."""
    task = own_config(config, LikelihoodConfig)
    named = task.reference or ""
    if is_id(named, task):
        return note("reference_is_job", key=KEY, named_as=named), None
    other = overridden(config, KEY, named, SCORING)
    for each in (config, other):
        if Capability.distributions not in kind_of(each.model).capabilities(each):
            return note("no_distributions", is_own=each is config), None
    own_size, reference_size = (resolve(each).model.files.shape["vocab"] for each in (config, other))
    if own_size != reference_size:
        return note("vocabularies_differ", own=own_size, reference=reference_size), None
    return None, other


def _why_too_large(config: RunnerConfig, second: RunnerConfig) -> Note | None:
    """Return why the two models do not fit beside each other; None if they do, by the prediction of
    memory."""
    both, alone = resolve(config).beside(second), resolve(second)
    devices = [resolved.model.files.device for resolved in (both, alone)]
    for resolved in (both,) if devices[0] == devices[1] else (both, alone):
        free_mib = free_mib_by_device(
            resolved.model.files.model.device, resolved.model.files.model.max_memory
        )
        room = ROOM * sum(free_mib.values())
        try:
            found: Fit | None = fit(resolved, free_mib, fixes=False)
        except RunnerError:  # errors in its files are reported by the load
            found = None
        if found is None or not room:
            return note("memory_of_both_unknown")
        if found.needed_mib > room:
            free = sum(free_mib.values())
            return note("both_too_large", needed_mib=found.needed_mib, share=ROOM, free_mib=free)
    return None
