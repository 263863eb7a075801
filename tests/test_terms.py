"""One term for one concept: the retired words of ARCHITECTURE.md stand in no name and on no page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("runner", "runner_base", "runner_compare", "runner_engine")
WORD = re.compile(r"[A-Z]?[a-z0-9]+")


def retired_words() -> set[str]:
    table = (ROOT / "ARCHITECTURE.md").read_text().split("\n## Terms\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ")[2:] for line in table.splitlines() if line.startswith("| ")]
    return {
        word.strip() for cell in cells[1:] for text in cell for word in text.split(",") if word.strip(" |")
    }


def retired_in_names(source: str, module: str, retired: set[str]) -> set[str]:
    """Return the names of functions, classes and the module that contain a retired word or end in `_of`."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {module, *(node.name for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))}
    return {
        name
        for name in names
        if name.endswith("_of") or {word.lower() for word in WORD.findall(name)} & retired
    }


def test_a_retired_word_is_found_in_names() -> None:
    source = "class Twins: ...\ndef guess_next(): ...\ndef hash_of(): ...\ndef own_row(): ...\n"
    assert retired_in_names(source, "crew", {"twins", "guess", "crew"}) == {
        "Twins",
        "guess_next",
        "hash_of",
        "crew",
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_has_a_retired_word(package: str) -> None:
    retired = {word for word in retired_words() if " " not in word}
    assert len(retired) > 10
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in retired_in_names(path.read_text(), path.stem, retired)
    }
    assert not found


def test_no_page_has_a_retired_phrase() -> None:
    phrases = {text for text in retired_words() if " " in text} | {"guessed tokens", "gambler"}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = {
        f"{page.name}: {phrase}"
        for page in pages
        for phrase in phrases
        if re.search(rf"\b{phrase}\b", page.read_text(), re.IGNORECASE)
    }
    assert not found
