"""Thread with an asyncio event loop that does all network work of a server pool."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class EventLoopThread:
    """Runs coroutines in a separate thread with an event loop, until the thread is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        return self._loop.is_closed()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop's thread and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Schedule a function call in the event loop's thread, without waiting for it."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self, cleanup: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self.run(self._cancel_tasks(cleanup))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_tasks(self, cleanup: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if not task.cancelling():  # a second cancel would interrupt the closing of its connection
                task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if cleanup is not None:
            await cleanup()
        await self._loop.shutdown_asyncgens()
