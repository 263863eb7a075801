"""The official client offers functions to a real server: calls come back as tool_calls, whole and
streamed, and those that must come do come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict
from raising import raises
from serving import FLOAT32, Serving, serving

from runner.options.serve.keys import ServeConfig, ToolOffer
from runner.options.serve.tools import OfferedTools, ToolCallStreamFilter, ToolSupport
from runner_base import Answer, ConfigError, FinishReason
from runner_engine import embedded
from runner_engine.tool_calls import NAMES, ToolCall, import_tool_call_format

QUESTION = "Tom has 8 pens. Tom buys 5 more. How many pens does Tom have now?"
CHAT: list[Any] = [{"role": "user", "content": QUESTION}]


class GetWeather(BaseModel):
    """The weather in a city."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


WEATHER: Any = openai.pydantic_function_tool(GetWeather, name="get_weather")
PING: Any = {
    "type": "function",
    "function": {
        "name": "ping",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
# as Hermes, Qwen2.5 and others offer functions and show calls and their results
HERMES = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<tool_call>…</tool_call><|im_end|>\n{% endif %}{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}{% for call in message.tool_calls or [] %}"
    "<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "{% if message.tool_call_id %} ({{ message.name }}){% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Serving]]:
    """A model whose template takes functions, and one that gets them in the system message."""
    folder = tmp_path_factory.mktemp("tools")
    hermes = folder / "hermes"
    shutil.copytree(embedded.MODEL_DIR, hermes)
    (hermes / "chat_template.jinja").write_text(HERMES)
    named = ("model=auto", f"model.name={hermes}", "task.model_name=embedded")
    with (
        serving(folder / "a", *named, *FLOAT32, "tracking=none") as template,
        serving(folder / "b", "task.tool_placement=system", *FLOAT32, "tracking=none") as system,
    ):
        yield {"hermes": template, "system": system}


@pytest.fixture(params=["hermes", "system"])
def client(servers: dict[str, Serving], request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    url = f"{servers[request.param].url}/v1"
    with OpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


def asked(client: OpenAI, **keys: Any) -> Any:
    keys = {"messages": CHAT, "tools": [WEATHER, PING], "temperature": 0, "max_tokens": 120} | keys
    create: Any = client.chat.completions.create
    return create(model="embedded", **keys)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_function_that_must_be_called_is_called_with_arguments_of_its_schema(client: OpenAI) -> None:
    """However it is drawn; a free answer of this model calls nothing."""
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(4):
        drawn = {"temperature": 5 if seed % 2 else 1, "seed": seed, "n": 8}
        for choice in asked(client, tool_choice=named, **drawn).choices:
            assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
            (call,) = choice.message.tool_calls
            assert (call.type, call.function.name) == ("function", "get_weather")
            GetWeather.model_validate_json(call.function.arguments)
    free = asked(client, n=8, temperature=1, seed=1)
    assert all(choice.message.tool_calls is None for choice in free.choices)
    assert all(choice.message.content for choice in free.choices)


@pytest.mark.thorough
@pytest.mark.slow
def test_required_calls_are_several_unless_one_is_asked_for(client: OpenAI) -> None:
    drawn: dict[str, Any] = {"tool_choice": "required", "temperature": 9, "seed": 3, "n": 24}
    counts, names = set(), set()
    for is_parallel in (True, False):
        done = asked(client, **drawn, max_tokens=400, parallel_tool_calls=is_parallel)
        for choice in done.choices:
            if choice.finish_reason == "length":
                continue
            calls = choice.message.tool_calls
            counts.add((is_parallel, len(calls)))
            names |= {call.function.name for call in calls}
            assert len({call.id for call in calls}) == len(calls)
    assert names == {"get_weather", "ping"}
    assert {count for is_parallel, count in counts if not is_parallel} == {1}
    assert max(count for is_parallel, count in counts if is_parallel) > 1


@pytest.mark.sampled(1)
@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        {"tool_choice": "required", "seed": 3, "temperature": 2},
        {"tool_choice": "auto"},
        {"tool_choice": "auto", "seed": 5, "temperature": 1.5},
        {"tool_choice": "required", "max_tokens": 9},
    ],
)
def test_a_stream_has_what_a_whole_answer_has(client: OpenAI, keys: dict[str, Any]) -> None:
    whole = asked(client, **keys).choices[0]
    texts, calls, reasons = "", dict[int, list[Any]](), []
    for chunk in asked(client, **keys, stream=True):
        (choice,) = chunk.choices
        texts += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for call in choice.delta.tool_calls or []:
            calls.setdefault(call.index, []).append(call.function)
    streamed = [
        ("".join(one.name or "" for one in parts), "".join(one.arguments or "" for one in parts))
        for _, parts in sorted(calls.items())
    ]
    expected = whole.message.tool_calls or []
    assert streamed == [(one.function.name, one.function.arguments) for one in expected]
    assert texts == (whole.message.content or "")
    assert reasons == [whole.finish_reason]


@pytest.mark.thorough
@pytest.mark.slow
def test_the_clients_own_helpers_read_the_answers(client: OpenAI) -> None:
    """Strict functions of pydantic classes, parsed and streamed, and a conversation with them."""
    keys: Any = {"model": "embedded", "messages": CHAT, "tools": [WEATHER], "max_tokens": 120}
    keys |= {"tool_choice": "required", "parallel_tool_calls": False}
    done: Any = client.chat.completions.parse(**keys)
    message = done.choices[0].message
    assert message.tool_calls
    assert isinstance(message.tool_calls[0].function.parsed_arguments, GetWeather)
    with client.chat.completions.stream(**keys) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.tool_calls
    assert isinstance(final.tool_calls[0].function.parsed_arguments, GetWeather)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21 degrees"}
    turns: list[Any] = [*CHAT, message.model_dump(exclude_unset=True), result]
    for choice in ("auto", "none"):
        again = asked(client, messages=turns, tool_choice=choice)
        assert again.choices[0].message.content is not None
        assert again.usage.prompt_tokens > done.usage.prompt_tokens * (choice == "auto")


@pytest.mark.thorough
@pytest.mark.slow
def test_functions_that_are_not_offered_cost_nothing(client: OpenAI) -> None:
    none, without = asked(client, tool_choice="none"), asked(client, tools=openai.NOT_GIVEN)
    assert none.usage.prompt_tokens == without.usage.prompt_tokens
    assert none.choices[0].message.content == without.choices[0].message.content
    assert asked(client).usage.prompt_tokens > none.usage.prompt_tokens + 50


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tool_choice": "reqired"}, "tool_choice: no choice 'reqired'. Did you mean required?"),
    ({"tool_choice": {"type": "function", "function": {"name": "get_whether"}}}, "tool_choice.function.name: no function 'get_whether'. Did you mean get_weather?"),
    ({"tool_choice": "required", "tools": []}, "tool_choice: no tools are offered"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type='custom': this server supports only functions"),
    ({"tools": [PING, PING]}, "tools: two functions have the same name"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name='a b'"),
    ({"tools": [PING] * 129}, "tools: 129 tools exceed the limit of 128"),
    ({"logprobs": True}, "logprobs: log-probabilities are not available together with tools"),
    ({"tool_choice": "required", "stop": ["x"]}, "stop: cannot be combined with tool_choice"),
    ({"tool_choice": "required", "extra_body": {"ignore_eos": True}}, "ignore_eos: cannot be combined with tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}], "tool_choice": "required"}, 'the grammar or JSON schema is rejected: failed to compile JSON schema: Unimplemented keys: ["not"]'),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id: the tool message needs the id of its tool call"),
    ({"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id: not allowed for role user, only for role tool"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "[1"}}]}]}, "messages[0].tool_calls[0].function.arguments: the arguments must be a string that contains a JSON object"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_what_cannot_be_is_refused_with_the_reason(
    client: OpenAI, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        asked(client, **keys)
    assert message in refused.value.message
    assert refused.value.type == "invalid_request_error"


@pytest.mark.thorough
@pytest.mark.slow
def test_a_template_that_takes_no_functions_is_named(tmp_path: Path) -> None:
    with serving(tmp_path, *FLOAT32, "tracking=none") as server:
        body = {"messages": CHAT, "tools": [PING]}
        status, answer = server.ask("/v1/chat/completions", body)
        assert status == 400
        assert "does not support tools. Start the server with task.tool_placement=system" in str(answer)
        assert server.ask("/v1/chat/completions", body | {"tool_choice": "none"})[0] == 200


def test_an_unknown_form_ends_with_exit_code_2() -> None:
    with raises(ConfigError, "unknown_choice", "task.tool_call_format"):
        ServeConfig(tool_call_format="hermez")


# ------------------------------------------------------------------ what is read, without a server

CALLS = [ToolCall("get_weather", {"city": 'São "P"', "days": 3}), ToolCall("ping", {})]
BEHIND = ("hermes", "glm", "qwen_xml", "lfm2", "deepseek")  # a text may stand behind calls


def offered(name: str) -> OfferedTools:
    served = ToolSupport(ServeConfig(tool_call_format=name), None, "m")
    return OfferedTools(served, [WEATHER["function"], PING["function"]])


def texts_of(name: str) -> list[str]:
    written = import_tool_call_format(name).format_calls(CALLS)
    texts = ["", "Plain.", " \n text <tool", "[1, 2]", '{"a": 1}', written, f"\n{written}\n", written[:-4]]
    texts += [f" Sure. \n\n{written}", f"Sure.{written[: len(written) // 2]}"]
    return texts + ([f"A {written} b {written} c "] if name in BEHIND else [])


@pytest.mark.parametrize("name", NAMES)
def test_texts_beside_calls_join_to_the_content(name: str) -> None:
    of = offered(name)
    for text in texts_of(name):
        said = of.parse_answer(Answer(text, [], FinishReason.stop))
        for size in (1, 2, 7, 1000):
            waiting, sent = ToolCallStreamFilter(of), ""
            for at in range(0, len(text), size):
                sent += "".join(
                    one for one, _ in waiting.take_texts_ready_to_stream([(text[at : at + size], False)])
                )
            sent += "".join(one for one, is_thinking in waiting.get_unsent_texts(said) if not is_thinking)
            assert sent == said.content, (text, size)


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_read_and_a_text_is_streamed_before_them(name: str) -> None:
    of, written = offered(name), import_tool_call_format(name).format_calls(CALLS)
    said = of.parse_answer(Answer(written, [], FinishReason.stop))
    assert [one["name"] for one in said.calls] == ["get_weather", "ping"]
    assert [json.loads(one["arguments"]) for one in said.calls] == [{"city": "São \"P\"", "days": 3}, {}]  # fmt: skip
    assert said.content == ""
    if name != "harmony":
        waiting = ToolCallStreamFilter(of)
        assert waiting.take_texts_ready_to_stream([("7 apples", False)]) == [("7 apples", False)], "at once"


@pytest.mark.parametrize(
    "text", ['{"name": "f", "arguments": {"a": 1e999}}', '{"name": "f", "arguments": {"a": "\\ud800"}}', '{"name": "\\ud800"}'],
)  # fmt: skip
def test_calls_that_json_cannot_express_are_text(text: str) -> None:
    said = offered("json").parse_answer(Answer(text, [], FinishReason.stop))
    assert (said.content, said.calls) == (text, ())


def test_ids_of_mistral_have_nine_characters() -> None:
    template = "{{ tools }}[TOOL_CALLS][ARGS]"
    ids = [ToolSupport(ServeConfig(), template, "m").create_tool_call_id() for _ in range(3)]
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert len(set(ids)) == 3
    assert ToolSupport(ServeConfig(), "x", "m").create_tool_call_id().startswith("call_")
    in_words = ServeConfig(tool_placement=ToolOffer.system)
    assert ToolSupport(in_words, template, "m").name == "json"
