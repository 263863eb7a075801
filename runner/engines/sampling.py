"""From logits to the next token: greedy or sampled, each row for itself whatever its neighbours are.

A sampled row depends on its seed, its id and its own logits only: its random numbers come from a generator of its own,
and penalties look at its own tokens, not at the padding: the repetition penalty at prompt and answer, the frequency and
the presence penalty at the answer, as vLLM has it. On a CPU with kernels all rows are picked in one
call of C. Elsewhere it is transformers' warpers, and rows that are sampled in the same way share their operations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper

from runner.config.sampling import GREEDY, Sampling, that_differ
from runner.engines.base import RequestId
from runner.engines.local.kernels import native
from runner.engines.rows import NO_TOKEN, Row


class _Group(NamedTuple):
    """Rows that are sampled in one way."""

    way: Sampling
    rows: torch.Tensor | slice  # their places in the batch
    lines: torch.Tensor  # of what they have
    generators: list[torch.Generator | None]


class _History:
    """What penalties read of each row: which tokens it has, prompt included, and how often its answer has each."""

    def __init__(self, rows: int, vocab_size: int, device: torch.device) -> None:
        self.seen = torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)
        self.counts = torch.zeros(rows, vocab_size, dtype=torch.int32, device=device)

    def begin(self, row: int, prompt: list[int], answer: list[int]) -> None:
        """Take a row's tokens so far."""
        self.seen[row, torch.tensor(prompt + answer, dtype=torch.long, device=self.seen.device)] = True
        tokens = torch.tensor(answer, dtype=torch.long, device=self.seen.device)
        self.counts[row].index_add_(0, tokens, torch.ones_like(tokens, dtype=torch.int32))

    def add(self, lines: torch.Tensor, tokens: torch.Tensor) -> None:
        """Take the next token of each of these rows."""
        self.seen[lines, tokens] = True
        self.counts[lines, tokens] += 1

    def of(self, lines: list[int]) -> _History:
        """Return it of these lines, in this order."""
        if lines == list(range(len(self.seen))):
            return self
        found = _History(0, 0, self.seen.device)
        found.seen, found.counts = self.seen[lines], self.counts[lines]
        return found

    def join(self, other: _History) -> None:
        """Put another one's lines behind these."""
        self.seen, self.counts = torch.cat([self.seen, other.seen]), torch.cat([self.counts, other.counts])


class Sampler:
    """Picks the next token of every row: by their tokens so far, how they are sampled, and their random numbers."""

    def __init__(
        self,
        vocab_size: int,
        device: torch.device,
        prompts: Sequence[list[int]] = (),
        samplings: Sequence[Sampling] = (),
        generators: Sequence[torch.Generator | None] = (),
        answers: Sequence[list[int]] = (),
    ) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.ways = [_effective(sampling) for sampling in samplings]  # of each row, as the generators
        self.generators = list(generators)
        self.history: _History | None = None  # if a penalty asks for it
        self.lines: list[int] = []  # of each row in it; rows come and go without copies
        self._forget()
        if any(map(_has_penalty, self.ways)):
            self.history, self.lines = _History(len(self.ways), vocab_size, device), list(range(len(self.ways)))
            for row, prompt in enumerate(prompts):
                self.history.begin(row, prompt, answers[row] if answers else [])

    def _forget(self) -> None:
        """Forget what holds until the rows change."""
        self._groups: list[_Group] | None = None
        self._settings: native.RowSettings | None = None

    def is_greedy(self, row: int) -> bool:
        """Whether a row takes the likeliest token as it is."""
        return self.ways[row] is GREEDY

    def take(self, other: Sampler) -> None:
        """Add the rows of another sampler behind these."""
        if self.history is not None or other.history is not None:
            history = self._histories()
            history.join(other._histories())
            self.history, self.lines = history, list(range(len(history.seen)))
        self.ways = self.ways + other.ways
        self.generators = self.generators + other.generators
        self._forget()

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; the others are finished."""
        order = rows.tolist()
        self.ways = [self.ways[row] for row in order]
        self.generators = [self.generators[row] for row in order]
        self.lines = [self.lines[row] for row in order] if self.history is not None and order else []
        if not self.lines:
            self.history = None
        self._forget()

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the next token ids [B] for logits [B, V]; NO_TOKEN where these are not numbers."""
        if all(way is GREEDY for way in self.ways):
            return native.argmax(logits)
        compiled = native.for_logits(logits)
        if compiled is not None:
            return self._pick_at_once(compiled, logits)
        if self._groups is None:
            self._groups = self._grouped()
        tokens = torch.empty(logits.shape[0], dtype=torch.long, device=logits.device)
        for group in self._groups:
            tokens[group.rows] = self._pick_alike(group, logits[group.rows])
        return tokens

    def _pick_at_once(self, compiled: native.Kernels, logits: torch.Tensor) -> torch.Tensor:
        """Pick for all rows in one call, however each is sampled."""
        if self._settings is None:
            numbers = torch.tensor([way.numbers for way in self.ways], dtype=torch.float64)
            places = torch.zeros(2, len(self.ways), dtype=torch.long)
            if self.history is not None:
                assert logits.shape[1] == self.vocab_size
                for place, held in zip(places, (self.history.seen, self.history.counts), strict=True):
                    place.copy_(torch.tensor(self.lines) * self.vocab_size * held.element_size() + held.data_ptr())
                places[:, [not _has_penalty(way) for way in self.ways]] = 0
            self._settings = native.RowSettings(numbers, *places)
        return native.sample(compiled, logits, self._settings, _uniform(self.generators))

    def _pick_alike(self, group: _Group, logits: torch.Tensor) -> torch.Tensor:
        """Return the next tokens of rows that are sampled in one way."""
        way = group.way
        if way is GREEDY:
            return native.argmax(logits)
        scores = logits.float()
        is_bad = scores.isnan().any(dim=-1)
        has_penalty = _has_penalty(way)
        if has_penalty:
            assert self.history is not None
            scores = _penalized(way, scores, self.history.seen[group.lines], self.history.counts[group.lines])
        tokens = scores.argmax(dim=-1) if way.temperature == 0 else _draw(way, scores, group.generators)
        tokens.masked_fill_(is_bad, NO_TOKEN)
        if has_penalty:
            assert self.history is not None
            self.history.add(group.lines, tokens.clamp(min=0))
        return tokens

    def _histories(self) -> _History:
        """Return what each row has, in the order of the rows; nothing where no row has asked for it."""
        if self.history is None:
            return _History(len(self.ways), self.vocab_size, self.device)
        return self.history.of(self.lines)

    def _grouped(self) -> list[_Group]:
        """Put rows that are sampled in one way together; one way for all is the usual case."""
        kinds: dict[Sampling, list[int]] = {}
        for row, way in enumerate(self.ways):
            kinds.setdefault(way, []).append(row)
        lines = self.lines or [0] * len(self.ways)
        return [
            _Group(
                way,
                slice(None) if len(kinds) == 1 else torch.tensor(rows, device=self.device),
                torch.tensor([lines[row] for row in rows], device=self.device),
                [self.generators[row] for row in rows],
            )
            for way, rows in kinds.items()
        ]


def sampler_of(rows: Sequence[Row], vocab_size: int, device: torch.device) -> Sampler:
    """Return a sampler of these rows; their random numbers go on where they were."""
    for row in rows:
        row.generator = row.generator or generator_of(row.sampling, row.request.drawn_by, row.choice)
    prompts, samplings = [row.prompt for row in rows], [row.sampling for row in rows]
    generators, answers = [row.generator for row in rows], [row.tokens for row in rows]
    return Sampler(vocab_size, device, prompts, samplings, generators, answers)


def generator_of(sampling: Sampling, request_id: RequestId, choice: int = 0) -> torch.Generator | None:
    """Return the random numbers of a row, which depend on seed, id and choice only; None where it is greedy."""
    if not sampling.temperature:
        return None
    name = f"{sampling.seed}:{request_id}" + (f":{choice}" if choice else "")
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@lru_cache(maxsize=256)  # rows of one way hold the same object, which is quick to compare
def _effective(sampling: Sampling) -> Sampling:
    found = sampling.effective  # each greedy row holds GREEDY itself, so that a step asks for identity only
    return GREEDY if found == GREEDY else found


@lru_cache(maxsize=256)
def _has_penalty(way: Sampling) -> bool:
    return bool(that_differ(way, lambda one: one.for_greedy))


def _penalized(way: Sampling, scores: torch.Tensor, seen: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return scores [B, V] after the penalties on what each row has."""
    assert way.repetition_penalty is not None
    if way.repetition_penalty != 1:
        rarer = torch.where(scores > 0, scores / way.repetition_penalty, scores * way.repetition_penalty)
        scores = torch.where(seen, rarer, scores)
    if way.frequency_penalty or way.presence_penalty:
        assert way.frequency_penalty is not None
        assert way.presence_penalty is not None
        scores = scores - (way.frequency_penalty * counts + way.presence_penalty * (counts > 0))
    return scores


def _warp(way: Sampling, scores: torch.Tensor) -> torch.Tensor:
    """Leave what transformers' warpers leave; these never look at the ids before."""
    if way.temperature != 1:
        scores = TemperatureLogitsWarper(float(way.temperature or 1.0))(None, scores)
    if way.top_k:
        scores = TopKLogitsWarper(way.top_k)(None, scores)
    if way.top_p is not None and way.top_p < 1:
        scores = _nucleus(way.top_p, scores)
    if way.min_p:  # a share of the largest probability is a distance from the largest score
        scores = scores.masked_fill(scores < scores.amax(dim=-1, keepdim=True) + math.log(way.min_p), -math.inf)
    return scores


def _nucleus(top_p: float, scores: torch.Tensor) -> torch.Tensor:
    """Do as TopPLogitsWarper, but by a stable sort: which of equal tokens go is not for the processor to say."""
    ordered, tokens = scores.sort(dim=-1, stable=True)
    is_out = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    is_out[:, -1] = False
    return scores.masked_fill(is_out.scatter(1, tokens, is_out), -math.inf)


def _uniform(generators: Sequence[torch.Generator | None]) -> torch.Tensor:
    """Return the next random number of each row [B], in float64, so that no tail is lost; 0 where it is greedy."""
    numbers = torch.zeros(len(generators), dtype=torch.float64)
    for row, generator in enumerate(generators):
        if generator is not None:
            numbers[row : row + 1].uniform_(generator=generator)
    return numbers


def _draw(way: Sampling, scores: torch.Tensor, generators: Sequence[torch.Generator | None]) -> torch.Tensor:
    # inverse of the cumulative distribution at one uniform number a row
    cumulative = _warp(way, scores).double().softmax(dim=-1).cumsum(dim=-1)
    points = _uniform(generators).to(scores.device)[:, None] * cumulative[:, -1:]
    tokens: torch.Tensor = torch.searchsorted(cumulative, points, right=True)
    return tokens.clamp_(max=scores.shape[-1] - 1).squeeze(-1)
