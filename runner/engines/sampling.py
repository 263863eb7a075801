"""From logits to the next token: greedy or sampled, each row for itself whatever its neighbours are.

A sampled row depends on its seed, its id and its own logits only: its random numbers come from a generator of its own,
and the repetition penalty looks at its own tokens, not at the padding. On a CPU with kernels all rows are picked in one
call of C. Elsewhere it is transformers' warpers, and rows that are sampled in the same way share their operations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache
from typing import NamedTuple

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper

from runner.engines.base import RequestId, Sampling
from runner.engines.local.kernels import native
from runner.engines.rows import NO_TOKEN, Row


class _Way(NamedTuple):
    """What rows that share their operations have in common: all of their sampling but the seed."""

    temperature: float
    top_k: int
    top_p: float
    penalty: float


class _Group(NamedTuple):
    """Rows that are sampled in one way."""

    way: _Way
    rows: torch.Tensor | slice  # their places in the batch
    lines: torch.Tensor | None  # of what they have seen
    generators: list[torch.Generator | None]


class Sampler:
    """Picks the next token of every row: by their tokens so far, how they are sampled, and their random numbers."""

    def __init__(
        self,
        vocab_size: int,
        device: torch.device,
        texts: Sequence[list[int]] = (),
        samplings: Sequence[Sampling] = (),
        generators: Sequence[torch.Generator | None] = (),
    ) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.ways = [_way(sampling) for sampling in samplings]  # of each row, as the generators
        self.generators = list(generators)
        self.seen: torch.Tensor | None = (
            None  # [lines, V]: tokens that stand in a row already, if a penalty asks for it
        )
        self.lines: list[int] = []  # of each row; rows come and go without copies
        self._forget()
        if any(way.penalty != 1 for way in self.ways):
            self.seen, self.lines = self._marks(), list(range(len(self.ways)))
            for row, text in enumerate(texts):
                self.seen[row, torch.tensor(text, device=device)] = True

    def _forget(self) -> None:
        """Forget what holds until the rows change."""
        self._groups: list[_Group] | None = None
        self._settings: native.RowSettings | None = None

    def is_greedy(self, row: int) -> bool:
        """Whether a row takes the likeliest token as it is."""
        return self.ways[row] == _GREEDY

    def take(self, other: Sampler) -> None:
        """Add the rows of another sampler behind these."""
        if self.seen is not None or other.seen is not None:
            self.seen = torch.cat([self._marks(), other._marks()])
            self.lines = list(range(len(self.seen)))
        self.ways = self.ways + other.ways
        self.generators = self.generators + other.generators
        self._forget()

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; the others are finished."""
        order = rows.tolist()
        self.ways = [self.ways[row] for row in order]
        self.generators = [self.generators[row] for row in order]
        self.lines = [self.lines[row] for row in order] if self.seen is not None and order else []
        if not self.lines:
            self.seen = None
        self._forget()

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the next token ids [B] for logits [B, V]; NO_TOKEN where these are not numbers."""
        if all(way == _GREEDY for way in self.ways):
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
            numbers = torch.tensor(self.ways, dtype=torch.float64)
            temperature, top_k, top_p, penalty = (column.contiguous() for column in numbers.T)
            marks = torch.zeros(len(self.ways), dtype=torch.long)
            if self.seen is not None:
                assert logits.shape[1] == self.vocab_size
                marks = torch.tensor(self.lines) * self.vocab_size + self.seen.data_ptr()
                marks[penalty == 1] = 0
            self._settings = native.RowSettings(temperature, top_k.long(), top_p, penalty, marks)
        return native.sample(compiled, logits, self._settings, _uniform(self.generators))

    def _pick_alike(self, group: _Group, logits: torch.Tensor) -> torch.Tensor:
        """Return the next tokens of rows that are sampled in one way."""
        way = group.way
        if way == _GREEDY:
            return native.argmax(logits)
        scores = logits.float()
        is_bad = scores.isnan().any(dim=-1)
        if group.lines is not None:
            assert self.seen is not None
            penalized = torch.where(scores > 0, scores / way.penalty, scores * way.penalty)
            scores = torch.where(self.seen[group.lines], penalized, scores)
        tokens = scores.argmax(dim=-1) if way.temperature == 0 else _draw(way, scores, group.generators)
        tokens.masked_fill_(is_bad, NO_TOKEN)
        if group.lines is not None:
            assert self.seen is not None
            self.seen[group.lines, tokens.clamp(min=0)] = True
        return tokens

    def _marks(self) -> torch.Tensor:
        """Return the tokens that are seen [B, V]; none where no row has asked for them."""
        if self.seen is None:
            return torch.zeros(len(self.ways), self.vocab_size, dtype=torch.bool, device=self.device)
        return self.seen if self.lines == list(range(len(self.seen))) else self.seen[self.lines]

    def _grouped(self) -> list[_Group]:
        """Put rows that are sampled in one way together; one way for all is the usual case."""
        kinds: dict[_Way, list[int]] = {}
        for row, way in enumerate(self.ways):
            kinds.setdefault(way, []).append(row)
        return [
            _Group(
                way,
                slice(None) if len(kinds) == 1 else torch.tensor(rows, device=self.device),
                None if way.penalty == 1 else torch.tensor([self.lines[row] for row in rows], device=self.device),
                [self.generators[row] for row in rows],
            )
            for way, rows in kinds.items()
        ]


def sampler_of(rows: Sequence[Row], vocab_size: int, device: torch.device) -> Sampler:
    """Return a sampler of these rows; their random numbers go on where they were."""
    for row in rows:
        row.generator = row.generator or generator_of(row.sampling, row.request.drawn_by, row.choice)
    texts, samplings = [row.prompt + row.tokens for row in rows], [row.sampling for row in rows]
    return Sampler(vocab_size, device, texts, samplings, [row.generator for row in rows])


def generator_of(sampling: Sampling, request_id: RequestId, choice: int = 0) -> torch.Generator | None:
    """Return the random numbers of a row, which depend on seed, id and choice only; None where it is greedy."""
    if not sampling.temperature:
        return None
    name = f"{sampling.seed}:{request_id}" + (f":{choice}" if choice else "")
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


_GREEDY = _Way(0.0, 0, 1.0, 1.0)


@lru_cache(maxsize=256)  # rows of one way hold the same object, which is quick to compare
def _way(sampling: Sampling) -> _Way:
    temperature, top_p, top_k, penalty, _ = astuple(sampling)
    return _Way(temperature, top_k, top_p, penalty) if temperature else _GREEDY._replace(penalty=penalty)


def _warp(way: _Way, scores: torch.Tensor) -> torch.Tensor:
    """Leave what transformers' warpers leave; these never look at the ids before."""
    if way.temperature != 1:
        scores = TemperatureLogitsWarper(float(way.temperature))(None, scores)
    if way.top_k > 0:
        scores = TopKLogitsWarper(way.top_k)(None, scores)
    return scores if way.top_p == 1 else _nucleus(way.top_p, scores)


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


def _draw(way: _Way, scores: torch.Tensor, generators: Sequence[torch.Generator | None]) -> torch.Tensor:
    # inverse of the cumulative distribution at one uniform number a row
    cumulative = _warp(way, scores).double().softmax(dim=-1).cumsum(dim=-1)
    points = _uniform(generators).to(scores.device)[:, None] * cumulative[:, -1:]
    tokens: torch.Tensor = torch.searchsorted(cumulative, points, right=True)
    return tokens.clamp_(max=scores.shape[-1] - 1).squeeze(-1)
