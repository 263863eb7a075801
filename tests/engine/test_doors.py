"""Folders of the engine with a door: who is outside takes the names that the door lists from
there."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("attention", "kv_cache", "matmul", "memory", "sessions", "decode/passes", "decode/tokens")
PACKAGE_DOOR = ROOT / "runner_engine/__init__.py"  # names the module of each name itself


def dotted(folder: str) -> str:
    """Return the name under which a folder of the engine is imported."""
    return f"runner_engine.{folder.replace('/', '.')}"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_at_the_door_of_a_folder_is_fetched_there(folder: str) -> None:
    names, inside = set(import_module(dotted(folder)).__all__), ROOT / "runner_engine" / folder
    for package in ("runner", "runner_engine"):
        for path in (ROOT / package).rglob("*.py"):
            if path.is_relative_to(inside) or path == PACKAGE_DOOR:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{dotted(folder)}."):
                    by_window = names & {alias.name for alias in node.names}
                    assert not by_window, (
                        f"{path} imports {by_window} from {node.module}, and not from the door"
                    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_name_at_a_door_says_what_it_is(folder: str) -> None:
    door = import_module(dotted(folder))
    lines = (ROOT / "runner_engine" / folder / "__init__.py").read_text().splitlines()
    for name in door.__all__:
        (line,) = [line for line in lines if line.startswith(f'    "{name}"')]
        assert "  # " in line
        assert hasattr(door, name)
