"""Grammars for a tokenizer. The library, llguidance, is imported with the first one.

A grammar is a text in the library's Lark syntax, with one more directive:

    %mark NAME "text"

defines the rules NAME, this text, and to_NAME, any text up to and with it. Where the tokenizer has
the text as a special token, NAME is that token and not its letters.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runner_base import ConfigError, JobFailed
from runner_base.errors import Code, convert_error
from runner_base.limited_forks import LOOK_S, ForkLimits, LimitedForks, Outcome
from runner_engine.grammars import held, trial_child
from runner_engine.grammars.held import Held
from runner_engine.render.notes import render

MARK = re.compile(r'^%mark ([a-z_]+) ("(?:[^"\\]|\\.)*")$', re.MULTILINE)
ANYTHING = r"/(.|\n)*/"
MOST_KEPT = 64  # grammars, as clients ask with the same ones again and again
MOST_KEPT_MIB = 96.0
MOST_ROW_MIB = 16.0  # each row has a copy of its grammar
MOST_CHARACTERS = 400_000  # of a grammar
REFUSED_S = 60.0  # for how long a refusal is kept
TRIAL_LIMITS = ForkLimits(cpu_s=2.0, memory_mib=64, wall_s=30.0)
# of the library: its default lets a row's states take hundreds of MiB, and quotes them in errors
PARSER_LIMITS = {"max_lexer_states": 20_000, "verbose_errors": False}
MOST_REASON = 400  # characters of the library's reason
INSTALL = "pip install 'runner-llm[grammars]'"


@dataclass(frozen=True)
class _Compiled:
    """A grammar, or why there is none."""

    matcher: Any = None
    mib: float = 0.0  # that each row with this grammar needs
    refused: ConfigError | None = None
    at: float = 0.0  # when it was refused


class _NotWanted(Exception):
    """Nobody waits for the grammar any more."""


class Grammars:
    """Grammars for one tokenizer; any thread may begin rows.

    A grammar is tried in another process, within limits, before this one compiles it. No lock is
    held meanwhile: a kept grammar waits for no other.
    """

    def __init__(
        self, tokenizer: Any, vocab_size: int, stops: frozenset[int], limits: ForkLimits = TRIAL_LIMITS
    ) -> None:
        """vocab_size: of the model's logits; stops: the tokens that end an answer."""
        self._tokenizer, self._vocab_size, self._stops = tokenizer, vocab_size, stops
        self._limits = limits
        self._lock = threading.Lock()  # of the kept grammars; held only to look
        self._building = threading.Lock()  # of the library's tokenizer, once
        self._of_library: Any = None
        self._trials: LimitedForks | None = None
        self._kept: OrderedDict[bytes, _Compiled] = OrderedDict()  # the latest one last
        self._under_way: dict[bytes, Future[_Compiled]] = {}

    def begin(self, text: str, is_wanted: Callable[[], bool] = lambda: True) -> Held:
        """Return the beginning of an answer in a grammar; ConfigError if there is no such.

        is_wanted: whether anybody still waits for it; if not, compiling ends, with a ConfigError.
        """
        if len(text) > MOST_CHARACTERS:
            raise _refused(f"it has {len(text):,} characters, {MOST_CHARACTERS:,} are possible", "too_large")
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        while True:
            with self._lock:
                if (kept := self._find(key)) is not None:
                    break
                under_way = self._under_way.get(key)
                if is_first := under_way is None:
                    under_way = self._under_way[key] = Future()
            try:
                kept = (
                    self._compile_and_keep(key, text, is_wanted)
                    if is_first
                    else _wait_for(under_way, is_wanted)
                )
                break
            except _NotWanted as error:
                if not is_wanted():
                    raise ConfigError("the request was cancelled", code="failed") from error
        if kept.refused is not None:
            raise convert_error(kept.refused, ConfigError)
        return Held(kept.matcher.deep_copy(), self._words)

    def end(self) -> None:
        """End the process that tries grammars; another one starts when it is needed."""
        if self._trials is not None:
            self._trials.end()

    def _find(self, key: bytes) -> _Compiled | None:
        """Return a kept grammar; the lock is held. Refusals are kept for a short time only: a busy
        machine may have been the reason."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.refused is not None and time.monotonic() - kept.at > REFUSED_S:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept

    def _compile_and_keep(self, key: bytes, text: str, is_wanted: Callable[[], bool]) -> _Compiled:
        """Compile a grammar for this caller and for all that wait for the same one."""
        try:
            try:
                compiled = self._compile(text, is_wanted)
            except ConfigError as error:
                compiled = _Compiled(refused=convert_error(error, ConfigError), at=time.monotonic())
        except BaseException as error:
            with self._lock:
                waiting = self._under_way.pop(key)
            waiting.set_exception(error)
            raise
        with self._lock:
            self._kept[key] = compiled
            while len(self._kept) > MOST_KEPT or (
                len(self._kept) > 1 and sum(one.mib for one in self._kept.values()) > MOST_KEPT_MIB
            ):
                self._kept.popitem(last=False)
            waiting = self._under_way.pop(key)
        waiting.set_result(compiled)
        return compiled

    def _compile(self, text: str, is_wanted: Callable[[], bool]) -> _Compiled:
        library = _library()
        with self._building:
            if self._of_library is None:
                self._of_library = self._tokens(library)
            trials = self._trials
            assert trials is not None
        whole = MARK.sub(self._mark, f"%llguidance {{}}\n{text}")
        mib = _check_trial(*trials.ask(whole.encode("utf-8", "surrogatepass"), is_wanted), self._limits)
        if not is_wanted():
            raise _NotWanted
        # the library lets other threads run while it compiles and while it computes masks
        limits = library.LLParserLimits(**PARSER_LIMITS)
        matcher = library.LLMatcher(self._of_library, whole, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # here and not in the engine's first step: it may take long
        if matcher.is_error():  # its trial had none
            raise _refused(_short(matcher.get_error()))
        return _Compiled(matcher, mib)

    def _tokens(self, library: Any) -> Any:
        """Return the library's own tokenizer."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        name = getattr(self._tokenizer, "name_or_path", "this model")
        if backend is None:
            raise ConfigError(
                f"the tokenizer of {name} is no fast one, and only these can hold answers to a grammar",
                code="unsupported",
            )
        backend = copy.copy(backend)
        backend.no_padding()
        backend.no_truncation()
        size = max(self._vocab_size, len(self._tokenizer))
        written, stops = backend.to_str(), sorted(self._stops) or None
        try:
            of_library = library.LLTokenizer(written, n_vocab=size, eos_token=stops)
        except Exception as error:
            raise ConfigError(
                f"the tokenizer of {name} cannot hold answers to a grammar: {_short(str(error))}",
                code="unsupported",
            ) from error
        given = {"tokenizer": written, "vocab_size": size, "stops": stops, "limits": PARSER_LIMITS}
        self._trials = LimitedForks(trial_child.__file__, self._limits, json.dumps(given).encode())
        return of_library

    @property
    def _words(self) -> int:
        """How many words of 32 bits a mask has."""
        return (int(self._of_library.vocab_size) + 31) // 32

    def _mark(self, match: re.Match[str]) -> str:
        """Return the rules of a mark."""
        name, quoted = match[1], match[2]
        ids = self._of_library.tokenize_str(json.loads(quoted), parse_special=True)
        if len(ids) == 1 and self._of_library.is_special_token(ids[0]):
            return f"{name}: <[{ids[0]}]>\nto_{name}: {ANYTHING} <[{ids[0]}]>"
        return f"{name}: {quoted}\nto_{name}[lazy]: {ANYTHING} {quoted}"


def _wait_for(under_way: Future[_Compiled], is_wanted: Callable[[], bool]) -> _Compiled:
    """Return what another caller compiles."""
    while is_wanted():
        with suppress(TimeoutError):
            return under_way.result(LOOK_S)
    raise _NotWanted


def _check_trial(outcome: Outcome, answer: bytes, limits: ForkLimits) -> float:
    """Return the MiB that a row needs for a grammar; raise ConfigError if its trial has failed,
    JobFailed if the machine was too busy."""
    if outcome is Outcome.cancelled:
        raise _NotWanted
    if outcome is Outcome.too_busy:
        raise JobFailed(
            f"the grammar was not compiled within {limits.wall_s:g} s, since this machine is busy: try again later",
            code="busy",
        )
    if outcome is Outcome.too_long:
        raise _too_costly(f"compiling it takes more than {limits.cpu_s:g} s of CPU time")
    if outcome is Outcome.out_of_memory:
        raise _too_costly(f"compiling it needs more than {limits.memory_mib} MiB")
    if outcome is Outcome.died:
        raise _refused("the process that compiles it has ended", "failed")
    found = json.loads(answer)
    if found["reason"]:
        raise _refused(_short(found["reason"]))
    if found["error"]:
        reason = held.why_no_token(found["error"])
        raise _refused(render(reason) if reason else _short(found["error"]))
    if found["mask_s"] > held.MOST_MASK_S:
        raise _too_costly("finding its next token takes too long")
    if found["mib"] > MOST_ROW_MIB:
        raise _too_costly(f"each answer would need {found['mib']:.0f} MiB for it")
    return float(found["mib"])


def _refused(reason: str, code: Code = "bad_value") -> ConfigError:
    return ConfigError(f"no answer can be held to this: {reason}", code=code)


def _too_costly(what: str) -> ConfigError:
    fix = "simplify its patterns, ranges and lists"
    return _refused(f"{what}: {fix}", "too_large")


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(
            f"answers are held to a grammar by the package llguidance: {INSTALL}", code="needs_package"
        ) from error
    return llguidance


def _short(reason: str) -> str:
    """Return a reason of the library in a line, without the grammar that it quotes."""
    plain = " ".join(re.split(r"\n\s*\d+ \|", reason)[0].split())
    plain = re.sub(r"^at \d+\(\d+\): ", "", plain)
    return plain if len(plain) <= MOST_REASON else f"{plain[:MOST_REASON]}…"
