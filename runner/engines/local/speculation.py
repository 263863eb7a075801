"""Guesses at the next tokens of a few greedy rows, looked up in what they have so far and checked in one pass.

A model that is asked one thing at a time waits for its weights: a pass over several tokens of a row takes hardly longer
than a pass over one. What followed the row's last tokens where they stood before is a fair guess at what follows now.
The pass reads the guess, and says after each of its tokens what the model says there, so what comes out is what would
have come out one by one. Whether that pays is measured: passes with guesses have to give more tokens a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from runner.core.console import LOG_ONLY
from runner.engines.local.compat_probe import same_together
from runner.engines.local.forward import Forward, TokenSpan
from runner.engines.local.kernels import native
from runner.engines.local.kv_cache import OwnKv
from runner.engines.rows import NO_TOKEN, Row
from runner.engines.sampling import Sampler
from runner.engines.stats import EngineStats

log = logging.getLogger(__name__)

MOST_ROWS = 4  # with more of them, products take the time, and not the weights
FIRST_TOKENS, MOST_TOKENS = 3, 8  # of a row's first guess, and of any
RUNS = (3, 2)  # tokens in a row that are looked for; the longer ones say more
KEPT = 8192  # tokens at the end of a prompt that are looked through
KNOWN = 3  # passes without guesses, before it is known what they take
TRIALS = 4  # passes with guesses, before it is asked whether they pay
PAUSE, LONGEST_PAUSE = 32, 1024  # passes without, before guesses are tried again; twice as many each time in vain
SMOOTHING = 0.1  # the share of the latest measurement in what counts
CLIP = 3  # times the usual: what takes longer was another program's
GAIN = 1.1  # times as many tokens a second, or guesses do not pay: what follows may be less easily guessed


class Lookup:
    """Where each run of a row's tokens stood last, and so what followed it."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.most = FIRST_TOKENS  # of the next guess
        self._text = list(prompt[-KEPT:])
        self._of_prompt = len(self._text)
        self._behind: dict[tuple[int, ...], int] = {}  # the place behind a run
        self._known = 0  # places up to which runs are noted

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return what followed the last tokens before, so many at most; tokens: of the answer so far, which only grows.

        What repeats itself is taken to go on doing so.
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

    def learn(self, asked: int, right: int) -> None:
        """Guess more where all of a guess was right, and no more than would have been right elsewhere."""
        self.most = min(2 * self.most, MOST_TOKENS) if right == asked else max(right + 1, 2)


@dataclass
class _Mean:
    """The mean of what was measured lately."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += (value - self.value) * max(SMOOTHING, 1 / self.count)

    def add_time(self, seconds: float) -> None:
        self.add(min(seconds, CLIP * self.value) if self.count else seconds)


@dataclass
class _Tally:
    """What passes over so many rows have taken lately, with guesses and without."""

    rows: int
    plain_s: _Mean = field(default_factory=_Mean)
    drafted_s: _Mean = field(default_factory=_Mean)
    tokens: _Mean = field(default_factory=_Mean)  # that came of a pass with guesses, over all rows
    pause: int = 0  # passes that are still to go without
    next_pause: int = PAUSE
    is_on: bool = False  # the last trial has paid

    def waits(self) -> bool:
        """Let one more pass of a pause go by; whether guesses are so far off that it need not be timed."""
        if self.pause:
            self.pause -= 1
        return self.pause >= KNOWN

    def may_guess(self) -> bool:
        """Whether the next pass is one for guesses, if there are any."""
        return not self.pause and self.plain_s.count >= KNOWN

    def pays(self) -> bool:
        """Whether more tokens a second come of passes with guesses."""
        return self.tokens.value * self.plain_s.value > GAIN * self.rows * self.drafted_s.value

    def note(self, seconds: float, tokens: int) -> None:
        """Note a pass with guesses; pause when they do not pay."""
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
    """Guesses for rows that decode greedily, while they are few and guesses pay; what it learns holds for an engine."""

    def __init__(self, stats: EngineStats, is_wanted: bool) -> None:
        self.stats, self.is_wanted = stats, is_wanted
        self._is_same: bool | None = None  # several tokens of a row leave what each leaves alone; None: not tried
        self._timed: _Tally | None = None  # what the pass under way is counted by: nothing is timed in vain
        self._started = 0.0
        self._lookups: WeakKeyDictionary[Row, Lookup] = WeakKeyDictionary()
        self._tallies = {rows: _Tally(rows) for rows in range(1, MOST_ROWS + 1)}

    def drafts(self, rows: Sequence[Row], forward: Forward, sampler: Sampler) -> list[list[int]]:
        """Return a guess for each row, which may be empty, or none at all; the clock of the pass starts here."""
        tally = self._timed = self._tally(rows, forward, sampler)
        if tally is None:
            return []
        self._started = time.thread_time()
        if not tally.may_guess():
            return []
        drafts = [self._draft(row, forward) if _is_for(row, at, sampler) else [] for at, row in enumerate(rows)]
        if any(drafts) and self._try(forward, sampler.vocab_size):
            return drafts
        self._started = time.thread_time()  # looking takes time of passes with guesses only
        return []

    def _tally(self, rows: Sequence[Row], forward: Forward, sampler: Sampler) -> _Tally | None:
        """Return what the next pass is counted by, if it is: guesses may come, and so many passes before them."""
        tally = self._tallies.get(len(rows)) if self.is_wanted else None
        if tally is None or tally.waits() or not any(_is_for(row, at, sampler) for at, row in enumerate(rows)):
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
        """Whether a check says what single steps say; tried once, before the first."""
        if self._is_same is None:
            self._is_same = same_together(forward, vocab_size)
            if not self._is_same:
                why = "several in one pass leave other logits than one by one"
                log.info("no tokens are guessed: %s", why, extra=LOG_ONLY)
                self.is_wanted = False
            self._started = time.thread_time()
        return self._is_same

    def check(
        self, forward: Forward, own: OwnKv, rows: Sequence[Row], drafts: Sequence[list[int]], sampler: Sampler
    ) -> list[tuple[Row, int]]:
        """Read each row's last token with its guess; return the tokens that come of it, row by row and in order."""
        pieces = [
            TokenSpan(row, slot, [row.tokens[-1], *draft], row.places, targets=[*draft, NO_TOKEN])
            for slot, (row, draft) in enumerate(zip(rows, drafts, strict=True))
        ]
        logits = forward.read_prompts(own, pieces)
        said: list[int] = native.argmax(logits).tolist()
        ends = [sum(len(piece.ids) for piece in pieces[: slot + 1]) for slot in range(len(pieces))]
        firsts = [end - len(piece.ids) for end, piece in zip(ends, pieces, strict=True)]
        if not all(map(sampler.is_greedy, range(len(rows)))):
            for first, token in zip(firsts, sampler.pick(logits[firsts]).tolist(), strict=True):
                said[first] = token
        new: list[tuple[Row, int]] = []
        for slot, (row, draft) in enumerate(zip(rows, drafts, strict=True)):
            here = said[firsts[slot] : ends[slot]]
            right = next((at for at, guess in enumerate(draft) if here[at] != guess), len(draft))
            if draft:
                self._lookups[row].learn(len(draft), right)
            own.fill(slot, row.places + len(draft) + 1)  # what was guessed wrong will be written over
            row.places += right + 1
            new += [(row, token) for token in here[: right + 1]]
            self.stats.draft_tokens += len(draft)
            self.stats.accepted_tokens += right
        self.stats.decode_tokens += len(new)
        return new

    def note(self, tokens: int | None) -> None:
        """Note what the pass took that began with `drafts`: with guesses and the tokens that came, or without."""
        if self._timed is None:
            return
        seconds = time.thread_time() - self._started  # of other programs' time nothing is counted
        if tokens is None:
            self._timed.plain_s.add_time(seconds)
        else:
            self._timed.note(seconds, tokens)


def _is_for(row: Row, at: int, sampler: Sampler) -> bool:
    """Whether tokens of a row may be guessed; who asks for a fixed number of tokens measures steps."""
    return sampler.is_greedy(at) and not row.request.ignore_eos


def _is_exact(forward: Forward, rows: Sequence[Row]) -> bool:
    """Whether passes over several tokens of these rows go the one way in which a row's sums are always the same."""
    fused = forward.fused
    if fused is None or not fused.is_by_row:
        return False
    return all(
        len(row.prompt) + len(row.tokens) <= fused.positions and (fused.kernels.has_shared or row.prefix is None)
        for row in rows
    )
