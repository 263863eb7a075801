"""A thread with an event loop, in which all work of a pool of servers runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines in a thread of its own until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether the thread has ended."""
        return self._loop.is_closed()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def call_soon(self, work: Callable[..., object], *arguments: object) -> None:
        """Let the thread call a function, without waiting."""
        self._loop.call_soon_threadsafe(work, *arguments)

    def close(self, close_last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel what still runs, run a last coroutine, and end the thread."""
        self.call(self._stop(close_last))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self, close_last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if not task.cancelling():  # a second cancel would interrupt the closing of its connection
                task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if close_last is not None:
            await close_last()
        await self._loop.shutdown_asyncgens()
