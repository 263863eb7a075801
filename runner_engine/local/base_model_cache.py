"""Caches the last loaded base model, which the next job reuses if it needs the same model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class BaseModelCache:
    """Caches only the last loaded base model, because two may not fit in memory.

    A base model with its own process is closed when it is dropped.
    """

    def __init__(self) -> None:
        self._key: str | None = None
        self._base: Any = None

    def get_or_load_base_model(self, key: str, load_model: Callable[[], Any]) -> tuple[Any, bool]:
        """Return the base model for `key`, and whether it was cached. Loads the model if necessary."""
        if key == self._key:
            return self._base, True
        self.clear()
        self._base, self._key = load_model(), key
        return self._base, False

    def drop_after_error(self) -> None:
        """Drop the cached base model after an error that may have left it partly modified.

        A base model in a separate process stays.
        """
        if not hasattr(self._base, "close"):
            self.clear()

    def clear(self) -> None:
        """Drop the cached base model."""
        base, self._key, self._base = self._base, None, None
        if hasattr(base, "close"):
            base.close()
