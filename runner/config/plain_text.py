"""Prompts on the command line stand for themselves: Hydra's grammar would take their commas and brackets apart."""

from __future__ import annotations

import re

from hydra.core.override_parser.types import Quote, QuotedString

KEYS = ("task.prompt", "task.system", "task.instruction")


def quote_plain_texts(arguments: list[str]) -> list[str]:
    """Quote texts for Hydra, so that commas, colons and brackets in a prompt stand for themselves.

    Left alone: what is quoted already, plain words and lists of them, and a grid's arguments, which have a grammar.
    """
    if "-m" in arguments or "--multirun" in arguments:
        return arguments
    quoted = []
    for argument in arguments:
        key, _, text = argument.partition("=")
        plain = re.fullmatch(r"""[A-Za-z0-9_.,-]*|(['"]).*\1""", text, re.DOTALL)
        if key in KEYS and not plain:
            text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # no interpolation either
            argument = f"{key}={QuotedString(text, Quote.single).with_quotes()}"
        quoted.append(argument)
    return quoted
