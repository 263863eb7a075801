"""The base that was loaded last is kept for whoever needs the same one next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class BaseCache:
    """Keeps the base that was loaded last; only one, because two may not fit in memory.

    A base that has a process is closed when it is not kept any longer.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._base: Any = None

    def get(self, key: str, load: Callable[[], Any]) -> tuple[Any, bool]:
        """Return the base with this key, and whether it was loaded already."""
        if key == self._key:
            return self._base, True
        self.clear()
        self._base, self._key = load(), key
        return self._base, False

    def drop_after_error(self) -> None:
        """Free a base whose layers an error may have left half exchanged; one with a process of its
        own stays."""
        if not hasattr(self._base, "close"):
            self.clear()

    def clear(self) -> None:
        """Free the base."""
        base, self._key, self._base = self._base, None, None
        if hasattr(base, "close"):
            base.close()
