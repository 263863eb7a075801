"""The divergence over a reference's most probable tokens, compared with the one over whole
distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runner.scorers.divergence import (
    Divergence,
    compute_divergence_lower_bound,
    estimate_divergence_from_draws,
)

VOCABULARY, PLACES = 500, 40


def draw(sharp: float, difference: float) -> tuple[np.ndarray, np.ndarray]:
    """Two models' log-probabilities over a vocabulary: [T, V], float32 as engines give them."""
    generator = np.random.default_rng(0)
    scores = sharp * generator.standard_normal((PLACES, VOCABULARY))
    both = (scores, scores + difference * generator.standard_normal(scores.shape))
    ours, theirs = (one - np.log(np.exp(one).sum(axis=1, keepdims=True)) for one in both)
    return ours.astype(np.float32), theirs.astype(np.float32)


def divergence_of_top(reference: np.ndarray, these: np.ndarray, width: int) -> Divergence:
    ids = np.argsort(-reference, axis=1)[:, :width]
    reference_top, these_top = (np.take_along_axis(one, ids, axis=1) for one in (reference, these))
    same = (reference.argmax(axis=1) == these.argmax(axis=1)).tolist()
    return compute_divergence_lower_bound(
        width, reference_top.ravel().tolist(), these_top.tolist(), these.min(axis=1).tolist(), same
    )


@pytest.mark.parametrize("width", [1, 8, 64, VOCABULARY])
@pytest.mark.parametrize(("sharp", "difference"), [(1.0, 0.3), (4.0, 0.05), (12.0, 0.01)])
def test_the_true_divergence_is_between_the_estimate_and_its_bound(
    width: int, sharp: float, difference: float
) -> None:
    p, q = (one.astype(np.float64) for one in draw(sharp, difference))
    exact = float((np.exp(p) * (p - q)).sum())
    divergence = divergence_of_top(*draw(sharp, difference), width)
    noise = 1e-6 * PLACES  # of float32
    assert divergence.kl_nats - noise <= exact <= divergence.kl_nats + divergence.truncation_nats + noise
    if width == VOCABULARY:
        assert exact == pytest.approx(divergence.kl_nats, abs=noise)
        assert divergence.truncation_nats < 1e-3


def test_more_kept_tokens_make_the_bound_tighter() -> None:
    bounds = [divergence_of_top(*draw(4.0, 0.05), width).truncation_nats for width in (1, 8, 64)]
    assert bounds[0] > 2 * bounds[1] > 4 * bounds[2] > 0


def test_a_token_with_probability_0_adds_nothing_and_one_that_this_model_excludes_adds_infinity() -> None:
    reference = [math.log(0.5), math.log(0.5), -math.inf]
    alike = compute_divergence_lower_bound(3, reference, [reference], [-20.0], [True])
    assert alike.kl_nats == pytest.approx(0, abs=1e-9)
    excluded = compute_divergence_lower_bound(2, reference[:2], [[0.0, -math.inf]], [-math.inf], [False])
    assert (excluded.kl_nats, excluded.agreed) == (math.inf, 0)


def divergence_with_drawn(
    reference: np.ndarray, these: np.ndarray, width: int, drawn: int, seed: int
) -> Divergence:
    ids = np.argsort(-reference, axis=1)[:, :width]
    rest = np.exp(reference.astype(np.float64))
    np.put_along_axis(rest, ids, 0.0, axis=1)
    generator = np.random.default_rng(seed)
    others = np.stack([generator.choice(VOCABULARY, drawn, p=one / one.sum()) for one in rest])
    (top, chosen), (ours, ours_chosen) = (
        [np.take_along_axis(one, some, axis=1) for some in (ids, others)] for one in (reference, these)
    )
    both, least = np.concatenate([ours, ours_chosen], axis=1).tolist(), these.min(axis=1).tolist()
    return estimate_divergence_from_draws(
        width, top.ravel().tolist(), drawn, chosen.ravel().tolist(), both, least, [True] * PLACES
    )


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("sharp", "difference"), [(1.0, 0.3), (4.0, 0.05), (2.0, 1.0)])
def test_drawn_tokens_estimate_the_divergence_without_bias_and_say_how_exactly(
    sharp: float, difference: float
) -> None:
    p, q = (one.astype(np.float64) for one in draw(sharp, difference))
    exact = float((np.exp(p) * (p - q)).sum())
    found = [divergence_with_drawn(*draw(sharp, difference), 8, 16, seed) for seed in range(200)]
    errors = np.array([it.kl_nats - exact for it in found])
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(len(found)), "no bias beyond chance"
    assert np.mean([it.kl_variance for it in found]) == pytest.approx(errors.var(), rel=0.4)
    within = [abs(it.kl_nats - exact) < 1.96 * math.sqrt(it.kl_variance) for it in found]
    assert np.mean(within) > 0.9
    at_least = divergence_of_top(*draw(sharp, difference), 8)
    assert abs(errors).max() < exact - at_least.kl_nats, "each draw is nearer than the rest as one token"
    assert at_least.truncation_nats > 100 * errors.std()


def test_each_tokens_divergence_is_within_its_bounds() -> None:
    p, q = (one.astype(np.float64) for one in draw(4.0, 0.3))
    exact = (np.exp(p) * (p - q)).sum(axis=1)
    for it in (divergence_with_drawn(*draw(4.0, 0.3), 8, 16, 0), divergence_of_top(*draw(4.0, 0.3), 8)):
        assert (np.array(it.least) <= exact + 1e-6).all()
        assert (exact <= np.array(it.most) + 1e-6).all()
        assert (np.array(it.most) - np.array(it.least)).max() > 1e-3, "a control: they are not the same"


def test_nothing_is_added_where_no_rest_is_left() -> None:
    reference = [math.log(0.5), math.log(0.5)]
    alike = estimate_divergence_from_draws(
        2, reference, 2, [-math.inf, -math.inf], [[*reference, -20.0, -20.0]], [-20.0], [True]
    )
    assert alike.kl_nats == pytest.approx(0, abs=1e-9)
    assert alike.kl_variance == 0
