"""Quicker imports: what few functions of a library need is imported when they use it, and no
garbage is looked for.

with put_off("scipy.optimize"):
    import library         # its `from scipy.optimize import minimize` gives it a stand-in
library.fit()              # the first call of `minimize` imports scipy.optimize

A stand-in is what it stands for as soon as it is called, asked for an attribute or compared. What
is called while the library is imported, as decorators and constants are, is called at its first
use. Before the module is imported there can be no object of its classes, so `isinstance` says so
without importing it.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from runner_base import signals


class Later:
    """Stands for a value of a module that is not imported yet."""

    def __init__(self, module: StandIn, name: str, made: Callable[[], Any]) -> None:
        self.__dict__.update(
            _module=module, _made=made, __name__=name, __qualname__=name, __module__=module.__name__
        )

    def _value(self) -> Any:
        own = self.__dict__
        if "_real" not in own:
            own["_real"] = own["_made"]()
        return own["_real"]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call what it stands for, now or at the first use of what that returns."""
        module, name = self._module, f"{self.__name__}(...)"
        if module.is_put_off:
            return Later(module, name, lambda: self._value()(*map(_real, arguments), **named))
        return self._value()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(
            "__"
        ):  # asked by those who look whether something is wrapped, abstract, a descriptor …
            raise AttributeError(name)
        module = self._module
        if module.is_put_off:
            return Later(module, f"{self.__name__}.{name}", lambda: getattr(self._value(), name))
        return getattr(self._value(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return self._module.is_imported and isinstance(instance, self._value())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._module.is_imported and issubclass(subclass, self._value())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._value(),)

    def __or__(self, other: Any) -> Any:  # in annotations: Tensor | None
        return Later(self._module, f"{self.__name__} | ...", lambda: self._value() | _real(other))

    __ror__ = __or__

    def __eq__(self, other: object) -> bool:
        return self is other or bool(self._value() == _real(other))

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        return f"<{self.__module__}.{self.__name__}, imported when it is used>"


def _real(value: Any) -> Any:
    return value._value() if isinstance(value, Later) else value


class StandIn(ModuleType):
    """Stands for a module that is not imported yet."""

    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        self.__dict__["_finder"] = finder

    @property
    def is_put_off(self) -> bool:
        """Whether the import is still put off, whatever is asked of it."""
        return bool(self._finder.covers(self.__name__))

    @property
    def is_imported(self) -> bool:
        """Whether the real module has been imported."""
        return sys.modules.get(self.__name__, self) is not self

    def real(self) -> ModuleType:
        in_main = threading.current_thread() is threading.main_thread()
        # amid an import a signal leaves half a module behind
        with self._finder.not_for(self.__name__), signals.finishing() if in_main else nullcontext():
            return import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        if self.is_put_off:
            return Later(self, name, lambda: getattr(self.real(), name))
        return getattr(self.real(), name)


class _Finder(MetaPathFinder, Loader):
    """Finds stand-ins for modules of these names and all below them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [name for name in names if name not in sys.modules and find_spec(name.partition(".")[0])]

    def covers(self, module: str) -> bool:
        """Whether the import of a module is put off."""
        return any(f"{module}.".startswith(f"{name}.") for name in self.names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a stand-in."""
        return ModuleSpec(fullname, self, is_package=True) if self.covers(fullname) else None

    def create_module(self, spec: ModuleSpec) -> StandIn:
        """Make a stand-in."""
        return StandIn(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is nothing to run."""

    @contextmanager
    def not_for(self, module: str) -> Iterator[None]:
        """Put off the import of a module no longer, nor anything else while it is imported within
        this block."""
        others = [name for name in self.names if not f"{module}.".startswith(f"{name}.")]
        self.names = []
        there = self.take_out()
        try:
            yield
        finally:
            self.names = others
            for name, stand_in in there.items():
                if self.covers(name):
                    sys.modules.setdefault(name, stand_in)

    def take_out(self) -> dict[str, StandIn]:
        """Remove the stand-ins, which stay attributes of their parents and import when they are
        used."""
        there = {
            name: module
            for name, module in sys.modules.items()
            if isinstance(module, StandIn) and module._finder is self
        }
        for name in there:
            del sys.modules[name]
        return there


@contextmanager
def put_off(*modules: str) -> Iterator[None]:
    """Put off the import of these modules by what is imported within this block, until they are
    used after it."""
    finder = _Finder(modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.names = []
        finder.take_out()
        sys.meta_path.remove(finder)


@contextmanager
def uncollected() -> Iterator[None]:
    """Import within this block without garbage collections, each of which looks through all that
    has been imported."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
