"""The progress of rows that have not ended: not that of the shortest answers, and with their
prompts."""

from __future__ import annotations

from runner_base.result import FinishReason
from runner_engine.decode.sequence_progress import SequenceProgress
from runner_engine.decode.sequences import TokenSequence
from runner_engine.sessions.base import Request
from runner_engine.sessions.stats import EngineStats


def rows(count: int, tokens: int, limit: int = 512, n: int = 1) -> list[TokenSequence]:
    return [
        TokenSequence(Request(number, "?", n=n), [1] * 100, "", limit, tokens=[2] * tokens)
        for number in range(count)
    ]


def test_one_short_answer_does_not_make_the_others_almost_done() -> None:
    progress, active = SequenceProgress(), rows(127, tokens=6)
    ended = rows(1, tokens=5)[0]
    progress.count_finished([ended.to_completion(FinishReason.stop, 1.0)])
    stats = EngineStats(prefill_s=10.0, prefill_tokens=12_800, decode_s=3.0, decode_tokens=640)
    assert progress.estimate_completed_requests(active, stats) < 20, (
        "each of the others is at its sixth token"
    )


def test_the_time_that_prompts_took_is_progress() -> None:
    stats = EngineStats(prefill_s=10.0, prefill_tokens=6400, decode_s=1.0, decode_tokens=1000)
    share = SequenceProgress().estimate_completed_requests(rows(64, tokens=1), stats) / 64
    prompt_s, left_s = 100 * 10.0 / 6400, 511 * 1.0 / 1000
    assert abs(share - (prompt_s + 0.001) / (prompt_s + 0.001 + left_s)) < 1e-9


def test_several_answers_to_one_question_are_one_piece_of_work() -> None:
    stats = EngineStats(prefill_s=1.0, prefill_tokens=800, decode_s=1.0, decode_tokens=100)
    assert SequenceProgress().estimate_completed_requests(rows(8, tokens=500, n=8), stats) <= 1
