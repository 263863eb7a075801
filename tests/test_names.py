"""Names that say nothing are gone from packages, and do not come back: `it`, `theirs` and the like
name no variable, parameter or attribute."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# By package. Others are still in use there, or public: `Flip.theirs` is a key of the JSON.
GONE = {
    "runner_base": {"it", "its", "mine", "ours", "theirs", "place", "words"},
    "runner_compare": {"it", "its", "mine", "one"},
    "runner": {"its", "mine", "ours", "theirs"},
}


def empty_names(source: str, names: set[str]) -> list[tuple[str, int]]:
    """Return these names in a source, each with its line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        (token.string, token.start[0])
        for token in tokens
        if token.type == tokenize.NAME and token.string in names
    ]


@pytest.mark.parametrize("package", GONE)
def test_names_say_what_they_are(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted((ROOT / package).rglob("*.py"))
        if (names := empty_names(path.read_text(), GONE[package]))
    }
    assert not found, f"give these names that say what they are: {found}"


@pytest.mark.parametrize("package", GONE)
def test_a_name_that_says_nothing_is_found(package: str) -> None:
    planted = "".join(f"run.{name} = 1  # it is planted\n" for name in sorted(GONE[package]))
    found = [name for name, _ in empty_names(planted, GONE[package])]
    assert found == sorted(GONE[package])
