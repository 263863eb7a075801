"""Packets sent between neighbouring pipeline processes: a header, integers and hidden states.

The processes form a ring. Each sends its hidden states to the next, and the last sends
sampled tokens to the first, which schedules the next step. A send returns at once, because
processes that wait for each other to receive would deadlock. gloo sends CPU tensors; nccl
sends GPU tensors if each process has its own GPU. Processes that share a GPU copy hidden
states through main memory.

The first process knows the requests and the last one samples, so each sequence's settings
travel with its prompt. A packet's numbers are integers; a float is sent as its 64 bits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist

from runner_base import check_value
from runner_engine import Sampling
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.tokens import Sampler, create_random_generator
from runner_engine.settings.sampling import PARAMETERS

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HEADER = 8  # kind, batch, rows and columns of the numbers, three sizes of the hidden states, their dtype
SENDS_PER_PACKET = 3
# columns before the token ids: sampling, the seed, a forced token, the prompt's length
SETTINGS = len(PARAMETERS) + 3
NOT_FORCED = -1


class PacketType(IntEnum):
    prefill = 0  # numbers: one line per row, from `write_rows`
    # numbers: which rows of the micro-batch go on, and the token that must come next; none when all are free
    decode = 1
    tokens = 2  # numbers: the token that was sampled for each row
    end = 3  # the micro-batch is over
    figures = 4  # each process reports its computing time and its memory
    stop = 5  # the pipeline is over
    alive = 6  # nothing to do, but the connections stay in use


@dataclass
class Packet:
    """Message that carries one step of a micro-batch from process to process around the ring."""

    kind: PacketType
    batch: int = 0
    numbers: torch.Tensor | None = None  # int64 [rows, columns], on the CPU
    hidden: torch.Tensor | None = None  # [B, T, H], on the stage's device


class PeerDisconnected(Exception):
    """Raised when a neighbour in the ring has closed its connection."""

    def __init__(self, rank: int, error: BaseException) -> None:
        super().__init__(f"process {rank} has ended: {' '.join(str(error).split())[:200]}")
        self.rank = rank


class Transport:
    """Sends packets to the next process and receives packets from the previous process."""

    def __init__(self, rank: int, num_processes: int, device: torch.device, is_gpu_to_gpu: bool) -> None:
        self.previous, self.next = (rank - 1) % num_processes, (rank + 1) % num_processes
        self.device = device
        self.gpu_to_gpu = is_gpu_to_gpu  # hidden states are not copied through main memory
        self._sending = threading.Lock()  # a packet is several tensors
        self._sends: deque[tuple[Any, torch.Tensor]] = deque()
        # at most one packet per process is under way, and a process receives all of a packet before
        # the next
        self._most_sends = SENDS_PER_PACKET * (2 * num_processes + 2)

    def send(self, packet: Packet) -> None:
        """Send a packet to the next process without waiting for its arrival."""
        numbers, hidden = packet.numbers, packet.hidden
        header = torch.zeros(HEADER, dtype=torch.int64)
        header[0], header[1] = int(packet.kind), packet.batch
        if numbers is not None:
            header[2], header[3] = numbers.shape
        if hidden is not None:
            header[4:7] = torch.tensor(hidden.shape)
            header[7] = DTYPES.index(hidden.dtype)
        with self._sending:
            self._send_tensor(header)
            if numbers is not None and numbers.numel():
                self._send_tensor(numbers.contiguous())
            if hidden is not None:
                self._send_tensor(hidden.contiguous() if self.gpu_to_gpu else hidden.contiguous().cpu())

    def receive(self) -> Packet:
        """Wait for the next packet from the previous process in the ring."""
        header = self._receive_tensor(torch.empty(HEADER, dtype=torch.int64)).tolist()
        numbers = hidden = None
        if header[2] * header[3]:
            numbers = self._receive_tensor(torch.empty(header[2:4], dtype=torch.int64))
        if header[4]:
            device = self.device if self.gpu_to_gpu else torch.device("cpu")
            empty = torch.empty(header[4:7], dtype=DTYPES[header[7]], device=device)
            hidden = self._receive_tensor(empty).to(self.device)
        return Packet(PacketType(header[0]), header[1], numbers, hidden)

    def flush(self) -> None:
        """Wait until all packets that this process has sent have arrived."""
        while self._sends:
            self._wait_for_oldest_send()

    def _send_tensor(self, tensor: torch.Tensor) -> None:
        try:
            self._sends.append((dist.isend(tensor, self.next), tensor))
        except RuntimeError as error:
            raise PeerDisconnected(self.next, error) from error
        while len(self._sends) > self._most_sends:
            self._wait_for_oldest_send()

    def _wait_for_oldest_send(self) -> None:
        work, _ = self._sends.popleft()
        try:
            work.wait()
        except RuntimeError as error:
            raise PeerDisconnected(self.next, error) from error

    def _receive_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        try:
            dist.recv(tensor, self.previous)
        except RuntimeError as error:
            raise PeerDisconnected(self.previous, error) from error
        return tensor


def encode_forced_tokens(tokens: Sequence[int | None]) -> list[int]:
    return [NOT_FORCED if token is None else token for token in tokens]


def decode_forced_tokens(packet: Packet) -> dict[int, int]:
    if packet.numbers is None:
        return {}
    column = packet.numbers[:, SETTINGS - 2 if packet.kind is PacketType.prefill else 1]
    return {row: token for row, token in enumerate(column.tolist()) if token != NOT_FORCED}


def pack_sequences(
    sequences: Sequence[TokenSequence], pad_token: int, forced_tokens: Sequence[int | None]
) -> torch.Tensor:
    """Pack sequences into a tensor with one row each: sampling settings, then the left-padded prompt."""
    width = max(len(row.prompt) for row in sequences)
    lines = []
    for row, token in zip(sequences, encode_forced_tokens(forced_tokens), strict=True):
        generator = create_random_generator(row.sampling, row.request.effective_random_id, row.choice)
        settings = torch.tensor(row.sampling.as_numbers, dtype=torch.float64).view(torch.int64).tolist()
        settings += [0 if generator is None else generator.initial_seed(), token, len(row.prompt)]
        lines.append([*settings, *[pad_token] * (width - len(row.prompt)), *row.prompt])
    return torch.tensor(lines)


def make_token_mask(packed_sequences: torch.Tensor) -> torch.Tensor:
    """Return the attention mask [B, T] for packed sequences, with 1 for tokens and 0 for padding."""
    width = packed_sequences.shape[1] - SETTINGS
    return (torch.arange(width)[None, :] >= width - packed_sequences[:, SETTINGS - 1 : SETTINGS]).long()


def make_sampler(packed_sequences: torch.Tensor, vocab_size: int, device: torch.device) -> Sampler:
    """Create a sampler from the sampling settings of packed sequences.

    Raises ConfigError if a prompt length exceeds the tensor's width.
    """
    samplings, generators, prompts = [], [], []
    settings = packed_sequences[:, : len(PARAMETERS)].contiguous().view(torch.float64).tolist()
    for line, values in zip(packed_sequences.tolist(), settings, strict=True):
        seed, _, length = line[len(PARAMETERS) : SETTINGS]
        check_value(
            0 < length <= packed_sequences.shape[1] - SETTINGS,
            "length",
            length,
            "the prompt length exceeds the width of the packet",
        )
        samplings.append(Sampling.from_parameter_values(values).effective)
        generators.append(torch.Generator().manual_seed(seed) if samplings[-1].temperature else None)
        prompts.append(line[len(line) - length :])
    return Sampler(vocab_size, device, prompts, samplings, generators)
