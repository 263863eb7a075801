"""A list of calls as Python writes them, read from its syntax tree: nothing is evaluated but
literals."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from runner_engine.tool_calls.calls import Malformed, ToolCall

WORDS = {"true": True, "false": False, "null": None}  # of JSON, which models write among Python's
MOST = 200_000  # characters: Python's parser needs memory of a multiple of it


def python_calls(text: str) -> tuple[ToolCall, ...]:
    """Return the calls in a list of them; Malformed if the text is anything else."""
    if len(text) > MOST:
        raise Malformed(f"a list of calls of {len(text):,} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Malformed(f"no whole list of calls: {error}") from error
    if not isinstance(tree, ast.List):
        raise Malformed("no list of calls")
    return tuple(_call(node) for node in tree.elts)


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call):
        raise Malformed(f"{ast.unparse(node)} is no call")
    name = _name(node.func)
    if node.args:
        raise Malformed(f"{name} gets arguments without names")
    arguments = dict[str, Any]()
    for keyword in node.keywords:
        if keyword.arg is None:
            raise Malformed(f"{name} gets arguments without names")
        arguments[keyword.arg] = _value(keyword.value)
    return ToolCall(name, arguments)


def _name(node: ast.expr) -> str:
    """Return the name of a function, with the dots in it."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    raise Malformed(f"{ast.unparse(node)} is no name of a function")


class _Words(ast.NodeTransformer):
    """Puts Python's values in the place of JSON's words."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(WORDS[node.id]) if node.id in WORDS else node


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(_Words().visit(node))
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise Malformed(f"{ast.unparse(node)} is no plain value") from error


def written_calls(calls: Sequence[ToolCall]) -> str:
    """Return calls as Python writes them, in a list."""
    return f"[{', '.join(map(str, calls))}]"
