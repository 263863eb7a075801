"""The command lines of the smaller commands: a mistake is one line with the likely fix, and an
option that takes one value cannot be given twice."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from runner_base.errors import Code, ConfigError, nearest

UNRECOGNIZED = "unrecognized arguments: "


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are ConfigErrors."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, StoreOnce)
        self.register("action", "store", StoreOnce)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with one line."""
        code: Code = "unknown_choice" if message.startswith(UNRECOGNIZED) else "bad_value"
        if code == "unknown_choice":
            message = self._describe_unrecognized(message.removeprefix(UNRECOGNIZED).split(" "))
        end = "" if message.endswith("?") else "."
        raise ConfigError(f"{message}{end} All options: {self.prog} --help", code=code)

    def _describe_unrecognized(self, arguments: Sequence[str]) -> str:
        known = [name for action in self._actions for name in action.option_strings]
        option = next((argument for argument in arguments if argument.startswith("-")), "")
        if not option:
            return f"{' '.join(arguments)}: unexpected argument"
        close = nearest(option.partition("=")[0], known)
        return f"{option}: unknown option" + (f". Did you mean {' or '.join(close)}?" if close else "")


class StoreOnce(argparse._StoreAction):
    """Stores a value, and refuses a second one, which would silently replace the first."""

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
                f"{option_string} {_text(getattr(namespace, self.dest))} {option_string} {_text(values)}: "
                "given twice. Give it once",
                code="conflict",
            )
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
