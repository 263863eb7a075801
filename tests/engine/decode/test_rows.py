"""Where a completion ends, against the definition: a search in the whole text after each token."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opening import make_spec
from raising import raises

from runner_base.errors import ConfigError
from runner_base.result import FinishReason
from runner_base.thinking import count_partial_tag_chars
from runner_engine.decode.request_encoder import RequestEncoder
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens.stopping import Stopping
from runner_engine.sessions.base import Message, Request
from runner_engine.settings.model import LocalModelConfig

EOS = 2
texts = st.text(alphabet="ab \n#é€😀", max_size=14)  # of one to four bytes, each byte a token
stops = st.lists(st.text(alphabet="ab \n#é€😀", min_size=1, max_size=4), max_size=3).map(tuple)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def test_the_chat_template_reads_what_the_user_gives_it(tokenizer: Any, tiny_llama: Path) -> None:
    thinking = deepcopy(tokenizer)
    thinking.chat_template += "{% if enable_thinking is defined and not enable_thinking %}<none>{% endif %}"

    def rendered(**values: Any) -> str:
        spec = make_spec(model=LocalModelConfig(name=str(tiny_llama), chat_template_kwargs=values))
        text, _ = RequestEncoder(spec, thinking, "it", 100).encode_prompt(
            Request(0, (Message("user", "Hi"),))
        )
        assert isinstance(text, str)
        return text

    assert rendered(enable_thinking=False) == rendered() + "<none>"
    assert rendered(enable_thinking=True) == rendered()
    with raises(ConfigError, "no_effect", "model.chat_template_kwargs.think"):
        rendered(think=True)
    with raises(ConfigError, "bad_value", "model.chat_template_kwargs"):
        rendered(tokenize=True)


@pytest.mark.thorough
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, stops, st.integers(1, 40), st.booleans(), st.booleans())
def test_it_ends_at_the_first_token_that_completes_a_stop_text(
    tokenizer: Any, text: str, stop: tuple[str, ...], limit: int, ignore_eos: bool, says_eos: bool
) -> None:
    stopping = Stopping(tokenizer, frozenset([EOS]))
    request = Request(0, "x", stop, limit, ignore_eos)
    tokens: list[int] = tokenizer(text)["input_ids"] + ([EOS] if says_eos else [])
    for count in range(1, len(tokens) + 1):
        so_far = tokens[:count]
        decoded = tokenizer.decode(so_far, skip_special_tokens=True)
        matches = [decoded.index(one) for one in stop if one in decoded and not ignore_eos]
        ended = so_far[-1] == EOS and not ignore_eos
        expected = FinishReason.stop if matches or ended else FinishReason.length if count >= limit else None
        row = TokenSequence(request, [], "", limit, tokens=so_far)
        assert stopping.find_finish_reason(row) is expected
        if expected is not None:
            stop_places = [decoded.index(one) for one in stop if one in decoded]
            assert stopping.decode_text(row) == decoded[: min(stop_places, default=None)]
            return


@pytest.mark.thorough
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, stops, st.booleans())
def test_streamed_text_is_never_taken_back(
    tokenizer: Any, text: str, stop: tuple[str, ...], says_eos: bool
) -> None:
    stopping, request = Stopping(tokenizer, frozenset([EOS])), Request(0, "x", stop)
    tokens: list[int] = tokenizer(text)["input_ids"] + ([EOS] if says_eos else [])
    streamed = ""
    for count in range(1, len(tokens) + 1):
        row = TokenSequence(request, [], "", 100, tokens=tokens[:count], sent=len(streamed))
        streamed += "".join(delta.text for delta in stopping.build_unsent_text_deltas(row))
        answer = stopping.decode_text(row)
        assert answer.startswith(streamed)
        if stopping.find_finish_reason(row) is FinishReason.stop:
            return
        most_held_back = (
            max([count_partial_tag_chars(answer), *map(len, stop)])
            + len(answer)
            - len(answer.rstrip("\ufffd"))
        )
        assert len(answer) - len(streamed) <= most_held_back, (
            "no more is held back than the beginning of a stop text or of a tag"
        )


def test_tags_of_thinking_that_are_special_tokens_stay_in_the_text(tokenizer: Any) -> None:
    own = deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|other|>"]})
    opening, closing, other = own.convert_tokens_to_ids(["[THINK]", "[/THINK]", "<|other|>"])
    ids = own("ab", add_special_tokens=False)["input_ids"]
    row = TokenSequence(Request(0, "x"), [1], "", 100, tokens=[opening, *ids, other, closing, *ids, EOS])
    assert Stopping(own, frozenset({EOS})).decode_text(row) == "[THINK]ab[/THINK]ab"
    row.tokens = [*ids, other, *ids, EOS]
    assert Stopping(own, frozenset({EOS})).decode_text(row) == "abab", "other special tokens are no text"


def test_a_row_knows_that_its_prompt_has_begun_the_thinking(tokenizer: Any, tiny_llama: Path) -> None:
    thinking = deepcopy(tokenizer)
    thinking.chat_template += "<think>\n"
    spec = make_spec(model=LocalModelConfig(name=str(tiny_llama)))
    request = Request(0, (Message("user", "Hi"),), n=2)
    for used, in_thinking in ((thinking, True), (tokenizer, False)):
        rows = RequestEncoder(spec, used, "it", 1000).create_sequences(request)
        assert [row.thought.is_thinking_at_start for row in rows] == [in_thinking] * 2
        rows[0].tokens = used("#### 7", add_special_tokens=False)["input_ids"]
        assert Stopping(used).build_answer(rows[0], FinishReason.stop).parts.is_open == in_thinking
