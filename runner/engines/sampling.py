"""From logits to the next token: greedy or sampled, each row for itself whatever its neighbours are.

A sampled row depends on its seed, its id and its own logits only: its random numbers are drawn in advance from a
generator of its own, and the repetition penalty looks at its own tokens, not at the padding. Rows that are sampled in
the same way share their operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple
from functools import lru_cache
from typing import NamedTuple

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from runner.engines.base import RequestId, Sampling
from runner.engines.local.kernels import native
from runner.engines.rows import NO_TOKEN, Row

Warper = TemperatureLogitsWarper | TopKLogitsWarper | TopPLogitsWarper


class _Way(NamedTuple):
    """What rows that share their operations have in common: all of their sampling but the seed."""

    temperature: float
    top_k: int
    top_p: float
    penalty: float


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
        self.seen: torch.Tensor | None = None  # [B, V]: tokens that stand in the row already, if a penalty asks for it
        self._groups: list[tuple[_Way, torch.Tensor | None, list[torch.Generator | None]]] | None = None
        if any(way.penalty != 1 for way in self.ways):
            self.seen = self._marks()
            for row, text in enumerate(texts):
                self.seen[row, torch.tensor(text, device=device)] = True

    def take(self, other: Sampler) -> None:
        """Add the rows of another sampler behind these."""
        if self.seen is not None or other.seen is not None:
            self.seen = torch.cat([self._marks(), other._marks()])
        self.ways = self.ways + other.ways
        self.generators = self.generators + other.generators
        self._groups = None

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; the others are finished."""
        if self.seen is not None:
            self.seen = self.seen[rows]
        order = rows.tolist()
        self.ways = [self.ways[row] for row in order]
        self.generators = [self.generators[row] for row in order]
        self._groups = None

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the next token ids [B] for logits [B, V]; NO_TOKEN where these are not numbers."""
        if self._groups is None:
            self._groups = self._grouped()
        if len(self._groups) == 1:
            way, _, generators = self._groups[0]
            return self._pick(way, logits, None, generators)
        tokens = torch.empty(logits.shape[0], dtype=torch.long, device=logits.device)
        for way, rows, generators in self._groups:
            assert rows is not None
            tokens[rows] = self._pick(way, logits[rows], rows, generators)
        return tokens

    def _pick(
        self, way: _Way, logits: torch.Tensor, rows: torch.Tensor | None, generators: list[torch.Generator | None]
    ) -> torch.Tensor:
        """Return the next tokens of rows that are sampled in one way; rows None = all of the batch."""
        if way.temperature == 0 and way.penalty == 1:
            return native.argmax(logits)
        scores = logits.float()
        is_bad = scores.isnan().any(dim=-1)
        if way.penalty != 1:
            assert self.seen is not None
            seen = self.seen if rows is None else self.seen[rows]
            penalized = torch.where(scores > 0, scores / way.penalty, scores * way.penalty)
            scores = torch.where(seen, penalized, scores)
        tokens = scores.argmax(dim=-1) if way.temperature == 0 else _draw(way, scores, generators)
        tokens.masked_fill_(is_bad, NO_TOKEN)
        if way.penalty != 1:
            assert self.seen is not None
            marked = tokens.clamp(min=0)
            if rows is None:
                self.seen.scatter_(1, marked[:, None], True)
            else:
                self.seen[rows, marked] = True
        return tokens

    def _marks(self) -> torch.Tensor:
        """Return the tokens that are seen [B, V]; none where no row has asked for them."""
        if self.seen is not None:
            return self.seen
        return torch.zeros(len(self.ways), self.vocab_size, dtype=torch.bool, device=self.device)

    def _grouped(self) -> list[tuple[_Way, torch.Tensor | None, list[torch.Generator | None]]]:
        """Put rows that are sampled in one way together; one way for all is the usual case."""
        if self.ways.count(self.ways[0]) == len(self.ways):
            return [(self.ways[0], None, self.generators)]
        kinds: dict[_Way, list[int]] = {}
        for row, way in enumerate(self.ways):
            kinds.setdefault(way, []).append(row)
        return [
            (way, torch.tensor(rows, device=self.device), [self.generators[row] for row in rows])
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


@lru_cache(maxsize=256)  # rows of one way hold the same object, which is quick to compare
def _way(sampling: Sampling) -> _Way:
    temperature, top_p, top_k, penalty, _ = astuple(sampling)
    return _Way(temperature, top_k, top_p, penalty) if temperature else _Way(0.0, 0, 1.0, penalty)


@lru_cache(maxsize=256)
def _warpers(way: _Way) -> list[Warper]:
    warpers: list[Warper] = []
    if way.temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(way.temperature)))
    if way.top_k > 0:
        warpers.append(TopKLogitsWarper(way.top_k))
    if way.top_p < 1:
        warpers.append(TopPLogitsWarper(way.top_p))
    return warpers


def _draw(way: _Way, scores: torch.Tensor, generators: Sequence[torch.Generator | None]) -> torch.Tensor:
    for warp in _warpers(way):
        scores = warp(None, scores)  # these three never look at the input ids
    # inverse of the cumulative distribution at one uniform number a row; float64, so that no tail is lost
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.stack([torch.rand(1, generator=one, dtype=torch.float64) for one in generators])
    points = uniform.to(scores.device) * cumulative[:, -1:]
    tokens: torch.Tensor = torch.searchsorted(cumulative, points, right=True)
    return tokens.clamp_(max=scores.shape[-1] - 1).squeeze(-1)
