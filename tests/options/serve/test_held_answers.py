"""response_format: the official client gets JSON of its schema, however hot the sampling is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field
from serving import FLOAT32, Serving, serving

pytestmark = pytest.mark.slow  # as a group

CHAT: list[Any] = [{"role": "user", "content": "Tom has 8 pens. Tom buys 5 more."}]


class Step(BaseModel):
    """A part of the answer."""

    model_config = ConfigDict(extra="forbid")
    words: str = Field(max_length=10)


class Solved(BaseModel):
    """An answer with its steps."""

    model_config = ConfigDict(extra="forbid")
    steps: list[Step] = Field(max_length=2)
    result: int = Field(ge=0, le=99)
    unit: Literal["pens", "apples"]


SCHEMA = Solved.model_json_schema()
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "solved", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("held")
    with serving(folder, "task.tool_placement=system", "task.tool_call_format=hermes", *FLOAT32, "tracking=none") as server:  # fmt: skip
        yield server


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def asked(client: OpenAI, **keys: Any) -> Any:
    keys = {"messages": CHAT, "temperature": 0, "max_tokens": 200} | keys
    create: Any = client.chat.completions.create
    return create(model="embedded", **keys)


def is_solved(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@pytest.mark.thorough
def test_hundreds_of_answers_are_of_the_schema_and_free_ones_are_not(client: OpenAI) -> None:
    choices, free = [], []
    for seed in range(8):
        drawn = {"temperature": 10 if seed % 2 else 1.3, "seed": seed, "n": 32}
        choices += asked(client, **drawn, response_format=FORMAT).choices
        free += asked(client, **drawn, max_tokens=20).choices
    assert len(choices) == 256
    assert {choice.finish_reason for choice in choices} == {"stop"}
    assert all(is_solved(choice.message.content) for choice in choices)
    assert len({choice.message.content for choice in choices}) > 150
    assert not any(is_solved(choice.message.content) for choice in free)


@pytest.mark.thorough
def test_the_clients_own_helpers_read_them(client: OpenAI) -> None:
    done = client.chat.completions.parse(
        model="embedded", messages=CHAT, response_format=Solved, temperature=2, seed=1
    )
    assert isinstance(done.choices[0].message.parsed, Solved)
    with client.chat.completions.stream(
        model="embedded", messages=CHAT, response_format=Solved, temperature=2, seed=1
    ) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.parsed == done.choices[0].message.parsed
    assert final.content == done.choices[0].message.content


def test_an_object_of_json_is_one(client: OpenAI) -> None:
    wanted: Any = {"type": "json_object"}
    done = asked(client, response_format=wanted, temperature=2, n=32, seed=7, max_tokens=120)
    ended = [one.message.content for one in done.choices if one.finish_reason == "stop"]
    assert len(ended) > 5
    assert all(isinstance(json.loads(text), dict) for text in ended)
    assert not asked(client).choices[0].message.content.startswith("{")


def test_what_is_cut_off_says_so(client: OpenAI) -> None:
    cut, whole = asked(client, response_format=FORMAT, max_tokens=7), asked(client, response_format=FORMAT)  # fmt: skip
    assert (cut.choices[0].finish_reason, whole.choices[0].finish_reason) == ("length", "stop")
    assert whole.choices[0].message.content.startswith(cut.choices[0].message.content)
    assert not is_solved(cut.choices[0].message.content)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="embedded", messages=CHAT, response_format=Solved, max_tokens=7)


def test_the_tokens_of_held_answers_have_log_probabilities(client: OpenAI) -> None:
    choice = asked(client, response_format=FORMAT, logprobs=True, top_logprobs=1).choices[0]
    tokens = choice.logprobs.content
    assert "".join(one.token for one in tokens) == choice.message.content
    likeliest = [one.top_logprobs[0].token == one.token for one in tokens]
    assert not all(likeliest), "they are the model's own, which would have said something else"


@pytest.mark.thorough
def test_calls_or_json(client: OpenAI) -> None:
    """With both, an answer is a call or JSON of the schema."""
    tool: Any = {"type": "function", "function": {"name": "ping", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}  # fmt: skip
    found = set()
    for seed in range(6):
        done = asked(client, tools=[tool], response_format=FORMAT, temperature=9, seed=seed, n=8)
        for choice in done.choices:
            if choice.message.tool_calls:
                assert choice.message.tool_calls[0].function.arguments == "{}"
                found.add("call")
            elif choice.finish_reason == "stop":
                assert is_solved(choice.message.content), choice.message.content
                found.add("json")
    assert found == {"call", "json"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type='xml': must be one of text, json_object, json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema: give name and schema"),
        ({"response_format": FORMAT, "stop": "x"}, "stop: cannot be combined with response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"x-guidance": {"lenient": True}}}}}, "x-guidance: options of schema enforcement are not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(client: OpenAI, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        asked(client, **keys)
    assert message in refused.value.message


# Each with a value that the keyword forbids: what is not refused must be held.
KEYWORDS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3, "uniqueItems": True}, [1, 1]),
    ({"type": "array", "items": {"enum": [1, "a"]}, "maxItems": 3, "contains": {"const": 1}}, ["a"]),
    ({"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 3}, [1]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": False, "minItems": 1}, [2]),
    ({"enum": [1, 2], "not": {"const": 1}}, 1),
    ({"enum": [1, 2], "if": {"const": 1}, "then": {"const": 3}}, 1),
    ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, 2),
    ({"allOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, 1),
    ({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 1}}, "additionalProperties": False, "minProperties": 1}, {}),
    ({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 1}}, "additionalProperties": False, "maxProperties": 1}, {"a": 1, "b": 1}),
    ({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 1}}, "additionalProperties": False, "dependentRequired": {"a": ["b"]}}, {"a": 1}),
    ({"type": "object", "properties": {"a": {"const": 1}}, "unevaluatedProperties": False}, {"c": 1}),
    ({"type": "object", "patternProperties": {"^a$": {"const": 1}}, "additionalProperties": False}, {"b": 1}),
    ({"type": "object", "properties": {"aa": {"const": 1}}, "additionalProperties": False, "propertyNames": {"maxLength": 1}}, {"aa": 1}),
    ({"type": "integer", "minimum": 3, "maximum": 9, "multipleOf": 4}, 5),
    ({"type": "number", "exclusiveMinimum": 1, "maximum": 2}, 1),
    ({"type": "string", "pattern": "^[ab]{1,3}$"}, "c"),
    ({"type": "string", "minLength": 2, "maxLength": 3}, "a"),
    ({"type": "string", "format": "date"}, "soon"),
    ({"type": "string", "format": "some-other"}, None),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"enum": [1]}}}, 2),
    ({"$ref": "http://127.0.0.1:9/schema"}, None),
    ({"type": "integer", "minimum": 5, "maximum": 4}, 5),
]  # fmt: skip


def checker_of(schema: dict[str, Any]) -> Any:
    formats = jsonschema.FormatChecker()
    return jsonschema.Draft202012Validator(schema, format_checker=formats)


@pytest.mark.thorough
def test_a_keyword_of_a_schema_is_held_or_refused_and_never_left_out(client: OpenAI) -> None:
    held, refused = set(), list[str]()
    for schema, wrong in KEYWORDS:
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        try:
            done = asked(client, response_format=wanted, temperature=3, seed=1, n=24, max_tokens=60)
        except openai.BadRequestError as error:
            refused.append(error.message)
            continue
        checker = checker_of(schema)
        assert not checker.is_valid(wrong), "it would show"
        answers = [one.message.content for one in done.choices if one.finish_reason == "stop"]
        assert answers
        values = [json.loads(text) for text in answers]
        assert all(map(checker.is_valid, values)), (schema, answers)
        held.add(json.dumps(schema))
    assert len(held) >= 10
    assert len(refused) >= 5
    assert all("the grammar or JSON schema is rejected" in message for message in refused)


HOSTILE = {
    "loop": {"$ref": "#"},
    "two loops": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "many": {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(1500)}},
    "long": {"type": "string", "minLength": 1_000_000},
    "regex": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    "alternatives": {"enum": [f"value {at}" for at in range(10_000)]},
}  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_hurts_nobody_else(client: OpenAI, server: Serving, name: str) -> None:
    before = asked(client).choices[0].message.content
    body = {
        "messages": CHAT,
        "max_tokens": 8,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": HOSTILE[name]}},
    }  # fmt: skip
    status, answer = server.ask("/v1/chat/completions", body)
    assert status in (200, 400), answer
    if status != 200:
        assert answer["error"]["message"]
    assert asked(client).choices[0].message.content == before


def test_a_deep_schema_is_refused(client: OpenAI, server: Serving) -> None:
    schema: Any = {}
    for _ in range(300):
        schema = {"type": "array", "items": schema}
    body = {"messages": CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}  # fmt: skip
    status, answer = server.ask("/v1/chat/completions", body)
    assert status == 400
    assert "recursion" in str(answer).lower()


@pytest.mark.thorough
def test_a_free_row_beside_held_ones_has_the_tokens_that_it_has_alone(client: OpenAI) -> None:
    drawn: dict[str, Any] = {"temperature": 1, "seed": 11, "n": 4, "max_tokens": 40}
    alone = [one.message.content for one in asked(client, **drawn).choices]
    held = asked(client, **drawn, response_format=FORMAT, stream=True)
    beside = [next(held)]
    together = [one.message.content for one in asked(client, **drawn).choices]
    beside += list(held)
    assert together == alone
    assert len(beside) > 10
