"""Log file calls.jsonl, which records each agent call as soon as it is answered, so that a killed job can
resume.

An answered call is one line, and its program's outcome a later line. The last line of a
call counts. A call that failed, or that answered another prompt than the current one, is
repeated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.options.agents.discussion import AgentCall, AnsweredCall
from runner.records.jsonl_files import AppendOnlyFile, damaged_line_error, parse_agent_call, read_lines
from runner.records.partial_answers import PartialAnswersFile
from runner.sandbox.sandbox import CodeOutcome, CodeStatus
from runner_base import Call, dump_signed_line, parse_signed_line
from runner_base.result import CALLS
from runner_base.signed_jsonl import remove_unset_keys
from runner_engine import Completion, Engine, PartialAnswers, RequestId


@dataclass
class _RecordedCall:
    """Contents of calls.jsonl about one agent call: prompt hash, answer, and outcome of the program."""

    asked_sha256: str
    call: Call
    code: CodeOutcome | None = None


class CallLogFile:
    """Log of a job's agent calls. With `retry_permanent`, calls that failed permanently are sent again."""

    def __init__(self, folder: Path, engine: Engine, retry_permanent: bool = False) -> None:
        self.path, self.engine, self.retry_permanent = folder / CALLS, engine, retry_permanent
        self.partial, self._answered = PartialAnswersFile(folder), set[RequestId]()
        self.reused = self.asked_again = 0
        self._recorded: dict[str, _RecordedCall] = {}
        for number, line in read_lines(self.path, parse_signed_line, "call", repair=True):
            try:
                self._load_agent_call_from_log(line)
            except (ValueError, KeyError, TypeError) as error:
                raise damaged_line_error(
                    self.path, number, f"the line is not a valid call ({type(error).__name__}: {error})"
                ) from error
        self._file = AppendOnlyFile(self.path)

    def find_answer(self, call: AgentCall) -> AnsweredCall | None:
        """Return the recorded answer to a call, or None if the recorded prompt differs."""
        recorded = self._recorded.get(call.id)
        if recorded is None or recorded.asked_sha256 != call.messages_sha256:
            return None
        if recorded.call.failed and (self.retry_permanent or not recorded.call.permanent):
            self.asked_again += 1
            return None
        self.reused += 1
        return AnsweredCall(call, recorded.call, recorded.code)

    def add(self, answered_call: AnsweredCall) -> None:
        turn = answered_call.turn
        key = {"id": turn.id, "asked_sha256": turn.messages_sha256}
        self._file.append_line(dump_signed_line(remove_unset_keys(key | answered_call.call.as_dict())))
        self._answered.add(turn.id)

    def add_code_outcome(self, answered_call: AnsweredCall) -> None:
        turn = answered_call.turn
        assert answered_call.code is not None
        line = {"id": turn.id, "asked_sha256": turn.messages_sha256, "code": asdict(answered_call.code)}
        self._file.append_line(dump_signed_line(remove_unset_keys(line)))

    def find_partial_answer(self, call: AgentCall) -> PartialAnswers | None:
        """Return the partial answer to a call that an interrupted run saved, or None."""
        return self.partial.get_resumable_answers(call.id, self.engine)

    def save_partial_answers(self, completions: list[Completion]) -> str:
        """Save unfinished answers when a signal ends the job, and return a message about them."""
        return self.partial.store_unfinished_answers(completions, self.engine, self._answered.__contains__)

    def close(self) -> None:
        self._file.close()

    def _load_agent_call_from_log(self, line: dict[str, Any]) -> None:
        key, asked_sha256 = str(line["id"]), str(line["asked_sha256"])
        if "code" in line:
            values = {"answer": None, **line["code"]}
            outcome = CodeOutcome(**values | {"status": CodeStatus(values["status"])})
            if self._recorded[key].asked_sha256 == asked_sha256:
                self._recorded[key].code = outcome
            return
        self._recorded[key] = _RecordedCall(asked_sha256, parse_agent_call(line))
