"""The local engine's session: rows go to the scheduler, or to plain batches where they must; branches one by one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from runner.core.result import FinishReason
from runner.engines.base import Capability, Event, Request, RequestId
from runner.engines.local import branches
from runner.engines.local.compat_probe import sliding_window
from runner.engines.local.plain_batches import PlainBatches
from runner.engines.local.scheduler import Scheduler
from runner.engines.rows import Row
from runner.engines.session import BaseSession
from runner.models.load import Loaded

if TYPE_CHECKING:
    from runner.engines.local.engine import LocalEngine

PLAIN_BATCH = 16  # where the batch is ours to choose


class LocalSession(BaseSession[list[Row]]):
    """Requests on their way through a model on this machine."""

    def __init__(self, engine: LocalEngine, loaded: Loaded, batch_size: int | None) -> None:
        super().__init__(engine.capabilities)
        self.engine, self.loaded = engine, loaded
        self.admission, self.stopping = engine.admission(), engine.stopping()
        self.size = batch_size or engine.config.generation.batch_size
        # asked here and not for each request: while a pass runs, the model's attention goes by another name
        self.no_branches = branches.why_not(loaded.model) if Capability.branches in engine.capabilities else None
        self.branches: deque[list[Row]] = deque()
        self.scheduler: Scheduler | None = None
        self.plain = PlainBatches(loaded, self.size or PLAIN_BATCH, engine.stats, self.stopping)

    def _admit(self, request: Request) -> list[Row]:
        if request.branches and self.no_branches is not None:
            raise self.no_branches
        return self.admission.rows(request)

    def _advance(self, arrived: list[list[Row]], cancelled: set[RequestId]) -> list[Event]:
        events: list[Event] = []
        rows: list[Row] = []
        for some in arrived:
            if some[0].request.branches:
                self.branches.append(some)
            elif some[0].error is not None:
                events += [self.stopping.refusal(row) for row in some]
            else:
                rows += some
        if rows:
            self._route(rows)
        if cancelled:
            events += self._cancel(cancelled)
        if self.branches:
            events.append(branches.complete(self.loaded, self.branches.popleft(), self.engine.stats, self.stopping))
        if self.scheduler is not None and self.scheduler.is_busy:
            events += self.scheduler.step()
        if self.plain.is_busy:
            events += self.plain.step()
        return events

    def _route(self, rows: list[Row]) -> None:
        """Send rows to the scheduler, but those that a sliding window would cut to plain batches."""
        heads = self.engine.heads(self.loaded)
        if heads is None:
            self.plain.add(rows)
            return
        window = sliding_window(self.loaded)
        too_long = [row for row in rows if window is not None and row.need > window]
        if window is not None and too_long:
            longest = max(row.need for row in too_long)
            self.engine.note_plain(f"its attention slides over {window} tokens, and {longest} are asked for")
            self.plain.add(too_long)
            rows = [row for row in rows if row.need <= window]
        if self.scheduler is None and rows:
            self.engine.quicken(self.loaded, heads)
            conversations = self.engine.conversations
            self.scheduler = Scheduler(self.loaded, heads, self.engine.stats, self.stopping, self.size, conversations)
        if self.scheduler is not None and rows:
            self.scheduler.add(rows)

    def _cancel(self, ids: set[RequestId]) -> list[Event]:
        events: list[Event] = []
        for rows in self.branches:
            if rows[0].request.id in ids:
                events.append(branches.unanswered(rows, FinishReason.cancelled))
        self.branches = deque(rows for rows in self.branches if rows[0].request.id not in ids)
        if self.scheduler is not None:
            events += self.scheduler.cancel(ids)
        return events + self.plain.cancel(ids)

    def _drop(self) -> None:
        self.branches.clear()
        self.plain.close()
        if self.scheduler is not None:
            self.scheduler.close()
