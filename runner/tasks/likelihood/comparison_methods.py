"""Chooses between exact comparison with a reference, and comparison by stored top-k tokens.

Not a task. If task.exact is not set, whole distributions are compared if both models are predicted
to fit into the free memory together. Free memory changes from hour to hour, but a job's id must
not: a job that has begun in the output folder continues with its method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runner.estimates.fit import MemoryFit, get_free_mib_by_device, predict_memory_fit
from runner.tasks import Job, RunnerConfig, get_model_kind, resolve_job, typed_task_config
from runner.tasks.likelihood.keys import DRAWN, KEPT, LikelihoodConfig
from runner.tasks.likelihood.paired_engine import EXACT, EXACT_HASH, build_reference_model_config
from runner.tasks.likelihood.reference import KEY, TOP_K_HASH, find_reference_job
from runner.tasks.named_job import SCORING, apply_overrides_from_text, build_job, is_job_id
from runner_base import ConfigError, RunnerError
from runner_base.notes import Note, note
from runner_engine import Capability

ROOM = 0.8  # of the free memory that both models may take by prediction


@dataclass(frozen=True)
class ComparisonMethod:
    """How a job is compared with its reference: exactly, or by the reference's stored tokens."""

    is_exact: bool
    hashes: dict[str, str]
    reference: Job | None = (
        None  # that must run first; None: there is none, or its model is loaded beside the job's
    )
    second: RunnerConfig | None = None  # of the model that is loaded beside
    keep_top_k: int = 0  # of the job itself
    why: Note | None = None  # why it is not exact, where that was left open


def choose_reference_comparison_method(
    config: RunnerConfig, version: int, hashes: dict[str, str], categories: Mapping[str, str]
) -> ComparisonMethod:
    task = typed_task_config(config, LikelihoodConfig)
    if task.reference is None:
        return ComparisonMethod(False, hashes, keep_top_k=task.keep_top_k)
    if task.exact:
        return _build_exact_comparison_method(
            config, version, hashes, categories, build_reference_model_config(config)
        )
    kept = _build_top_k_comparison_method(config, version, hashes, categories)
    if task.exact is False:
        return kept
    why, second = _find_reference_config_or_problem(config)
    if second is None:
        assert why is not None
        return _add_inexact_comparison_note(kept, why, can_be_exact=False)
    whole = _build_exact_comparison_method(config, version, hashes, categories, second)
    if _has_partial_results(config, version, whole):
        return whole
    if _has_partial_results(config, version, kept):
        return _add_inexact_comparison_note(kept, note("has_begun"))
    too_large = _check_memory_for_two_models(config, second)
    return whole if too_large is None else _add_inexact_comparison_note(kept, too_large)


def _build_exact_comparison_method(
    config: RunnerConfig,
    version: int,
    hashes: dict[str, str],
    categories: Mapping[str, str],
    reference_config: RunnerConfig,
) -> ComparisonMethod:
    task = typed_task_config(config, LikelihoodConfig)
    reference = find_reference_job(config, version, hashes, is_exact=True)
    if reference is None:
        # the job would be compared with itself
        return ComparisonMethod(True, hashes, keep_top_k=task.keep_top_k)
    found = hashes | {"reference": reference.job_id, **categories, EXACT_HASH: "true"}
    return ComparisonMethod(True, found, second=reference_config, keep_top_k=task.keep_top_k)


def _build_top_k_comparison_method(
    config: RunnerConfig, version: int, hashes: dict[str, str], categories: Mapping[str, str]
) -> ComparisonMethod:
    task = typed_task_config(config, LikelihoodConfig)
    named = task.reference or ""
    if not is_job_id(named, task):
        require_token_sampling(apply_overrides_from_text(config, KEY, named, SCORING), f"{KEY}={named}")
    reference = find_reference_job(config, version, hashes, is_exact=False)
    if reference is None:  # the job is the reference: it keeps what the others are compared with
        keep_top_k = task.keep_top_k or KEPT
        return ComparisonMethod(False, hashes | {TOP_K_HASH: str(keep_top_k)}, keep_top_k=keep_top_k)
    return ComparisonMethod(
        False, hashes | {"reference": reference.job_id, **categories}, reference, keep_top_k=task.keep_top_k
    )


def require_token_scores(capabilities: frozenset[Capability], error_subject: str) -> None:
    """Raise ConfigError if an engine cannot score given token ids, which a comparison with stored
    tokens needs.
    """
    if Capability.token_scores not in capabilities:
        raise ConfigError(
            (
                f"{error_subject} needs {Capability.token_scores}. This engine does not support "
                "that. Use model=local or model=vllm"
            ),
            code="unsupported",
        )


def require_token_sampling(config: RunnerConfig, error_subject: str) -> None:
    """Raise ConfigError if the engine cannot sample tokens from its full distributions."""
    if Capability.drawn_tokens not in get_model_kind(config.model).capabilities(config):
        raise ConfigError(
            (
                "this model cannot be a reference, because its server does not sample tokens from "
                "whole distributions. Use the runner's engine for the reference: "
                f"{KEY}='model=local model.name=NAME'"
            ),
            key=error_subject,
            code="unsupported",
        )


def _add_inexact_comparison_note(
    method: ComparisonMethod, reason: Note, can_be_exact: bool = True
) -> ComparisonMethod:
    if method.reference is None:
        return method
    fix = EXACT if can_be_exact else None
    why = note("compared_with_kept", kept=KEPT, drawn=DRAWN, reason=reason, fix=fix)
    return replace(method, why=why)


def _has_partial_results(config: RunnerConfig, version: int, method: ComparisonMethod) -> bool:
    return build_job(config, version, method.hashes).samples_path.exists()


def _find_reference_config_or_problem(config: RunnerConfig) -> tuple[Note | None, RunnerConfig | None]:
    """Return a pair: the reason why a reference model cannot be loaded (or None), and its config (or
    None).
    """
    task = typed_task_config(config, LikelihoodConfig)
    named = task.reference or ""
    if is_job_id(named, task):
        return note("reference_is_job", key=KEY, named_as=named), None
    other = apply_overrides_from_text(config, KEY, named, SCORING)
    for each in (config, other):
        if Capability.distributions not in get_model_kind(each.model).capabilities(each):
            return note("no_distributions", is_own=each is config), None
    own_size, reference_size = (resolve_job(each).model.files.shape["vocab"] for each in (config, other))
    if own_size != reference_size:
        return note("vocabularies_differ", own=own_size, reference=reference_size), None
    return None, other


def _check_memory_for_two_models(config: RunnerConfig, reference_config: RunnerConfig) -> Note | None:
    both, alone = (
        resolve_job(config).copy_job_with_second_model(reference_config),
        resolve_job(reference_config),
    )
    devices = [resolved.model.files.device for resolved in (both, alone)]
    for resolved in (both,) if devices[0] == devices[1] else (both, alone):
        free_mib = get_free_mib_by_device(
            resolved.model.files.model.device, resolved.model.files.model.max_memory
        )
        room = ROOM * sum(free_mib.values())
        try:
            found: MemoryFit | None = predict_memory_fit(resolved, free_mib, should_find_fix=False)
        except RunnerError:  # errors in its files are reported by the load
            found = None
        if found is None or not room:
            return note("memory_of_both_unknown")
        if found.needed_mib > room:
            free = sum(free_mib.values())
            return note("both_too_large", needed_mib=found.needed_mib, share=ROOM, free_mib=free)
    return None
