"""Guessed tokens that are checked several at a time: the answers are those of one token at a time,
whatever ends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from streams import PROMPTS

from runner_base.console import StderrFilter
from runner_base.dtypes import Dtype
from runner_engine.attention.device_attention import FORCED
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import ngram_speculation
from runner_engine.decode.tokens.ngram_speculation import (
    MAX_ROWS,
    MIN_PLAIN_PASSES,
    PAUSE,
    TRIALS,
    NgramLookup,
    NgramSpeculator,
)
from runner_engine.kernels import native
from runner_engine.local.engine import LocalEngine
from runner_engine.quantization.base import QuantizationConfig
from runner_engine.quantization.bitsandbytes import Int8Config
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Delta, Request
from runner_engine.sessions.stats import EngineStats
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import LocalModelConfig
from runner_engine.settings.sampling import Sampling
from runner_engine.settings.speculation import SpeculationConfig

kernels = native.load_kernels()
pytestmark = pytest.mark.skipif(kernels is None, reason="no C compiler is here, so no pass is checked")
NEW_TOKENS = 90
MANY = 100
MORE = {
    "limits": [Request(f"limit {limit}", PROMPTS[1], max_new_tokens=limit) for limit in (1, 2, 3, 17, 62)],
    "penalty": [Request("penalty", PROMPTS[2], sampling=Sampling(repetition_penalty=1.3))],
    "sampled": [Request("sampled", PROMPTS[2], sampling=Sampling(temperature=0.8), n=2)],
}


@pytest.fixture(autouse=True)
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels attend, whatever is forced outside: only a pass of theirs checks what was
    guessed."""
    monkeypatch.delenv(FORCED, raising=False)


@pytest.fixture
def engine_of(
    opened: Callable[..., LocalEngine], saved_family: Callable[..., Path]
) -> Callable[..., LocalEngine]:
    def make(
        speculate: SpeculationConfig = SpeculationConfig.auto,
        folder: Path | None = None,
        dtype: Dtype = Dtype.float32,
        quantization: QuantizationConfig | None = None,
    ) -> LocalEngine:
        folder = folder or saved_family("llama", max_position_embeddings=512)
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS, speculate=speculate)
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=dtype)
        groups = {} if quantization is None else {"quantization": quantization}
        return opened(model=model, generation=generation, **groups)

    return make


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guess whenever possible, whatever the clock says: with tiny models guessing saves no time."""
    monkeypatch.setattr(ngram_speculation._PassTimings, "is_worthwhile", lambda _: True)


def ended(engine: LocalEngine, asked: Sequence[Request], rows: int) -> dict[Any, tuple[Any, ...]]:
    return {
        (done.id, done.choice): (
            done.answer.token_ids,
            done.answer.text,
            done.answer.finish_reason,
            done.error,
        )
        for done in contract.complete_requests(engine, asked, rows)
    }


@pytest.mark.thorough
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("family", "dtype", "rows"),
    [
        ("llama", Dtype.float32, 1),
        ("llama", Dtype.float32, 3),
        ("llama", Dtype.bfloat16, 1),
        ("qwen2", Dtype.bfloat16, 4),
    ],
)
def test_answers_are_those_of_one_token_at_a_time(
    family: str,
    dtype: Dtype,
    rows: int,
    engine_of: Callable[..., LocalEngine],
    saved_family: Callable[..., Path],
) -> None:
    """With limits, stop texts and stop tokens that lie within guesses, and beside rows that are not
    guessed for."""
    folder = saved_family(family, max_position_embeddings=512)
    plain, guessing = (
        engine_of(speculate, folder, dtype) for speculate in (SpeculationConfig.off, SpeculationConfig.auto)
    )
    free = [Request(at, prompt) for at, prompt in enumerate(PROMPTS)]
    alone = ended(plain, free, rows)
    asked = [*free, *(request for some in MORE.values() for request in some)]
    for (at, _), (_, text, *_) in list(alone.items())[:4]:
        asked += [Request(f"{at} to {end}", PROMPTS[at], stop=(text[end : end + 2],)) for end in (9, 40, 70)]
    before = plain.stats.decode_tokens
    expected = ended(plain, asked, rows)
    assert ended(guessing, asked, rows) == expected
    stats = guessing.stats
    assert stats.accepted_tokens >= MANY
    assert stats.accepted_tokens < stats.draft_tokens, "some were wrong"
    assert (
        stats.decode_tokens
        == plain.stats.decode_tokens - before
        == sum(len(it[0]) - 1 for it in expected.values())
    )
    assert plain.stats.draft_tokens == 0
    # a token that ends answers, amid what was guessed
    end = alone[0, 0][0][60]
    for engine in (plain, guessing):
        engine.loaded.model.generation_config.eos_token_id = end
    assert ended(guessing, free, rows) == ended(plain, free, rows) != alone


@pytest.mark.thorough
@pytest.mark.usefixtures("eager")
def test_rows_beyond_the_end_of_a_window(
    engine_of: Callable[..., LocalEngine], saved_family: Callable[..., Path]
) -> None:
    """What a window hides from a row does not depend on the rows and tokens beside it."""
    folder = saved_family("mistral", max_position_embeddings=512, sliding_window=64)
    plain, guessing = (
        engine_of(speculate, folder) for speculate in (SpeculationConfig.off, SpeculationConfig.auto)
    )
    asked = [Request(0, "y"), Request(1, "Nothing in common.")]
    assert ended(guessing, asked, 1) == ended(plain, asked, 1)
    assert guessing.fused is not None
    assert guessing.fused.positions == 512
    assert guessing.stats.draft_tokens > 64


@pytest.mark.thorough
@pytest.mark.usefixtures("eager")
def test_later_turns_stand_on_what_was_guessed_right(engine_of: Callable[..., LocalEngine]) -> None:
    """Keys and values of wrong guesses do no harm, neither in conversations nor in blocks of
    prompts."""
    plain, guessing = engine_of(SpeculationConfig.off), engine_of()
    for kept in ({"keep": True}, {"recurring": True}):
        text = PROMPTS[1]
        for turn in range(3):
            request = Request(turn, text, max_new_tokens=41, **kept)  # type: ignore[arg-type]
            [expected], [done] = (
                contract.complete_requests(plain, [request]),
                contract.complete_requests(guessing, [request]),
            )
            assert done.answer.token_ids == expected.answer.token_ids
            text += done.answer.text + " and"
    assert MANY // 5 <= guessing.stats.accepted_tokens <= guessing.stats.draft_tokens


@pytest.mark.thorough
@pytest.mark.usefixtures("eager")
def test_deltas_and_a_cancelled_row(engine_of: Callable[..., LocalEngine]) -> None:
    """With nothing in common: on some processors rows that share a beginning are not guessed
    for."""
    prompts = (PROMPTS[2], PROMPTS[-2])
    plain = ended(
        engine_of(SpeculationConfig.off),
        [Request(number, prompt) for number, prompt in enumerate(prompts)],
        1,
    )
    whole, of_cancelled = (plain[number, 0][1] for number in range(2))
    guessing = engine_of()
    texts, ends = {0: "", 1: ""}, dict[Any, Completion]()
    with guessing.open() as session:
        for number in texts:
            session.submit(Request(number, prompts[number], deltas=True))
        while len(ends) < 2:
            for event in session.step():
                if isinstance(event, Delta):
                    texts[int(event.id)] += event.text
                elif isinstance(event, Completion):
                    ends[event.id] = event
            if len(texts[1]) > 40:
                session.cancel(1)
    assert texts[0] == ends[0].answer.text == whole
    assert texts[1] == ends[1].answer.text
    assert of_cancelled.startswith(texts[1])
    assert len(texts[1]) < len(of_cancelled)
    assert guessing.stats.accepted_tokens > 0


@pytest.mark.usefixtures("eager")
def test_nothing_is_guessed_where_it_could_change_an_answer_or_a_measurement(
    engine_of: Callable[..., LocalEngine], saved_family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampled rows, rows of a measurement, many rows, models whose passes are many calls, rows that
    depend on their batch."""
    prompt = PROMPTS[0]
    guessing = engine_of()
    for request in (*MORE["sampled"], *MORE["penalty"], Request(0, prompt, ignore_eos=True)):
        list(contract.complete_requests(guessing, [request]))
    list(contract.complete_requests(guessing, [Request(at, prompt) for at in range(MAX_ROWS + 1)]))
    assert guessing.stats.draft_tokens == 0
    other = engine_of(folder=saved_family("llama", max_position_embeddings=512, hidden_act="tanh"))
    list(contract.complete_requests(other, [Request(0, prompt)]))
    assert kernels is None or (other.fused is not None and other.fused.has_separate_mlps)
    assert other.stats.draft_tokens == 0
    if kernels is not None:
        int8 = engine_of(quantization=Int8Config())
        list(contract.complete_requests(int8, [Request(0, prompt)]))
        assert int8.fused is not None
        assert int8.stats.draft_tokens == 0
    monkeypatch.setattr(ngram_speculation, "are_multi_token_logits_exact", lambda *_: False)
    list(contract.complete_requests(guessing, [Request(0, prompt)]))
    assert guessing.stats.draft_tokens == 0, "a trial has said that it would differ"


def test_what_followed_before_is_guessed() -> None:
    assert NgramLookup([1, 2, 3, 4]).draft([], 3) == []
    lookup = NgramLookup([1, 2, 3, 4])
    assert lookup.draft([2, 3], 2) == [4, 2]
    assert lookup.draft([2, 3, 9, 2, 3], 2) == [9, 2], "the last time counts"
    assert lookup.draft([2, 3, 9, 2, 3, 1, 2, 3], 1) == [4], "three tokens say more than two"
    assert NgramLookup([5, 7, 8, 7, 8, 7, 8]).draft([], 5) == [7, 8, 7, 8, 7], "what repeats itself goes on"
    lookup.adjust_draft_length(3, 3)
    assert lookup.most == 6
    lookup.adjust_draft_length(6, 0)
    assert lookup.most == 2


def test_guesses_that_do_not_pay_pause_for_longer_each_time(
    engine_of: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="runner_engine")
    now = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: now)
    monkeypatch.setattr(ngram_speculation, "_can_verify_exactly", lambda *_: True)
    monkeypatch.setattr(NgramSpeculator, "_draft", lambda *_: [3, 1])
    monkeypatch.setattr(NgramSpeculator, "_has_exact_multi_token_logits", lambda *_: True)
    here, row = NgramSpeculator(EngineStats(), True), TokenSequence(Request(0, ()), [1, 2], "", 99)

    class Greedy:
        vocab_size = 9

        def is_greedy(self, _: int) -> bool:
            return True

    def passes(drafted_s: float, tokens: int) -> bool:
        nonlocal now
        drafts = here.propose_drafts([row], None, Greedy())  # type: ignore[arg-type]
        now += drafted_s if drafts else 1.0
        here.record_step(tokens if drafts else None)
        return bool(drafts)

    def until(wanted: bool, drafted_s: float, tokens: int) -> int:
        return next(count for count in range(9999) if passes(drafted_s, tokens) is wanted)

    assert until(True, 1.5, 3) == MIN_PLAIN_PASSES, "first it has to be known what a pass takes"
    assert all(passes(1.5, 3) for _ in range(50)), "three tokens in the time of one and a half"
    assert until(False, 4.0, 1) < 40
    assert until(True, 1.2, 1) == PAUSE - 2
    assert until(False, 1.2, 1) == TRIALS - 1
    assert until(True, 1.2, 1) == 2 * PAUSE - 2
    assert until(False, 1.2, 1) == TRIALS - 1
    assert until(True, 1.5, 3) == 4 * PAUSE - 2
    assert all(passes(1.5, 3) for _ in range(50)), "and for as long as it pays"
    records = [record for record in caplog.records if record.name == ngram_speculation.__name__]
    assert records
    assert not any(StderrFilter().filter(record) for record in records), "for the log alone"
