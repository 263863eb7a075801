"""Speculative decoding with n-gram lookup, for batches of a few greedy sequences.

With few sequences, decoding is limited by reading the weights, so a pass over several
tokens takes hardly longer than a pass over one. If a sequence's last tokens occurred
before, the tokens that followed there become the draft. One pass verifies it, so the
answer equals that of single steps. Speculation stays on only while it measurably produces
more tokens per second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from runner_base.console import LOG_ONLY
from runner_engine.decode.compat_probe import are_multi_token_logits_exact
from runner_engine.decode.passes import Forward
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens.sampling import Sampler
from runner_engine.decode.tokens.speculator import Drafts, count_accepted_tokens, verify_draft_tokens
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kv_cache import KvStore
from runner_engine.sessions import EngineStats

log = logging.getLogger(__name__)

MAX_ROWS = 4  # with more rows, the products take the time, not the reading of weights
FIRST_TOKENS, MAX_TOKENS = 3, 8  # of a row's first guess, and of any guess
RUNS = (3, 2)  # lengths of the runs of tokens that are looked up; longer ones are tried first
MAX_PROMPT_TOKENS = 8192  # at the end of a prompt, that are searched
MIN_PLAIN_PASSES = 3  # that must be timed before guesses are tried
TRIALS = 4  # passes with guesses, before it is decided whether they are worth it
# passes without guesses before the next trial; doubled after each trial in vain
PAUSE, LONGEST_PAUSE = (32, 1024)
SMOOTHING = 0.1  # the share of the latest measurement in what counts
CLIP = 3  # times the mean: a longer measurement is cut, as another program caused it
GAIN = 1.1  # times as many tokens a second make guesses worth it: later tokens may be harder to guess


class NgramLookup:
    """Finds the previous occurrence of a sequence's last n-gram and the tokens that followed the n-gram."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.most = FIRST_TOKENS  # of the next guess
        self._text = list(prompt[-MAX_PROMPT_TOKENS:])
        self._of_prompt = len(self._text)
        self._behind: dict[tuple[int, ...], int] = {}  # the place after a run
        self._known = 0  # places up to which runs are noted

    def draft(self, tokens: Sequence[int], max_tokens: int) -> list[int]:
        """Return at most `max_tokens` tokens that followed the previous occurrence of the last n-gram.

        tokens: the answer so far, which only grows. A repetition is assumed to continue.
        """
        text, behind = self._text, self._behind
        text += tokens[len(text) - self._of_prompt :]
        for place in range(self._known, len(text)):
            for size in RUNS:
                if place >= size:
                    behind[tuple(text[place - size : place])] = place
        self._known = len(text)
        at = next((behind[run] for size in RUNS if (run := tuple(text[-size:])) in behind), len(text))
        guess = text[at : at + max_tokens]
        while guess and len(guess) < max_tokens:
            guess.append(guess[len(guess) - (len(text) - at)])
        return guess

    def adjust_draft_length(self, num_drafted: int, num_accepted: int) -> None:
        """Double the maximum draft length if the model accepted all draft tokens.

        Otherwise set it to one more than accepted.
        """
        self.most = (
            min(2 * self.most, MAX_TOKENS) if num_accepted == num_drafted else max(num_accepted + 1, 2)
        )


@dataclass
class _MovingMean:
    """Exponential moving mean of measurements."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(SMOOTHING, 1 / self.count)

    def add_clipped(self, seconds: float) -> None:
        self.add(min(seconds, CLIP * self.value) if self.count else seconds)


@dataclass
class _PassTimings:
    """Moving averages of the forward pass times for one batch size, with and without draft tokens."""

    rows: int
    plain_s: _MovingMean = field(default_factory=_MovingMean)
    drafted_s: _MovingMean = field(default_factory=_MovingMean)
    tokens: _MovingMean = field(default_factory=_MovingMean)  # from a pass with guesses, over all rows
    pause: int = 0  # passes without guesses that are left
    next_pause: int = PAUSE
    is_on: bool = False  # whether the last trial was worth it

    def count_down_speculation_pause(self) -> bool:
        """Shorten the pause in speculation. Returns whether the next forward pass is not timed."""
        if self.pause:
            self.pause -= 1
        return self.pause >= MIN_PLAIN_PASSES

    def can_speculate(self) -> bool:
        return not self.pause and self.plain_s.count >= MIN_PLAIN_PASSES

    def is_worthwhile(self) -> bool:
        return self.tokens.value * self.plain_s.value > GAIN * self.rows * self.drafted_s.value

    def record_pass_with_drafts(self, seconds: float, num_tokens: int) -> None:
        """Record the time of a pass with draft tokens. Pauses speculation if drafts do not save time."""
        self.drafted_s.add_clipped(seconds)
        self.tokens.add(num_tokens)
        if self.drafted_s.count < TRIALS:
            return
        pays = self.is_worthwhile()
        if pays != self.is_on:
            what = f"{self.tokens.value:.1f} tokens in {1000 * self.drafted_s.value:.2f} ms per pass"
            usual = f"{self.rows} tokens in {1000 * self.plain_s.value:.2f} ms"
            pay = "save" if pays else "do not save"
            log.info(
                "draft tokens %s time for %d sequences: %s with drafts, %s without drafts",
                pay,
                self.rows,
                what,
                usual,
                extra=LOG_ONLY,
            )
        self.is_on = pays
        if pays:
            self.next_pause = max(PAUSE, self.next_pause - 1)
        else:
            self.pause, self.next_pause = self.next_pause, min(2 * self.next_pause, LONGEST_PAUSE)
            self.drafted_s, self.tokens = _MovingMean(), _MovingMean()


class NgramSpeculator:
    """Proposes draft tokens by n-gram lookup for a few greedy sequences, as long as this saves time.

    Timings last for the whole engine.
    """

    hidden_reader = None
    copies_states = False

    def __init__(self, stats: EngineStats, is_enabled: bool) -> None:
        self.stats, self.is_wanted = stats, is_enabled
        self._is_same: bool | None = (
            None  # several tokens in one pass give the logits of single steps; None: not tried yet
        )
        self._timed: _PassTimings | None = None  # the tally of the current pass, if it is timed
        self._started = 0.0
        self._lookups: WeakKeyDictionary[TokenSequence, NgramLookup] = WeakKeyDictionary()
        self._tallies = {rows: _PassTimings(rows) for rows in range(1, MAX_ROWS + 1)}

    def propose_drafts(
        self, sequences: Sequence[TokenSequence], forward: Forward, sampler: Sampler
    ) -> list[list[int]]:
        """Return draft tokens for each sequence, or [] if no sequence has a draft.

        Starts the timer of the forward pass.
        """
        tally = self._timed = self._select_pass_timings(sequences, forward, sampler)
        if tally is None:
            return []
        self._started = time.thread_time()
        if not tally.can_speculate():
            return []
        drafts = [
            self._draft(row, forward) if _can_speculate_for(row, at, sampler) else []
            for at, row in enumerate(sequences)
        ]
        if any(drafts) and self._has_exact_multi_token_logits(forward, sampler.vocab_size):
            return drafts
        self._started = time.thread_time()  # only passes with guesses count the time of the lookup
        return []

    def _select_pass_timings(
        self, sequences: Sequence[TokenSequence], forward: Forward, sampler: Sampler
    ) -> _PassTimings | None:
        """Return the object that records the time of the next forward pass.

        Returns None if the pass is not timed because no draft follows soon.
        """
        is_wanted = self.is_wanted and not any(row.thought.forced for row in sequences)
        tally = self._tallies.get(len(sequences)) if is_wanted else None
        if (
            tally is None
            or tally.count_down_speculation_pause()
            or not any(_can_speculate_for(row, at, sampler) for at, row in enumerate(sequences))
        ):
            return None
        return tally if _can_verify_exactly(forward, sequences) else None

    def _draft(self, sequence: TokenSequence, forward: Forward) -> list[int]:
        assert forward.fused is not None
        lookup = self._lookups.get(sequence)
        if lookup is None:
            lookup = self._lookups[sequence] = NgramLookup(sequence.prompt)
        room = forward.fused.positions - len(sequence.prompt) - len(sequence.tokens)
        most = min(lookup.most, sequence.limit - len(sequence.tokens) - 1, room)
        return lookup.draft(sequence.tokens, most) if most > 0 else []

    def _has_exact_multi_token_logits(self, forward: Forward, vocab_size: int) -> bool:
        """Whether a forward pass over several tokens gives exactly the logits of single-token passes.

        Tested once.
        """
        if self._is_same is None:
            self._is_same = are_multi_token_logits_exact(forward, vocab_size)
            if not self._is_same:
                why = "passes over one token and over several tokens give different logits"
                log.info("speculative decoding is off: %s", why, extra=LOG_ONLY)
                self.is_wanted = False
            self._started = time.thread_time()
        return self._is_same

    def verify_drafts(
        self,
        forward: Forward,
        kv_store: KvStore,
        sequences: Sequence[TokenSequence],
        drafts: Drafts,
        sampler: Sampler,
        stopping: Stopping,
    ) -> list[tuple[TokenSequence, int]]:
        """Verify draft tokens in one forward pass.

        Returns (sequence, token) pairs of the new tokens, sequence by sequence.
        """
        new = verify_draft_tokens(forward, kv_store, sequences, drafts, sampler, stopping)
        for row, draft, of_row in zip(sequences, drafts, new, strict=True):
            right = count_accepted_tokens(draft, of_row)
            if draft:
                self._lookups[row].adjust_draft_length(len(draft), right)
            self.stats.draft_tokens += len(draft)
            self.stats.accepted_tokens += right
        self.stats.decode_tokens += sum(map(len, new))
        return [(row, token) for row, of_row in zip(sequences, new, strict=True) for token in of_row]

    def reset(self) -> None:
        """Keep the n-gram index, because it stays valid when a sequence continues."""

    @property
    def bytes_per_token(self) -> int:
        return 0

    @property
    def bytes_per_row(self) -> int:
        return 0

    def record_step(self, num_tokens: int | None) -> None:
        """Record the time since `propose_drafts`.

        num_tokens: tokens that a step with drafts produced; None for a step without drafts.
        """
        if self._timed is None:
            return
        seconds = time.thread_time() - self._started  # without the time of other programs
        if num_tokens is None:
            self._timed.plain_s.add_clipped(seconds)
        else:
            self._timed.record_pass_with_drafts(seconds, num_tokens)


def _can_speculate_for(sequence: TokenSequence, index: int, sampler: Sampler) -> bool:
    """Whether draft tokens are allowed for a sequence.

    Not for requests that ignore end-of-sequence tokens, which measure single steps, and not
    for constrained decoding.
    """
    return sampler.is_greedy(index) and not sequence.request.ignore_eos and sequence.held is None


def _can_verify_exactly(forward: Forward, sequences: Sequence[TokenSequence]) -> bool:
    """Whether the fused forward pass verifies draft tokens with exactly the same logits as decoding.

    Its sums then depend on no other sequence.
    """
    fused = forward.fused
    if fused is None or not fused.is_by_row or forward.mixers:  # a wrong guess cannot be taken out of a state
        return False
    return all(len(row.prompt) + len(row.tokens) <= fused.positions for row in sequences)
