"""The active rows' steps. A GPU begins one before the host has read the last one's tokens, so that neither waits.

The tokens go into the next step's table on the device, and the host reads a copy of them while that step runs. A row
that ends with its token has read it in vain: its logits are not looked at, and what the step wrote into its slot lies
behind the row's places. Logits are picked from before another step runs, as recorded steps share their memory.
RUNNER_AHEAD=0 turns this off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from runner_base import MEMORY_ERRORS, is_memory_error
from runner_engine.attention import PrefixUse
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.rows import Row
from runner_engine.devices.gpu import sent
from runner_engine.kv_cache import OwnKv, Slots
from runner_engine.memory import release_failed_pass

SWITCH = "RUNNER_AHEAD"


class Ahead:
    """The active rows' next step. Where it has begun, rows may leave until its logits are taken,
    and none may enter."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.change_rows()
        self.drop()

    def change_rows(self) -> None:
        """Forget what is known of the active rows: some have come or gone."""
        self._uses: list[PrefixUse] | None = None  # the prefixes of the rows

    def drop(self) -> None:
        """Forget the step: its tokens are sent again."""
        self._logits: torch.Tensor | None = None
        self._line_of: dict[Row, int] = {}

    @property
    def has_begun(self) -> bool:
        """Whether there is such a step."""
        return self._logits is not None

    def logits(self, own: OwnKv, rows: Sequence[Row], reading: Sequence[Row]) -> torch.Tensor:
        """Return the logits [n, V] of all active rows: of their step that has begun, or of one that
        runs now.

        reading: the rows in the slots behind them, whose prompts are not complete.
        """
        begun = self.take(rows)
        if begun is not None:
            return begun
        if self._uses is None:
            self._uses = self.forward.uses_of(rows)
        return self.forward.step(own, rows, self._uses, reading)

    def take(self, rows: Sequence[Row]) -> torch.Tensor | None:
        """Return the logits [n, V] of these rows; None if their step has not begun."""
        if self._logits is None or not rows:
            self.drop()
            return None
        logits, lines = self._logits, [self._line_of[row] for row in rows]
        self.drop()
        self.forward.check_tokens([row.tokens[-1] for row in rows])
        if lines == list(range(len(lines))):
            return logits[: len(lines)]
        return logits[sent(torch.tensor(lines), logits.device)]

    def read(
        self, picked: torch.Tensor, own: OwnKv, rows: Sequence[Row], reading: Sequence[Row]
    ) -> list[int]:
        """Return the tokens that were picked for all active rows; their next step begins before the
        host waits.

        reading: the rows in the slots behind them, whose prompts are not complete.
        """
        on_host = picked.to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if picked.is_cuda else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record(torch.cuda.current_stream(picked.device))
        if isinstance(own, Slots) and self._is_worth_it(own, rows):
            self._begin(picked, own, rows, reading)
        if copied is not None:
            copied.synchronize()
        tokens: list[int] = on_host.tolist()
        return tokens

    def _is_worth_it(self, own: Slots, rows: Sequence[Row]) -> bool:
        """Whether the step may begin: it has room already, and not all rows end for certain."""
        has_room = own.holds([row.kv.places + 1 for row in rows])
        return (
            has_room
            and os.environ.get(SWITCH) != "0"
            and any(len(row.tokens) + 1 < row.limit for row in rows)
        )

    def _begin(self, picked: torch.Tensor, own: Slots, rows: Sequence[Row], reading: Sequence[Row]) -> None:
        """Begin the step; without memory for it nothing is lost, and it runs when the tokens have
        been read."""
        try:
            self._logits = self.forward.step_of_picked(own, rows, reading, picked)
        except MEMORY_ERRORS as error:
            if not is_memory_error(error):
                raise
            release_failed_pass(error, picked.device)
        if self._logits is None:
            return
        self._line_of = {row: line for line, row in enumerate(rows)}
        for slot, row in enumerate(rows):
            own.fill(slot, row.kv.places + 1)  # so that a row that moves takes it along
