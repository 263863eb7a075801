"""Reads and writes partial.jsonl, which stores the unfinished answers of an interrupted job.

The next start continues them. A damaged line, or one that belongs to another prompt, is
ignored, and its request starts from the beginning. The file is deleted when the job has all
its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from runner_base import dump_signed_line, parse_signed_line, write_text_atomically
from runner_engine import Capability, Completion, Engine, PartialAnswers, RequestId

PARTIAL = "partial.jsonl"


class PartialAnswersFile:
    """File partial.jsonl with the unfinished answers of an interrupted job."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PARTIAL
        self._lines: dict[RequestId, dict[str, Any]] = {}
        for text in self.path.read_bytes().splitlines() if self.path.is_file() else ():
            try:
                line = parse_signed_line(text.decode())
                self._lines[line["id"]] = line | {"begun": _parse_prefix(line)}
            except (ValueError, KeyError, TypeError, RecursionError):
                continue

    def __len__(self) -> int:
        return len(self._lines)

    def get_resumable_answers(self, request_id: RequestId, engine: Engine) -> PartialAnswers | None:
        """Return the unfinished answers to a request that the engine can continue.

        None if there are none, or if the engine cannot continue answers.
        """
        line = self._lines.get(request_id) if Capability.continuing in engine.capabilities else None
        return None if line is None else line["begun"]

    def store_unfinished_answers(
        self, completions: Iterable[Completion], engine: Engine, is_request_done: Callable[[RequestId], bool]
    ) -> str:
        """Write all unfinished answers to the file. Returns a message for the user.

        Answers that would continue with other tokens, or whose tokens are unknown, are generated
        again.
        """
        of_request: dict[RequestId, list[Completion]] = {}
        for completion in sorted(completions, key=lambda completion: completion.choice):
            of_request.setdefault(completion.id, []).append(completion)
        unfinished = [
            some
            for some in of_request.values()
            if any(completion.answer.text or completion.answer.token_ids for completion in some)
        ]
        can_continue = Capability.continuing in engine.capabilities and engine.stats.can_continue
        kept = [
            some
            for some in unfinished
            if can_continue and any(completion.answer.token_ids for completion in some)
        ]
        self._lines |= {some[0].id: _build_partial_answer_record(some) for some in kept}
        self._lines = {name: line for name, line in self._lines.items() if not is_request_done(name)}
        if self._lines:
            lines = (
                {key: value for key, value in line.items() if key != "begun"} for line in self._lines.values()
            )
            write_text_atomically(self.path, "".join(dump_signed_line(line) + "\n" for line in lines))
        begun = len(kept), len(unfinished) - len(kept)
        states = "unfinished kept for resuming", "unfinished will be asked again"
        return ", ".join(f"{count} {what}" for count, what in zip(begun, states, strict=True) if count)

    def delete(self) -> None:
        """Delete the file once all answers are complete."""
        self.path.unlink(missing_ok=True)


def _build_partial_answer_record(completions: list[Completion]) -> dict[str, Any]:
    given = [{"text": choice.answer.text, "token_ids": choice.answer.token_ids} for choice in completions]
    line = {"id": completions[0].id, "prompt_sha256": completions[0].prompt_sha256, "choices": given}
    return line | {"begun": _parse_prefix(line)}


def _parse_prefix(line: dict[str, Any]) -> PartialAnswers:
    tokens = tuple(tuple(map(int, choice["token_ids"])) for choice in line["choices"])
    return PartialAnswers(str(line["prompt_sha256"]), tokens)
