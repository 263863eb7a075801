"""The engine of task=pipeline: requests go through the parts of a split, over several processes.

This process holds the first parts, decides what comes next and notices when another one is gone. Requests go in
batches of a few rows. As many batches as there are processes are under way at once, so that every stage has one to work
on while the others have theirs; a batch whose tokens have come back sets out again with them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from runner.config.root import RunnerConfig
from runner.config.rope import RopeConfig
from runner.config.task import PipelineConfig
from runner.core.errors import ConfigError, JobFailed
from runner.engines.admit import Admission
from runner.engines.base import Capability, EngineReport, EngineStats, Event, Request
from runner.engines.pipeline import torchrun
from runner.engines.pipeline.microbatches import Rounds
from runner.engines.pipeline.processes import POLL_S, Crew, open_ring, spawn
from runner.engines.pipeline.stage_worker import Member, manifest_of
from runner.engines.pipeline.transport import Kind, Message, PeerGone, Ring
from runner.engines.session import ListSession
from runner.engines.stopping import Stopping, stop_tokens
from runner.models.rope.choices import max_positions
from runner.sharding.load_part import load_tokenizer


class PipelineEngine:
    """Runs the parts in task.parts over processes that it starts, or that torchrun has started."""

    capabilities = frozenset({Capability.token_ids, Capability.chat, Capability.deltas})

    def __init__(self, config: RunnerConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.stats = EngineStats()
        self.stages: list[dict[str, Any]] = []  # a line a part, for the table
        self._crew: Crew | None = None
        self._member: Member | None = None
        self._ring: Ring | None = None
        self._heard: queue.SimpleQueue[Message | PeerGone] = queue.SimpleQueue()
        self._listener: threading.Thread | None = None
        self._tokenizer: Any = None
        self._batches = 0  # so far
        self._lost_at: float | None = None  # when the connection broke

    # ------------------------------------------------------------------------------------------- the protocol

    def load(self) -> EngineReport:
        """Start the other processes, load what is this one's while they load theirs, and connect."""
        if self._member is None:
            started = time.perf_counter()
            self._start()
            self.stats.load_s = time.perf_counter() - started
        member, crew = self._member, self._crew
        assert member is not None
        assert crew is not None
        model = member.stages[0].model
        devices = dict.fromkeys(row["device"] for row in self.stages)
        facts = {
            "architecture": type(model).__name__,
            "source": manifest_of(self.config).source,
            "device": ", ".join(devices),
            "dtype": str(member.dtype).removeprefix("torch."),
            "attention": str(model.config._attn_implementation),
            "threads": str(member.threads),
            "processes": self._how(),
        }
        metrics = {
            "load_s": self.stats.load_s,
            "weight_mib": sum(row["mib"] for row in self.stages),
            "stages": len(self.stages),
            "processes": crew.place.processes,
        }
        return EngineReport(metrics, facts, list(member.notes))

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        self.load()
        return self._admission.encode(request)

    def open(self, batch_size: int | None = None) -> ListSession:
        """Open a session for requests."""
        return ListSession(self.capabilities, lambda requests: self._run(requests, batch_size))

    def _run(self, requests: Sequence[Request], batch_size: int | None) -> Iterator[list[Event]]:
        self.load()
        member = self._member
        assert member is not None
        stopping = Stopping(self._tokenizer, stop_tokens(member.stages[0].model, self._tokenizer))
        rows = []
        for request in requests:
            [row] = self._admission.rows(request)
            if row.error:
                yield [stopping.refusal(row)]
            else:
                rows.append(row)
        pad = self._tokenizer.pad_token_id or 0
        rounds = Rounds(self, self.config, self.stats, stopping, pad, self._batches)
        yield from rounds.run(rows, batch_size)
        self._batches = rounds.first_number

    def close(self) -> None:
        """End the other processes, whatever they are doing."""
        crew, self._crew = self._crew, None
        if crew is not None:
            crew.kill()
        self._disconnect()
        self._member = self._ring = None

    # ------------------------------------------------------------------------------------------ the processes

    @property
    def depth(self) -> int:
        """How many batches can be worked on at once."""
        assert self._crew is not None
        return self._crew.place.processes

    @property
    def _task(self) -> PipelineConfig:
        assert isinstance(self.config.task, PipelineConfig)
        return self.config.task

    def _start(self) -> None:
        parts = manifest_of(self.config).num_parts
        crew = torchrun.crew()
        if crew is None:
            crew = spawn(self.config, self._task.processes or parts, self.folder)
        elif self._task.processes not in (None, crew.place.processes):
            started = f"torchrun has started {crew.place.processes} processes"
            raise ConfigError(f"task.processes={self._task.processes}: {started}: leave it out")
        self._crew = crew
        crew.meeting.say("begin")
        self._member = Member(self.config, crew.place)
        self.stages = self._member.report()
        self._tokenizer = load_tokenizer(manifest_of(self.config).folder)
        room = max_positions(self._member.stages[0].model.config, RopeConfig())
        self._admission = Admission(self.config, self._tokenizer, self._task.parts, room)
        for rows, notes in crew.gather("loaded"):
            self.stages += rows
            self._member.notes += [note for note in notes if note not in self._member.notes]
        if crew.place.processes == 1:
            return
        crew.meeting.say("go")
        self._ring = open_ring(self.config, crew.place, crew.meeting, self._member.device)
        self._listener = threading.Thread(target=self._listen, args=(self._ring,), daemon=True)
        self._listener.start()

    def _how(self) -> str:
        assert self._crew is not None
        processes = self._crew.place.processes
        if processes == 1:
            return "1"
        by = "started here" if self._crew.children else "started by torchrun"
        how = "nccl" if self._ring is not None and self._ring.direct else "gloo"
        return f"{processes}, {by}, over {how}"

    def _listen(self, ring: Ring) -> None:
        """Receive in a thread of its own: a blocked receive hears neither Ctrl-C nor the death of another process."""
        try:
            while True:
                message = ring.receive()
                self._heard.put(message)
                if message.kind is Kind.stop:
                    return
        except PeerGone as error:
            self._lost_at = time.monotonic()
            self._heard.put(error)

    def finish(self) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
        """End the pipeline in peace; return the table of the parts, and the figures of each process."""
        member, crew = self._member, self._crew
        assert member is not None
        assert crew is not None
        figures = [member.figures()]
        if self._ring is not None:
            self._send(Message(Kind.stop))
            self.answer()
            figures += crew.gather("figures")
            self._ring.flush()
        crew.dismiss()
        return self.stages, figures

    def blame(self) -> None:
        """Raise what made torchrun end this process, where it was the death of another one and no wish."""
        told_at = torchrun.told_at()
        if self._crew is None or told_at is None:
            return
        self._crew.watch()
        if self._lost_at is not None and self._lost_at <= told_at:
            raise self._crew.explain(PeerGone(self.depth - 1, ConnectionError("closed")))

    def _disconnect(self) -> None:
        if self._listener is not None:
            self._listener.join(timeout=1.0)
            if not self._listener.is_alive():  # else another machine's process still has the line; exiting cuts it
                dist.destroy_process_group()
            self._listener = None

    # ---------------------------------------------------------------------------------------------- the ring

    def step(self, message: Message, tokens: torch.Tensor) -> None:
        """Compute this process's share of a step and send it on."""
        assert self._member is not None
        answer = self._member.run(message, tokens)
        assert answer is not None
        if self._ring is None:
            self._heard.put(answer)
        else:
            self._send(answer)

    def end(self, number: int) -> None:
        """Let every stage forget a batch."""
        assert self._member is not None
        message = Message(Kind.end, number)
        self._member.run(message)
        if self._ring is not None:
            self._send(message)

    def _send(self, message: Message) -> None:
        assert self._ring is not None
        assert self._crew is not None
        try:
            self._ring.send(message)
        except PeerGone as error:
            raise self._crew.explain(error) from error

    def answer(self) -> Message:
        """Wait for what the last process says; meanwhile watch the others."""
        crew, timeout_s = self._crew, self._task.timeout_s
        assert crew is not None
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                heard = self._heard.get(timeout=POLL_S)
            except queue.Empty:
                crew.watch()
                if time.monotonic() > deadline:
                    raise JobFailed(
                        f"no answer from the {crew.place.processes} processes of the pipeline for {timeout_s:g} s "
                        "(task.timeout_s): one of them hangs. All were ended; completions so far are kept"
                    ) from None
                continue
            if isinstance(heard, PeerGone):
                raise crew.explain(heard) from heard
            return heard
