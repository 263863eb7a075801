"""Where a completion ends, token by token, compared with the definition, which looks at the whole text so far."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config.model import LocalModelConfig
from runner.core.errors import ConfigError
from runner.core.result import FinishReason
from runner.engines.base import Message, Request
from runner.engines.rows import Admission, Row, Stopping

EOS = 2
texts = st.text(alphabet="ab \n#é€😀", max_size=14)  # of one to four bytes, each byte a token
stops = st.lists(st.text(alphabet="ab \n#é€😀", min_size=1, max_size=4), max_size=3).map(tuple)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def test_the_chat_template_reads_what_the_user_gives_it(tokenizer: Any, make_config: Any, tiny_llama: Path) -> None:
    thinking = deepcopy(tokenizer)
    thinking.chat_template += "{% if enable_thinking is defined and not enable_thinking %}<none>{% endif %}"

    def seen(**given: Any) -> str:
        config = make_config(model=LocalModelConfig(name=str(tiny_llama), chat_template_kwargs=given))
        text, _ = Admission(config, thinking, "it", 100).encode(Request(0, (Message("user", "Hi"),)))
        assert isinstance(text, str)
        return text

    assert seen(enable_thinking=False) == seen() + "<none>"
    assert seen(enable_thinking=True) == seen()
    with pytest.raises(
        ConfigError, match=r"model.chat_template_kwargs.think=True: the chat template of .* does not read it"
    ):
        seen(think=True)
    with pytest.raises(
        ConfigError, match="model.chat_template_kwargs=tokenize: give names that the chat template reads"
    ):
        seen(tokenize=True)


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
        text_so_far = tokenizer.decode(so_far, skip_special_tokens=True)
        places = [text_so_far.index(one) for one in stop if one in text_so_far and not ignore_eos]
        ended = so_far[-1] == EOS and not ignore_eos
        due = FinishReason.stop if places or ended else FinishReason.length if count >= limit else None
        row = Row(request, [], "", limit, tokens=so_far)
        assert stopping.reason(row) is due
        if due is not None:
            every = [text_so_far.index(one) for one in stop if one in text_so_far]
            assert stopping.said(row) == text_so_far[: min(every, default=None)]
            return


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, stops, st.booleans())
def test_what_is_told_while_it_comes_is_never_taken_back(
    tokenizer: Any, text: str, stop: tuple[str, ...], says_eos: bool
) -> None:
    stopping, request = Stopping(tokenizer, frozenset([EOS])), Request(0, "x", stop)
    tokens: list[int] = tokenizer(text)["input_ids"] + ([EOS] if says_eos else [])
    sent = ""
    for count in range(1, len(tokens) + 1):
        row = Row(request, [], "", 100, tokens=tokens[:count], sent=sent)
        sent += stopping.fresh(row)
        text_so_far = stopping.said(row)
        assert text_so_far.startswith(sent)
        if stopping.reason(row) is FinishReason.stop:
            return
        held_back = max([0, *map(len, stop)]) + len(text_so_far) - len(text_so_far.rstrip("\ufffd"))
        assert len(text_so_far) - len(sent) <= held_back, "no more is held back than a stop text that may be on its way"
