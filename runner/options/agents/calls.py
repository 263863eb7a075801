"""calls.jsonl: every call of a team of agents, written as soon as it is answered, so that a killed
job can resume.

An answered call is one line; its program's outcome is another line after it. Of several lines for
one call, the last one counts. A call that ended in an error, or that answered another prompt than
today's, is asked again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.options.agents.sandbox import CodeOutcome, CodeStatus
from runner.options.agents.team import AgentCall, Answered
from runner.records.lines import GrowingFile, call_in, damaged, read_evidence
from runner.records.partial import PartialFile
from runner_base import Call, sealed, unsealed
from runner_base.result import CALLS
from runner_base.sealed_lines import without_unset_keys
from runner_engine import Begun, Completion, Engine, RequestId


@dataclass
class _RecordedCall:
    """What the lines of one call say."""

    asked_sha256: str
    call: Call
    code: CodeOutcome | None = None


class CallFile:
    """The calls of a job; with `retry_permanent`, calls with a permanent error are asked again,
    too."""

    def __init__(self, folder: Path, engine: Engine, retry_permanent: bool = False) -> None:
        self.path, self.engine, self.retry_permanent = folder / CALLS, engine, retry_permanent
        self.partial, self._answered = PartialFile(folder), set[RequestId]()
        self.reused = self.asked_again = 0
        self._recorded: dict[str, _RecordedCall] = {}
        for number, line in read_evidence(self.path, unsealed, "call", repair=True):
            try:
                self._read(line)
            except (ValueError, KeyError, TypeError) as error:
                raise damaged(
                    self.path, number, f"is not a call ({type(error).__name__}: {error})"
                ) from error
        self._file = GrowingFile(self.path)

    def find(self, turn: AgentCall) -> Answered | None:
        """Return the recorded answer to exactly this prompt, with or without its program's
        outcome."""
        recorded = self._recorded.get(turn.id)
        if recorded is None or recorded.asked_sha256 != turn.asked_sha256:
            return None
        if recorded.call.failed and (self.retry_permanent or not recorded.call.permanent):
            self.asked_again += 1
            return None
        self.reused += 1
        return Answered(turn, recorded.call, recorded.code)

    def add(self, answered: Answered) -> None:
        turn = answered.turn
        key = {"id": turn.id, "asked_sha256": turn.asked_sha256}
        self._file.append(sealed(without_unset_keys(key | answered.call.as_dict())))
        self._answered.add(turn.id)

    def add_code(self, answered: Answered) -> None:
        """Append the outcome of a call's program."""
        turn = answered.turn
        assert answered.code is not None
        line = {"id": turn.id, "asked_sha256": turn.asked_sha256, "code": asdict(answered.code)}
        self._file.append(sealed(without_unset_keys(line)))

    def begun(self, turn: AgentCall) -> Begun | None:
        """Return what an interrupted start has of an answer."""
        return self.partial.begun(turn.id, self.engine)

    def keep(self, unfinished: list[Completion]) -> str:
        """Keep what was under way when a signal came, and say what becomes of it."""
        return self.partial.keep(unfinished, self.engine, self._answered.__contains__)

    def close(self) -> None:
        self._file.close()

    def _read(self, line: dict[str, Any]) -> None:
        key, asked_sha256 = str(line["id"]), str(line["asked_sha256"])
        if "code" in line:
            values = {"answer": None, **line["code"]}
            outcome = CodeOutcome(**values | {"status": CodeStatus(values["status"])})
            if self._recorded[key].asked_sha256 == asked_sha256:
                self._recorded[key].code = outcome
            return
        self._recorded[key] = _RecordedCall(asked_sha256, call_in(line))
