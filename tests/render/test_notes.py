"""Notes: the codes in the code and the sentences in the tables are the same, with the same values."""

from __future__ import annotations

import ast
import inspect
import string
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from runner_base.notes import Note, note, text_note
from runner_base.render.notes import Template, render_note

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("runner", "runner_engine", "runner_compare", "runner_base")
# the folders whose notes have a table of their own: it is called NOTES
TABLES = {
    path.parents[1]: ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("render/notes.py")
    if package != "runner_base"
}


def test_a_note_becomes_text() -> None:
    templates: dict[str, Template] = {
        "slow": "{layers} layers are slow: {reason}",
        "no_kernel": "no kernel for {bits} bits",
        "unmeasured": lambda why: f"not measured{why}",
    }
    reasons = note("no_kernel", bits=3), note("unmeasured", why=" yet")
    assert render_note(note("slow", "warning", layers=2, reason=reasons), templates) == (
        "2 layers are slow: no kernel for 3 bits; not measured yet"
    )
    assert note("slow", "warning") == Note("slow", {}, "warning")
    assert render_note(note("slow", layers=2, reason=text_note("{x} is odd")), templates) == (
        "2 layers are slow: {x} is odd"
    )
    assert {note("slow", layers=2), note("slow", layers=2), note("slow", layers=3)} == {
        note("slow", layers=2), note("slow", layers=3),
    }  # fmt: skip
    with pytest.raises(KeyError):
        render_note(note("other"), templates)


UNNAMED = "None"  # what ast names values after **


def notes_in(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield the code and the names of the values of each note that goes to a folder's table."""
    for path in folder.rglob("*.py"):
        if next((parent for parent in path.parents if parent in TABLES), folder) != folder:
            continue  # a folder inside has a table of its own
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Name("note"), [ast.Constant(str(code)), *_]):
                    yield code, {str(keyword.arg) for keyword in node.keywords}


def test_each_note_has_a_sentence_and_each_sentence_a_note() -> None:
    shared: dict[str, Template] = import_module("runner.render.notes").NOTES
    for folder, table in TABLES.items():
        templates: dict[str, Template] = import_module(table).NOTES
        codes = {code for code, _ in notes_in(folder)}
        # an option's verdicts on a stored answer are the runner's, with the same sentences
        borrowed = codes & set(shared) if "options" in folder.parts else set()
        assert codes - borrowed == set(templates) - borrowed, table
        for code, names in notes_in(folder):
            template = (shared | templates)[code]
            if isinstance(template, str):
                fields = {name for _, name, _, _ in string.Formatter().parse(template) if name}
                assert fields == names, f"{table}: {code}"
            else:
                parameters = inspect.signature(template).parameters.values()
                named = {it.name for it in parameters if it.kind is not it.VAR_KEYWORD}
                needed = {it.name for it in parameters if it.name in named and it.default is it.empty}
                takes_more = len(named) < len(parameters)
                assert takes_more or names - {UNNAMED} <= named, f"{table}: {code}"
                assert UNNAMED in names or needed <= names, f"{table}: {code}"
