"""Pieces of the grammars of calls: runner_engine/grammars/compiling.py says how one is written.

Each form has `grammar`, which returns rules. Among them are `calls`, calls of the functions with
arguments as their schemas say, and `answer`: calls, or a text that is none.
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


def quoted(text: str) -> str:
    """Return a text as grammars have it."""
    return json.dumps(text)


def json_of(schema: Mapping[str, Any], **options: Any) -> str:
    """Return what JSON of a schema is in a grammar."""
    own = {"whitespace_pattern": BLANKS, "lenient": False} | options
    return f"%json {json.dumps({**schema, 'x-guidance': own}, allow_nan=False)}"


def parameters_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a function's arguments."""
    whole: Mapping[str, Any] = schema.get("parameters") or {"type": "object", "properties": {}}
    return whole


def object_calls(schemas: Schemas, key: str = "arguments") -> str:
    """Return the rule `call`: an object of JSON with the function's name and its arguments."""
    begins = [f'{{"name": {json.dumps(schema["name"])}, "{key}": ' for schema in schemas]
    arguments = [json_of(parameters_of(schema)) for schema in schemas]
    objects = [f'{quoted(a)} {b} "}}"' for a, b in zip(begins, arguments, strict=True)]
    return alternatives("call", objects)


def alternatives(name: str, of: Sequence[str] | Any) -> str:
    """Return a rule that is one of several."""
    return f"{name}: " + "\n  | ".join(of)


def repeated(name: str, separator: str, several: bool) -> str:
    """Return a rule once, or as often as wanted."""
    return f"{name} ({quoted(separator)} {name})*" if several else name


def one_by_one(
    number: int, schema: Mapping[str, Any], form: str, written: Callable[[str, Any], str],
    separator: str = "",
) -> str:  # fmt: skip
    """Return the rule `parameters_N` of a function: each parameter as `written` says, in the order
    of the schema, without those that may be left out.

    written: returns what a parameter is in a grammar, from its name and its schema.
    """
    whole = parameters_of(schema)
    if more := sorted(set(whole) - KNOWN):
        raise not_held(form, schema, f"its parameters have {', '.join(more)}", "unsupported")
    properties, needed = whole.get("properties") or {}, whole.get("required") or []
    if missing := [name for name in needed if name not in properties]:
        raise not_held(form, schema, f"required names {missing[0]!r}, which is no property")
    shared = {name: whole[name] for name in ("$defs", "definitions") if name in whole}
    rules, last = [], len(properties)
    for at, (name, own) in enumerate(properties.items()):
        if not isinstance(own, Mapping):
            raise not_held(form, schema, f"the schema of {name} is no object")
        value = written(name, {**own, **shared})
        first, next_one = f"parameters_{number}_{at}", f"parameters_{number}_{at + 1}"
        rules.append(f"value_{number}_{at}: {value}")
        plain = f"value_{number}_{at} more_{next_one}"
        behind = f"{quoted(separator)} {plain}" if separator else plain
        if name in needed:
            rules += [f"{first}: {plain}", f"more_{first}: {behind}"]
        else:
            rules += [f"{first}: {plain} | {next_one}", f"more_{first}: {behind} | more_{next_one}"]
    ends = [f'{more}parameters_{number}_{last}: ""' for more in ("", "more_")]
    return "\n".join([f"parameters_{number}: parameters_{number}_0", *rules, *ends])


def plain_value(form: str, name: str, schema: Mapping[str, Any], end: str, mark: str) -> str:
    """Return a parameter's value and its end: a text as it is, or JSON.

    end: the name of the mark that ends it; mark: its text.
    """
    if schema.get("type") not in STRINGS:
        return f"{json_of(schema)} {end}"
    if not SHAPES & set(schema):
        return f"to_{end}"
    values = schema.get("enum", [schema.get("const")])
    if set(schema) & SHAPES - {"enum", "const"} or not all(isinstance(one, str) for one in values):
        shape = ", ".join(sorted(SHAPES & set(schema)))
        raise ConfigError(
            f"the form {form} has no quotes, so {shape} of a text is not held", key=name, code="unsupported"
        )
    if odd := [one for one in values if one != one.strip("\n") or mark.strip() in one]:
        raise ConfigError(f"the form {form} cannot write {odd[0]!r}", key=name, code="unsupported")
    return f"({' | '.join(map(quoted, values))}) {end}"


def python_list(schemas: Schemas, several: bool, form: str) -> str:
    """Return the rules of `list`: calls as Python writes them."""
    calls, rules = [], []
    for number, schema in enumerate(schemas):
        name = schema["name"]
        if not all(map(_is_identifier, name.split("."))):
            raise not_held(form, schema, "its name is none of Python", "unsupported")
        rules.append(one_by_one(number, schema, form, _keyword, ", "))
        calls.append(f'{quoted(f"{name}(")} parameters_{number} ")"')
    many = repeated("call", ", ", several)
    return "\n".join([f'list: "[" {many} "]"', alternatives("call", calls), *rules])


def _keyword(name: str, schema: Mapping[str, Any]) -> str:
    if not _is_identifier(name):
        raise ConfigError("this parameter's name is none of Python", key=name, code="unsupported")
    return f"{quoted(f'{name}=')} {json_of(schema, json_allowed_escapes=PYTHON_ESCAPES)}"


def _is_identifier(name: str) -> bool:
    return name.isidentifier() and name.isascii() and not keyword.iskeyword(name)


def not_held(form: str, schema: Mapping[str, Any], why: str, code: Code = "bad_value") -> ConfigError:
    """Return the error for a function whose calls no grammar can hold."""
    return ConfigError(f"calls of {schema['name']} cannot be held in the form {form}: {why}", code=code)
