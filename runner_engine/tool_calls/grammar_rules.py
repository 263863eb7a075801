"""Builds grammar rules for tool calls, in the grammar syntax of runner_engine/grammars/grammar_cache.py.

Each format's `build_grammar` returns rules. Among them are `calls`, calls of the functions with
arguments that match their schemas, and `answer`: calls, or a text without calls.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner_base import ConfigError
from runner_base.errors import Code
from runner_engine.tool_calls.calls import Schemas
from runner_engine.tool_calls.plain_values import STRINGS

# between two parts of JSON; without an end to blanks a model may write nothing else
BLANKS = "[ ]?"
TEXT = r"/(.|\n)*/"  # without special tokens
# a text that is not read as JSON
NO_JSON = r"/[^\s{\[`<](.|\n)*/"
# one that is not read as a list of calls of Python
NO_PYTHON = r"/([^\s\[<A-Za-z_]|[A-Za-z_][\w.]*[^\w.(])(.|\n)*/ | /[A-Za-z_][\w.]*/"
# what a schema of parameters may say where they are written one by one
KNOWN = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "$defs",
    "definitions",
    "title",
    "description",
    "$schema",
    "strict",
}
SHAPES = {"enum", "const", "minLength", "maxLength", "pattern", "format"}
PYTHON_ESCAPES = '"\\bfnrt'  # those that mean the same in a string of Python


def quote_grammar_literal(text: str) -> str:
    return json.dumps(text)


def build_json_rule(schema: Mapping[str, Any], **options: Any) -> str:
    own = {"whitespace_pattern": BLANKS, "lenient": False} | options
    return f"%json {json.dumps({**schema, 'x-guidance': own}, allow_nan=False)}"


def get_arguments_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    whole: Mapping[str, Any] = schema.get("parameters") or {"type": "object", "properties": {}}
    return whole


def build_json_tool_call_rule(schemas: Schemas, arguments_key: str = "arguments") -> str:
    """Return the grammar rule `call`, which matches a JSON object with a function's name and arguments."""
    begins = [f'{{"name": {json.dumps(schema["name"])}, "{arguments_key}": ' for schema in schemas]
    arguments = [build_json_rule(get_arguments_schema(schema)) for schema in schemas]
    objects = [f'{quote_grammar_literal(a)} {b} "}}"' for a, b in zip(begins, arguments, strict=True)]
    return build_alternatives_rule("call", objects)


def build_alternatives_rule(rule_name: str, alternatives: Sequence[str] | Any) -> str:
    """Return a grammar rule that matches any one of several alternatives."""
    return f"{rule_name}: " + "\n  | ".join(alternatives)


def build_repeat_rule(rule_name: str, separator: str, allow_multiple: bool) -> str:
    """Return a grammar rule that matches another rule once, or repeatedly with separators in between."""
    return f"{rule_name} ({quote_grammar_literal(separator)} {rule_name})*" if allow_multiple else rule_name


def build_parameter_rules(
    function_index: int, schema: Mapping[str, Any], format_name: str, value_rule: Callable[[str, Any], str],
    separator: str = "",
) -> str:  # fmt: skip
    """Return the grammar rule `parameters_N`, which matches the parameters of function N in schema order.

    Optional parameters may be omitted.

    value_rule: returns a parameter's grammar rule, given its name and schema.
    """
    whole = get_arguments_schema(schema)
    if more := sorted(set(whole) - KNOWN):
        raise build_unconstrainable_error(
            format_name, schema, f"its parameters have {', '.join(more)}", "unsupported"
        )
    properties, needed = whole.get("properties") or {}, whole.get("required") or []
    if missing := [name for name in needed if name not in properties]:
        raise build_unconstrainable_error(
            format_name, schema, f"`required` names {missing[0]!r}, but `properties` does not contain it"
        )
    shared = {name: whole[name] for name in ("$defs", "definitions") if name in whole}
    rules, last = [], len(properties)
    for at, (name, own) in enumerate(properties.items()):
        if not isinstance(own, Mapping):
            raise build_unconstrainable_error(format_name, schema, f"the schema of {name} is not an object")
        value = value_rule(name, {**own, **shared})
        first, next_one = f"parameters_{function_index}_{at}", f"parameters_{function_index}_{at + 1}"
        rules.append(f"value_{function_index}_{at}: {value}")
        plain = f"value_{function_index}_{at} more_{next_one}"
        behind = f"{quote_grammar_literal(separator)} {plain}" if separator else plain
        if name in needed:
            rules += [f"{first}: {plain}", f"more_{first}: {behind}"]
        else:
            rules += [f"{first}: {plain} | {next_one}", f"more_{first}: {behind} | more_{next_one}"]
    ends = [f'{more}parameters_{function_index}_{last}: ""' for more in ("", "more_")]
    return "\n".join([f"parameters_{function_index}: parameters_{function_index}_0", *rules, *ends])


def build_plain_value_rule(
    format_name: str, name: str, schema: Mapping[str, Any], end_marker_rule: str, end_marker_text: str
) -> str:
    """Return the grammar rule for a parameter's value and the marker that ends the value.

    Strings are plain text. Other values are JSON. end_marker_rule: the name of the marker's
    rule. end_marker_text: the marker itself.
    """
    if schema.get("type") not in STRINGS:
        return f"{build_json_rule(schema)} {end_marker_rule}"
    if not SHAPES & set(schema):
        return f"to_{end_marker_rule}"
    values = schema.get("enum", [schema.get("const")])
    if set(schema) & SHAPES - {"enum", "const"} or not all(isinstance(one, str) for one in values):
        shape = ", ".join(sorted(SHAPES & set(schema)))
        raise ConfigError(
            f"the format {format_name} does not quote strings, so a grammar cannot enforce {shape}",
            key=name,
            code="unsupported",
        )
    if odd := [one for one in values if one != one.strip("\n") or end_marker_text.strip() in one]:
        raise ConfigError(
            f"the format {format_name} cannot represent {odd[0]!r}", key=name, code="unsupported"
        )
    return f"({' | '.join(map(quote_grammar_literal, values))}) {end_marker_rule}"


def build_python_list_rules(schemas: Schemas, allow_multiple: bool, format_name: str) -> str:
    """Return the grammar rule `list`, which matches tool calls in Python syntax."""
    calls, rules = [], []
    for number, schema in enumerate(schemas):
        name = schema["name"]
        if not all(map(_is_identifier, name.split("."))):
            raise build_unconstrainable_error(
                format_name, schema, "its name is not a valid Python identifier", "unsupported"
            )
        rules.append(build_parameter_rules(number, schema, format_name, _build_keyword_rule, ", "))
        calls.append(f'{quote_grammar_literal(f"{name}(")} parameters_{number} ")"')
    many = build_repeat_rule("call", ", ", allow_multiple)
    return "\n".join([f'list: "[" {many} "]"', build_alternatives_rule("call", calls), *rules])


def _build_keyword_rule(name: str, schema: Mapping[str, Any]) -> str:
    if not _is_identifier(name):
        raise ConfigError("the parameter name is not a valid Python identifier", key=name, code="unsupported")
    return (
        f"{quote_grammar_literal(f'{name}=')} {build_json_rule(schema, json_allowed_escapes=PYTHON_ESCAPES)}"
    )


def _is_identifier(name: str) -> bool:
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def build_unconstrainable_error(
    format_name: str, schema: Mapping[str, Any], reason: str, code: Code = "bad_value"
) -> ConfigError:
    """Create the error for tool calls that no grammar can constrain."""
    return ConfigError(
        f"a grammar cannot constrain calls of {schema['name']} in the format {format_name}: {reason}",
        code=code,
    )
