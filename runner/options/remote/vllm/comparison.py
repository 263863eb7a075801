"""Whether vLLM computes what the model's files say: 32 texts, scored by its server and by
transformers.

Transformers' scores are kept in the user's cache, by the content of the model's files. Each token's
log-probabilities are compared. In float32 two right programs differ by less than 0.0001. What half
precision makes depends on the model (0.004 and 0.04 were seen), and a wrong rotation of positions
may make 0.1: so transformers' own rounding is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.datasets.word_problems import Split, problems
from runner.options.remote.started.reference import NoReference, ask
from runner.options.remote.vllm.command import dtype_of
from runner.options.remote.vllm.environment import environment_of
from runner.options.remote.vllm.keys import vllm_model
from runner.options.remote.vllm.render.notes import describe_gap
from runner_base import BYTES, MIB, ConfigError, doing, kept, machine, tell
from runner_base.notes import Note, note
from runner_engine.checkpoints import file_bytes

TEXTS = 32
REFERENCE = "runner.options.remote.vllm.reference"
ROUNDINGS = 2.0  # vLLM may be this many times as far from float32 as transformers is in vLLM's number format
# mean absolute differences of a token's log-probability, in nats, that rounding may make where it
# was not measured
TOLERANCE = {"float32": 0.001, "float16": 0.03, "bfloat16": 0.15}
QUANTIZED = 0.5  # vLLM has rounded the weights, and transformers has not
SPARE = 1.3  # the weights, and what a forward pass takes beside them


@dataclass(frozen=True)
class Reference:
    """What transformers says of the texts, or why it says nothing."""

    missing: Note | None = None
    dtype: str = ""
    ids: Sequence[Sequence[int]] = ()
    logprobs: Sequence[Sequence[float]] = ()  # of each token after the first
    rounding: float = (
        0.0  # nats for a token on average that vLLM's number format makes in transformers; 0: not known
    )


def texts() -> list[str]:
    """Return the texts that are scored: word problems with their answers, which need nothing but
    digits and words."""
    return [f"{problem.question}\n{problem.answer}" for problem in problems(Split.TEST, TEXTS)]


@doing("computing by transformers what vLLM is compared with")
def reference_of(resolved: ResolvedJob) -> Reference:
    """Return transformers' scores, from the cache or from a process that ends before vLLM
    starts."""
    model, files = vllm_model(resolved.config.model), resolved.model.files
    if not model.compare:
        return Reference(note("comparison_off"))
    if files.stored is not None:
        return Reference(note("quantized", stored=files.stored))
    stored_bytes = max(BYTES.get(str(files.settings.get("dtype") or files.settings.get("torch_dtype")), 2), 1)
    numbers = sum(tensor.params for tensor in files.tensors) or file_bytes(files.path) / stored_bytes
    wanted = dtype_of(resolved, environment_of(model))
    dtypes = [
        name for name in ("float32", wanted) if SPARE * numbers * BYTES[name] < machine.available_mib() * MIB
    ]
    if not dtypes:
        return Reference(note("no_memory", needed_mib=numbers * BYTES[wanted] / MIB))
    found, *others = (
        _kept_scores(resolved, dtype, round(SPARE * numbers * BYTES[dtype]))
        for dtype in dict.fromkeys(dtypes)
    )
    logprobs = [scores["logprobs"] for scores in found]
    gaps = [gap for other in others for gap in _gaps([scores["logprobs"] for scores in other], logprobs)]
    rounding = sum(gaps) / len(gaps) if gaps else 0.0
    return Reference(None, dtypes[0], [scores["ids"] for scores in found], logprobs, rounding)


def verdict(resolved: ResolvedJob, reference: Reference, scored: Sequence[Sequence[float]]) -> Note:
    """Return how far vLLM's log-probabilities are from transformers'; ConfigError if they are
    further than rounding."""
    model = vllm_model(resolved.config.model)
    label = environment_of(model).label
    gaps = _gaps(scored, reference.logprobs)
    mean, most = sum(gaps) / len(gaps), max(gaps)
    word = model.word_for(resolved.config.quantization) or model.kv_cache_dtype
    dtype = dtype_of(resolved, environment_of(model))
    tolerance = TOLERANCE[dtype] if word is None else QUANTIZED
    if reference.rounding and word is None:
        tolerance = max(ROUNDINGS * reference.rounding, TOLERANCE["float32"])
    if mean <= tolerance and math.isfinite(most):
        return note("same_model", dtype=reference.dtype, mean=mean, most=most, tokens=len(gaps), texts=TEXTS)
    own, other = (math.fsum(chain.from_iterable(some)) / len(gaps) for some in (scored, reference.logprobs))
    raise ConfigError(
        f"{label} computes another model than transformers: log-probabilities differ by "
        f"{describe_gap(mean, most, len(gaps), TEXTS)}, and {tolerance:.2g} on average is what {word or dtype} may "
        f"make. A token's mean is {own:.4f} by vLLM and {other:.4f} by transformers in {reference.dtype}. Use another "
        "model.dtype, other model.args or another version of vLLM; model.compare=false takes its answers as they are",
        key="model.name",
        value=model.name,
        code="mismatch",
    )


def check_tokens(resolved: ResolvedJob, reference: Reference, ids: Sequence[Sequence[int]]) -> None:
    """Refuse a server that reads a text as other tokens than transformers does."""
    other = next(
        (at for at, pair in enumerate(zip(ids, reference.ids, strict=True)) if [*pair[0]] != [*pair[1]]), None
    )
    if other is not None:
        model = vllm_model(resolved.config.model)
        raise ConfigError(
            f"{environment_of(model).label} reads {texts()[other][:60]!r} as "
            f"{len(ids[other])} tokens {[*ids[other]][:8]} …, transformers as {len(reference.ids[other])} "
            f"{[*reference.ids[other]][:8]} …: their versions may be too far apart; model.compare=false takes its "
            "answers as they are",
            key="model.name",
            value=model.name,
            code="mismatch",
        )


def _gaps(scored: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> list[float]:
    """Return how far each token's log-probabilities are apart."""
    return [
        abs(own - other)
        for pair in zip(scored, others, strict=True)
        for own, other in zip(*pair, strict=True)
    ]


def _kept_scores(resolved: ResolvedJob, dtype: str, needed_bytes: int) -> list[dict[str, Any]]:
    """Return transformers' scores in a number format, from the cache where it has them."""
    file = _file(resolved, dtype)
    found: list[dict[str, Any]] | None = kept.read(file).get("scores") if file is not None else None
    if found is None:
        tell(
            f"scoring {TEXTS} texts by transformers in {dtype}, to compare vLLM with it (model.compare=false: not)"
        )
        found = _score(resolved, dtype, needed_bytes)
        if file is not None:
            kept.keep(file, {"scores": found})
    return found


def _file(resolved: ResolvedJob, dtype: str) -> Path | None:
    content, versions = resolved.model.files.hashes.get("model"), machine.versions()
    key = [content, dtype, texts(), versions["torch"], versions["transformers"]]
    return None if content is None else kept.file_of("scores", key)


def _score(resolved: ResolvedJob, dtype: str, needed_bytes: int) -> list[dict[str, Any]]:
    model = vllm_model(resolved.config.model)
    order = {
        "folder": str(resolved.model.files.path),
        "dtype": dtype,
        "trust_remote_code": model.trust_remote_code,
        "texts": texts(),
        "bytes": needed_bytes,
    }
    try:
        scores: list[dict[str, Any]] = ask(REFERENCE, order)
    except NoReference as error:
        raise ConfigError(
            f"transformers cannot score it, so vLLM cannot be compared with it: "
            f"{error}. model.compare=false takes its answers as they are",
            key="model.name",
            value=model.name,
            code="unsupported",
        ) from None
    return scores
