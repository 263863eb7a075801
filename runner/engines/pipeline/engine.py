"""The pipeline engine: requests go through the parts of a split, over several processes.

This process runs the first parts, decides which micro-batch goes next and notices when another process is gone.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from runner.config.root import RunnerConfig
from runner.config.task import PipelineConfig, pipeline_of
from runner.core.errors import ConfigError, JobFailed
from runner.core.result import FinishReason
from runner.engines.base import EngineReport, Event, Request, RequestId
from runner.engines.pipeline import CAPABILITIES, processes
from runner.engines.pipeline.microbatches import MicroBatches
from runner.engines.pipeline.processes import POLL_S, PeerProcesses, connect, start_processes
from runner.engines.pipeline.stage_worker import StageWorker, manifest_of
from runner.engines.pipeline.transport import Kind, Packet, PeerGone, Transport
from runner.engines.rows import Admission, Row, Stopping, own_generation, stop_tokens
from runner.engines.session import Session
from runner.engines.stats import EngineStats
from runner.models.rope.choices import max_positions
from runner.sharding.load_part import load_tokenizer


class PipelineEngine:
    """Runs the parts in task.parts over processes that it starts, or that torchrun has started."""

    capabilities = CAPABILITIES

    def __init__(self, config: RunnerConfig, folder: Path) -> None:
        self.config, self.task, self.folder = config, pipeline_of(config.task), folder
        self.stats = EngineStats()
        self._stages: LoadedStages | None = None

    def load(self) -> EngineReport:
        """Start the other processes, load this one's parts while they load theirs, and connect."""
        stages = self.stages
        model = stages.worker.stages[0].model
        facts = {
            "architecture": type(model).__name__,
            "source": manifest_of(self.config).source,
            "device": ", ".join(dict.fromkeys(part["device"] for part in stages.parts)),
            "dtype": str(stages.worker.dtype).removeprefix("torch."),
            "attention": str(model.config._attn_implementation),
            "threads": str(stages.worker.threads),
            "processes": stages.describe_processes(),
            "sampling": self.config.generation.describe(stages.own),
        }
        metrics = {
            "load_s": self.stats.load_s,
            "weight_mib": sum(part["mib"] for part in stages.parts),
            "stages": len(stages.parts),
            "processes": stages.depth,
        }
        notes = stages.worker.notes + self.config.generation.not_followed(stages.own)
        return EngineReport(metrics, facts, notes, stages.parts)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        return self.stages.admission.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids as it stands amid others, special tokens too."""
        return self.stages.admission.decode(ids)

    def open(self, batch_size: int | None = None) -> PipelineSession:
        """Open a session for requests; one at a time."""
        self.stages.micro_batches.rows_at_once = batch_size or self.config.generation.batch_size
        return PipelineSession(self.stages)

    def arithmetic(self) -> None:
        """Its stages have machines of their own."""

    def close(self) -> None:
        """End the other processes: in peace where nothing is under way, else whatever they are doing."""
        stages, self._stages = self._stages, None
        if stages is not None:
            stages.close()

    @property
    def stages(self) -> LoadedStages:
        """The stages, loaded."""
        if self._stages is None:
            started = time.perf_counter()
            self._stages = self._start()
            self.stats.load_s = time.perf_counter() - started
        return self._stages

    def _start(self) -> LoadedStages:
        peers = processes.torchrun_peers
        if peers is None:
            peers = start_processes(self.config, self.task.processes or manifest_of(self.config).num_parts, self.folder)
        elif self.task.processes not in (None, peers.rank.processes):
            started = f"torchrun has started {peers.rank.processes} processes"
            raise ConfigError(f"task.processes={self.task.processes}: {started}: leave it out")
        try:
            with naming_who_died(peers, None):
                return LoadedStages(self.config, self.task, self.stats, peers)
        except BaseException:
            peers.kill()
            raise


class PipelineSession(Session):
    """Requests on their way through the stages; new ones form the next micro-batches."""

    def __init__(self, stages: LoadedStages) -> None:
        super().__init__(CAPABILITIES)
        self.stages = stages
        stages.at_rest = False

    def _admit(self, request: Request) -> list[Row]:
        return self.stages.admission.rows(request)

    def _advance(self, arrived: list[list[Row]], cancelled: set[RequestId]) -> list[Event]:
        batches = self.stages.micro_batches
        rows = list(itertools.chain(*arrived))
        events: list[Event] = [row.completion(FinishReason.error, 0.0) for row in rows if row.error]
        batches.add([row for row in rows if not row.error])
        events += batches.cancel(cancelled) if cancelled else []
        with naming_who_died(self.stages.peers, self.stages):
            return events or batches.step()

    def _drop(self) -> None:
        if not self.idle:
            self.stages.micro_batches.drop_all()
        elif not self.stages.at_rest:
            self.stages.collect_figures()


class LoadedStages:
    """The stages of all processes, as the first process sends to them and hears from them."""

    def __init__(self, config: RunnerConfig, task: PipelineConfig, stats: EngineStats, peers: PeerProcesses) -> None:
        self.task, self.stats, self.peers, self.depth = task, stats, peers, peers.rank.processes
        self.at_rest = False  # nothing is under way, and every process waits for a packet, or has ended
        self.lost_at: float | None = None  # when the connection broke
        self._transport: Transport | None = None
        self._listener: threading.Thread | None = None
        self._received: queue.SimpleQueue[Packet | PeerGone] = queue.SimpleQueue()
        peers.rendezvous.post("begin")
        self.worker = StageWorker(config, peers.rank)
        self.parts = self.worker.loaded_parts()  # one line per part
        model, tokenizer = self.worker.stages[0].model, load_tokenizer(manifest_of(config).folder)
        self.own = own_generation(model)
        room, vocab_size = max_positions(model.config), model.config.get_text_config().vocab_size
        self.admission = Admission(config, tokenizer, task.parts, room, own=self.own, vocab_size=vocab_size)
        stopping, pad = Stopping(tokenizer, stop_tokens(model, tokenizer)), tokenizer.pad_token_id or 0
        self.micro_batches = MicroBatches(self.depth, self.send, self.receive, stats, stopping, pad)
        self.micro_batches.fixed_rows = task.micro_batch
        for parts, notes in peers.gather("loaded"):
            self.parts += parts
            self.worker.notes += [note for note in notes if note not in self.worker.notes]
        if self.depth > 1:
            peers.rendezvous.post("go")
            self._transport = connect(self.worker, peers.rendezvous)
            self._listener = threading.Thread(target=self._listen, args=(self._transport,), daemon=True)
            self._listener.start()
        self.at_rest = True

    def describe_processes(self) -> str:
        """Say how many processes there are, who started them and how they are connected."""
        if self._transport is None:
            return "1"
        by = "started here" if self.peers.children else "started by torchrun"
        return f"{self.depth}, {by}, over {'nccl' if self._transport.gpu_to_gpu else 'gloo'}"

    def send(self, packet: Packet, tokens: torch.Tensor | None = None) -> None:
        """Compute this process's part of a step and send it on."""
        answer = packet if packet.kind in (Kind.figures, Kind.stop) else self.worker.run(packet, tokens)
        if self._transport is None:
            if answer is not None:
                self._received.put(answer)
            return
        assert answer is not None
        try:
            self._transport.send(answer)
        except PeerGone as error:
            raise self.peers.find_cause(error) from error

    def receive(self) -> Packet:
        """Wait for the next packet from the last process; meanwhile watch the others."""
        timeout_s = self.task.timeout_s
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                received = self._received.get(timeout=POLL_S)
            except queue.Empty:
                self.peers.check()
                if time.monotonic() > deadline:
                    raise JobFailed(
                        f"no answer from the {self.depth} processes of the pipeline for {timeout_s:g} s "
                        "(task.timeout_s): one of them hangs. All were ended; completions so far are kept"
                    ) from None
                continue
            if isinstance(received, PeerGone):
                raise self.peers.find_cause(received) from received
            return received

    def collect_figures(self) -> None:
        """Ask each process how long it computed and what memory it took."""
        self.micro_batches.drain()  # of requests that were cancelled
        self.stats.processes = [self.worker.figures()]
        if self._transport is not None:
            self.send(Packet(Kind.figures))
            self.receive()
            self.stats.processes += self.peers.gather("figures")
        self.at_rest = True

    def close(self) -> None:
        """End the other processes."""
        was_at_rest, self.at_rest = self.at_rest, True
        try:
            if was_at_rest and self._transport is not None:
                self.send(Packet(Kind.stop))
                self.receive()
                self._transport.flush()
                self.peers.wait_for_exit()
        finally:
            self.peers.kill()
            if self._listener is not None:
                self._listener.join(timeout=1.0)
                if not self._listener.is_alive():  # else one of another machine is still connected; exiting cuts it
                    dist.destroy_process_group()

    def _listen(self, transport: Transport) -> None:
        """Receive in a thread of its own: a blocked receive hears neither Ctrl-C nor the death of another process."""
        try:
            while True:
                packet = transport.receive()
                self._received.put(packet)
                if packet.kind is Kind.stop:
                    return
        except PeerGone as error:
            self.lost_at = time.monotonic()
            self._received.put(error)


@contextmanager
def naming_who_died(peers: PeerProcesses, stages: LoadedStages | None) -> Iterator[None]:
    """Where torchrun ends this process because another one has died, raise an error that names that one."""
    try:
        yield
    except KeyboardInterrupt:
        if processes.terminated_at is not None:
            peers.check()
            if stages is not None and stages.lost_at is not None and stages.lost_at <= processes.terminated_at:
                gone = PeerGone(peers.rank.processes - 1, ConnectionError("closed"))
                raise peers.find_cause(gone) from None
        raise
