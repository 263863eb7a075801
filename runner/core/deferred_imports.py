"""Defers a library's rarely used imports until their first use.

with defer_imports("scipy.optimize"):
    import library         # its `from scipy.optimize import minimize` gets a placeholder
library.fit()              # the first call of `minimize` imports scipy.optimize

A placeholder acts as the real object when it is called, asked for an attribute or compared.
Calls during the library's import, such as decorators and constants, are evaluated at their
first use. Before the module is imported there can be no object of its classes, so `isinstance`
returns False without importing it.
"""

from __future__ import annotations

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


class DeferredValue:
    """Placeholder for an attribute of a module that is not imported yet."""

    def __init__(
        self, placeholder_module: DeferredModule, name: str, create_value: Callable[[], Any]
    ) -> None:
        self.__dict__.update(
            _module=placeholder_module,
            _made=create_value,
            __name__=name,
            __qualname__=name,
            __module__=placeholder_module.__name__,
        )

    def _import_object_on_first_use(self) -> Any:
        own = self.__dict__
        if "_real" not in own:
            own["_real"] = own["_made"]()
        return own["_real"]

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        module, name = self._module, f"{self.__name__}(...)"
        if module.is_deferred:
            return DeferredValue(
                module,
                name,
                lambda: self._import_object_on_first_use()(*map(_resolve_if_deferred, arguments), **named),
            )
        return self._import_object_on_first_use()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(
            "__"
        ):  # asked by those who look whether something is wrapped, abstract, a descriptor …
            raise AttributeError(name)
        module = self._module
        if module.is_deferred:
            return DeferredValue(
                module, f"{self.__name__}.{name}", lambda: getattr(self._import_object_on_first_use(), name)
            )
        return getattr(self._import_object_on_first_use(), name)

    def __instancecheck__(self, instance: object) -> bool:
        return self._module.is_imported and isinstance(instance, self._import_object_on_first_use())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._module.is_imported and issubclass(subclass, self._import_object_on_first_use())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._import_object_on_first_use(),)

    def __or__(self, other: Any) -> Any:  # in annotations: Tensor | None
        return DeferredValue(
            self._module,
            f"{self.__name__} | ...",
            lambda: self._import_object_on_first_use() | _resolve_if_deferred(other),
        )

    __ror__ = __or__

    def __eq__(self, other: object) -> bool:
        return self is other or bool(self._import_object_on_first_use() == _resolve_if_deferred(other))

    def __hash__(self) -> int:
        return hash(self._import_object_on_first_use())

    def __repr__(self) -> str:
        return f"<{self.__module__}.{self.__name__}, imported when it is used>"


def _resolve_if_deferred(value: Any) -> Any:
    return value._import_object_on_first_use() if isinstance(value, DeferredValue) else value


class DeferredModule(ModuleType):
    """Placeholder for a module that is not imported yet."""

    def __init__(self, name: str, finder: _DeferringFinder) -> None:
        super().__init__(name)
        self.__dict__["_finder"] = finder

    @property
    def is_deferred(self) -> bool:
        """Whether this module is a placeholder whose import is still deferred."""
        return bool(self._finder.defers(self.__name__))

    @property
    def is_imported(self) -> bool:
        """Whether the real module has been imported."""
        return sys.modules.get(self.__name__, self) is not self

    def import_real_module(self) -> ModuleType:
        in_main = threading.current_thread() is threading.main_thread()
        # amid an import a signal leaves half a module behind
        with (
            self._finder.disable_deferring_for_module(self.__name__),
            signals.defer_signals_until_step_ends() if in_main else nullcontext(),
        ):
            return import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        if self.is_deferred:
            return DeferredValue(self, name, lambda: getattr(self.import_real_module(), name))
        return getattr(self.import_real_module(), name)


class _DeferringFinder(MetaPathFinder, Loader):
    """Import hook that returns a placeholder for each deferred module and its submodules."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [name for name in names if name not in sys.modules and find_spec(name.partition(".")[0])]

    def defers(self, module: str) -> bool:
        return any(f"{module}.".startswith(f"{name}.") for name in self.names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if self.defers(fullname) else None

    def create_module(self, spec: ModuleSpec) -> DeferredModule:
        return DeferredModule(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing, because a placeholder module has no code."""

    @contextmanager
    def disable_deferring_for_module(self, module: str) -> Iterator[None]:
        """Import this module normally in the block. Modules that it imports are not deferred either."""
        others = [name for name in self.names if not f"{module}.".startswith(f"{name}.")]
        self.names = []
        there = self.remove_placeholder_modules()
        try:
            yield
        finally:
            self.names = others
            for name, stand_in in there.items():
                if self.defers(name):
                    sys.modules.setdefault(name, stand_in)

    def remove_placeholder_modules(self) -> dict[str, DeferredModule]:
        """Remove the placeholder modules from sys.modules, and return them by name.

        Parent modules still refer to the placeholders, which import the real module at first use.
        """
        there = {
            name: module
            for name, module in sys.modules.items()
            if isinstance(module, DeferredModule) and module._finder is self
        }
        for name in there:
            del sys.modules[name]
        return there


@contextmanager
def defer_imports(*modules: str) -> Iterator[None]:
    """Replace these modules by placeholders until the block has imported a library.

    A placeholder imports its module at the first use after the block.
    """
    finder = _DeferringFinder(modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.names = []
        finder.remove_placeholder_modules()
        sys.meta_path.remove(finder)
