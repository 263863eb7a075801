"""The choices of a group by name: each is one class, imported when it is asked for.

A job uses one choice of a group, and the modules of all others take longer to import than Hydra
takes to compose it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, TypeVar, overload

from runner_base.console import say
from runner_base.errors import ConfigError
from runner_base.plugins import PlugIn, load_class, own_options, plug_ins

T = TypeVar("T")
D = TypeVar("D")


class Choices(MutableMapping[str, type[T]]):
    """The choices of a group by name: the runner's own, its options, and those of plug-ins.

    `own` names the place of each class, MODULE:CLASS, as an entry point does. Iterating yields the
    names of the runner's own, and those of the plug-ins that were asked for before; `names` has
    all.
    """

    def __init__(self, kind: str, base: type[T], own: Mapping[str, str]) -> None:
        self._kind, self._base, self._listed = kind, base, own
        self._own = dict.fromkeys((*own, *own_options(kind)))  # in this order
        self._imported: dict[str, type[T]] = {}
        self._broken: set[str] = set()

    def names(self) -> list[str]:
        """Return the names of all choices; one of the runner's own hides a plug-in's."""
        return sorted({*self._own, *plug_ins(self._kind)})

    def plug_in(self, name: str) -> PlugIn | None:
        """Return the plug-in that a choice is from; None for one of the runner's own."""
        return None if name in self._own else plug_ins(self._kind).get(name)

    def of(self, choice: type[Any]) -> PlugIn | None:
        """Return the plug-in that a class is from; None for one of the runner's own."""
        if f"{choice.__module__}:{choice.__qualname__}" in self._own_places():
            return None
        return next((self.plug_in(name) for name in plug_ins(self._kind) if self.get(name) is choice), None)

    def _own_places(self) -> Iterator[str]:
        yield from self._listed.values()
        yield from (option.target for option in own_options(self._kind).values())

    def from_plug_ins(self) -> Iterator[type[T]]:
        """Yield the choices of all plug-ins; one that cannot be imported is left out, with a
        warning."""
        for name in plug_ins(self._kind):
            if name not in self._own and (choice := self.get(name)) is not None:
                yield choice

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._imported:
            self._imported[name] = self._import(name)
        return self._imported[name]

    def _import(self, name: str) -> type[T]:
        if name in self._listed:
            module, _, attribute = self._listed[name].partition(":")
            choice: type[T] = getattr(import_module(module), attribute)
            return choice
        if name not in self._own and self.plug_in(name) is None:
            raise KeyError(name)
        return load_class(self._kind, name, self._base)

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
        return name in self._own or name in plug_ins(self._kind)

    @overload
    def get(self, name: str, default: None = None, /) -> type[T] | None: ...
    @overload
    def get(self, name: str, default: type[T], /) -> type[T]: ...
    @overload
    def get(self, name: str, default: D, /) -> type[T] | D: ...

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return a choice; the default if there is none, or, with a warning, if it cannot be
        imported."""
        try:
            return self[name]
        except KeyError:
            return default
        except ConfigError as error:
            if name not in self._broken:
                self._broken.add(name)
                say(f"warning: {error}")
            return default
