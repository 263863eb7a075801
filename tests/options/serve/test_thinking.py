"""A model that thinks, behind the official client: its thoughts come apart from its answers, whole
and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from chromium import CHROMIUM, browser
from openai import OpenAI
from serving import FLOAT32, Serving, serving
from thoughtful import thinking_model

QUESTION = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?\nSolve it step by step. End with '#### ' and the number."
ASKED: dict[str, Any] = {
    "model": "thinks",
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
}
BUDGET = {"thinking_token_budget": 9}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("thinking")
    model = thinking_model(folder / "thinks", shows_old_thoughts=True)
    named = ("model=auto", f"model.name={model}", "task.model_name=thinks", "task.max_new_tokens=300")
    with serving(folder, *named, *FLOAT32, "tracking=none") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def parts(choice: Any) -> tuple[str, str]:
    """The thinking and the answer of a message or of a delta."""
    return getattr(choice, "reasoning_content", None) or "", choice.content or ""


@pytest.mark.slow
def test_a_thought_and_an_answer_whole_and_streamed(client: OpenAI) -> None:
    whole = client.chat.completions.create(**ASKED, max_tokens=40, extra_body=BUDGET, logprobs=True)
    thinking, answer = parts(whole.choices[0].message)
    assert thinking
    assert answer
    assert "think>" not in thinking + answer
    usage: Any = whole.usage
    assert usage.completion_tokens_details.reasoning_tokens == 9
    tokens: Any = whole.choices[0].logprobs
    assert "".join(token.token for token in tokens.content) == answer, "and none of the thought's"
    assert 9 + len(tokens.content) < usage.completion_tokens <= 9 + 40 + 12, "the closing tag is counted, too"
    chunks = list(
        client.chat.completions.create(
            **ASKED, max_tokens=40, extra_body=BUDGET, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [parts(chunk.choices[0].delta) for chunk in chunks if chunk.choices]
    assert ["".join(texts) for texts in zip(*deltas, strict=True)] == [thinking, answer]
    first_answer = next(at for at, (_, text) in enumerate(deltas) if text)
    assert first_answer > 2, "the thought came in several chunks"
    assert not any(thought for thought, _ in deltas[first_answer:])
    assert chunks[-1].usage == usage


@pytest.mark.slow
def test_an_answer_that_is_cut_off_while_it_thinks_is_empty(client: OpenAI) -> None:
    done = client.chat.completions.create(**ASKED, max_tokens=8, logprobs=True)
    thinking, _ = parts(done.choices[0].message)
    assert thinking
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("", "length")
    logprobs: Any = done.choices[0].logprobs
    assert logprobs.content == []
    usage: Any = done.usage
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (8, 8)


@pytest.mark.slow
def test_raw_completions_have_the_text_as_it_was_written(client: OpenAI, server: Serving) -> None:
    _, rendered = server.ask("/tokenize", {"messages": ASKED["messages"]})
    asked: dict[str, Any] = {
        "model": "thinks",
        "prompt": rendered["prompt"],
        "temperature": 0,
        "max_tokens": 40,
    }
    done = client.completions.create(**asked, extra_body=BUDGET, logprobs=0)
    chat = client.chat.completions.create(**ASKED, max_tokens=40, extra_body=BUDGET)
    assert done.choices[0].text == "{}</think>{}".format(*parts(chat.choices[0].message))
    tokens: Any = done.choices[0].logprobs
    assert "".join(tokens.tokens) == done.choices[0].text
    streamed = client.completions.create(**asked, extra_body=BUDGET, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == done.choices[0].text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_old_thoughts_are_shown_as_the_template_wants(server: Serving, name: str) -> None:
    turns = [*ASKED["messages"], {"role": "assistant", "content": "\n\n13", name: "8+5"}, *ASKED["messages"]]
    status, answer = server.ask("/tokenize", {"messages": turns})
    assert status == 200
    assert answer["prompt"].startswith("<think>8+5</think><|im_start|>user")
    assert "<|im_start|>assistant\n13<|im_end|>" in answer["prompt"], (
        "without the blank lines behind the thought"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"thinking_token_budget": -1}, "thinking_token_budget"),
        ({"thinking_token_budget": "much"}, "thinking_token_budget"),
        ({"thinking_token_budget": 299, "max_tokens": 2}, "thinking_token_budget"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": "Hi", "reasoning_content": "hm"}]}, "messages"),
    ],
)
def test_wrong_values_are_named(client: OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**ASKED, "extra_body": wrong})
    assert refused.value.param == param


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium to look at the page: apt-get install chromium")
def test_the_page_folds_thoughts_and_gives_them_back(server: Serving, client: OpenAI, tmp_path: Path) -> None:
    done = client.chat.completions.create(**ASKED, max_tokens=40, extra_body=BUDGET)
    thinking, answer = parts(done.choices[0].message)
    with browser(tmp_path) as page:
        page.go(server.url + "/")
        page.do("""for (const [name, value] of [['thinking_token_budget', 9], ['max_tokens', 40], ['temperature', 0]])
            document.getElementById(name).value = value;""")
        page.do(
            f"document.querySelector('#text').value = {json.dumps(ASKED['messages'][0]['content'])}; submit()"
        )
        page.until(
            "document.querySelector('#stop').disabled && document.querySelectorAll('.assistant').length === 1"
        )
        assert page.do("document.querySelector('.assistant').textContent") == answer.lstrip()
        thought = "document.querySelector('details.thought')"
        assert page.do(f"[{thought}.open, {thought}.lastChild.textContent]") == [False, thinking.strip()]
        assert page.do("turns.at(-1)") == {
            "role": "assistant",
            "content": answer,
            "reasoning_content": thinking,
        }
        assert page.complaints() == []
