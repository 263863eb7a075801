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


def test_the_time_left_is_right_although_short_answers_end_first() -> None:
    """Sixty rows decode one token each per second; 17 end early, the others reach the limit of 2,048."""
    lengths, progress = [20 + 40 * number for number in range(17)] + [2048] * 43, SequenceProgress()
    ended = 0
    for tokens in (700, 1000, 1500):
        now_ended = [length for length in lengths if length <= tokens]
        for length in now_ended[ended:]:
            progress.count_finished(
                [rows(1, tokens=length, limit=2048)[0].to_completion(FinishReason.stop, 1.0)]
            )
        ended = len(now_ended)
        made = sum(min(length, tokens) for length in lengths)
        stats = EngineStats(decode_s=float(made), decode_tokens=made)
        position = ended + progress.estimate_completed_requests(rows(60 - ended, tokens, limit=2048), stats)
        left_s = (60 - position) * made / position
        assert abs(left_s / (sum(lengths) - made) - 1) < 0.05, tokens


def test_the_time_that_prompts_took_is_progress() -> None:
    stats = EngineStats(prefill_s=10.0, prefill_tokens=6400, decode_s=1.0, decode_tokens=1000)
    share = SequenceProgress().estimate_completed_requests(rows(64, tokens=1), stats) / 64
    prompt_s, left_s = 100 * 10.0 / 6400, 511 * 1.0 / 1000
    assert abs(share - (prompt_s + 0.001) / (prompt_s + 0.001 + left_s)) < 1e-9


def test_several_answers_to_one_question_are_one_piece_of_work() -> None:
    stats = EngineStats(prefill_s=1.0, prefill_tokens=800, decode_s=1.0, decode_tokens=100)
    assert SequenceProgress().estimate_completed_requests(rows(8, tokens=500, n=8), stats) <= 1
