"""Guesses at the next tokens of a few greedy rows, looked up in the row's earlier tokens and
checked in one pass.

With few rows, a model waits for its weights: a pass over several tokens of a row takes hardly
longer than a pass over one. If the row's last tokens occurred before, the tokens that followed
there are a fair guess. The pass reads the guess and gives the model's choice after each of its
tokens, so the answer is the one of single steps. Whether guessing is worth it is measured: passes
with guesses have to give more tokens a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from runner_base.console import LOG_ONLY
from runner_engine.decode.compat_probe import gives_same_logits_together
from runner_engine.decode.passes import Forward
from runner_engine.decode.rows import Row
from runner_engine.decode.tokens.guesses import Drafts, check_guesses, right_ones
from runner_engine.decode.tokens.sampling import Sampler
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.kv_cache import OwnKv
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


class Lookup:
    """Where each run of a row's tokens occurred last, and so which tokens followed it."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.most = FIRST_TOKENS  # of the next guess
        self._text = list(prompt[-MAX_PROMPT_TOKENS:])
        self._of_prompt = len(self._text)
        self._behind: dict[tuple[int, ...], int] = {}  # the place after a run
        self._known = 0  # places up to which runs are noted

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return at most `most` tokens that followed the last tokens where they occurred before.

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
        guess = text[at : at + most]
        while guess and len(guess) < most:
            guess.append(guess[len(guess) - (len(text) - at)])
        return guess

    def learn(self, guessed: int, right: int) -> None:
        """Guess more tokens if all were right, else one more than were right."""
        self.most = min(2 * self.most, MAX_TOKENS) if right == guessed else max(right + 1, 2)


@dataclass
class _Mean:
    """The mean of the latest measurements."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(SMOOTHING, 1 / self.count)

    def add_time(self, seconds: float) -> None:
        self.add(min(seconds, CLIP * self.value) if self.count else seconds)


@dataclass
class _Tally:
    """The latest times of passes over so many rows, with guesses and without."""

    rows: int
    plain_s: _Mean = field(default_factory=_Mean)
    drafted_s: _Mean = field(default_factory=_Mean)
    tokens: _Mean = field(default_factory=_Mean)  # from a pass with guesses, over all rows
    pause: int = 0  # passes without guesses that are left
    next_pause: int = PAUSE
    is_on: bool = False  # whether the last trial was worth it

    def waits(self) -> bool:
        """Count one more pass of a pause; return whether the pause is so long that the pass need
        not be timed."""
        if self.pause:
            self.pause -= 1
        return self.pause >= MIN_PLAIN_PASSES

    def may_guess(self) -> bool:
        """Whether the next pass may have guesses."""
        return not self.pause and self.plain_s.count >= MIN_PLAIN_PASSES

    def pays(self) -> bool:
        """Whether passes with guesses give more tokens a second."""
        return self.tokens.value * self.plain_s.value > GAIN * self.rows * self.drafted_s.value

    def note(self, seconds: float, tokens: int) -> None:
        """Note a pass with guesses; pause if they are not worth it."""
        self.drafted_s.add_time(seconds)
        self.tokens.add(tokens)
        if self.drafted_s.count < TRIALS:
            return
        pays = self.pays()
        if pays != self.is_on:
            what = f"{self.tokens.value:.1f} tokens of a pass of {1000 * self.drafted_s.value:.2f} ms"
            usual = f"{self.rows} of {1000 * self.plain_s.value:.2f} ms"
            pay = "pay" if pays else "do not pay"
            log.info("guessed tokens %s at %d rows: %s, else %s", pay, self.rows, what, usual, extra=LOG_ONLY)
        self.is_on = pays
        if pays:
            self.next_pause = max(PAUSE, self.next_pause - 1)
        else:
            self.pause, self.next_pause = self.next_pause, min(2 * self.next_pause, LONGEST_PAUSE)
            self.drafted_s, self.tokens = _Mean(), _Mean()


class Speculation:
    """Guesses for a few greedy rows while that is worth it; the measurements are kept for the whole
    engine."""

    hidden_reader = None
    copies_states = False

    def __init__(self, stats: EngineStats, is_wanted: bool) -> None:
        self.stats, self.is_wanted = stats, is_wanted
        self._is_same: bool | None = (
            None  # several tokens in one pass give the logits of single steps; None: not tried yet
        )
        self._timed: _Tally | None = None  # the tally of the current pass, if it is timed
        self._started = 0.0
        self._lookups: WeakKeyDictionary[Row, Lookup] = WeakKeyDictionary()
        self._tallies = {rows: _Tally(rows) for rows in range(1, MAX_ROWS + 1)}

    def drafts(self, rows: Sequence[Row], forward: Forward, sampler: Sampler) -> list[list[int]]:
        """Return a guess for each row, which may be empty, or an empty list; the clock of the pass
        starts here."""
        tally = self._timed = self._tally(rows, forward, sampler)
        if tally is None:
            return []
        self._started = time.thread_time()
        if not tally.may_guess():
            return []
        drafts = [
            self._draft(row, forward) if _is_for(row, at, sampler) else [] for at, row in enumerate(rows)
        ]
        if any(drafts) and self._try(forward, sampler.vocab_size):
            return drafts
        self._started = time.thread_time()  # only passes with guesses count the time of the lookup
        return []

    def _tally(self, rows: Sequence[Row], forward: Forward, sampler: Sampler) -> _Tally | None:
        """Return the tally of the next pass; None if it is not timed, as no guesses will follow
        soon."""
        is_wanted = self.is_wanted and not any(row.thought.forced for row in rows)
        tally = self._tallies.get(len(rows)) if is_wanted else None
        if (
            tally is None
            or tally.waits()
            or not any(_is_for(row, at, sampler) for at, row in enumerate(rows))
        ):
            return None
        return tally if _is_exact(forward, rows) else None

    def _draft(self, row: Row, forward: Forward) -> list[int]:
        assert forward.fused is not None
        lookup = self._lookups.get(row)
        if lookup is None:
            lookup = self._lookups[row] = Lookup(row.prompt)
        room = forward.fused.positions - len(row.prompt) - len(row.tokens)
        most = min(lookup.most, row.limit - len(row.tokens) - 1, room)
        return lookup.draft(row.tokens, most) if most > 0 else []

    def _try(self, forward: Forward, vocab_size: int) -> bool:
        """Whether a pass over guesses gives the logits of single steps; tried once, before the
        first guess."""
        if self._is_same is None:
            self._is_same = gives_same_logits_together(forward, vocab_size)
            if not self._is_same:
                why = "several in one pass give other logits than one by one"
                log.info("no tokens are guessed: %s", why, extra=LOG_ONLY)
                self.is_wanted = False
            self._started = time.thread_time()
        return self._is_same

    def check(
        self,
        forward: Forward,
        own: OwnKv,
        rows: Sequence[Row],
        drafts: Drafts,
        sampler: Sampler,
        stopping: Stopping,
    ) -> list[tuple[Row, int]]:
        """Read each row's last token with its guess; return the new tokens, row by row and in
        order."""
        new = check_guesses(forward, own, rows, drafts, sampler, stopping)
        for row, draft, of_row in zip(rows, drafts, new, strict=True):
            right = right_ones(draft, of_row)
            if draft:
                self._lookups[row].learn(len(draft), right)
            self.stats.draft_tokens += len(draft)
            self.stats.accepted_tokens += right
        self.stats.decode_tokens += sum(map(len, new))
        return [(row, token) for row, of_row in zip(rows, new, strict=True) for token in of_row]

    def forget(self) -> None:
        """Do nothing: what followed a row's tokens is still known when it continues."""

    @property
    def bytes_per_token(self) -> int:
        """Nothing that counts."""
        return 0

    @property
    def bytes_per_row(self) -> int:
        """Nothing that counts."""
        return 0

    def note(self, tokens: int | None) -> None:
        """Note the time of the pass that began with `drafts`; tokens: how many it gave, None
        without guesses."""
        if self._timed is None:
            return
        seconds = time.thread_time() - self._started  # without the time of other programs
        if tokens is None:
            self._timed.plain_s.add_time(seconds)
        else:
            self._timed.note(seconds, tokens)


def _is_for(row: Row, at: int, sampler: Sampler) -> bool:
    """Whether tokens of a row may be guessed; a request for a fixed number of tokens measures
    single steps, and a grammar holds one token after the other."""
    return sampler.is_greedy(at) and not row.request.ignore_eos and row.held is None


def _is_exact(forward: Forward, rows: Sequence[Row]) -> bool:
    """Whether passes over several tokens of these rows use the fused pass, with sums that depend on
    no other row."""
    fused = forward.fused
    if fused is None or not fused.is_by_row or forward.mixers:  # a wrong guess cannot be taken out of a state
        return False
    return all(len(row.prompt) + len(row.tokens) <= fused.positions for row in rows)
