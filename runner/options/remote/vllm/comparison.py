"""Checks vLLM's results against transformers, by letting both score the same 32 texts.

Transformers' scores are stored in the user cache under the files' content hash, and each
token's log-probabilities are compared. Correct programs differ by less than 0.0001 in
float32. The difference in half precision depends on the model (0.004 and 0.04 were
observed), and wrong rotary positions may cause 0.1. Therefore transformers' own rounding is
measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.datasets.word_problems import Split, generate_problems
from runner.options.remote.started.reference import ReferenceFailed, run_reference_process
from runner.options.remote.vllm.command import resolve_job_dtype
from runner.options.remote.vllm.environment import find_vllm_environment
from runner.options.remote.vllm.keys import as_vllm_config
from runner.options.remote.vllm.render.notes import describe_logprob_gap
from runner_base import BYTES, MIB, ConfigError, announce, machine, report_step, user_cache
from runner_base.notes import Note, note
from runner_engine.checkpoints import count_weight_file_nbytes

TEXTS = 32
REFERENCE = "runner.options.remote.vllm.reference"
ROUNDINGS = 2.0  # vLLM may be this many times as far from float32 as transformers is in vLLM's number format
# mean absolute differences of a token's log-probability, in nats, that rounding may make where it
# was not measured
TOLERANCE = {"float32": 0.001, "float16": 0.03, "bfloat16": 0.15}
QUANTIZED = 0.5  # vLLM has rounded the weights, and transformers has not
SPARE = 1.3  # the weights, and what a forward pass takes beside them


@dataclass(frozen=True)
class ReferenceScores:
    """Reference scores, which transformers computes for the comparison texts.

    `missing` explains why they are absent.
    """

    missing: Note | None = None
    dtype: str = ""
    ids: Sequence[Sequence[int]] = ()
    logprobs: Sequence[Sequence[float]] = ()  # of each token after the first
    rounding: float = (
        0.0  # nats for a token on average that vLLM's number format makes in transformers; 0: not known
    )


def make_scored_texts() -> list[str]:
    """Return the texts that vLLM and transformers score: word problems with their answers."""
    return [f"{problem.question}\n{problem.answer}" for problem in generate_problems(Split.TEST, TEXTS)]


@report_step("computing reference results for vLLM with transformers")
def load_reference_scores(resolved: ResolvedJob) -> ReferenceScores:
    """Load transformers' scores from the user cache, or compute them in a subprocess.

    The subprocess ends before vLLM starts, so that both never need memory at once.
    """
    model, files = as_vllm_config(resolved.config.model), resolved.model.files
    if not model.compare:
        return ReferenceScores(note("comparison_off"))
    if files.stored_format is not None:
        return ReferenceScores(note("quantized", stored=files.stored_format))
    stored_bytes = max(BYTES.get(str(files.settings.get("dtype") or files.settings.get("torch_dtype")), 2), 1)
    numbers = (
        sum(tensor.num_elements for tensor in files.tensors)
        or count_weight_file_nbytes(files.path) / stored_bytes
    )
    wanted = resolve_job_dtype(resolved, find_vllm_environment(model))
    dtypes = [
        name
        for name in ("float32", wanted)
        if SPARE * numbers * BYTES[name] < machine.available_memory_mib() * MIB
    ]
    if not dtypes:
        return ReferenceScores(note("no_memory", needed_mib=numbers * BYTES[wanted] / MIB))
    found, *others = (
        _load_or_compute_scores(resolved, dtype, round(SPARE * numbers * BYTES[dtype]))
        for dtype in dict.fromkeys(dtypes)
    )
    logprobs = [scores["logprobs"] for scores in found]
    gaps = [
        gap
        for other in others
        for gap in _absolute_logprob_differences([scores["logprobs"] for scores in other], logprobs)
    ]
    rounding = sum(gaps) / len(gaps) if gaps else 0.0
    return ReferenceScores(None, dtypes[0], [scores["ids"] for scores in found], logprobs, rounding)


def compare_logprobs(
    resolved: ResolvedJob, reference: ReferenceScores, logprobs: Sequence[Sequence[float]]
) -> Note:
    """Compare the log-probabilities of vLLM and transformers. Raises ConfigError if they differ by more
    than rounding.
    """
    model = as_vllm_config(resolved.config.model)
    label = find_vllm_environment(model).label
    gaps = _absolute_logprob_differences(logprobs, reference.logprobs)
    mean, most = sum(gaps) / len(gaps), max(gaps)
    word = model.vllm_quantization(resolved.config.quantization) or model.kv_cache_dtype
    dtype = resolve_job_dtype(resolved, find_vllm_environment(model))
    tolerance = TOLERANCE[dtype] if word is None else QUANTIZED
    if reference.rounding and word is None:
        tolerance = max(ROUNDINGS * reference.rounding, TOLERANCE["float32"])
    if mean <= tolerance and math.isfinite(most):
        return note("same_model", dtype=reference.dtype, mean=mean, most=most, tokens=len(gaps), texts=TEXTS)
    own, other = (math.fsum(chain.from_iterable(some)) / len(gaps) for some in (logprobs, reference.logprobs))
    raise ConfigError(
        (
            f"{label} computes other values than transformers: log-probabilities differ by "
            f"{describe_logprob_gap(mean, most, len(gaps), TEXTS)}. {word or dtype} explains at "
            f"most {tolerance:.2g} on average. The mean per token is {own:.4f} with vLLM and "
            f"{other:.4f} with transformers in {reference.dtype}. Use another model.dtype, other "
            "model.args or another vLLM; model.compare=false skips the comparison"
        ),
        key="model.name",
        value=model.name,
        code="mismatch",
    )


def check_same_tokens(
    resolved: ResolvedJob, reference: ReferenceScores, ids: Sequence[Sequence[int]]
) -> None:
    """Raise ConfigError if the vLLM server tokenizes a text unlike transformers."""
    other = next(
        (at for at, pair in enumerate(zip(ids, reference.ids, strict=True)) if [*pair[0]] != [*pair[1]]), None
    )
    if other is not None:
        model = as_vllm_config(resolved.config.model)
        raise ConfigError(
            (
                f"{find_vllm_environment(model).label} and transformers tokenize the same text differently. "
                f"Text: {make_scored_texts()[other][:60]!r}. "
                f"vLLM: {len(ids[other])} tokens {[*ids[other]][:8]} …. "
                f"transformers: {len(reference.ids[other])} tokens {[*reference.ids[other]][:8]} …. "
                "Use another version of either, or skip the comparison with model.compare=false"
            ),
            key="model.name",
            value=model.name,
            code="mismatch",
        )


def _absolute_logprob_differences(
    logprobs: Sequence[Sequence[float]], other_logprobs: Sequence[Sequence[float]]
) -> list[float]:
    """Return the absolute difference between the two log-probabilities of each token, over all texts."""
    return [
        abs(own - other)
        for pair in zip(logprobs, other_logprobs, strict=True)
        for own, other in zip(*pair, strict=True)
    ]


def _load_or_compute_scores(resolved: ResolvedJob, dtype: str, needed_bytes: int) -> list[dict[str, Any]]:
    """Return transformers' scores of the comparison texts in a given dtype, using the user cache."""
    file = _get_score_cache_file(resolved, dtype)
    found: list[dict[str, Any]] | None = (
        user_cache.read_cache_file(file).get("scores") if file is not None else None
    )
    if found is None:
        announce(
            f"computing log-likelihoods of {TEXTS} documents with transformers in {dtype}, to compare them with "
            "those of vLLM (model.compare=false skips this)"
        )
        found = _compute_scores_in_subprocess(resolved, dtype, needed_bytes)
        if file is not None:
            user_cache.write_cache_file(file, {"scores": found})
    return found


def _get_score_cache_file(resolved: ResolvedJob, dtype: str) -> Path | None:
    content, versions = resolved.model.files.hashes.get("model"), machine.library_versions()
    key = [content, dtype, make_scored_texts(), versions["torch"], versions["transformers"]]
    return None if content is None else user_cache.get_cache_file("scores", key)


def _compute_scores_in_subprocess(
    resolved: ResolvedJob, dtype: str, needed_bytes: int
) -> list[dict[str, Any]]:
    model = as_vllm_config(resolved.config.model)
    order = {
        "folder": str(resolved.model.files.path),
        "dtype": dtype,
        "trust_remote_code": model.trust_remote_code,
        "texts": make_scored_texts(),
        "bytes": needed_bytes,
    }
    try:
        scores: list[dict[str, Any]] = run_reference_process(REFERENCE, order)
    except ReferenceFailed as error:
        raise ConfigError(
            (
                "vLLM's results cannot be checked, because transformers cannot run the model: "
                f"{error}. To skip the check, use model.compare=false"
            ),
            key="model.name",
            value=model.name,
            code="unsupported",
        ) from None
    return scores
