"""Whether llama.cpp computes what our own engine computes from the same file.

Compared are the tokens of texts, chats as the file's template renders them, and at places of texts,
each given the same tokens before it, the first choice and the log-probability of the next token.
Two right programs differ by rounding, which depends on the model: of our engine it is measured, with
weights in the file's blocks and with activations in bytes, as llama.cpp has them. What our engine
says is kept in the user's cache, by the content of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.config.resolved import ResolvedJob
from runner.options.remote.faults import Fault
from runner.options.remote.forced_scoring import Forced, forced_answer, forced_body
from runner.options.remote.llama_cpp import texts
from runner.options.remote.llama_cpp.keys import KvType, LlamaCppConfig, llama_cpp_model
from runner.options.remote.llama_cpp.render.notes import describe_gap
from runner.options.remote.started.reference import REFERENCE_S, NoReference, ask
from runner.options.remote.started.server import StartedServer
from runner_base import ConfigError, JobFailed, doing, kept, machine, one_line, tell
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
class Reference:
    """What our engine says of the file; `missing`: why it says less."""

    missing: str = ""
    tokens: list[list[int]] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    rounded: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rounding(self) -> float:
        """How far rounded activations are from exact ones, in nats for a token on average."""
        return _mean(
            [
                abs(own - other)
                for pair in zip(self.scores, self.rounded, strict=True)
                for own, other in zip(*(side["logprobs"] for side in pair), strict=True)
            ]
        )


@dataclass(frozen=True)
class Compared:
    """The next token at one place of a text, as both say."""

    own: float  # log-probability, by our engine
    other: float  # and by llama.cpp
    own_first: int
    other_first: int


@doing("reading the file by the runner's own engine, to compare llama.cpp with it")
def reference_of(resolved: ResolvedJob) -> Reference:
    """Return what our engine says, from the cache or from a process that ends before llama.cpp
    starts."""
    model = llama_cpp_model(resolved.config.model)
    if not model.compare:
        return Reference(missing="model.compare=false")
    file = _file(resolved)
    found = kept.read(file).get("reference") if file is not None else None
    if found is None:
        tell(
            "reading the file by the runner's own engine, to compare llama.cpp with it (model.compare=false: not)"
        )
        found = _read(resolved)
        if file is not None and "missing" not in found:  # with more memory it may say more
            kept.keep(file, {"reference": found})
    return Reference(**found)


@doing("comparing llama.cpp with the runner's own engine")
def compare(resolved: ResolvedJob, reference: Reference, server: StartedServer) -> Note:
    """Return how near both are, and, in a warning, what was not compared; ConfigError if they compute
    different things."""
    if not reference.tokens:
        return note("not_compared", "warning", reason=reference.missing)
    texts_read = _check_tokens(resolved, reference, server)
    chats = _check_chats(resolved, reference, server)
    tokens = note("same_tokens", texts=texts_read, chats=chats)
    if not reference.scores:
        return note("partly_compared", "warning", tokens=tokens, reason=reference.missing)
    return _check_scores(resolved, reference, server, tokens)


def _check_tokens(resolved: ResolvedJob, reference: Reference, server: StartedServer) -> int:
    """Refuse a server that reads a text as other tokens; return how many texts it has read."""
    all_texts = texts.read()
    for text, own in zip(all_texts, reference.tokens, strict=True):
        other = _tokens(server, text)
        if other != own:
            raise _differs(
                resolved,
                server,
                f"reads {text[:60]!r} as {_shown(other, own)}, and the runner's engine as "
                f"{_shown(own, other)}{_without_pattern(resolved)}",
                _given(resolved, "--override-kv"),
            )
    return len(all_texts)


def _check_chats(resolved: ResolvedJob, reference: Reference, server: StartedServer) -> int:
    """Refuse a server that renders a chat in another way than the file's template; return how many it
    has rendered."""
    compared = 0
    for chat, own in zip(texts.CHATS, reference.chats, strict=True):
        if not own["ids"]:  # the template refuses it, or there is none
            continue
        turns = [{"role": role, "content": content} for role, content in chat]
        text = str(_asked(server, "apply-template", {"messages": turns}).get("prompt"))
        other = _tokens(server, text)
        if other != own["ids"]:
            raise _differs(
                resolved,
                server,
                f"renders a chat as {_from_difference(text, own['text'])}, and the file's template "
                f"as {_from_difference(own['text'], text)}",
                _given(resolved, "--chat-template", "--no-jinja"),
            )
        compared += 1
    return compared


def _check_scores(resolved: ResolvedJob, reference: Reference, server: StartedServer, tokens: Note) -> Note:
    """Refuse a server whose log-probabilities are further from our engine's than rounding."""
    model = llama_cpp_model(resolved.config.model)
    found = _scores(model, reference, server)
    mean = _mean([abs(each.own - each.other) for each in found])
    most = max(abs(each.own - each.other) for each in found)
    limit = _limit(model, reference.rounding)
    same = sum(each.own_first == each.other_first for each in found)
    if mean <= limit and math.isfinite(most):
        return note(
            "same_model", same=same, places=len(found), mean=mean, most=most, limit=limit, tokens=tokens
        )
    raise _differs(
        resolved,
        server,
        f"computes another model than the runner's engine: {describe_gap(same, len(found), mean, most)}, and "
        f"{limit:.2g} on average is what rounding may make",
        _suspects(model),
    )


def _scores(model: LlamaCppConfig, reference: Reference, server: StartedServer) -> list[Compared]:
    """Return the next token at each place, as both say; places of a text one after another, since
    the server keeps what it has read."""

    def of_text(ids: list[int], own: dict[str, Any]) -> list[Compared]:
        found = []
        for at in texts.places(len(ids)):
            told = _forced(server, ids[:at], ids[at])
            values = own["logprobs"][at - 1], float(told.logprob)
            found.append(Compared(*values, own["firsts"][at - 1], int(told.first)))
        return found

    with ThreadPoolExecutor(model.parallel) as pool:
        pairs = zip(reference.tokens, reference.scores, strict=False)  # the first texts are scored
        return [each for found in pool.map(of_text, *zip(*pairs, strict=True)) for each in found]


def _forced(server: StartedServer, before: Sequence[int], token: int) -> Forced:
    try:
        return forced_answer(server.url, _asked(server, "completion", forced_body(before, token)), token)
    except Fault as fault:
        raise JobFailed(str(fault), code="damaged") from None


def _limit(model: LlamaCppConfig, rounding: float) -> float:
    """Return how far log-probabilities may be apart, in nats for a token on average."""
    limit = max(ROUNDINGS * rounding, LEAST)
    kinds = [kind for kind in (model.kv_keys, model.kv_values) if not kind.is_plain]
    return max(limit, *(limit + ALLOWED.get(kind.bits, COARSE) for kind in kinds), 0.0)


def _suspects(model: LlamaCppConfig) -> list[str]:
    """Return the settings that may be the cause, the likeliest first."""
    turned = [flag for flag in model.flags if flag.startswith(ROTATES)]
    found = [f"model.flags={_with_values(model.flags, ROTATES)}"] if turned else []
    for key, kind in (("kv_keys", model.kv_keys), ("kv_values", model.kv_values)):
        found += [] if kind is KvType.f16 else [f"model.{key}={kind}"]
    found += [f"model.flags={model.flags}"] if model.flags and not turned else []
    found += ["model.flash_attention=on"] if model.flash_attention == "on" else []
    return found


def _without_pattern(resolved: ResolvedJob) -> str:
    """Say that a file does not tell where a text may be cut, for which llama.cpp has a pattern of
    its own."""
    metadata = gguf_file.read_header(resolved.model.files.path).metadata
    is_told = PATTERN in metadata or metadata.get("tokenizer.ggml.model") != "gpt2"
    return "" if is_told else f". The file has no {PATTERN}: convert it anew"


def _with_values(flags: Sequence[str], starts: tuple[str, ...]) -> str:
    """Return the flags that begin in one of these ways, with the values that follow them."""
    shown, takes = [], False
    for flag in flags:
        takes = flag.startswith(starts) or (takes and not flag.startswith("--"))
        shown += [flag] if takes else []
    return f"[{','.join(shown)}]"


def _given(resolved: ResolvedJob, *starts: str) -> list[str]:
    """Return the flags of the job that begin in one of these ways, as a cause."""
    flags = llama_cpp_model(resolved.config.model).flags
    is_given = any(flag.startswith(starts) for flag in flags)
    return [f"model.flags={_with_values(flags, starts)}"] if is_given else []


def _differs(resolved: ResolvedJob, server: StartedServer, how: str, suspects: Sequence[str]) -> ConfigError:
    """Return the error of a server that computes something else; suspects: the settings that may be
    the cause."""
    cause = (
        f"It was started with {' and '.join(suspects)}: leave {'them' if len(suspects) > 1 else 'that'} out"
        if suspects
        else "Use another version of llama.cpp"
    )
    return ConfigError(
        f"{server.label} {how}. {cause}; model.compare=false takes its answers as they are",
        key="model.name",
        value=resolved.config.model.name,
        code="mismatch",
    )


def _tokens(server: StartedServer, text: str) -> list[int]:
    body = {"content": text, "add_special": True, "parse_special": True}
    ids = _asked(server, "tokenize", body).get("tokens")
    return ids if isinstance(ids, list) else []


def _asked(server: StartedServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = server.fetch(path, body, REFERENCE_S)
    except (OSError, ValueError) as error:
        raise server.failure() or JobFailed(
            f"{server.label} does not answer /{path}: {one_line(error)}", code="unreachable"
        ) from None
    return answer if isinstance(answer, dict) else {}


def _shown(ids: Sequence[int], other: Sequence[int]) -> str:
    """Return tokens from the first one that differs."""
    at = _first_difference(ids, other)
    return f"{len(ids)} tokens (from number {at + 1} on {[*ids[at : at + 6]]})"


def _from_difference(text: str, other: str) -> str:
    """Return a text around the first character that differs."""
    at = max(_first_difference(text, other) - 20, 0)
    return repr(("…" if at else "") + text[at : at + 60])


def _first_difference(some: Sequence[Any], other: Sequence[Any]) -> int:
    pairs = enumerate(zip(some, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(some), len(other)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _file(resolved: ResolvedJob) -> Path | None:
    content, versions = resolved.model.files.hashes.get("model"), machine.versions()
    kwargs = llama_cpp_model(resolved.config.model).chat_template_kwargs
    libraries = [versions["torch"], versions["transformers"]]
    key = ["llama_cpp", VERSION, content, kwargs, texts.read(), texts.CHATS, *libraries]
    return None if content is None else kept.file_of("scores", key)


def _read(resolved: ResolvedJob) -> dict[str, Any]:
    model = llama_cpp_model(resolved.config.model)
    order = {"file": str(resolved.model.files.path), "chat_template_kwargs": model.chat_template_kwargs}
    try:
        found: dict[str, Any] = ask(MODULE, order)
    except NoReference as error:
        return {"missing": str(error)}
    return found
