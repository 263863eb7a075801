"""How a job is compared with its reference: by whole distributions, or by what the reference kept.
Not a task.

Where task.exact leaves it open, whole distributions are compared if both models are predicted to
fit into the free memory beside each other. Free memory changes from hour to hour, and a job's id
must not: what has begun in the output folder goes on in its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.estimates.fit import Fit, fit, free_mib_by_device
from runner.tasks import Job, RunnerConfig, kind_of, own_config, resolve
from runner.tasks.likelihood.exact import EXACT, EXACT_HASH, second_of
from runner.tasks.likelihood.keys import DRAWN, KEPT, LikelihoodConfig
from runner.tasks.likelihood.reference import KEY, TOP_K_HASH, find
from runner.tasks.named_job import SCORING, is_id, job_of, overridden
from runner_base import ConfigError, RunnerError, beside_limit, decimals
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
    why: str = ""  # why it is not exact, where that was left open


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
        return _because(kept, why, advice="")
    whole = _whole(config, version, hashes, categories, second)
    if _has_begun(config, version, whole):
        return whole
    if _has_begun(config, version, kept):
        return _because(kept, "it has begun so")
    why = _why_too_large(config, second)
    return _because(kept, why) if why else whole


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


def _because(way: Way, why: str, advice: str = f". For whole distributions add {EXACT}") -> Way:
    """Return the way with the reason why it is not the exact one; a reference is compared with
    nothing."""
    if way.reference is None:
        return way
    return Way(
        way.is_exact,
        way.hashes,
        way.reference,
        keep_top_k=way.keep_top_k,
        why=f"compared with the {KEPT} most probable tokens that the reference kept, and {DRAWN} drawn ones, because "
        f"{why}{advice}",
    )


def _has_begun(config: RunnerConfig, version: int, way: Way) -> bool:
    return job_of(config, version, way.hashes).samples_path.exists()


def _why_impossible(config: RunnerConfig) -> tuple[str, RunnerConfig | None]:
    """Return the config of the model to load beside; without one, why it cannot be loaded."""
    task = own_config(config, LikelihoodConfig)
    named = task.reference or ""
    if is_id(named, task):
        return f"{KEY}={named} names a job and not a model", None
    other = overridden(config, KEY, named, SCORING)
    for each in (config, other):
        if Capability.distributions not in kind_of(each.model).capabilities(each):
            whose = "this model" if each is config else "the reference"
            return f"{whose} gives no whole distributions", None
    own_size, reference_size = (resolve(each).files.shape["vocab"] for each in (config, other))
    if own_size != reference_size:
        return f"the two vocabularies have {own_size:,} and {reference_size:,} tokens", None
    return "", other


def _why_too_large(config: RunnerConfig, second: RunnerConfig) -> str:
    """Say why the two models do not fit beside each other; empty if they do, by the prediction of
    memory."""
    both, alone = resolve(config).beside(second), resolve(second)
    devices = [resolved.files.device for resolved in (both, alone)]
    for resolved in (both,) if devices[0] == devices[1] else (both, alone):
        free_mib = free_mib_by_device(resolved.files.model.device, resolved.files.model.max_memory)
        room = ROOM * sum(free_mib.values())
        try:
            found: Fit | None = fit(resolved, free_mib, fixes=False)
        except RunnerError:  # errors in its files are reported by the load
            found = None
        if found is None or not room:
            return "it is not known whether both models fit into memory beside each other"
        if found.needed_mib > room:
            needs = beside_limit(found.needed_mib, room, decimals(0))
            return (
                f"both models beside each other are predicted to need {needs} MiB, more than "
                f"{ROOM:.0%} of the {sum(free_mib.values()):,.0f} MiB that are free"
            )
    return ""
