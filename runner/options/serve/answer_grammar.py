"""Grammars that constrain an answer to JSON or to tool calls during decoding.

runner_engine/grammars/grammar_cache.py describes the grammar syntax.
"""

from __future__ import annotations

from typing import Any

from runner.options.serve.bodies import ChatBody, ResponseFormat
from runner.options.serve.refusals import Refusal
from runner.options.serve.tools import OfferedTools, ToolSupport
from runner_engine import tool_calls

FORMATS = ("text", "json_object", "json_schema")
CALLS_ARE_JSON = ("json", "llama")  # forms in which a call cannot be told from JSON that is none
OPTIONS = "x-guidance"  # of the library, in a schema: one of them leaves out what it cannot hold


def build_answer_grammar(
    body: ChatBody, served_tools: ToolSupport, offered_tools: OfferedTools | None
) -> str | None:
    schema = _get_response_schema(body.response_format)
    if schema is not None and served_tools.form.IS_RAW:
        need = f"the model's answer format {served_tools.name} does not support JSON. Omit response_format"
        raise Refusal(400, f"response_format: {need}", "response_format")
    if offered_tools is not None and offered_tools.must:
        _reject_stop_settings(body, "tool_choice")
        return f"start: calls\n{offered_tools.grammar_rules}"
    if schema is None:
        rules = None if offered_tools is None else offered_tools.grammar_rules
        if rules is not None:
            _reject_stop_settings(body, "functions with strict=true, or parallel_tool_calls=false,")
        return None if rules is None else f"start: answer\n{rules}"
    _reject_stop_settings(body, "response_format")
    if offered_tools is None:
        return f"start: {json_grammar(schema)}"
    if served_tools.name in CALLS_ARE_JSON:
        need = (
            f"the model's tool calls ({served_tools.name}) are JSON too, so both cannot be combined. "
            "Omit response_format or tools"
        )
        raise Refusal(400, f"response_format and tools: {need}", "response_format")
    rules = served_tools.form.build_grammar(
        offered_tools.functions, offered_tools.several, served_tools.template
    )
    return f"start: calls | {json_grammar(schema)}\n{rules}"


def _reject_stop_settings(body: ChatBody, constraint_name: str) -> None:
    """Raise Refusal for stop settings that could truncate a constrained answer."""
    if body.stop:
        raise Refusal(400, f"stop: cannot be combined with {constraint_name}. Omit stop", "stop")
    if body.ignore_eos:
        need = f"cannot be combined with {constraint_name}. Omit ignore_eos"
        raise Refusal(400, f"ignore_eos: {need}", "ignore_eos")


def _get_response_schema(response_format: ResponseFormat | None) -> dict[str, Any] | None:
    """Return the JSON schema that an answer must match, or None for plain text."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return {"type": "object"}
    if response_format.type != "json_schema":
        need = f"must be one of {', '.join(FORMATS)}"
        raise Refusal(400, f"response_format.type={response_format.type!r}: {need}", "response_format")
    if response_format.json_schema is None:
        need = "give name and schema"
        raise Refusal(400, f"response_format.json_schema: {need}", "response_format")
    return response_format.json_schema.of


def json_grammar(schema: dict[str, Any]) -> str:
    if OPTIONS in schema:
        raise Refusal(400, f"{OPTIONS}: options of schema enforcement are not supported. Omit this parameter")
    try:
        return tool_calls.build_json_rule(schema)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"no JSON schema: {type(error).__name__}") from error
