"""Compiles and caches grammars for a tokenizer.

Imports the llguidance library when the first grammar is compiled.

A grammar is a text in the library's Lark syntax, with one more directive:
    %mark NAME "text"

defines the rules NAME (this text) and to_NAME (any text up to and including it). If the
tokenizer has the text as a special token, NAME is that token and not its letters.
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
from runner_base.limited_forks import LOOK_S, ForkLimits, ForkOutcome, LimitedForks
from runner_engine.grammars import grammar_state, trial_child
from runner_engine.grammars.grammar_state import GrammarState
from runner_engine.render.notes import render_engine_note

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
class _CompiledGrammar:
    """A compiled grammar, or the reason for its rejection."""

    matcher: Any = None
    mib: float = 0.0  # that each row with this grammar needs
    refused: ConfigError | None = None
    at: float = 0.0  # when it was refused


class _Cancelled(Exception):
    """Raised if all requests that need the grammar were cancelled."""


class GrammarCache:
    """Cache of compiled grammars for one tokenizer. Threads may use it concurrently.

    A grammar is first tried in a separate process with limits on time and memory, and then
    compiled in this process. No lock is held meanwhile, so a cached grammar never waits for
    another one.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocab_size: int,
        stop_token_ids: frozenset[int],
        limits: ForkLimits = TRIAL_LIMITS,
    ) -> None:
        """Configure a cache for one tokenizer.

        vocab_size: number of the model's logits. stop_token_ids: tokens that end an answer.
        """
        self._tokenizer, self._vocab_size, self._stops = tokenizer, vocab_size, stop_token_ids
        self._limits = limits
        self._lock = threading.Lock()  # of the kept grammars; held only to look
        self._building = threading.Lock()  # of the library's tokenizer, once
        self._of_library: Any = None
        self._trials: LimitedForks | None = None
        self._kept: OrderedDict[bytes, _CompiledGrammar] = OrderedDict()  # the latest one last
        self._under_way: dict[bytes, Future[_CompiledGrammar]] = {}

    def compile_grammar_to_initial_state(
        self, grammar: str, is_active: Callable[[], bool] = lambda: True
    ) -> GrammarState:
        """Compile a grammar unless it is cached, and return its initial state.

        Raises ConfigError for an invalid grammar.

        is_active: returns False once no request waits. Then compiling stops with a ConfigError.
        """
        if len(grammar) > MOST_CHARACTERS:
            raise _rejection_error(
                f"the text has {len(grammar):,} characters, but the limit is {MOST_CHARACTERS:,}", "too_large"
            )
        key = hashlib.sha256(grammar.encode("utf-8", "surrogatepass")).digest()
        while True:
            with self._lock:
                if (kept := self._find_cached_grammar(key)) is not None:
                    break
                under_way = self._under_way.get(key)
                if is_first := under_way is None:
                    under_way = self._under_way[key] = Future()
            try:
                kept = (
                    self._compile_and_cache(key, grammar, is_active)
                    if is_first
                    else _wait_for_compilation(under_way, is_active)
                )
                break
            except _Cancelled as error:
                if not is_active():
                    raise ConfigError("the request was cancelled", code="failed") from error
        if kept.refused is not None:
            raise convert_error(kept.refused, ConfigError)
        return GrammarState(kept.matcher.deep_copy(), self._num_mask_words)

    def stop_trial_process(self) -> None:
        """Stop the child process that tests grammars. A new process starts when one is needed."""
        if self._trials is not None:
            self._trials.stop_server()

    def _find_cached_grammar(self, key: bytes) -> _CompiledGrammar | None:
        """Return the cached grammar with this key, or None. The caller must hold the lock.

        Rejections expire soon, because a busy machine may have been the reason.
        """
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.refused is not None and time.monotonic() - kept.at > REFUSED_S:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept

    def _compile_and_cache(self, key: bytes, grammar: str, is_active: Callable[[], bool]) -> _CompiledGrammar:
        """Compile and cache a grammar for the caller and for all threads that wait for this grammar."""
        try:
            try:
                compiled = self._compile_grammar(grammar, is_active)
            except ConfigError as error:
                compiled = _CompiledGrammar(refused=convert_error(error, ConfigError), at=time.monotonic())
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

    def _compile_grammar(self, grammar: str, is_active: Callable[[], bool]) -> _CompiledGrammar:
        library = _import_llguidance()
        with self._building:
            if self._of_library is None:
                self._of_library = self._create_llguidance_tokenizer(library)
            trials = self._trials
            assert trials is not None
        whole = MARK.sub(self._convert_marker_directive_to_rules, f"%llguidance {{}}\n{grammar}")
        mib = _parse_trial_memory_mib(
            *trials.request(whole.encode("utf-8", "surrogatepass"), is_active), self._limits
        )
        if not is_active():
            raise _Cancelled
        # the library lets other threads run while it compiles and while it computes masks
        limits = library.LLParserLimits(**PARSER_LIMITS)
        matcher = library.LLMatcher(self._of_library, whole, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # here and not in the engine's first step: it may take long
        if matcher.is_error():  # its trial had none
            raise _rejection_error(_shorten_library_error(matcher.get_error()))
        return _CompiledGrammar(matcher, mib)

    def _create_llguidance_tokenizer(self, library: Any) -> Any:
        """Create the tokenizer object of llguidance from the model's tokenizer."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        name = getattr(self._tokenizer, "name_or_path", "this model")
        if backend is None:
            raise ConfigError(
                f"the tokenizer of {name} does not support grammars. Only fast tokenizers support them",
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
                f"the tokenizer of {name} does not support grammars: {_shorten_library_error(str(error))}",
                code="unsupported",
            ) from error
        given = {"tokenizer": written, "vocab_size": size, "stops": stops, "limits": PARSER_LIMITS}
        self._trials = LimitedForks(trial_child.__file__, self._limits, json.dumps(given).encode())
        return of_library

    @property
    def _num_mask_words(self) -> int:
        return (int(self._of_library.vocab_size) + 31) // 32

    def _convert_marker_directive_to_rules(self, directive_match: re.Match[str]) -> str:
        """Replace a %mark directive by two grammar rules.

        The rule `NAME` matches a special token or literal, and `to_NAME` matches all text up to it.
        """
        name, quoted = directive_match[1], directive_match[2]
        ids = self._of_library.tokenize_str(json.loads(quoted), parse_special=True)
        if len(ids) == 1 and self._of_library.is_special_token(ids[0]):
            return f"{name}: <[{ids[0]}]>\nto_{name}: {ANYTHING} <[{ids[0]}]>"
        return f"{name}: {quoted}\nto_{name}[lazy]: {ANYTHING} {quoted}"


def _wait_for_compilation(
    compilation: Future[_CompiledGrammar], is_active: Callable[[], bool]
) -> _CompiledGrammar:
    """Wait until another thread has compiled a grammar, and return the compiled grammar."""
    while is_active():
        with suppress(TimeoutError):
            return compilation.result(LOOK_S)
    raise _Cancelled


def _parse_trial_memory_mib(outcome: ForkOutcome, child_output: bytes, limits: ForkLimits) -> float:
    """Return the MiB of memory that each sequence with the tested grammar needs.

    Raises ConfigError if the trial has failed, and JobFailed if the machine was too busy.
    """
    if outcome is ForkOutcome.cancelled:
        raise _Cancelled
    if outcome is ForkOutcome.too_busy:
        raise JobFailed(
            f"the machine is busy: the grammar was not compiled within {limits.wall_s:g} s. Try again later",
            code="busy",
        )
    if outcome is ForkOutcome.too_long:
        raise _too_costly_error(f"compiling the grammar takes more than {limits.cpu_s:g} s of CPU time")
    if outcome is ForkOutcome.out_of_memory:
        raise _too_costly_error(f"compiling the grammar needs more than {limits.memory_mib} MiB")
    if outcome is ForkOutcome.died:
        raise _rejection_error("the process that compiles the grammar has crashed", "failed")
    found = json.loads(child_output)
    if found["reason"]:
        raise _rejection_error(_shorten_library_error(found["reason"]))
    if found["error"]:
        reason = grammar_state.explain_no_allowed_token(found["error"])
        raise _rejection_error(
            render_engine_note(reason) if reason else _shorten_library_error(found["error"])
        )
    if found["mask_s"] > grammar_state.MOST_MASK_S:
        raise _too_costly_error("computing the allowed next tokens takes too long")
    if found["mib"] > MOST_ROW_MIB:
        raise _too_costly_error(f"each answer would need {found['mib']:.0f} MiB for its grammar state")
    return float(found["mib"])


def _rejection_error(reason: str, code: Code = "bad_value") -> ConfigError:
    return ConfigError(f"the grammar or JSON schema is rejected: {reason}", code=code)


def _too_costly_error(reason: str) -> ConfigError:
    fix = "Simplify the grammar's patterns, ranges and lists"
    return _rejection_error(f"{reason}. {fix}", "too_large")


def _import_llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(
            f"grammars require the package llguidance. Install it with {INSTALL}", code="needs_package"
        ) from error
    return llguidance


def _shorten_library_error(reason: str) -> str:
    """Shorten an llguidance error message to one line without the quoted grammar."""
    plain = " ".join(re.split(r"\n\s*\d+ \|", reason)[0].split())
    plain = re.sub(r"^at \d+\(\d+\): ", "", plain)
    return plain if len(plain) <= MOST_REASON else f"{plain[:MOST_REASON]}…"
