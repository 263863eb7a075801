"""The benchmarks' programs in strings, which no type checker reads, import what there is."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def programs(script: Path) -> list[ast.Module]:
    """Return the strings of a script that are programs with imports of their own."""
    found = []
    for node in ast.parse(script.read_text()).body:
        text = getattr(node.value, "value", None) if isinstance(node, ast.Assign) else None
        if isinstance(text, str) and "\nimport " in text:
            found.append(ast.parse(text))
    return found


SCRIPTS = [script for script in sorted(BENCH.glob("*.py")) if programs(script)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_program_imports_is_there(script: Path) -> None:
    for node in (node for program in programs(script) for node in ast.walk(program)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}"), (
                    name.name
                )
