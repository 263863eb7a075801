"""Messages between the processes of a pipeline: a small header, whole numbers, hidden states; point to point.

The processes stand in a ring. What a stage has computed goes to the next one; the last one sends the tokens that it
picked to the first, which decides what comes next. Sends never wait: with every process both sending and receiving,
waiting for a neighbour to listen could close a circle. gloo carries what lies on a CPU, nccl what lies on GPUs of
their own; hidden states of processes that share one GPU go through main memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HEADER = 8  # kind, batch, rows and columns of the numbers, three sizes of the hidden states, their dtype
SENDS_A_MESSAGE = 3


class Kind(IntEnum):
    """What a message asks for."""

    prefill = 0  # numbers: a row each, its index, its length and its token ids, flush right
    decode = 1  # numbers: the rows of the batch that go on, empty when all do
    tokens = 2  # numbers: what was picked for each row
    end = 3  # the batch is over
    stop = 4  # everything is over


@dataclass
class Message:
    """One step of one batch on its way around the ring."""

    kind: Kind
    batch: int = 0
    numbers: torch.Tensor | None = None  # int64 [rows, columns], on the CPU
    hidden: torch.Tensor | None = None  # [B, T, H], where the stage computes


class PeerGone(Exception):
    """A neighbour in the ring has closed its connection."""

    def __init__(self, rank: int, error: BaseException) -> None:
        super().__init__(f"process {rank} is gone: {' '.join(str(error).split())[:200]}")
        self.rank = rank


class Ring:
    """This process's two neighbours, over torch.distributed's default group."""

    def __init__(self, rank: int, processes: int, device: torch.device, direct: bool) -> None:
        self.before, self.after = (rank - 1) % processes, (rank + 1) % processes
        self.device = device
        self.direct = direct  # hidden states go from GPU to GPU
        self._sends: deque[tuple[Any, torch.Tensor]] = deque()
        # a message is under way for each process at most, and its parts are received before the next one is asked for
        self._most = SENDS_A_MESSAGE * (2 * processes + 2)

    def send(self, message: Message) -> None:
        """Hand a message to the next process, without waiting until it listens."""
        numbers, hidden = message.numbers, message.hidden
        header = torch.zeros(HEADER, dtype=torch.int64)
        header[0], header[1] = int(message.kind), message.batch
        if numbers is not None:
            header[2], header[3] = numbers.shape
        if hidden is not None:
            header[4:7] = torch.tensor(hidden.shape)
            header[7] = DTYPES.index(hidden.dtype)
        self._post(header)
        if numbers is not None and numbers.numel():
            self._post(numbers.contiguous())
        if hidden is not None:
            self._post(hidden.contiguous() if self.direct else hidden.contiguous().cpu())

    def receive(self) -> Message:
        """Wait for the next message from the process before."""
        header = self._take(torch.empty(HEADER, dtype=torch.int64)).tolist()
        numbers = hidden = None
        if header[2] * header[3]:
            numbers = self._take(torch.empty(header[2:4], dtype=torch.int64))
        if header[4]:
            at = self.device if self.direct else torch.device("cpu")
            hidden = self._take(torch.empty(header[4:7], dtype=DTYPES[header[7]], device=at)).to(self.device)
        return Message(Kind(header[0]), header[1], numbers, hidden)

    def flush(self) -> None:
        """Wait until everything that was sent has arrived."""
        while self._sends:
            self._wait_for_oldest()

    def _post(self, tensor: torch.Tensor) -> None:
        try:
            self._sends.append((dist.isend(tensor, self.after), tensor))
        except RuntimeError as error:
            raise PeerGone(self.after, error) from error
        while len(self._sends) > self._most:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        work, _ = self._sends.popleft()
        try:
            work.wait()
        except RuntimeError as error:
            raise PeerGone(self.after, error) from error

    def _take(self, tensor: torch.Tensor) -> torch.Tensor:
        try:
            dist.recv(tensor, self.before)
        except RuntimeError as error:
            raise PeerGone(self.before, error) from error
        return tensor
