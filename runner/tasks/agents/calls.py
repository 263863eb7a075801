"""calls.jsonl: each call of a team of agents at once, so that a start after a kill asks only for what is missing.

A call has one line as soon as it has come back, and a program's outcome has a line of its own behind it. The line that
stands last counts. A call that ended in an error, or answers another prompt than is put now, is asked again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from runner.agents.sandbox import CodeOutcome, CodeStatus
from runner.agents.team import AgentCall, Answered
from runner.core.result import Call, FinishReason, sealed, unsealed, without_unset_keys
from runner.store.lines import GrowingFile, damaged, read_evidence

CALLS = "calls.jsonl"
_OF_CALL = {item.name for item in fields(Call)}


@dataclass
class _Kept:
    """What the lines of one call say."""

    asked_sha256: str
    call: Call
    permanent: bool
    cost_usd: float | None
    code: CodeOutcome | None = None


class CallFile:
    """The calls of a job; `insists` asks again also for what can have no answer."""

    def __init__(self, folder: Path, insists: bool = False) -> None:
        self.path, self.insists = folder / CALLS, insists
        self.reused = self.asked_again = 0
        self._kept: dict[str, _Kept] = {}
        for number, line in read_evidence(self.path, unsealed, "call", repair=True):
            try:
                self._read(line)
            except (ValueError, KeyError, TypeError) as error:
                raise damaged(self.path, number, f"is not a call ({type(error).__name__}: {error})") from error
        self._file = GrowingFile(self.path)

    def find(self, turn: AgentCall) -> Answered | None:
        """Return what an earlier start has got for this very prompt, with or without its program's outcome."""
        kept = self._kept.get(turn.id)
        if kept is None or kept.asked_sha256 != turn.asked_sha256:
            return None
        if kept.call.finish_reason is FinishReason.error and (self.insists or not kept.permanent):
            self.asked_again += 1
            return None
        self.reused += 1
        return Answered(turn, kept.call, kept.code, kept.permanent, kept.cost_usd)

    def add(self, answered: Answered) -> None:
        """Append what came back of a call."""
        turn = answered.turn
        about = {"id": turn.id, "asked_sha256": turn.asked_sha256}
        rest = {"permanent": answered.permanent, "cost_usd": answered.cost_usd}
        self._file.append(sealed(without_unset_keys(about | asdict(answered.call) | rest)))

    def add_code(self, answered: Answered) -> None:
        """Append what the program of a call came to."""
        turn = answered.turn
        assert answered.code is not None
        line = {"id": turn.id, "asked_sha256": turn.asked_sha256, "code": asdict(answered.code)}
        self._file.append(sealed(without_unset_keys(line)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, line: dict[str, Any]) -> None:
        key, asked_sha256 = str(line["id"]), str(line["asked_sha256"])
        if "code" in line:
            values = {"answer": None, **line["code"]}
            outcome = CodeOutcome(**values | {"status": CodeStatus(values["status"])})
            if self._kept[key].asked_sha256 == asked_sha256:
                self._kept[key].code = outcome
            return
        call = Call.from_dict({name: value for name, value in line.items() if name in _OF_CALL})
        self._kept[key] = _Kept(asked_sha256, call, bool(line.get("permanent")), line.get("cost_usd"))
