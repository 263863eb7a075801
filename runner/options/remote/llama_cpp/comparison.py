"""Checks that llama.cpp and the runner's engine compute the same results from the same file.

Compared are the tokens of texts and rendered chats, and at sampled positions the likeliest
next token and its log-probability. Correct programs still differ by rounding, which depends
on the model. That rounding is measured with the runner's engine: weights in the file's
blocks, and activations in int8 as in llama.cpp. The engine's reference results are stored
in the user cache under the file's content hash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.options.remote.faults import RequestFault
from runner.options.remote.forced_scoring import ForcedToken, build_forced_request, parse_forced_token
from runner.options.remote.llama_cpp import comparison_texts
from runner.options.remote.llama_cpp.keys import KvType, LlamaCppConfig, as_llama_cpp_config
from runner.options.remote.llama_cpp.render.notes import describe_logprob_gap
from runner.options.remote.started.reference import REFERENCE_S, ReferenceFailed, run_reference_process
from runner.options.remote.started.server import StartedServer
from runner_base import ConfigError, JobFailed, announce, machine, report_step, to_one_line, user_cache
from runner_base.notes import Note, note
from runner_engine.checkpoints import gguf_file

VERSION = 1  # raise it when the same file would give other answers
MODULE = "runner.options.remote.llama_cpp.reference"
ROUNDINGS = 2.0  # llama.cpp may be this many times as far from exact activations as our engine's rounded ones
LEAST = 0.001  # nats for a token on average that two right programs may differ by in any case
ALLOWED = {8.5: 0.05, 16.0: 0.05}  # nats, besides, where keys or values are stored in so many bits
COARSE = 0.5  # in fewer: what they cost is for the job to find out, unless the model is broken
PATTERN = "tokenizer.ggml.pre"  # the name of a pattern in a file's header
ROTATES = ("--rope", "--yarn", "--override-kv")


@dataclass(frozen=True)
class ReferenceResults:
    """Reference results, which the runner's engine computes from a model file.

    `missing` explains why the results are absent.
    """

    missing: str = ""
    tokens: list[list[int]] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    rounded: list[dict[str, Any]] = field(default_factory=list)

    @property
    def mean_rounding_gap(self) -> float:
        """Mean change of log-probabilities when activations are rounded, in nats per token."""
        return _mean(
            [
                abs(own - other)
                for pair in zip(self.scores, self.rounded, strict=True)
                for own, other in zip(*(side["logprobs"] for side in pair), strict=True)
            ]
        )


@dataclass(frozen=True)
class TokenComparison:
    """Comparison of one position: log-probability and likeliest token from llama.cpp and from the
    runner's engine.
    """

    own: float  # log-probability, by our engine
    other: float  # and by llama.cpp
    own_first: int
    other_first: int


@report_step("computing reference results for llama.cpp with the runner's engine")
def load_reference_results(resolved: ResolvedJob) -> ReferenceResults:
    """Load the reference results from the user cache, or compute them in a subprocess before llama.cpp
    starts.
    """
    model = as_llama_cpp_config(resolved.config.model)
    if not model.compare:
        return ReferenceResults(missing="model.compare=false")
    file = _get_reference_results_cache_file(resolved)
    found = user_cache.read_cache_file(file).get("reference") if file is not None else None
    if found is None:
        announce(
            "computing reference results for llama.cpp with the runner's engine "
            "(model.compare=false skips the comparison)"
        )
        found = _compute_reference_results_in_subprocess(resolved)
        if file is not None and "missing" not in found:  # with more memory it may say more
            user_cache.write_cache_file(file, {"reference": found})
    return ReferenceResults(**found)


@report_step("comparing llama.cpp with the runner's engine")
def compare_with_reference(resolved: ResolvedJob, reference: ReferenceResults, server: StartedServer) -> Note:
    """Compare a llama.cpp server with the reference results. Returns a note, or raises ConfigError for a
    large difference.
    """
    if not reference.tokens:
        return note("not_compared", "warning", reason=reference.missing)
    texts_read = _require_same_server_tokenization(resolved, reference, server)
    chats = _compare_rendered_chats(resolved, reference, server)
    tokens = note("same_tokens", texts=texts_read, chats=chats)
    if not reference.scores:
        return note("partly_compared", "warning", tokens=tokens, reason=reference.missing)
    return _require_matching_server_logprobs(resolved, reference, server, tokens)


def _require_same_server_tokenization(
    resolved: ResolvedJob, reference: ReferenceResults, server: StartedServer
) -> int:
    """Raise ConfigError if the server tokenizes a text unlike the runner. Returns the number of compared
    texts.
    """
    all_texts = comparison_texts.make_tokenizer_test_texts()
    for text, own in zip(all_texts, reference.tokens, strict=True):
        other = _tokenize(server, text)
        if other != own:
            hint = _make_missing_pretokenizer_hint(resolved)
            raise _make_mismatch_error(
                resolved,
                server,
                (
                    f"the server tokenizes {text[:60]!r} as {_format_differing_tokens(other, own)}, but the "
                    f"runner's engine as {_format_differing_tokens(own, other)}{hint}"
                ),
                _list_overrides_for_prefixed_flags(resolved, "--override-kv"),
            )
    return len(all_texts)


def _compare_rendered_chats(resolved: ResolvedJob, reference: ReferenceResults, server: StartedServer) -> int:
    """Raise ConfigError if the server renders a chat unlike the model's template. Returns the number of
    compared chats.
    """
    compared = 0
    for chat, own in zip(comparison_texts.CHATS, reference.chats, strict=True):
        if not own["ids"]:  # the template refuses it, or there is none
            continue
        turns = [{"role": role, "content": content} for role, content in chat]
        text = str(_post_json(server, "apply-template", {"messages": turns}).get("prompt"))
        other = _tokenize(server, text)
        if other != own["ids"]:
            raise _make_mismatch_error(
                resolved,
                server,
                (
                    f"the server renders a chat as {_quote_first_difference(text, own['text'])}, but the file's "
                    f"template renders it as {_quote_first_difference(own['text'], text)}"
                ),
                _list_overrides_for_prefixed_flags(resolved, "--chat-template", "--no-jinja"),
            )
        compared += 1
    return compared


def _require_matching_server_logprobs(
    resolved: ResolvedJob, reference: ReferenceResults, server: StartedServer, tokens_note: Note
) -> Note:
    """Raise ConfigError if the log-probabilities of server and engine differ by more than rounding errors."""
    model = as_llama_cpp_config(resolved.config.model)
    found = _pair_server_and_reference_scores(model, reference, server)
    mean = _mean([abs(each.own - each.other) for each in found])
    most = max(abs(each.own - each.other) for each in found)
    limit = _compute_max_logprob_difference(model, reference.mean_rounding_gap)
    same = sum(each.own_first == each.other_first for each in found)
    if mean <= limit and math.isfinite(most):
        return note(
            "same_model", same=same, places=len(found), mean=mean, most=most, limit=limit, tokens=tokens_note
        )
    raise _make_mismatch_error(
        resolved,
        server,
        (
            "its results differ too much from the results of the runner's engine: "
            f"{describe_logprob_gap(same, len(found), mean, most)}. Rounding explains at most "
            f"{limit:.2g} on average"
        ),
        _list_settings_that_change_scores(model),
    )


def _pair_server_and_reference_scores(
    model: LlamaCppConfig, reference: ReferenceResults, server: StartedServer
) -> list[TokenComparison]:
    """Score positions with the server, and pair each score with the reference score.

    The positions of a text are scored in order, because the server caches the prefix.
    """

    def compare_token_logprobs_with_reference(
        ids: list[int], reference_scores: dict[str, Any]
    ) -> list[TokenComparison]:
        found = []
        for at in comparison_texts.choose_scored_positions(len(ids)):
            told = _fetch_forced_token(server, ids[:at], ids[at])
            values = reference_scores["logprobs"][at - 1], float(told.logprob)
            found.append(TokenComparison(*values, reference_scores["firsts"][at - 1], int(told.first)))
        return found

    with ThreadPoolExecutor(model.parallel) as pool:
        pairs = zip(reference.tokens, reference.scores, strict=False)  # the first texts are scored
        return [
            each
            for found in pool.map(compare_token_logprobs_with_reference, *zip(*pairs, strict=True))
            for each in found
        ]


def _fetch_forced_token(server: StartedServer, prefix: Sequence[int], token: int) -> ForcedToken:
    try:
        return parse_forced_token(
            server.url, _post_json(server, "completion", build_forced_request(prefix, token)), token
        )
    except RequestFault as fault:
        raise JobFailed(str(fault), code="damaged") from None


def _compute_max_logprob_difference(model: LlamaCppConfig, rounding_difference: float) -> float:
    """Return the largest acceptable mean difference of log-probabilities, in nats per token."""
    limit = max(ROUNDINGS * rounding_difference, LEAST)
    kinds = [kind for kind in (model.kv_keys, model.kv_values) if not kind.is_at_least_f16]
    return max(limit, *(limit + ALLOWED.get(kind.bits, COARSE) for kind in kinds), 0.0)


def _list_settings_that_change_scores(model: LlamaCppConfig) -> list[str]:
    turned = [flag for flag in model.flags if flag.startswith(ROTATES)]
    found = [f"model.flags={_format_flags_with_prefix(model.flags, ROTATES)}"] if turned else []
    for key, kind in (("kv_keys", model.kv_keys), ("kv_values", model.kv_values)):
        found += [] if kind is KvType.f16 else [f"model.{key}={kind}"]
    found += [f"model.flags={model.flags}"] if model.flags and not turned else []
    found += ["model.flash_attention=on"] if model.flash_attention == "on" else []
    return found


def _make_missing_pretokenizer_hint(resolved: ResolvedJob) -> str:
    """Return a hint if the .gguf file does not name its pre-tokenizer. llama.cpp then uses a default."""
    metadata = gguf_file.read_gguf_header(resolved.model.files.path).metadata
    is_told = PATTERN in metadata or metadata.get("tokenizer.ggml.model") != "gpt2"
    return "" if is_told else f". The file has no {PATTERN}. Convert the model again"


def _format_flags_with_prefix(flags: Sequence[str], prefixes: tuple[str, ...]) -> str:
    shown, takes = [], False
    for flag in flags:
        takes = flag.startswith(prefixes) or (takes and not flag.startswith("--"))
        shown += [flag] if takes else []
    return f"[{','.join(shown)}]"


def _list_overrides_for_prefixed_flags(resolved: ResolvedJob, *prefixes: str) -> list[str]:
    flags = as_llama_cpp_config(resolved.config.model).flags
    is_given = any(flag.startswith(prefixes) for flag in flags)
    return [f"model.flags={_format_flags_with_prefix(flags, prefixes)}"] if is_given else []


def _make_mismatch_error(
    resolved: ResolvedJob, server: StartedServer, difference: str, possible_causes: Sequence[str]
) -> ConfigError:
    cause = (
        (f"Omit {' and '.join(possible_causes)}, because this may cause the difference")
        if possible_causes
        else "Use another version of llama.cpp"
    )
    return ConfigError(
        (f"{server.label}: {difference}. {cause}, or skip the comparison with model.compare=false"),
        key="model.name",
        value=resolved.config.model.name,
        code="mismatch",
    )


def _tokenize(server: StartedServer, text: str) -> list[int]:
    body = {"content": text, "add_special": True, "parse_special": True}
    ids = _post_json(server, "tokenize", body).get("tokens")
    return ids if isinstance(ids, list) else []


def _post_json(server: StartedServer, path: str, payload: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = server.fetch_json(path, payload, REFERENCE_S)
    except (OSError, ValueError) as error:
        raise server.get_exit_error() or JobFailed(
            f"{server.label} does not answer /{path}: {to_one_line(error)}", code="unreachable"
        ) from None
    return answer if isinstance(answer, dict) else {}


def _format_differing_tokens(ids: Sequence[int], other_ids: Sequence[int]) -> str:
    at = _find_first_difference(ids, other_ids)
    return f"{len(ids)} tokens (position {at + 1} and following: {[*ids[at : at + 6]]})"


def _quote_first_difference(text: str, other_text: str) -> str:
    """Return 60 characters of a text around its first difference from another text."""
    at = max(_find_first_difference(text, other_text) - 20, 0)
    return repr(("…" if at else "") + text[at : at + 60])


def _find_first_difference(first: Sequence[Any], second: Sequence[Any]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _get_reference_results_cache_file(resolved: ResolvedJob) -> Path | None:
    content, versions = resolved.model.files.hashes.get("model"), machine.library_versions()
    kwargs = as_llama_cpp_config(resolved.config.model).chat_template_kwargs
    libraries = [versions["torch"], versions["transformers"]]
    key = [
        "llama_cpp",
        VERSION,
        content,
        kwargs,
        comparison_texts.make_tokenizer_test_texts(),
        comparison_texts.CHATS,
        *libraries,
    ]
    return None if content is None else user_cache.get_cache_file("scores", key)


def _compute_reference_results_in_subprocess(resolved: ResolvedJob) -> dict[str, Any]:
    model = as_llama_cpp_config(resolved.config.model)
    order = {"file": str(resolved.model.files.path), "chat_template_kwargs": model.chat_template_kwargs}
    try:
        found: dict[str, Any] = run_reference_process(MODULE, order)
    except ReferenceFailed as error:
        return {"missing": str(error)}
    return found
