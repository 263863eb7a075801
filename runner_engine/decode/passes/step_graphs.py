"""Recordings of decoding steps: made of shapes that occur again and again, checked, replayed and
counted.

A recording is checked by two replays with different tokens, each compared with the same step
operation by operation. What a replay does not compute is NaN, so one that does nothing is found. A
shape that fails is left out; the others are recorded all the same, unless the reason holds for all
of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import torch

from runner_base import counted, is_memory_error, one_line
from runner_engine.decode.passes.host_reads import HostRead, NoHostReads

log = logging.getLogger(__name__)

RECORD_AT = 3  # the occurrence of a shape at which it is recorded: that takes as long as some four steps
MOST_FAILURES = 3  # shapes that fail before the first one that works: then none is recorded any more
ALLOWED_OFF = 0.01  # mean of a replay's errors, as a share of the logits' spread
ALLOWED_LOSS = 0.05  # how far below the best token a replay's first choice may be, as a share of that spread

Shape = tuple[int, int]  # rows, and own places that are read


class Recording(Protocol):
    """A recorded step: `replay` computes its logits from what the table holds then."""

    logits: torch.Tensor

    def replay(self) -> None:
        """Compute the logits."""


Run = Callable[[], torch.Tensor]
Record = Callable[[Run], Recording]


class CudaGraphs:
    """Records steps as CUDA graphs, which share their memory: the logits of one are read before the
    next one runs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):  # else graphs and their memory would belong to another GPU
            self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Recording:
        """Record a step."""
        return CudaGraph(run, self.pool, self.device)


class CudaGraph:
    """A step as a CUDA graph."""

    def __init__(self, run: Run, pool: Any, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.graph = torch.cuda.CUDAGraph()
            # other threads of a server may use the GPU meanwhile
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.logits = run()

    def replay(self) -> None:
        """Run the step once more."""
        with torch.cuda.device(self.device):
            self.graph.replay()


class StepGraphs:
    """The recordings of one model's steps by their shapes."""

    def __init__(self, record: Record | None) -> None:
        self.record, self.why_not = record, ""
        self.recordings: dict[Shape, Recording] = {}
        self.left_out: dict[Shape, str] = {}  # shapes that failed, with the reason
        self.steps = self.replayed = 0
        self._made: set[Shape] = set()  # all shapes so far, those that were forgotten included
        self._occurred: Counter[Shape] = Counter()

    def logits(self, shape: Shape, tokens: torch.Tensor, run: Run) -> torch.Tensor:
        """Return the step's logits: by a replay if its shape is recorded, else by `run`, which
        computes them anew.

        tokens: the part of the table that holds them; it is changed while a recording is checked.
        """
        self.steps += 1
        if shape in self.recordings:
            self.replayed += 1
            recording = self.recordings[shape]
            recording.replay()
            return recording.logits
        logits = run()
        self._occurred[shape] += 1
        if self.record is not None and self._occurred[shape] == RECORD_AT and shape not in self.left_out:
            self._try(self.record, shape, tokens, run, logits)
        return logits

    def forget(self) -> None:
        """Free recordings and their memory."""
        self.recordings = {}
        self._occurred.clear()

    @property
    def summary(self) -> str:
        """How many steps were replayed, or why none was; empty where nothing is ever recorded."""
        reasons = Counter(self.left_out.values())
        missing = "; ".join(
            f"{counted(count, 'shape')} not recorded: {reason}" for reason, count in reasons.items()
        )
        if self._made and self.steps:
            share = f"{counted(len(self._made), 'shape')}, {100 * self.replayed / self.steps:.0f} % of steps"
            return f"{share}; {missing}" if missing else share
        return f"none: {self.why_not or missing}" if self.why_not or missing else ""

    def _try(
        self, record: Record, shape: Shape, tokens: torch.Tensor, run: Run, logits: torch.Tensor
    ) -> None:
        """Record a shape whose step was just run, and check it."""
        try:
            if not self._made:  # it is the model's code that waits or not, whatever the shape
                with NoHostReads():  # type: ignore[no-untyped-call]
                    run()
            recording = record(run)
            _check(recording, tokens, run, logits)
            self.recordings[shape] = recording
            self._made.add(shape)
        except HostRead as error:
            self._stop(one_line(error, limit=160))
        except RuntimeError as error:
            error.__traceback__ = None  # it holds the tensors of the step
            if is_memory_error(error):
                self._stop("memory is short")
                return
            self.left_out[shape] = one_line(error, limit=160)
            log.info(
                "decoding steps of %d rows and %d places are not recorded: %s", *shape, self.left_out[shape]
            )
            if not self._made and len(self.left_out) == MOST_FAILURES:
                self._stop(self.left_out[shape])

    def _stop(self, why: str) -> None:
        log.info("decoding steps are not recorded: %s", why)
        self.record, self.why_not = None, why
        self.forget()


def _check(recording: Recording, tokens: torch.Tensor, run: Run, expected: torch.Tensor) -> None:
    """Replay a step with other tokens and with its own, in this order; RuntimeError if its logits
    differ from `run`'s.

    What the step's own tokens have in the cache is there afterwards, whatever happens.
    """
    own = tokens.clone()
    try:
        tokens.copy_(1 - own % 2)  # 0 or 1, which every vocabulary has, and never the same token
        _compare(recording, run())
        tokens.copy_(own)
        _compare(recording, expected)
    except BaseException:
        tokens.copy_(own)
        run()
        raise


def _compare(recording: Recording, expected: torch.Tensor) -> None:
    """Replay a step; RuntimeError if its logits differ from those that were computed operation by
    operation."""
    with torch.inference_mode():
        recording.logits.fill_(torch.nan)
    recording.replay()
    replayed, expected = recording.logits.float(), expected.float()
    spread = expected.std().clamp(min=1e-6)
    off = float((replayed - expected).abs().mean() / spread)
    if not off <= ALLOWED_OFF:
        raise RuntimeError(f"replayed logits would be off by {off:.2g} of their spread on average")
    best = expected.amax(dim=-1) - expected.gather(-1, replayed.argmax(dim=-1, keepdim=True))[..., 0]
    if not (loss := float(best.max() / spread)) <= ALLOWED_LOSS:
        raise RuntimeError(
            f"a replayed first choice would be {loss:.2g} of the logits' spread below the best token"
        )
