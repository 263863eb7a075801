"""Rows that are sampled in different ways in one batch: each token is what its row gets alone, and by transformers."""

from __future__ import annotations

import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from runner.engines.base import Sampling
from runner.engines.sampling import Sampler, generator_of

VOCABULARY, STEPS = 200, 6
CPU = torch.device("cpu")
WAYS = [
    Sampling(0.0, 1.0, 0, 1.0, 0),
    Sampling(0.8, 1.0, 0, 1.0, 0),
    Sampling(0.8, 1.0, 0, 1.0, 5),  # as the one before, with another seed
    Sampling(0.0, 1.0, 0, 1.5, 0),
    Sampling(1.4, 0.9, 30, 1.2, 0),
    Sampling(0.0, 0.5, 3, 1.0, 0),  # greedy, whatever else it says
    Sampling(0.8, 1.0, 0, 1.0, 0),
]
TEXTS = [[row, row + 1, 2 * row] for row in range(len(WAYS))]


def logits_at(step: int) -> torch.Tensor:
    return 4 * torch.randn(len(WAYS), VOCABULARY, generator=torch.Generator().manual_seed(step))


def sampler_of(rows: list[int]) -> Sampler:
    generators = [generator_of(WAYS[row], row) for row in rows]
    return Sampler(VOCABULARY, CPU, [TEXTS[row] for row in rows], [WAYS[row] for row in rows], generators)


def alone(row: int) -> list[int]:
    sampler = sampler_of([row])
    return [int(sampler.pick(logits_at(step)[row : row + 1])) for step in range(STEPS)]


def by_transformers(row: int) -> list[int]:
    """Return what transformers' own processors leave, drawn from at the row's random numbers."""
    way, tokens, generator = WAYS[row], list(TEXTS[row]), generator_of(WAYS[row], row)
    for step in range(STEPS):
        scores = logits_at(step)[row : row + 1]
        assert way.repetition_penalty is not None
        assert way.top_p is not None
        if way.repetition_penalty != 1:
            scores = RepetitionPenaltyLogitsProcessor(way.repetition_penalty)(torch.tensor([tokens]), scores)
        if not way.temperature:
            tokens.append(int(scores.argmax()))
            continue
        scores = TemperatureLogitsWarper(float(way.temperature))(None, scores)
        scores = TopKLogitsWarper(way.top_k)(None, scores) if way.top_k else scores
        scores = TopPLogitsWarper(way.top_p)(None, scores) if way.top_p < 1 else scores
        chance = scores.double().softmax(dim=-1)[0].cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64) * chance[-1]
        tokens.append(int((chance <= point).sum()))
    return tokens[len(TEXTS[row]) :]


def test_each_row_of_a_mixed_batch_is_as_alone() -> None:
    """Rows join in two lots, and some leave half way; the others do not notice."""
    expected = [alone(row) for row in range(len(WAYS))]
    assert expected == [by_transformers(row) for row in range(len(WAYS))]
    assert len({tuple(tokens) for tokens in expected}) == len(WAYS)
    sampler = sampler_of([0, 1, 2])
    assert sampler.seen is None, "nobody has a penalty yet"
    sampler.take(sampler_of([3, 4, 5, 6]))
    rows = list(range(len(WAYS)))
    got: list[list[int]] = [[] for _ in WAYS]
    for step in range(STEPS):
        for row, token in zip(rows, sampler.pick(logits_at(step)[rows]).tolist(), strict=True):
            got[row].append(token)
        if step == 2:
            kept = torch.tensor([6, 1, 4, 3])
            sampler.keep(kept)
            rows = [rows[at] for at in kept.tolist()]
    for row, tokens in enumerate(got):
        assert tokens == (expected[row] if row in rows else expected[row][:3])


def test_rows_of_one_way_are_picked_in_one_go() -> None:
    generators = [generator_of(WAYS[1], number) for number in range(3)]
    sampler = Sampler(VOCABULARY, CPU, TEXTS[:3], [WAYS[1]] * 3, generators)
    sampler.pick(logits_at(0)[:3])
    assert sampler._groups is not None
    assert [rows for _, rows, _ in sampler._groups] == [None]


def test_random_numbers_depend_on_seed_id_and_choice() -> None:
    warm = Sampling(1.0, 1.0, 0, 1.0, 7)
    names = [(1, 0), (1, 1), ("1", 0), ("1:1", 0), (2, 0)]
    drawn = [float(torch.rand(1, generator=generator_of(warm, *name))) for name in names]  # type: ignore[arg-type]
    assert drawn[0] == drawn[2], "an id is its text"
    assert drawn[1] == drawn[3], "choice k is the request that bears id and k"
    assert len(set(drawn)) == 3
    assert generator_of(WAYS[0], 1) is None
