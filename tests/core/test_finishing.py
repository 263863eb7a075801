"""Within how many tokens answers finish: the curve by hand, by scipy, and what is said where it
ends too early."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import CensoredData, ecdf

from runner.core.finishing import AnswerLength, FinishingCurve, LimitCost, measure_answer_lengths
from runner_base.model_text import Answer, FinishReason
from runner_base.notes import note


def test_the_curve_is_kaplan_and_meiers() -> None:
    generator = np.random.default_rng(3)
    lengths, limits = generator.integers(1, 60, (2, 300))
    seen = [
        AnswerLength(int(min(pair)), bool(pair[0] <= pair[1])) for pair in zip(lengths, limits, strict=True)
    ]
    data = CensoredData(
        uncensored=[it.tokens for it in seen if it.finished],
        right=[it.tokens for it in seen if not it.finished],
    )
    curve = ecdf(data).cdf
    assert FinishingCurve.estimate_from_answer_lengths(seen).reached == pytest.approx(curve.probabilities[-1])
    for wanted in (0.2, 0.5, 0.8):
        assert (
            FinishingCurve.estimate_from_answer_lengths(seen, wanted).tokens
            == curve.quantiles[int(np.argmax(curve.probabilities >= wanted))]
        )
    finished = FinishingCurve.estimate_from_answer_lengths(
        [AnswerLength(tokens, True) for tokens in range(1, 101)]
    )
    assert (finished.reached, finished.tokens, finished.low, finished.high) == (1.0, 95, 90, 100)


def test_what_cannot_be_told_is_not_told_and_twice_the_limit_has_a_price() -> None:
    cut = FinishingCurve.estimate_from_answer_lengths(
        [AnswerLength(20, True)] * 6 + [AnswerLength(30, False)] * 4
    )
    assert cut.metrics == {"finished_share": 0.6}
    assert cut.make_token_limit_advice_note(30, 100.0) == note(
        "enough_tokens_unknown", wanted=0.95, reached=0.6, limit=30, longer=60, price=LimitCost(120, 1.2)
    )
    longer = FinishingCurve.estimate_from_answer_lengths(
        [AnswerLength(20, True)] * 96 + [AnswerLength(30, False)] * 4
    )
    assert longer.metrics == {"finished_share": 0.96, "max_new_tokens_for_95_percent": 20}
    assert longer.make_token_limit_advice_note(30, None) == note(
        "enough_tokens", wanted=0.95, tokens=20, low=20, high=None, price=None
    )
    mixed = FinishingCurve.estimate_from_answer_lengths(
        [AnswerLength(10, False)] * 10 + [AnswerLength(20, True)] * 10 + [AnswerLength(40, True)]
    )
    assert mixed.make_token_limit_advice_note(30, None).values["price"] == LimitCost(300, None)


def test_the_limit_counts_the_answer_alone_where_thinking_has_a_budget() -> None:
    thought = Answer(
        "3", list(range(50)), FinishReason.length, thinking="2+1", thinking_tokens=40, answer_tokens=9
    )
    failed = Answer("", [], FinishReason.error)
    plain = Answer("3", [1, 2], FinishReason.stop)
    assert measure_answer_lengths([thought, failed, plain]) == [(50, False), (2, True)]
    assert measure_answer_lengths([thought, failed, plain], without_thinking=True) == [(9, False), (2, True)]
