"""Argument parser for small commands. Errors fit on one line, and options cannot be repeated."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from runner_base.errors import Code, ConfigError, find_closest_names

UNRECOGNIZED = "unrecognized arguments: "


class CommandParser(argparse.ArgumentParser):
    """ArgumentParser that raises ConfigError, with a suggested fix, instead of exiting."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, StoreOnce)
        self.register("action", "store", StoreOnce)

    def error(self, message: str) -> NoReturn:
        code: Code = "unknown_choice" if message.startswith(UNRECOGNIZED) else "bad_value"
        if code == "unknown_choice":
            message = self._describe_unrecognized_argument(message.removeprefix(UNRECOGNIZED).split(" "))
        end = "" if message.endswith("?") else "."
        raise ConfigError(f"{message}{end} All options: {self.prog} --help", code=code)

    def _describe_unrecognized_argument(self, arguments: Sequence[str]) -> str:
        known = [name for action in self._actions for name in action.option_strings]
        option = next((argument for argument in arguments if argument.startswith("-")), "")
        if not option:
            return f"{' '.join(arguments)}: unexpected argument"
        close = find_closest_names(option.partition("=")[0], known)
        return f"{option}: unknown option" + (f". Did you mean {' or '.join(close)}?" if close else "")


class StoreOnce(argparse._StoreAction):
    """Argparse action that rejects a second value for the same option."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = vars(namespace).setdefault("_given_options", set())
        if option_string and self.dest in given:
            raise ConfigError(
                f"{option_string} {_join_values(getattr(namespace, self.dest))} "
                f"{option_string} {_join_values(values)}: "
                "the option is repeated. Use it only once",
                code="conflict",
            )
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _join_values(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
