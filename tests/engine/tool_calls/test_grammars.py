"""The grammars of calls: what each form writes is of its grammar, and what is of a grammar its form
reads as calls with arguments of the schemas."""

from __future__ import annotations

import random
import re
from typing import Any

import jsonschema
import pytest
from grammar_walks import grammars_of, is_of, walk
from raising import raises
from transformers import AutoTokenizer

from runner_base import ConfigError
from runner_base.errors import Code
from runner_engine import embedded
from runner_engine.grammars import GrammarCache
from runner_engine.tool_calls import NAMES, ToolCall, import_tool_call_format

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Paris", "São Paulo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "note": {"type": "string"},
            "exact": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2},
            "place": {
                "type": "object",
                "properties": {"lat": {"type": "number", "minimum": -90, "maximum": 90}},
                "required": ["lat"],
                "additionalProperties": False,
            },
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
}
ROOT = {
    "name": "math.root",
    "parameters": {
        "type": "object",
        "properties": {"x": {"type": "number", "minimum": 0, "maximum": 99}},
        "required": ["x"],
        "additionalProperties": False,
    },
}
PING = {"name": "ping", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
SCHEMAS: list[dict[str, Any]] = [WEATHER, ROOT, PING]
HELD = [name for name in NAMES if name != "harmony"]
WITH_TEXT = ("hermes", "glm", "qwen_xml", "lfm2", "mistral", "deepseek")
# other ways of writing that the text of a chat template tells
TEMPLATES = {"mistral": [None, "[TOOL_CALLS]"], "deepseek": [None, "```json"]}
CASES = [(name, text) for name in HELD for text in TEMPLATES.get(name, [None])]
PROSE = ["", "It is 4 degrees (cold).", "Call get_weather.", "7 {x} [1, 2]"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.MODEL_DIR)


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> GrammarCache:
    return grammars_of(tokenizer)


def written(name: str, *calls: ToolCall) -> str:
    """Return calls in a form; in those of Python with the quotes that JSON has."""
    text = import_tool_call_format(name).format_calls(calls)
    return text.replace("'", '"') if name in ("pythonic", "lfm2") else text


ONE = ToolCall("get_weather", {"city": "Paris", "days": 3})


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", HELD)
def test_what_a_form_writes_is_of_its_grammar(name: str, tokenizer: Any, grammars: GrammarCache) -> None:
    rules = import_tool_call_format(name).build_grammar(SCHEMAS)
    calls, answer = f"start: calls\n{rules}", f"start: answer\n{rules}"
    several = [written(name, ONE), written(name, ONE, ToolCall("ping", {}), ONE)]
    for text in several:
        assert is_of(grammars, tokenizer, text, calls), text
        assert is_of(grammars, tokenizer, text, answer), text
        behind_text = is_of(grammars, tokenizer, f"I will look. {text}", answer)
        reading = import_tool_call_format(name).parse_answer(f"I will look. {text}", SCHEMAS)
        assert behind_text, text
        assert bool(reading.calls) is (name in WITH_TEXT)
    for text in PROSE:
        assert is_of(grammars, tokenizer, text, answer), text
        assert not is_of(grammars, tokenizer, text, calls), text


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize(
    "wrong",
    [
        ToolCall("get_whether", {"city": "Paris", "days": 3}),
        ToolCall("get_weather", {"city": "Rome", "days": 3}),
        ToolCall("get_weather", {"city": "Paris", "days": 15}),
        ToolCall("get_weather", {"city": "Paris"}),
        ToolCall("get_weather", {"city": "Paris", "days": 3, "country": "France"}),
        ToolCall("ping", {"x": 1}),
    ],
    ids=["name", "enum", "maximum", "required", "not known", "no parameters"],
)
def test_a_wrong_call_is_of_no_grammar(
    name: str, wrong: ToolCall, tokenizer: Any, grammars: GrammarCache
) -> None:
    rules = import_tool_call_format(name).build_grammar(SCHEMAS)
    text = written(name, wrong)
    assert not is_of(grammars, tokenizer, text, f"start: calls\n{rules}")
    assert not is_of(grammars, tokenizer, text, f"start: answer\n{rules}")
    if name in WITH_TEXT:
        assert not is_of(grammars, tokenizer, f"Sure: {text}", f"start: answer\n{rules}")


@pytest.mark.parametrize("name", HELD)
def test_a_grammar_of_one_call_has_no_second(name: str, tokenizer: Any, grammars: GrammarCache) -> None:
    rules = import_tool_call_format(name).build_grammar(SCHEMAS, allow_multiple=False)
    for start in ("calls", "answer"):
        assert is_of(grammars, tokenizer, written(name, ONE), f"start: {start}\n{rules}")
        assert not is_of(grammars, tokenizer, written(name, ONE, ONE), f"start: {start}\n{rules}")


@pytest.mark.sampled(9)
@pytest.mark.slow
@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize(("name", "template"), CASES)
def test_what_is_of_a_grammar_is_read_as_calls_of_the_schemas(
    name: str, template: str | None, several: bool, tokenizer: Any, grammars: GrammarCache
) -> None:
    """Any token that may come does come, which no model would do."""
    form, drawn = import_tool_call_format(name), random.Random(name)
    rules, ended = form.build_grammar(SCHEMAS, several, template), 0
    for _ in range(8):
        text = walk(grammars, tokenizer, f"start: calls\n{rules}", drawn)
        if text is None:
            continue
        ended += 1
        reading = form.parse_answer(text, SCHEMAS)
        assert reading.text.strip() == ""
        assert reading.calls, text
        assert several or len(reading.calls) == 1, text
        for call in reading.calls:
            (schema,) = [one for one in SCHEMAS if one["name"] == call.name]
            jsonschema.validate(dict(call.arguments), schema["parameters"])
    assert ended >= 2


def test_texts_of_harmony_are_refused() -> None:
    with raises(ConfigError, "unsupported"):
        import_tool_call_format("harmony").build_grammar(SCHEMAS)


@pytest.mark.parametrize(
    ("name", "parameters", "code", "key", "said"),
    [
        ("pythonic", {"properties": {"for": {"type": "string"}}}, "unsupported", "for", "name .* Python"),
        ("lfm2", {"properties": {"a-b": {}}}, "unsupported", "a-b", "name .* Python"),
        ("glm", {"properties": {"a": {"type": "string", "pattern": "x"}}}, "unsupported", "a", " glm .* pattern$"),
        ("qwen_xml", {"properties": {"a": {"type": "string", "enum": ["\nb"]}}}, "unsupported", "a", r" qwen_xml .* '\\nb'$"),
        ("qwen_xml", {"anyOf": [{}]}, "unsupported", "", " calls of f .* qwen_xml: .*parameters .* anyOf$"),
        ("glm", {"properties": {}, "required": ["b"]}, "bad_value", "", " calls of f .* glm: `required` .*'b'.*`properties` "),
    ],
)  # fmt: skip
def test_what_a_form_cannot_hold_is_refused(
    name: str, parameters: dict[str, Any], code: Code, key: str, said: str
) -> None:
    with raises(ConfigError, code, key) as refused:
        import_tool_call_format(name).build_grammar(
            [{"name": "f", "parameters": {"type": "object"} | parameters}]
        )
    assert re.search(said, refused.value.reason)


def test_a_name_that_python_cannot_write_is_refused() -> None:
    with raises(ConfigError, "unsupported"):
        import_tool_call_format("pythonic").build_grammar([{"name": "a-b"}])
