"""Tokens drawn from all but some: by their probability, none that is left out, the same ones again
for a position."""

from __future__ import annotations

import pytest
import torch

from runner_engine.decode.tokens.tail_tokens import (
    draw_reproducible_random_numbers,
    draw_tokens_with_exclusions,
)
from runner_engine.sessions.base import Request

DRAWS = 200_000


@pytest.mark.sampled(1)
@pytest.mark.parametrize("vocabulary", [7, 256, 700])
def test_tokens_are_drawn_by_their_probability_among_those_that_are_not_left_out(vocabulary: int) -> None:
    scores = (2 * torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(0))).log_softmax(dim=-1)
    left_out = scores.topk(3).indices
    uniform = torch.rand(2, DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = draw_tokens_with_exclusions(scores, left_out, uniform)
    for row in range(2):
        expected = scores[row].double().exp().scatter(0, left_out[row], 0.0)
        expected /= expected.sum()
        found = torch.bincount(drawn[row], minlength=vocabulary) / DRAWS
        assert found[left_out[row]].sum() == 0
        error = (expected * (1 - expected) / DRAWS).sqrt()
        assert ((found - expected).abs() <= 5 * error + 1e-9).all()


def test_the_ends_of_the_numbers_are_tokens_too_and_so_is_nothing() -> None:
    scores = torch.tensor([[0.5, 0.3, 0.2, 0.0], [1.0, 0.0, 0.0, 0.0]]).log()
    ends = torch.tensor([[0.0, 1.0]] * 2, dtype=torch.float64)
    drawn = draw_tokens_with_exclusions(scores, torch.tensor([[0], [0]]), ends)
    assert drawn[0].tolist() == [1, 2]
    assert (drawn[1] < 4).all(), "nothing is left, and a token that is impossible adds nothing"


def test_a_position_has_the_same_numbers_however_many_come_at_once() -> None:
    request = Request(3, "x", continuation="y", top_logprobs=2, drawn_tokens=4)
    whole = draw_reproducible_random_numbers(request, 0, 10)
    assert torch.equal(
        whole,
        torch.cat(
            [draw_reproducible_random_numbers(request, 0, 3), draw_reproducible_random_numbers(request, 3, 7)]
        ),
    )
    assert not torch.equal(
        whole,
        draw_reproducible_random_numbers(
            Request(4, "x", continuation="y", top_logprobs=2, drawn_tokens=4), 0, 10
        ),
    )
