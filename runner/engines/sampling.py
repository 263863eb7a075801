"""From logits to the next token: greedy or sampled, each row for itself whatever its neighbours are.

A sampled row depends on (seed, sample index) and its own logits only: its random numbers are drawn in advance
from a generator of its own, and the repetition penalty looks at its own tokens, not at the padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from runner.config.generation import GenerationConfig
from runner.engines.local.kernels import native


class Sampler:
    """Picks the next token of every row of a batch."""

    def __init__(
        self,
        generation: GenerationConfig,
        seed: int,
        indices: Sequence[int | str],
        prompts: list[list[int]],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.penalty = generation.repetition_penalty
        self.greedy = generation.temperature == 0
        self.warpers = _warpers(generation)
        self.seen: torch.Tensor | None = None  # [B, V]: tokens that stand in the row already
        if self.penalty != 1:
            self.seen = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self.generators: list[torch.Generator] = []
        self.join(prompts, [] if self.greedy else [row_generator(seed, index) for index in indices])

    def join(self, texts: list[list[int]], generators: list[torch.Generator]) -> None:
        """Add rows behind those that are there: what stands in them, and where their random numbers come from."""
        self.generators += generators
        if self.seen is not None:
            new = self.seen.new_zeros(len(texts), self.seen.shape[1])
            for row, text in enumerate(texts):
                new[row, torch.tensor(text, device=new.device)] = True
            self.seen = torch.cat((self.seen, new))

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the next token ids [B] for logits [B, V]."""
        if self.greedy and self.seen is None:
            return native.argmax(logits)
        scores = logits.float()
        if self.seen is not None:
            penalized = torch.where(scores > 0, scores / self.penalty, scores * self.penalty)
            scores = torch.where(self.seen, penalized, scores)
        tokens = scores.argmax(dim=-1) if self.greedy else self._draw(scores)
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        return tokens

    def take(self, other: Sampler) -> None:
        """Add the rows of another sampler behind these."""
        self.generators += other.generators
        if self.seen is not None and other.seen is not None:
            self.seen = torch.cat((self.seen, other.seen))

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order; the others are finished."""
        if self.seen is not None:
            self.seen = self.seen[rows]
        if self.generators:
            self.generators = [self.generators[row] for row in rows.tolist()]

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        for warp in self.warpers:
            scores = warp(None, scores)  # these three never look at the input ids
        # inverse of the cumulative distribution at one uniform number a row; float64, so that no tail is lost
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        uniform = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in self.generators])
        points = uniform.to(scores.device) * cumulative[:, -1:]
        tokens: torch.Tensor = torch.searchsorted(cumulative, points, right=True)
        return tokens.clamp_(max=scores.shape[-1] - 1).squeeze(-1)


def _warpers(
    generation: GenerationConfig,
) -> list[TemperatureLogitsWarper | TopKLogitsWarper | TopPLogitsWarper]:
    warpers: list[TemperatureLogitsWarper | TopKLogitsWarper | TopPLogitsWarper] = []
    if generation.temperature == 0:
        return warpers
    if generation.temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(generation.temperature)))
    if generation.top_k > 0:
        warpers.append(TopKLogitsWarper(generation.top_k))
    if generation.top_p < 1:
        warpers.append(TopPLogitsWarper(generation.top_p))
    return warpers


def row_generator(seed: int, index: int | str) -> torch.Generator:
    """Return the random numbers of a row: they depend on the seed and on its index only."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
