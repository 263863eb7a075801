"""What the server takes and gives: for machines at /openapi.json, and for people at /docs, without other sites."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from runner.config.sampling import PARAMETERS, Parameter
from runner.config.task import ServeConfig
from runner.serving.bodies import ChatBody, GenerateBody, TextBody
from runner.serving.parsing import LABELS, MOST_MESSAGES, MOST_STOP_CHARACTERS, MOST_STOPS, MOST_TOP, NEUTRAL, ROLES
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
    "/v1/chat/completions": "ClientAnswer a conversation, as OpenAI's",
    "/v1/completions": "Go on from a text or from token ids, as OpenAI's; score them",
    "/generate": "Go on from a text, as it is",
    "/tokenize": "The tokens of a text or of a conversation, as vLLM's",
    "/v1/models": "The model that is served",
    "/health": "200 when requests are taken, 503 while the server ends",
    "/metrics": "Counts and times as text for Prometheus",
    "/docs": "This page",
    "/openapi.json": "This page for machines",
    "/": "A page to chat on",
}
NEW_TOKENS = ("max_tokens", "max_completion_tokens", "max_new_tokens")
TEXT, LEFT_OUT = {"minLength": 1}, "left out: as the server's generation group says"
EXAMPLES: dict[str, Schema] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 32, "temperature": 0.7},
    "/v1/completions": {"prompt": "Once upon a time", "max_tokens": 32, "stop": ["\n"]},
    "/generate": {"prompt": "Once upon a time", "max_new_tokens": 32},
    "/tokenize": {"prompt": "Once upon a time"},
}


def openapi(task: ServeConfig) -> Schema:
    """Return the description of all paths, with the bodies that are really taken and the ranges of their values."""
    _, found = models_json_schema(
        [(body, "validation") for body in BODIES.values()], ref_template="#/components/schemas/{model}"
    )
    schemas: Schema = found["$defs"]
    for body in BODIES.values():
        _complete(schemas[body.__name__], task, DOES_NOTHING.get(body.__name__, {}))
    turn = schemas["ChatMessage"]
    turn["additionalProperties"] = {"description": "not read: it must be empty", "enum": [None, "", [], {}]}
    turn["properties"]["role"] |= {"enum": list(ROLES)}
    schemas["MessagePart"]["properties"]["type"] |= {"enum": ["text"]}
    paths: Schema = {
        path: {"get": {"summary": summary, "responses": {"200": {"description": "as it says"}}}}
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
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "where the server has one"}},
        },
        "security": [{}, {"key": []}],
    }


def _statuses(path: str, task: ServeConfig) -> dict[str, str]:
    of_all = {
        "200": "the answer; with stream=true, server-sent events",
        "400": "what is asked cannot be served: the error names the parameter and says why",
        "401": "the key is missing or wrong",
        "404": "another model is asked for",
        "413": f"the body has more than {task.max_body_kib} KiB (task.max_body_kib)",
        "429": f"{task.max_open} completions are under way or waiting (task.max_open): try again after Retry-After",
        "503": "the server is being stopped",
        "504": f"the answer was not complete after {task.timeout_s:g} s (task.timeout_s)",
    }
    if path != "/tokenize":
        return of_all
    return {status: why for status, why in of_all.items() if status != "504"} | {"200": "the tokens, and their text"}


MEANINGS = {
    "model": "the name in /v1/models; left out: the model that is served",
    "messages": "the conversation so far",
    "prompt": "a text, token ids, or a list of either",
    **{name: f"{one.meaning}; {LEFT_OUT}" for name, one in PARAMETERS.items()},
    "seed": "the same request with the same seed is drawn the same way",
    "stop": "the answer ends before the first of these texts",
    "ignore_eos": "go on to the limit, whatever the model says",
    "n": "completions of each prompt",
    "stream": "text as it comes, as server-sent events",
    "stream_options": "include_usage: the counts of tokens in a last event",
    **dict.fromkeys(NEW_TOKENS, f"new tokens at most; {LEFT_OUT}"),
    "logprobs": "log-probabilities of the tokens",
    "top_logprobs": "so many alternatives for each token; needs logprobs=true",
    "add_special_tokens": "false: without those that the tokenizer puts before a prompt; a chat has its template's",
    "echo": "the answer begins with the prompt; with max_tokens=0 the prompt is scored, and nothing is generated",
}


def _range(one: Parameter) -> Schema:
    found: Schema = {"exclusiveMinimum" if one.excludes_low else "minimum": one.low}
    return found if one.high is None else found | {"maximum": one.high}


def _ranges(task: ServeConfig) -> dict[str, Schema]:
    """Return what the types of the parameters do not say."""
    return {
        "messages": {"minItems": 1, "maxItems": MOST_MESSAGES},
        **{name: _range(one) for name, one in PARAMETERS.items()},
        "top_k": {"minimum": -1},  # vLLM's word for all tokens
        "stop": {"maxItems": MOST_STOPS},
        "n": {"minimum": 1, "maximum": task.max_open},
        "top_logprobs": {"minimum": 0, "maximum": MOST_TOP},
        **{name: {"minimum": 1, "maximum": task.max_new_tokens} for name in NEW_TOKENS},
    }


def _complete(schema: Schema, task: ServeConfig, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Put ranges and meanings to the parameters of a body, and name those that are taken only where they do nothing."""
    properties: Schema = schema["properties"]
    ranges = _ranges(task)
    for name, said in properties.items():
        said.pop("title", None)
        said["description"] = MEANINGS[name]
        kinds = said.get("anyOf", [said])
        for kind in kinds:
            if kind.get("type") in ("number", "integer", "array"):
                kind |= ranges.get(name, {})
        if name == "stop":
            kinds[0] |= TEXT | {"maxLength": MOST_STOP_CHARACTERS}
            kinds[1]["items"] |= TEXT | {"maxLength": MOST_STOP_CHARACTERS}
        if name == "prompt" and len(kinds) < 3:
            said["description"] = "a text"
        if name == "prompt" and name in schema.get("required", ()):
            for kind in kinds:
                kind |= {"minItems": 1} if kind["type"] == "array" else TEXT
                if kind.get("items", {}).get("type") in ("string", "array"):
                    kind["maxItems"] = task.max_open
    if "echo" in properties:
        properties["max_tokens"]["anyOf"][0] |= {"minimum": 0}  # with echo
        properties["logprobs"]["anyOf"][0] |= {"minimum": 0, "maximum": MOST_TOP}
    if neutral:
        for name, values in neutral.items():
            note = "taken only where it does nothing"
            properties[name] = {"enum": [*values, None], "description": note}
        properties |= {name: {"description": "not read"} for name in LABELS}
    schema["additionalProperties"] = False


def page(described: Schema) -> str:
    """Return the same for people."""
    return PAGE.replace("{{paths}}", "".join(_sections(described)))


def _sections(described: Schema) -> Iterator[str]:
    for path, methods in described["paths"].items():
        for method, said in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(said['summary'])}.</p>"
            if "requestBody" not in said:
                continue
            content = said["requestBody"]["content"]["application/json"]
            command = (
                f"curl http://HOST:PORT{path} -H 'Content-Type: application/json' -d '{json.dumps(content['example'])}'"
            )
            yield f"<pre>{escape(command)}</pre>"
            schema = described["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
            yield "<table><tr><th>parameter</th><th>type and range</th><th>meaning</th></tr>"
            for name, one in schema["properties"].items():
                needed = " (needed)" if name in schema.get("required", ()) else ""
                yield (
                    f"<tr><td><code>{escape(name)}</code>{needed}</td><td>{escape(_kind(one))}</td>"
                    f"<td>{escape(one['description'])}</td></tr>"
                )
            yield "</table><table><tr><th>status</th><th></th></tr>"
            for status, response in said["responses"].items():
                yield f"<tr><td>{status}</td><td>{escape(response['description'])}</td></tr>"
            yield "</table>"


def _kind(said: Schema) -> str:
    """Say a type with its range in words."""
    if "anyOf" in said:
        return ", or ".join(_kind(one) for one in said["anyOf"] if one.get("type") != "null")
    if "enum" in said:
        return " or ".join(json.dumps(one) for one in said["enum"] if one is not None) or "null"
    if "$ref" in said:
        return str(said["$ref"].rpartition("/")[2])
    if said.get("type") == "array":
        most = f" (up to {said['maxItems']})" if "maxItems" in said else ""
        return f"list of {_kind(said['items'])}{most}"
    low, above, high = said.get("minimum"), said.get("exclusiveMinimum"), said.get("maximum")
    begin = f"above {above}" if above is not None else "" if low is None else f"from {low}"
    length = f"up to {said['maxLength']} characters" if "maxLength" in said else ""
    return " ".join(
        part for part in (said.get("type", "anything"), begin, "" if high is None else f"to {high}", length) if part
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What this server takes · runner</title>
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
<h1>What this server takes</h1>
<p>The same for machines: <a href="openapi.json">openapi.json</a>. Chat: <a href="./">the page</a>. Anything that is not
listed is refused by name. Where the server has a key, send it as <code>Authorization: Bearer KEY</code>.</p>
{{paths}}
</body>
</html>
"""
