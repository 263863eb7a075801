"""The modules that benchmarks start in processes of their own exist."""

from __future__ import annotations

import ast
import importlib.util
import itertools
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
OURS = ("runner", "runner_base", "runner_compare", "runner_engine", "tools")


def started_modules(script: Path) -> set[str]:
    """Return the modules of ours that a script runs by `printed(MODULE, ...)` or by `-m MODULE`."""
    modules = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "printed":
            modules |= {getattr(node.args[0], "value", None)}
        if isinstance(node, ast.List | ast.Tuple):
            words = [getattr(item, "value", None) for item in node.elts]
            modules |= {module for flag, module in itertools.pairwise(words) if flag == "-m"}
    names = {name for name in modules if isinstance(name, str)}
    return {name for name in names if name.partition(".")[0] in OURS}


SCRIPTS = [script for script in sorted(BENCH.rglob("*.py")) if started_modules(script)]


def test_scripts_that_start_modules_are_found() -> None:
    assert {"gguf_files", "quantization_table", "llama_table", "startup"} <= {
        script.stem for script in SCRIPTS
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_modules_exist(script: Path) -> None:
    for name in started_modules(script):
        spec = importlib.util.find_spec(name)
        assert spec, name
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{name}.__main__"), f"python -m {name}"
