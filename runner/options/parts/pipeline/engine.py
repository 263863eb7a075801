"""Pipeline engine: requests pass through the parts of a split checkpoint, which run in several processes.

This process runs the first parts, schedules the micro-batches, and detects when another
process has ended.
"""

from __future__ import annotations

import itertools
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist

from runner.config.resolved import build_model_spec
from runner.config.root import RunnerConfig
from runner.options.parts.model_keys import as_parts_config
from runner.options.parts.pipeline import CAPABILITIES, processes
from runner.options.parts.pipeline.microbatches import MicroBatchScheduler
from runner.options.parts.pipeline.processes import (
    POLL_S,
    PeerProcesses,
    connect_to_ring_neighbours,
    start_stage_processes,
)
from runner.options.parts.pipeline.ranks import load_manifest, make_first_process_rank
from runner.options.parts.pipeline.stage_worker import StageWorker
from runner.options.parts.pipeline.transport import Packet, PacketType, PeerDisconnected, Transport
from runner.options.parts.sharding.load_part import load_tokenizer
from runner_base import FinishReason, JobFailed, RunnerError, signals, to_one_line
from runner_base.notes import Note
from runner_engine import EngineReport, EngineStats, Event, Request, RequestEncoder, RequestId, Session
from runner_engine.decode.request_encoder import find_stop_token_ids, get_non_default_generation_settings
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import Stopping
from runner_engine.models.rope.rope_application import get_max_positions
from runner_engine.models.vocabulary import choose_padding_id


class PipelineEngine:
    """Engine that runs a split's parts in several processes, started by the engine itself or by
    torchrun.
    """

    capabilities = CAPABILITIES

    def __init__(self, config: RunnerConfig, folder: Path | None = None) -> None:
        self.config, self.folder = config, folder  # the folder gets the logs of the other processes
        self.stats = EngineStats()
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None  # if no folder is given
        self._stages: PipelineCoordinator | None = None

    def load(self) -> EngineReport:
        """Start the other processes, load this process's parts at the same time, and connect all
        processes.
        """
        stages = self.stages
        model = stages.worker.stages[0].model
        facts = {
            "architecture": type(model).__name__,
            "source": load_manifest(self.config).source,
            "device": ", ".join(dict.fromkeys(part["device"] for part in stages.parts)),
            "dtype": str(stages.worker.dtype).removeprefix("torch."),
            "attention": str(model.config._attn_implementation),
            "threads": str(stages.worker.threads),
            "processes": stages.describe_processes(),
            "sampling": self.config.generation.describe_sampling(stages.own),
        }
        metrics = {
            "load_s": self.stats.load_s,
            "weight_mib": sum(part["mib"] for part in stages.parts),
            "num_parts": len(stages.parts),
            "processes": stages.depth,
            "vocab_size": model.config.get_text_config().vocab_size,
            "max_positions": get_max_positions(model.config),
        }
        notes, tokenizer = (
            stages.worker.notes + self.config.generation.build_ignored_settings_notes(stages.own),
            stages.tokenizer,
        )
        has_template = bool(tokenizer.chat_template)
        return EngineReport(metrics, facts, notes, stages.parts, tokenizer.bos_token_id, has_template)

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        return self.stages.encoder.encode_prompt(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids from the middle of a text. Special tokens are included."""
        return self.stages.encoder.decode(ids)

    def open(self, batch_size: int | None = None) -> PipelineSession:
        """Open a session. Only one session may be open at a time."""
        self.stages.micro_batches.rows_at_once = batch_size or self.config.generation.batch_size
        return PipelineSession(self.stages)

    def arithmetic(self) -> None:
        """Return None, because the arithmetic of other machines is unknown."""

    def close(self) -> None:
        """Stop the other processes. Kills them if packets are still being sent."""
        stages, self._stages = self._stages, None
        if stages is not None:
            stages.close()
        if self._own_folder is not None:
            self._own_folder.cleanup()
            self._own_folder = None

    @property
    def stages(self) -> PipelineCoordinator:
        if self._stages is None:
            started = time.perf_counter()
            self._stages = self._load_coordinator()
            self.stats.load_s = time.perf_counter() - started
        return self._stages

    def _load_coordinator(self) -> PipelineCoordinator:
        peers = processes.torchrun_peers
        if peers is None:
            folder = self.folder
            if folder is None:
                self._own_folder = tempfile.TemporaryDirectory(prefix="runner-")
                folder = Path(self._own_folder.name)
            peers = start_stage_processes(
                self.config,
                make_first_process_rank(self.config, load_manifest(self.config)).processes,
                folder,
            )
        try:
            with name_dead_process(peers, None):
                return PipelineCoordinator(self.config, self.stats, peers)
        except BaseException:
            peers.kill()
            raise


class PipelineSession(Session):
    """Session of the pipeline engine, which groups new requests into micro-batches."""

    def __init__(self, stages: PipelineCoordinator) -> None:
        super().__init__(CAPABILITIES)
        self.stages = stages
        stages.at_rest = False

    def _admit(self, request: Request) -> list[TokenSequence]:
        return self.stages.encoder.create_sequences(request)

    def _run_step(self, submitted: list[list[TokenSequence]], cancelled: set[RequestId]) -> list[Event]:
        batches = self.stages.micro_batches
        rows = list(itertools.chain(*submitted))
        events: list[Event] = [row.to_completion(FinishReason.error, 0.0) for row in rows if row.error]
        batches.add([row for row in rows if not row.error])
        with self.stages.guard_step():
            events += batches.cancel_requests(cancelled) if cancelled else []
            return events or batches.step()

    def check(self) -> None:
        """Raise an error that names the process if a process of the pipeline has ended."""
        self.stages.check_alive()

    def _drop_requests(self) -> None:
        if self.stages.broken is not None:
            return
        if not self.is_idle:
            self.stages.micro_batches.discard_all_sequences()
        if not self.stages.at_rest:
            with self.stages.guard_step():
                self.stages.collect_process_stats()


class PipelineCoordinator:
    """Coordinates the pipeline from its first process, which sends packets into the ring of processes and
    receives results.
    """

    def __init__(self, config: RunnerConfig, stats: EngineStats, peers: PeerProcesses) -> None:
        self.stats, self.peers, self.depth = stats, peers, peers.rank.processes
        model_config = as_parts_config(config.model)
        self.timeout_s = model_config.timeout_s
        self.at_rest = False  # nothing is under way: every process waits for a packet, or has ended
        self.broken: BaseException | None = (
            None  # the error that interrupted a step, after which nothing can go on
        )
        self.lost_at: float | None = None  # when the connection broke
        self._closing, self._alive_returned = threading.Event(), threading.Event()
        self._transport: Transport | None = None
        self._listener: threading.Thread | None = None
        self._keeper: threading.Thread | None = None
        self._received: queue.SimpleQueue[Packet | PeerDisconnected] = queue.SimpleQueue()
        peers.rendezvous.post("begin")
        self.worker = StageWorker(config, peers.rank)
        self.parts = self.worker.describe_parts()  # one line per part
        model, self.tokenizer = (self.worker.stages[0].model, load_tokenizer(load_manifest(config).folder))
        self.own = get_non_default_generation_settings(model)
        room, vocab_size = get_max_positions(model.config), model.config.get_text_config().vocab_size
        tokenizer = self.tokenizer
        spec, name = build_model_spec(config), model_config.name
        self.encoder = RequestEncoder(
            spec, tokenizer, name, room, model_generation=self.own, vocab_size=vocab_size
        )
        self.encoder.room_hint = ""
        stopping = Stopping(tokenizer, find_stop_token_ids(model, tokenizer), self.encoder.tags)
        pad = choose_padding_id(tokenizer, vocab_size)
        self.micro_batches = MicroBatchScheduler(
            self.depth, self.compute_and_send_pipeline_packet, self.receive, stats, stopping, pad
        )
        self.micro_batches.fixed_rows = model_config.micro_batch
        for parts, notes in peers.gather_messages("loaded"):
            self.parts += parts
            sent = [Note(**values) for values in notes]
            self.worker.notes += [note for note in sent if note not in self.worker.notes]
        if self.depth > 1:
            peers.rendezvous.post("go")
            self._transport = connect_to_ring_neighbours(self.worker, peers.rendezvous)
            self._listener = threading.Thread(target=self._receive_loop, args=(self._transport,), daemon=True)
            self._listener.start()
            self._alive_returned.set()
            self._keeper = threading.Thread(
                target=self._keep_alive_loop, args=(self._transport,), daemon=True
            )
            self._keeper.start()
        self.at_rest = True

    def describe_processes(self) -> str:
        """Describe the number of processes, the program that started them, and their transport."""
        if self._transport is None:
            return "1"
        by = "started here" if self.peers.children else "started by torchrun"
        return f"{self.depth}, {by}, over {'nccl' if self._transport.gpu_to_gpu else 'gloo'}"

    def compute_and_send_pipeline_packet(self, packet: Packet, tokens: torch.Tensor | None = None) -> None:
        """Compute this process's part of a step and send the resulting packet to the next process."""
        answer = (
            packet
            if packet.kind in (PacketType.figures, PacketType.stop)
            else self.worker.run_step(packet, tokens)
        )
        if self._transport is None:
            if answer is not None:
                self._received.put(answer)
            return
        assert answer is not None
        try:
            self._transport.send(answer)
        except PeerDisconnected as error:
            raise self.peers.find_first_failure(error) from error

    def receive(self) -> Packet:
        """Wait for the next packet from the last process. Meanwhile checks that all processes are alive."""
        timeout_s = self.timeout_s
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                received = self._received.get(timeout=POLL_S)
            except queue.Empty:
                self.peers.check_alive()
                if time.monotonic() > deadline:
                    raise JobFailed(
                        (
                            f"one of the {self.depth} pipeline processes hangs: no result arrived for "
                            f"{timeout_s:g} s (model.timeout_s). All processes were ended. "
                            "Completed answers are saved"
                        ),
                        code="failed",
                    ) from None
                continue
            if isinstance(received, PeerDisconnected):
                raise self.peers.find_first_failure(received) from received
            return received

    @contextmanager
    def guard_step(self) -> Iterator[None]:
        """Guard one pipeline step. After an error within this context, all further steps are refused."""
        try:
            with name_dead_process(self.peers, self):
                yield
        except BaseException as error:
            self.broken = error
            raise

    def check_alive(self) -> None:
        if isinstance(self.broken, RunnerError):
            raise self.broken
        if self.broken is not None:
            raise JobFailed(
                f"the pipeline has ended: {to_one_line(self.broken)}", code="failed"
            ) from self.broken
        with self.guard_step():
            self.peers.check_alive()
            if self.lost_at is not None:
                raise self.peers.find_first_failure(self._last_process_error())

    def _last_process_error(self) -> PeerDisconnected:
        return PeerDisconnected(self.peers.rank.processes - 1, ConnectionError("closed"))

    def collect_process_stats(self) -> None:
        self.micro_batches.drain()  # micro-batches of cancelled requests
        self.stats.processes = [self.worker.collect_process_metrics()]
        if self._transport is not None:
            self.compute_and_send_pipeline_packet(Packet(PacketType.figures))
            self.receive()
            self.stats.processes += self.peers.gather_messages("figures")
        self.at_rest = True

    def close(self) -> None:
        """Stop the pipeline's other processes."""
        is_sound, self.at_rest = self.at_rest and self.broken is None, True
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join(timeout=1.0)
        try:
            if is_sound and self._transport is not None:
                self.compute_and_send_pipeline_packet(Packet(PacketType.stop))
                self.receive()
                self._transport.flush()
                self.peers.wait_or_kill_peer_processes()
        finally:
            self.peers.kill()
            if self._listener is not None:
                self._listener.join(timeout=1.0)
                if (
                    not self._listener.is_alive()
                ):  # else a process on another machine is still connected, until this one exits
                    dist.destroy_process_group()

    def _receive_loop(self, transport: Transport) -> None:
        """Receive packets in a separate thread, because a blocked receive cannot react to Ctrl-C or a
        dead process.
        """
        try:
            while True:
                packet = transport.receive()
                if packet.kind is PacketType.alive:
                    self._alive_returned.set()
                    continue
                self._received.put(packet)
                if packet.kind is PacketType.stop:
                    return
        except PeerDisconnected as error:
            self.lost_at = time.monotonic()
            self._received.put(error)

    def _keep_alive_loop(self, transport: Transport) -> None:
        """Send keep-alive packets at intervals, so that receiving does not time out in an idle process."""
        while not self._closing.wait(self.timeout_s):
            if (
                self._alive_returned.is_set()
            ):  # else a process hangs, and further packets would only fill its connection
                self._alive_returned.clear()
                with suppress(PeerDisconnected):  # the listener reports it
                    transport.send(Packet(PacketType.alive))


@contextmanager
def name_dead_process(peers: PeerProcesses, coordinator: PipelineCoordinator | None) -> Iterator[None]:
    """Within this context, convert torchrun's SIGTERM to an error that names the dead process."""
    try:
        yield
        if processes.terminated_at is not None:
            signals.raise_if_signal_waits()  # and not when the step has ended, where nobody knows of the others
    except RunnerError:
        if processes.terminated_at is not None:
            signals.discard_waiting_signal()
        raise
    except KeyboardInterrupt:
        if processes.terminated_at is not None:
            signals.discard_waiting_signal()
            peers.check_alive()
            if (
                coordinator is not None
                and coordinator.lost_at is not None
                and coordinator.lost_at <= processes.terminated_at
            ):
                raise peers.find_first_failure(coordinator._last_process_error()) from None
        raise
