"""Answers that must be JSON, or calls: their grammar, which the engine holds them to.

runner_engine/grammars/compiling.py says how a grammar is written.
"""

from __future__ import annotations

from typing import Any

from runner.options.serve.bodies import ChatBody, ResponseFormat
from runner.options.serve.refusals import Refusal
from runner.options.serve.tools import Offered, ServedTools
from runner_engine import tool_calls

FORMATS = ("text", "json_object", "json_schema")
CALLS_ARE_JSON = ("json", "llama")  # forms in which a call cannot be told from JSON that is none
OPTIONS = "x-guidance"  # of the library, in a schema: one of them leaves out what it cannot hold


def grammar_of(body: ChatBody, served: ServedTools, offered: Offered | None) -> str | None:
    """Return the grammar of a request's answer; None if it is free."""
    schema = _schema_of(body.response_format)
    if schema is not None and served.form.IS_RAW:
        need = f"answers in the form {served.name} have channels, which this cannot hold"
        raise Refusal(400, f"response_format: {need}", "response_format")
    if offered is not None and offered.must:
        _check_ends(body, "tool_choice")
        return f"start: calls\n{offered.rules}"
    if schema is None:
        rules = None if offered is None else offered.rules
        if rules is not None:
            _check_ends(body, "functions with strict=true, or parallel_tool_calls=false,")
        return None if rules is None else f"start: answer\n{rules}"
    _check_ends(body, "response_format")
    if offered is None:
        return f"start: {json_of(schema)}"
    if served.name in CALLS_ARE_JSON:
        need = f"this model's calls are JSON, too (form {served.name}): leave out one of them"
        raise Refusal(400, f"response_format and tools: {need}", "response_format")
    rules = served.form.grammar(offered.functions, offered.several, served.template)
    return f"start: calls | {json_of(schema)}\n{rules}"


def _check_ends(body: ChatBody, name: str) -> None:
    """Refuse what would end such an answer elsewhere."""
    if body.stop:
        raise Refusal(400, f"stop: goes without {name}, whose answers end by themselves", "stop")
    if body.ignore_eos:
        need = f"goes without {name}, whose answers end by themselves"
        raise Refusal(400, f"ignore_eos: {need}", "ignore_eos")


def _schema_of(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """Return the schema of an answer; None if it is a text."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.type != "json_schema":
        need = f"must be one of {', '.join(FORMATS)}"
        raise Refusal(400, f"response_format.type={wanted.type!r}: {need}", "response_format")
    if wanted.json_schema is None:
        need = "give name and schema"
        raise Refusal(400, f"response_format.json_schema: {need}", "response_format")
    return wanted.json_schema.of


def json_of(schema: dict[str, Any]) -> str:
    """Return what JSON of a schema is in a grammar."""
    if OPTIONS in schema:
        raise Refusal(400, f"{OPTIONS}: this server decides how a schema is held")
    try:
        return tool_calls.json_of(schema)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"no JSON schema: {type(error).__name__}") from error
