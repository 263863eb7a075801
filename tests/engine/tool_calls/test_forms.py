"""Calls of functions in the forms that models write: whole ones are read, half ones are refused,
text is text."""

from __future__ import annotations

import pytest

from runner_engine.tool_calls import (
    NAMES,
    MalformedToolCall,
    ParsedAnswer,
    ToolCall,
    detect_tool_call_format,
    import_tool_call_format,
)

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "exact": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"type": "object"},
        },
    },
}
SCHEMAS = [WEATHER, {"name": "math.root", "parameters": {"properties": {"x": {"type": "number"}}}}]
VALUES = {
    "city": 'São "Paulo", [x] </parameter',
    "days": 3,
    "exact": True,
    "tags": ["a, b", "}"],
    "place": {"lat": -1.5, "name": None},
}
ONE = (ToolCall("get_weather", VALUES),)
TWO = (*ONE, ToolCall("math.root", {"x": 2.5}))
# a call may have text before it
WITH_TEXT = ("hermes", "glm", "qwen_xml", "lfm2", "deepseek", "mistral")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "calls", [ONE, TWO, (ToolCall("math.root", {}),)], ids=["one", "two", "no arguments"]
)
def test_what_a_form_writes_it_reads(name: str, calls: tuple[ToolCall, ...]) -> None:
    form = import_tool_call_format(name)
    reading = form.parse_answer(form.format_calls(calls), SCHEMAS)
    assert reading.calls == calls
    assert reading.text == ""


@pytest.mark.parametrize("name", NAMES)
def test_half_a_call_is_never_a_call(name: str) -> None:
    """Every beginning of two calls has fewer calls, is refused or is text; none has two."""
    form = import_tool_call_format(name)
    whole, one = form.format_calls(TWO), form.format_calls(ONE)
    for end in range(1, len(whole)):
        beginning = whole[:end].rstrip()
        if beginning == whole.rstrip() or whole[end:].strip(" \n") in ("", "</tool_call>", "```"):
            continue
        try:
            reading = form.parse_answer(beginning, SCHEMAS)
        except MalformedToolCall:
            continue
        assert len(reading.calls) < 2, beginning
        assert not reading.calls or (
            reading.calls == ONE and len(beginning) >= len(one.rstrip(" ]}\n")) - 1
        ), beginning


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text", ["", "It is 4 degrees (cold).", "The set [1, 2] is {open}.", "Call get_weather."]
)
def test_prose_calls_nothing(name: str, text: str) -> None:
    reading = import_tool_call_format(name).parse_answer(text, SCHEMAS)
    assert reading.calls == ()
    assert reading.text.strip() == text


@pytest.mark.parametrize("name", WITH_TEXT)
def test_text_before_a_call_is_kept(name: str) -> None:
    form = import_tool_call_format(name)
    reading = form.parse_answer(f"I look it up.\n{form.format_calls(TWO)}", SCHEMAS)
    assert reading.calls == TWO
    assert reading.text == "I look it up."


CITY = (ToolCall("f", {"city": "Paris"}),)
AS_PUBLISHED = [  # as models and their templates write them
    ("json", '```json\n[{"name": "f", "arguments": {"city": "Paris"}}]\n```', CITY),
    ("json", '{"type": "function", "function": {"name": "f", "arguments": "{\\"city\\": \\"Paris\\"}"}}', CITY),
    ("json", "[]", ()),
    ("hermes", '<tool_call>[{"name": "f", "arguments": {"city": "Paris"}}]</tool_call>', CITY),
    ("hermes", '<tool_call>{"arguments": {"city": "Paris"}, "name": "f"}</tool_call>', CITY),
    ("qwen_xml", "<function=f>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>", CITY),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"city": "Paris"}, "id": "D681PevKs"}]', CITY),
    ("mistral", '[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{"city": "Paris"}', CITY),
    ("mistral", '[TOOL_CALLS]f{"city": "Paris"}', CITY),
    ("llama", '<|python_tag|>{"name": "f", "parameters": {"city": "Paris"}}', CITY),
    ("llama", '{"name": "f", "parameters": {"city": "Paris"}}\n{"name": "f", "parameters": {"city": "Paris"}}', CITY * 2),
    ("pythonic", "f(city='Paris')", CITY),
    ("pythonic", "<|python_start|>[f(city='Paris')]<|python_end|>", CITY),
    ("pythonic", "[f(ok=true, none=null)]", (ToolCall("f", {"ok": True, "none": None}),)),
    ("lfm2", "<|tool_call_start|>[f(city=\"Paris\")]<|tool_call_end|>Checking.", CITY),
    (
        "harmony",
        "<|channel|>analysis<|message|>Need f.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        CITY,
    ),
    ("harmony", ' to=functions.f<|channel|>commentary json<|message|>{"city":"Paris"}', CITY),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        CITY,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "calls"), AS_PUBLISHED)
def test_answers_as_published_models_write_them(name: str, text: str, calls: tuple[ToolCall, ...]) -> None:
    assert import_tool_call_format(name).parse_answer(text).calls == calls


MALFORMED = [
    ("json", '{"name": "f", "arguments": {"city": "Paris"}'),
    ("json", '{"name": "f", "arguments": {"city": "Paris"}} Done.'),
    ("json", "{'name': 'f', 'arguments': {}}"),
    ("json", '{"name": "f", "arguments": [1]}'),
    ("json", '{"name": "f", "arguments": {"x": 1, "x": 2}}'),
    ("json", '{"name": "f", "arguments": {"x": NaN}}'),
    ("json", '{"answer": 4}'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}}'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}}} </tool_call>'),
    ("hermes", '{"name": "f", "arguments": {}}</tool_call>'),
    ("qwen_xml", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>"),
    ("qwen_xml", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n"),
    ("qwen_xml", '<tool_call>{"name": "f", "arguments": {}}</tool_call>'),
    ("pythonic", "[f(a=1, g(b=2)]"),
    ("pythonic", "[f('Paris')]"),
    ("pythonic", "[f(a=b)]"),
    ("pythonic", "[f(a=__import__('os').system('true'))]"),
    ("pythonic", "[f(**{'a': 1})]"),
    ("lfm2", "<|tool_call_start|>[f(a=1)]"),
    ("mistral", "[TOOL_CALLS]f[ARGS]"),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}'),
    ("llama", '<|python_tag|>print("hello")'),
    ("harmony", '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"city": "Par'),
    ("harmony", "<|channel|>commentary to=functions.f"),
    ("deepseek", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>'),
    ("glm", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1\n</tool_call>"),
]


@pytest.mark.parametrize(("name", "text"), MALFORMED)
def test_what_begins_as_a_call_and_is_none_is_malformed(name: str, text: str) -> None:
    with pytest.raises(MalformedToolCall):
        import_tool_call_format(name).parse_answer(text)


def test_harmony_tells_thinking_from_what_is_said() -> None:
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>No.<|return|>"
    )
    assert import_tool_call_format("harmony").parse_answer(text) == ParsedAnswer((), "No.", "Hm.")


def test_values_of_tags_are_what_the_schema_says() -> None:
    text = "<function=get_weather>\n<parameter=city>\n42\n</parameter>\n<parameter=days>\n42\n</parameter>\n</function>"
    arguments = import_tool_call_format("qwen_xml").parse_answer(text, SCHEMAS).calls[0].arguments
    assert arguments == {"city": "42", "days": 42}


TEMPLATES = [
    (
        "<|start|>system\nCalls to these tools: 'functions'.\nnamespace functions.x <|channel|>a<|message|>",
        "harmony",
    ),
    ("{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'}}", "deepseek"),
    ("[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS] [TOOL_CALLS]", "mistral"),
    (
        "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>",
        "glm",
    ),
    ("<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>", "qwen_xml"),
    ('<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>', "hermes"),
    ("List of tools: <|tool_list_start|>[{{ tools }}]<|tool_list_end|>", "lfm2"),
    ('Respond in the format {"name": function name, "parameters": dictionary of argument name}', "llama"),
    (
        "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]",
        "pythonic",
    ),
    ("{{ messages }}", None),
    (None, None),
]


@pytest.mark.parametrize(("template", "name"), TEMPLATES)
def test_the_form_is_told_by_the_template(template: str | None, name: str | None) -> None:
    assert detect_tool_call_format(template) == name
