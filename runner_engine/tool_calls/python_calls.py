"""Parses lists of tool calls in Python syntax.

Evaluates only literals in the syntax tree, and executes no code.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from runner_engine.tool_calls.calls import MalformedToolCall, ToolCall

WORDS = {"true": True, "false": False, "null": None}  # of JSON, which models write among Python's
MOST = 200_000  # characters: Python's parser needs memory of a multiple of it


def parse_python_calls(text: str) -> tuple[ToolCall, ...]:
    """Parse a list of tool calls in Python syntax.

    Raises MalformedToolCall for any other text.
    """
    if len(text) > MOST:
        raise MalformedToolCall(f"the list of tool calls is too long: {len(text):,} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise MalformedToolCall(f"the list of tool calls is invalid: {error}") from error
    if not isinstance(tree, ast.List):
        raise MalformedToolCall("no list of calls")
    return tuple(_parse_call(node) for node in tree.elts)


def _parse_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call):
        raise MalformedToolCall(f"{ast.unparse(node)} is no call")
    name = _parse_function_name(node.func)
    if node.args:
        raise MalformedToolCall(f"{name} gets arguments without names")
    arguments = dict[str, Any]()
    for keyword in node.keywords:
        if keyword.arg is None:
            raise MalformedToolCall(f"{name} gets arguments without names")
        arguments[keyword.arg] = _parse_literal(keyword.value)
    return ToolCall(name, arguments)


def _parse_function_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_parse_function_name(node.value)}.{node.attr}"
    raise MalformedToolCall(f"{ast.unparse(node)} is not a function name")


class _JsonConstantReplacer(ast.NodeTransformer):
    """Replaces the JSON constants true, false and null in a Python syntax tree by Python's constants."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(WORDS[node.id]) if node.id in WORDS else node


def _parse_literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(_JsonConstantReplacer().visit(node))
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise MalformedToolCall(f"{ast.unparse(node)} is no plain value") from error


def format_python_calls(calls: Sequence[ToolCall]) -> str:
    return f"[{', '.join(map(str, calls))}]"
