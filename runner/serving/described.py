"""The server's interface: for machines at /openapi.json, for people at /docs, which loads nothing from other sites."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from runner.config.sampling import PARAMETERS, SEED, Parameter
from runner.config.task import ServeConfig
from runner.serving.bodies import ChatBody, GenerateBody, TextBody
from runner.serving.parsing import LABELS, MAX_MESSAGES, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOP, NEUTRAL, ROLES
from runner.serving.tokens import NEUTRAL as NEUTRAL_TO_TOKENS
from runner.serving.tokens import TokenizeBody

Schema = dict[str, Any]
BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": TextBody,
    "/generate": GenerateBody,
    "/tokenize": TokenizeBody,
}
DOES_NOTHING = {"ChatBody": NEUTRAL, "TextBody": NEUTRAL, "TokenizeBody": NEUTRAL_TO_TOKENS}
SUMMARIES = {
    "/v1/chat/completions": "Answer a conversation, as OpenAI does",
    "/v1/completions": "Complete or score a text or token ids, as OpenAI does",
    "/generate": "Complete a text",
    "/tokenize": "The tokens of a text or of a conversation, as vLLM returns them",
    "/v1/models": "The model that is served",
    "/health": "200 while the server takes requests, 503 while it stops",
    "/metrics": "Counts and times as text for Prometheus",
    "/docs": "This page",
    "/openapi.json": "This page for machines",
    "/": "A page to chat on",
}
NEW_TOKENS = ("max_tokens", "max_completion_tokens", "max_new_tokens")
TEXT, LEFT_OUT = {"minLength": 1}, "left out: the server's generation group decides"
EXAMPLES: dict[str, Schema] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 32, "temperature": 0.7},
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 32, "stop": ["\n"]},
    "/generate": {"prompt": "Once upon a time", "max_new_tokens": 32},
    "/tokenize": {"prompt": "Once upon a time"},
}


def openapi(task: ServeConfig) -> Schema:
    """Return the description of all paths, with their bodies and the ranges of their values."""
    _, definitions = models_json_schema(
        [(body, "validation") for body in BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    schemas: Schema = definitions["$defs"]
    for body in BODIES.values():
        _complete(schemas[body.__name__], task, DOES_NOTHING.get(body.__name__, {}))
    turn = schemas["ChatMessage"]
    turn["additionalProperties"] = {"description": "not read: it must be empty", "enum": [None, "", [], {}]}
    turn["properties"]["role"] |= {"enum": list(ROLES)}
    schemas["MessagePart"]["properties"]["type"] |= {"enum": ["text"]}
    paths: Schema = {
        path: {"get": {"summary": summary, "responses": {"200": {"description": "the answer"}}}}
        for path, summary in SUMMARIES.items()
        if path not in BODIES
    }
    for path, body in BODIES.items():
        content = {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}, "example": EXAMPLES[path]}
        }
        paths[path] = {"post": {
            "summary": SUMMARIES[path],
            "requestBody": {"required": True, "content": content},
            "responses": {status: {"description": why} for status, why in _statuses(path, task).items()},
        }}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "runner task=serve", "version": "1"},
        "paths": dict(sorted(paths.items(), key=lambda one: list(SUMMARIES).index(one[0]))),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "if the server has one"}},
        },
        "security": [{}, {"key": []}],
    }


def _statuses(path: str, task: ServeConfig) -> dict[str, str]:
    descriptions = {
        "200": "the answer; with stream=true, server-sent events",
        "400": "the request cannot be served: the error names the parameter and the reason",
        "401": "the key is missing or wrong",
        "404": "this server has another model",
        "413": f"the body has more than {task.max_body_kib} KiB (task.max_body_kib)",
        "429": f"{task.max_open} completions are under way or waiting (task.max_open): try again after Retry-After",
        "503": "the server is being stopped",
        "504": f"the answer was not complete after {task.timeout_s:g} s (task.timeout_s)",
    }
    if path != "/tokenize":
        return descriptions
    return {status: why for status, why in descriptions.items() if status != "504"} | {
        "200": "the tokens and their text"
    }


MEANINGS = {
    "model": "the name in /v1/models; left out: the model that is served",
    "messages": "the conversation so far",
    "prompt": "a text, token ids, or a list of either",
    **{name: f"{one.meaning}; {LEFT_OUT}" for name, one in PARAMETERS.items()},
    "seed": "the same request with the same seed has the same answer",
    "stop": "the answer ends before the first of these texts",
    "ignore_eos": "continue to the limit, also after the model's end token",
    "n": "completions of each prompt",
    "stream": "return text as it is generated, as server-sent events",
    "stream_options": "include_usage: return the token counts in a last event",
    **dict.fromkeys(NEW_TOKENS, f"maximum of new tokens; {LEFT_OUT}"),
    "logprobs": "log-probabilities of the tokens",
    "top_logprobs": "number of alternatives for each token; needs logprobs=true",
    "add_special_tokens": "false: without those that the tokenizer puts before a prompt; a chat keeps its template's",
    "echo": "the answer begins with the prompt; with max_tokens=0 the prompt is scored, and nothing is generated",
}


def _range(one: Parameter) -> Schema:
    return {"exclusiveMinimum" if one.excludes_low else "minimum": one.low, "maximum": one.high}


def _ranges(task: ServeConfig) -> dict[str, Schema]:
    """Return the limits of the parameters, which their types do not contain."""
    return {
        "messages": {"minItems": 1, "maxItems": MAX_MESSAGES},
        **{name: _range(one) for name, one in PARAMETERS.items()},
        "top_k": _range(PARAMETERS["top_k"]) | {"minimum": -1},  # vLLM's word for all tokens
        "seed": _range(SEED),
        "stop": {"maxItems": MAX_STOPS},
        "n": {"minimum": 1, "maximum": task.max_open},
        "top_logprobs": {"minimum": 0, "maximum": MAX_TOP},
        **{name: {"minimum": 1, "maximum": task.max_new_tokens} for name in NEW_TOKENS},
    }


def _complete(schema: Schema, task: ServeConfig, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Add ranges and meanings, and the parameters that are accepted only if they have no effect."""
    properties: Schema = schema["properties"]
    ranges = _ranges(task)
    for name, parameter in properties.items():
        parameter.pop("title", None)
        parameter["description"] = MEANINGS[name]
        kinds = parameter.get("anyOf", [parameter])
        for kind in kinds:
            if kind.get("type") in ("number", "integer", "array"):
                kind |= ranges.get(name, {})
        if name == "stop":
            kinds[0] |= TEXT | {"maxLength": MAX_STOP_CHARACTERS}
            kinds[1]["items"] |= TEXT | {"maxLength": MAX_STOP_CHARACTERS}
        if name == "prompt" and len(kinds) < 3:
            parameter["description"] = "a text"
        if name == "prompt" and name in schema.get("required", ()):
            for kind in kinds:
                kind |= {"minItems": 1} if kind["type"] == "array" else TEXT
                if kind.get("items", {}).get("type") in ("string", "array"):
                    kind["maxItems"] = task.max_open
    if "echo" in properties:
        properties["max_tokens"]["anyOf"][0] |= {"minimum": 0}  # with echo
        properties["logprobs"]["anyOf"][0] |= {"minimum": 0, "maximum": MAX_TOP}
    if neutral:
        for name, values in neutral.items():
            note = "accepted only if it has no effect"
            properties[name] = {"enum": [*values, None], "description": note}
        properties |= {name: {"description": "not read"} for name in LABELS}
    schema["additionalProperties"] = False


def page(described: Schema) -> str:
    """Return the description as a page for people."""
    return PAGE.replace("{{paths}}", "".join(_sections(described)))


def _sections(described: Schema) -> Iterator[str]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.</p>"
            if "requestBody" not in operation:
                continue
            content = operation["requestBody"]["content"]["application/json"]
            command = (
                f"curl http://HOST:PORT{path} -H 'Content-Type: application/json' -d '{json.dumps(content['example'])}'"
            )
            yield f"<pre>{escape(command)}</pre>"
            schema = described["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            yield "<table><tr><th>parameter</th><th>type and range</th><th>meaning</th></tr>"
            for name, parameter in schema["properties"].items():
                required = " (required)" if name in schema.get("required", ()) else ""
                yield (
                    f"<tr><td><code>{escape(name)}</code>{required}</td><td>{escape(_kind(parameter))}</td>"
                    f"<td>{escape(parameter['description'])}</td></tr>"
                )
            yield "</table><table><tr><th>status</th><th></th></tr>"
            for status, response in operation["responses"].items():
                yield f"<tr><td>{status}</td><td>{escape(response['description'])}</td></tr>"
            yield "</table>"


def _kind(schema: Schema) -> str:
    """Return a type with its range in words."""
    if "anyOf" in schema:
        return ", or ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(json.dumps(one) for one in schema["enum"] if one is not None) or "null"
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if schema.get("type") == "array":
        most = f" (up to {schema['maxItems']})" if "maxItems" in schema else ""
        return f"list of {_kind(schema['items'])}{most}"
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    begin = f"above {above}" if above is not None else "" if low is None else f"from {low}"
    length = f"up to {schema['maxLength']} characters" if "maxLength" in schema else ""
    return " ".join(
        part for part in (schema.get("type", "anything"), begin, "" if high is None else f"to {high}", length) if part
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The server's interface · runner</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; font-size: .9rem; }
td, th { text-align: left; vertical-align: top; border-bottom: 1px solid #8884; padding: .25rem .5rem .25rem 0;
  overflow-wrap: anywhere; }
td:first-child { min-width: 8rem; }
pre { overflow-x: auto; background: #8882; padding: .5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 0; }
</style>
</head>
<body>
<h1>The server's interface</h1>
<p>For machines: <a href="openapi.json">openapi.json</a>. To chat: <a href="./">the page</a>. Other
parameters are refused with an error that names them. If the server has a key, send
<code>Authorization: Bearer KEY</code>.</p>
{{paths}}
</body>
</html>
"""
