"""A figure in a sentence says where it is from."""

from __future__ import annotations

import pytest

from tools.figures import GIVEN, sourceless

OUTPUT = "```\n$ runner\n  accuracy   94.4%\n  peak       1,234 MiB\n```\n"


@pytest.mark.parametrize(
    "sentence",
    [
        "It solves 94.4 % in 1,234 MiB.",
        "It takes 4.4 s ([measured](../bench/README.md#here)).",
        "*Example* (one machine, 1 May 2026): 77.7 %\n\n| a | b |\n|---|---|\n| 88.8 % | 9.9 s |",
        "Version 5.23.0, `1.5 %` in code, 7 jobs, n = 200.",
    ],
)
def test_a_figure_with_a_source_is_fine(sentence: str) -> None:
    assert not list(sourceless("docs/x.md", f"{OUTPUT}\n{sentence}\n"))


@pytest.mark.parametrize(
    ("sentence", "figure"),
    [
        ("It solves 94.5 %.", "94.5 %"),
        ("It takes 234 MiB.", "234 MiB"),
        ("p = 0.005", "0.005"),
        ("| 4.4 |", "4.4"),
    ],
)
def test_a_figure_without_one_is_named(sentence: str, figure: str) -> None:
    assert list(sourceless("docs/x.md", f"{OUTPUT}\n{sentence}\n")) == [figure]


def test_settings_are_given_page_by_page() -> None:
    assert not list(sourceless("docs/compare.md", "More than 20 % is beyond noise."))
    assert all(name.endswith(".md") for name in GIVEN)
