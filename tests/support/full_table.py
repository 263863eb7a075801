"""Options with which the format `table` shows all that it can, in lines of any width."""

from __future__ import annotations

from collections.abc import Sequence

EVERYTHING = ("--explain", "--columns", "all", "--plot")


def with_everything(arguments: Sequence[object]) -> list[str]:
    """Return arguments of runner-compare that show everything, unless they say how the result looks."""
    words = [*map(str, arguments)]
    return words if {"--format", "--columns"} & {*words} else [*words, *EVERYTHING]
