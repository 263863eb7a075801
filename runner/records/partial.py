"""partial.jsonl: answers that an interrupted job has begun, with their text and tokens so far.

The next start continues them where they stand. It is no evidence: a line that is damaged, or that
belongs to another prompt, is ignored, and its request is asked from the beginning. The file is
deleted when the job has all its answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from runner_base import sealed, unsealed, write_atomically
from runner_engine import Begun, Capability, Completion, Engine, RequestId

PARTIAL = "partial.jsonl"


class PartialFile:
    """The answers that earlier starts of a job have begun."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PARTIAL
        self._lines: dict[RequestId, dict[str, Any]] = {}
        for text in self.path.read_bytes().splitlines() if self.path.is_file() else ():
            try:
                line = unsealed(text.decode())
                self._lines[line["id"]] = line | {"begun": _begun(line)}
            except (ValueError, KeyError, TypeError, RecursionError):
                continue

    def __len__(self) -> int:
        return len(self._lines)

    def begun(self, request_id: RequestId, engine: Engine) -> Begun | None:
        """Return what there is of an answer, if the engine can continue it."""
        line = self._lines.get(request_id) if Capability.continuing in engine.capabilities else None
        return None if line is None else line["begun"]

    def keep(
        self, stopped: Iterable[Completion], engine: Engine, is_done: Callable[[RequestId], bool]
    ) -> str:
        """Write what was under way, beside what an earlier start has left; return words that say
        what becomes of it.

        Where these would go on with other tokens, or where the tokens are not known, they are asked
        again.
        """
        of_request: dict[RequestId, list[Completion]] = {}
        for completion in sorted(stopped, key=lambda completion: completion.choice):
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
        self._lines |= {some[0].id: _line(some) for some in kept}
        self._lines = {name: line for name, line in self._lines.items() if not is_done(name)}
        if self._lines:
            lines = (
                {key: value for key, value in line.items() if key != "begun"} for line in self._lines.values()
            )
            write_atomically(self.path, "".join(sealed(line) + "\n" for line in lines))
        begun = len(kept), len(unfinished) - len(kept)
        states = "unfinished kept for resuming", "unfinished will be asked again"
        return ", ".join(f"{count} {what}" for count, what in zip(begun, states, strict=True) if count)

    def delete(self) -> None:
        """Delete the file, once all answers are there."""
        self.path.unlink(missing_ok=True)


def _line(choices: list[Completion]) -> dict[str, Any]:
    """Return the line of a request; a choice that has ended is among its choices."""
    given = [{"text": choice.answer.text, "token_ids": choice.answer.token_ids} for choice in choices]
    line = {"id": choices[0].id, "prompt_sha256": choices[0].prompt_sha256, "choices": given}
    return line | {"begun": _begun(line)}


def _begun(line: dict[str, Any]) -> Begun:
    tokens = tuple(tuple(map(int, choice["token_ids"])) for choice in line["choices"])
    return Begun(str(line["prompt_sha256"]), tokens)
