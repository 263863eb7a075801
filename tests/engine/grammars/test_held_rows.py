"""Rows whose answers a grammar holds: every answer is of it, however it is drawn, and other rows
stay as they are."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from grammar_walks import begun, grammars_of
from raising import raises
from scipy.stats import chisquare
from thoughtful import thinking_model
from transformers import AutoTokenizer

from runner_base import ConfigError, FinishReason
from runner_base.dtypes import Dtype
from runner_engine import embedded
from runner_engine.grammars import GrammarCache, GrammarState, mask_disallowed_tokens
from runner_engine.grammars.grammar_state import MOST_MASK_S, TOO_COMPLEX
from runner_engine.local.engine import LocalEngine
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import contract
from runner_engine.sessions.base import Completion, Message, Request
from runner_engine.settings.generation import GenerationConfig
from runner_engine.settings.model import Attention, LocalModelConfig
from runner_engine.settings.sampling import Sampling
from runner_engine.tool_calls import build_json_rule

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "sub": {
            "type": "object",
            "properties": {"x": {"type": "boolean"}},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "sub"],
    "additionalProperties": False,
}
GRAMMAR = f"start: {build_json_rule(SCHEMA)}"
QUESTIONS = ("Tom has 8 pens. Tom buys 5 more.", "Ann has 3 apples.", "Sam sells 4 cups.")
NEW_TOKENS = 160

Make = Callable[..., LocalEngine]


@pytest.fixture
def engine_of(opened: Make) -> Make:
    def make(
        folder: Path = embedded.MODEL_DIR, speculate: Any = "off", attention: Attention = Attention.auto
    ) -> LocalEngine:
        generation = GenerationConfig(max_new_tokens=NEW_TOKENS, speculate=speculate)
        model = LocalModelConfig(name=str(folder), device="cpu", dtype=Dtype.float32, attention=attention)
        return opened(model=model, generation=generation)

    return make


def ended(engine: LocalEngine, asked: Sequence[Request], rows: int | None = None) -> Any:
    return {(done.id, done.choice): done for done in contract.complete_requests(engine, asked, rows)}


def tokens(done: dict[Any, Completion]) -> dict[Any, list[int]]:
    assert not any(one.error for one in done.values()), [one.error for one in done.values()]
    return {key: one.answer.token_ids for key, one in done.items()}


def fits(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@pytest.mark.thorough
@pytest.mark.slow
def test_hundreds_of_answers_are_of_the_schema_and_without_a_grammar_none_is(engine_of: Make) -> None:
    engine, answers = engine_of(), list[Completion]()
    drawn = [Sampling(temperature=heat, seed=seed) for seed in range(3) for heat in (0.7, 2.0, 10)]
    asked = [
        Request(f"{at} {question}", question, sampling=how, n=16, grammar=GRAMMAR)
        for at, how in enumerate(drawn)
        for question in QUESTIONS[:2]
    ]
    asked += [Request(question, question, grammar=GRAMMAR) for question in QUESTIONS]
    answers += ended(engine, asked).values()
    assert len(answers) == 9 * 2 * 16 + 3
    assert {one.answer.finish_reason for one in answers} == {FinishReason.stop}
    assert all(fits(one.answer.text) for one in answers)
    assert len({one.answer.text for one in answers}) > 200
    free = [Request(f"free {one.id}", one.prompt, sampling=one.sampling, n=one.n) for one in asked]
    assert not any(fits(one.answer.text) for one in ended(engine, free).values())


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, None])
@pytest.mark.parametrize("speculate", ["off", "ngram", "draft"])
def test_rows_are_as_alone_beside_others(speculate: str, rows: int | None, engine_of: Make) -> None:
    """Free rows keep their guesses, and rows that a grammar holds get none."""
    chosen: Any = {"draft": {"kind": "draft", "layers": 1, "tokens": 3}}.get(speculate, speculate)
    free = [Request(question, question) for question in QUESTIONS]
    free += [
        Request(f"drawn {at}", question, sampling=Sampling(temperature=0.9), n=2)
        for at, question in enumerate(QUESTIONS)
    ]
    held = [Request(f"held {one.id}", one.prompt, sampling=one.sampling, n=one.n, grammar=GRAMMAR)
            for one in free]  # fmt: skip
    plain = engine_of()
    alone = tokens(ended(plain, free)) | tokens(ended(plain, held))
    mixed = [one for pair in zip(free, held, strict=True) for one in pair]
    engine = engine_of(speculate=chosen)
    together = ended(engine, mixed, rows)
    assert tokens(together) == alone
    assert all(fits(one.answer.text) for key, one in together.items() if "held" in key[0])
    if speculate != "off":
        assert engine.stats.draft_tokens > 0


def test_other_ways_of_decoding_give_the_same_tokens(engine_of: Make) -> None:
    asked = [Request(question, question, grammar=GRAMMAR) for question in QUESTIONS]
    static = engine_of(attention=Attention.eager)
    done = ended(static, asked)
    assert "static batching" in static.load().facts["decoding"]
    assert tokens(done) == tokens(ended(engine_of(), asked))
    assert all(fits(one.answer.text) for one in done.values())


@pytest.mark.thorough
def test_an_answer_that_is_cut_off_says_so(engine_of: Make) -> None:
    asked = [Request(limit, QUESTIONS[0], max_new_tokens=limit, grammar=GRAMMAR) for limit in (1, 7)]
    asked.append(Request("whole", QUESTIONS[0], grammar=GRAMMAR))
    done = ended(engine_of(), asked)
    whole = done["whole", 0].answer
    for limit in (1, 7):
        answer = done[limit, 0].answer
        assert answer.finish_reason is FinishReason.length
        assert answer.token_ids == whole.token_ids[:limit]
        assert not fits(answer.text)
    exact = Request("exact", QUESTIONS[0], max_new_tokens=len(whole.token_ids), grammar=GRAMMAR)
    (at_limit,) = ended(engine_of(), [exact]).values()
    assert at_limit.answer.finish_reason is FinishReason.stop, "it was complete at its limit"


@pytest.mark.thorough
@pytest.mark.slow
def test_what_may_come_keeps_its_proportions(engine_of: Make) -> None:
    """Drawn as from the model's distribution among the tokens that the grammar allows."""
    engine = engine_of()
    ids = [engine_ids(engine, text) for text in ("5", "7", "3")]
    scored = Request("scores", QUESTIONS[0], continuation=(ids[0],), score_token_ids=[ids])
    ((_, score),) = ended(engine, [scored]).items()
    assert score.score_token_logprobs is not None
    weights = [math.exp(one / 1.5) for one in score.score_token_logprobs[0]]
    drawn = Sampling(temperature=1.5, seed=4)
    asked = Request("drawn", QUESTIONS[0], sampling=drawn, n=2000, grammar='start: "5" | "7" | "3"')
    found = Counter(one.answer.text for one in ended(engine, [asked], 100).values())
    assert set(found) <= {"5", "7", "3"}
    expected = [2000 * weight / sum(weights) for weight in weights]
    assert min(expected) > 5
    assert chisquare([found[text] for text in ("5", "7", "3")], expected).pvalue > 0.001
    even = chisquare([found[text] for text in ("5", "7", "3")])
    assert even.pvalue < 0.001, "another distribution would have been seen"


def engine_ids(engine: LocalEngine, text: str) -> int:
    engine.load()
    (token,) = engine.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(token)


@pytest.mark.thorough
def test_it_begins_behind_the_thinking_that_the_prompt_has_begun(engine_of: Make, tmp_path: Path) -> None:
    engine = engine_of(thinking_model(tmp_path / "thinks"))
    chat = (Message("user", QUESTIONS[0]),)
    asked = Request("a", chat, grammar=GRAMMAR, thinking_tokens=9, deltas=True)
    events = list[Any]()
    (done,) = contract.complete_requests(engine, [asked], listener=events.extend)
    parts = done.answer.parts
    assert parts.has_thinking
    assert not fits(parts.thinking)
    assert done.answer.thinking_tokens == 9
    assert done.answer.finish_reason is FinishReason.stop
    assert fits(parts.answer)
    streamed = [one for one in events if not isinstance(one, Completion)]
    assert "".join(one.text for one in streamed if not one.thinking) == parts.answer
    assert "".join(one.text for one in streamed if one.thinking) == parts.thinking


def test_tags_in_an_answer_are_no_thinking(engine_of: Make) -> None:
    grammar = r'start: "[\"<think> no </think> yes\"]"'
    (done,) = ended(engine_of(), [Request("a", QUESTIONS[0], grammar=grammar)]).values()
    assert done.answer.text == done.answer.parts.answer == '["<think> no </think> yes"]'
    assert not done.answer.parts.has_thinking


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (f"start: {build_json_rule({'type': 'array', 'uniqueItems': True})}", 'Unimplemented keys: ["uniqueItems"]'),
        ("start: nowhere", "nowhere"),
        ("start: %json {", "EOF"),
        (f"start: {build_json_rule({'type': 'string', 'pattern': '(?=a)b'})}", "look-around"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_where_it_is_submitted(
    grammar: str, reason: str, engine_of: Make
) -> None:
    with engine_of().open() as session:
        with raises(ConfigError, "bad_value") as refused:
            session.submit(Request("a", "x", grammar=grammar))
        assert reason in str(refused.value)
        assert session.is_idle


def test_a_missing_package_is_named(engine_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with engine_of().open() as session, raises(ConfigError, "needs_package"):
        session.submit(Request("a", "x", grammar=GRAMMAR))


@pytest.mark.parametrize("keys", [{"ignore_eos": True}, {"branches": ("a",)}, {"continuation": "a"}])
def test_answers_that_do_not_end_by_themselves_have_no_grammar(keys: dict[str, Any]) -> None:
    with raises(ConfigError, "conflict", "request.grammar"):
        Request("a", "x", grammar=GRAMMAR, **keys)


class SlowMatcher:
    """A matcher whose masks take too long from some token on. It stands in for a grammar that the
    library computes slowly."""

    slow_masks = 0

    def __init__(self, matcher: Any, quick_masks: int) -> None:
        self._matcher, self._quick_masks = matcher, quick_masks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)

    def deep_copy(self) -> SlowMatcher:
        return SlowMatcher(self._matcher.deep_copy(), self._quick_masks)

    def unsafe_compute_mask_ptr(self, place: int, size: int) -> None:
        self._quick_masks -= 1
        if self._quick_masks < 0:
            SlowMatcher.slow_masks += 1
            end = time.thread_time() + MOST_MASK_S + 0.05
            while time.thread_time() < end:
                pass
        self._matcher.unsafe_compute_mask_ptr(place, size)


def test_a_mask_that_is_too_slow_within_an_answer_ends_this_answer_only(
    engine_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    free = Request("free", QUESTIONS[0], sampling=Sampling(temperature=0.9, seed=1))
    alone = tokens(ended(engine, [free]))
    monkeypatch.setattr(SlowMatcher, "slow_masks", 0)
    begin = GrammarCache.compile_grammar_to_initial_state

    def begin_slow(*given: Any) -> GrammarState:
        held = begin(*given)
        return GrammarState(SlowMatcher(held._matcher, quick_masks=5), held._words)

    monkeypatch.setattr(GrammarCache, "compile_grammar_to_initial_state", begin_slow)
    done = ended(engine, [Request("held", QUESTIONS[1], grammar=GRAMMAR), free])
    slow = done.pop(("held", 0))
    assert slow.error == render_engine_note(TOO_COMPLEX)
    assert slow.permanent, "the same request would fail again"
    assert len(slow.answer.token_ids) == 5
    assert SlowMatcher.slow_masks == 1, "others wait for one slow mask, and not for each further one"
    assert tokens(done) == alone


def test_an_answer_that_left_its_grammar_ends_in_an_error() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.MODEL_DIR)
    held = begun(grammars_of(tokenizer), GRAMMAR)
    held.update(tokenizer("no JSON", add_special_tokens=False)["input_ids"])
    logits = torch.zeros(2, len(tokenizer), dtype=torch.float32)
    mask_disallowed_tokens(logits, {1: held})
    assert held.error is not None
    assert held.error.code == "grammar_left"
    assert logits[1].isnan().all()
    assert (logits[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_allowed_tokens_keep_their_logits(dtype: torch.dtype) -> None:
    """Also where a model has more logits than its tokenizer tokens."""
    tokenizer = AutoTokenizer.from_pretrained(embedded.MODEL_DIR)
    held = begun(grammars_of(tokenizer), GRAMMAR)
    before = torch.randn(1, len(tokenizer) + 70, dtype=torch.float32).to(dtype)
    logits = before.clone()
    mask_disallowed_tokens(logits, {0: held})
    brace = tokenizer.convert_tokens_to_ids("{")
    assert logits[0].isfinite().nonzero().flatten().tolist() == [brace]
    assert logits[0, brace] == before[0, brace]


def test_it_begins_again_where_a_row_does() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.MODEL_DIR)
    held = begun(grammars_of(tokenizer), 'start: "ab"')
    ids = tokenizer("ab", add_special_tokens=False)["input_ids"]
    held.update(ids)
    assert held.is_complete
    again = held.copy_initial_state()
    assert not again.has_started
    again.begins_at = 0
    again.update(ids)
    assert again.is_complete
    assert again.error is None
