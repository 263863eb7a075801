"""The base that was loaded last is kept, for the next job that needs the same one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runner.config.root import RunnerConfig, base_key


class BaseCache:
    """Room for one loaded base. Two would not fit where one just does."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._base: Any = None

    def get(self, config: RunnerConfig, load: Callable[[RunnerConfig], Any]) -> tuple[Any, bool]:
        """Return the base that the job needs, and whether it was there already."""
        key = base_key(config)
        if key == self._key:
            return self._base, True
        self.clear()
        self._base, self._key = load(config), key
        return self._base, False

    def clear(self) -> None:
        """Let go of the base."""
        self._key = self._base = None
