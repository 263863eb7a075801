"""Registers the choices of each config group by name, and imports a choice's class at first
use.

A job uses one choice of a group. Importing the modules of all others takes longer than
Hydra needs to compose the config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, TypeVar, overload

from runner_base.console import print_message
from runner_base.errors import ConfigError
from runner_base.plugins import PlugIn, find_builtin_options, find_plug_ins, load_plug_in_class

T = TypeVar("T")
D = TypeVar("D")


class Choices(MutableMapping[str, type[T]]):
    """Registry of a config group's choices by name. Choices come from the runner, its options, or plug-ins.

    The built-in classes are named MODULE:CLASS, in the entry point format. Iterating yields
    built-in names and plug-ins that were loaded before; `list_names` returns all.
    """

    def __init__(self, kind: str, base: type[T], builtin: Mapping[str, str]) -> None:
        self._kind, self._base, self._listed = kind, base, builtin
        self._own = dict.fromkeys((*builtin, *find_builtin_options(kind)))  # in this order
        self._imported: dict[str, type[T]] = {}
        self._broken: set[str] = set()

    def list_names(self) -> list[str]:
        """Return the names of all choices. Built-in choices take precedence over plug-ins."""
        return sorted({*self._own, *find_plug_ins(self._kind)})

    def find_plug_in(self, name: str) -> PlugIn | None:
        """Return the plug-in that provides a choice, or None for a built-in choice."""
        return None if name in self._own else find_plug_ins(self._kind).get(name)

    def find_plug_in_of_class(self, choice: type[Any]) -> PlugIn | None:
        if f"{choice.__module__}:{choice.__qualname__}" in self._iter_builtin_targets():
            return None
        return next(
            (self.find_plug_in(name) for name in find_plug_ins(self._kind) if self.get(name) is choice), None
        )

    def _iter_builtin_targets(self) -> Iterator[str]:
        yield from self._listed.values()
        yield from (option.target for option in find_builtin_options(self._kind).values())

    def iter_plug_in_choices(self) -> Iterator[type[T]]:
        """Yield the classes of all plug-ins. A plug-in whose import fails is skipped with a warning."""
        for name in find_plug_ins(self._kind):
            if name not in self._own and (choice := self.get(name)) is not None:
                yield choice

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._imported:
            self._imported[name] = self._import_choice_class(name)
        return self._imported[name]

    def _import_choice_class(self, name: str) -> type[T]:
        if name in self._listed:
            module, _, attribute = self._listed[name].partition(":")
            choice: type[T] = getattr(import_module(module), attribute)
            return choice
        if name not in self._own and self.find_plug_in(name) is None:
            raise KeyError(name)
        return load_plug_in_class(self._kind, name, self._base)

    def __setitem__(self, name: str, choice: type[T]) -> None:
        self._imported[name] = choice

    def __delitem__(self, name: str) -> None:
        del self._imported[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from (name for name in self._imported if name not in self._own)

    def __len__(self) -> int:
        return len(self._own.keys() | self._imported.keys())

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in find_plug_ins(self._kind)

    @overload
    def get(self, name: str, default: None = None, /) -> type[T] | None: ...
    @overload
    def get(self, name: str, default: type[T], /) -> type[T]: ...
    @overload
    def get(self, name: str, default: D, /) -> type[T] | D: ...

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return the choice with this name, or the default if the name is unknown.

        If the import fails, a warning is printed once and the default is returned.
        """
        try:
            return self[name]
        except KeyError:
            return default
        except ConfigError as error:
            if name not in self._broken:
                self._broken.add(name)
                print_message(f"warning: {error}")
            return default
