"""Records decoding steps as CUDA graphs by tensor shape. Checks, replays and counts the graphs.

A recording is checked by two replays with different tokens, each compared with the same
step run operation by operation. The output is filled with NaN first, so a replay that
does nothing is detected. A shape that fails is skipped. Others are still recorded, unless
the reason holds for all of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import torch

from runner_base import format_count, is_out_of_memory_error, to_one_line
from runner_engine.decode.passes.host_sync import ForbidHostSync, HostSyncError

log = logging.getLogger(__name__)

RECORD_AT = 3  # the occurrence of a shape at which it is recorded: that takes as long as some four steps
MOST_FAILURES = 3  # shapes that fail before the first one that works: then none is recorded any more
ALLOWED_OFF = 0.01  # mean of a replay's errors, as a share of the logits' spread
ALLOWED_LOSS = 0.05  # how far below the best token a replay's first choice may be, as a share of that spread

Shape = tuple[int, int]  # rows, and own places that are read


class Recording(Protocol):
    """A recorded decoding step. `replay` computes the step's logits from the current inputs."""

    logits: torch.Tensor

    def replay(self) -> None:
        """Compute the logits from the current values of the input tensors."""


LogitsFunction = Callable[[], torch.Tensor]
Record = Callable[[LogitsFunction], Recording]


class CudaGraphRecorder:
    """Records decoding steps as CUDA graphs in one shared memory pool.

    A replay overwrites the logits of the graph before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):  # else graphs and their memory would belong to another GPU
            self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: LogitsFunction) -> Recording:
        return RecordedCudaGraph(run, self.pool, self.device)


class RecordedCudaGraph:
    def __init__(self, run: LogitsFunction, pool: Any, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.graph = torch.cuda.CUDAGraph()
            # other threads of a server may use the GPU meanwhile
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.logits = run()

    def replay(self) -> None:
        with torch.cuda.device(self.device):
            self.graph.replay()


class StepGraphs:
    """The recorded decoding steps of a model, by tensor shape."""

    def __init__(self, record: Record | None) -> None:
        self.record, self.why_not = record, ""
        self.recordings: dict[Shape, Recording] = {}
        self.left_out: dict[Shape, str] = {}  # shapes that failed, with the reason
        self.steps = self.replayed = 0
        self._made: set[Shape] = set()  # all shapes so far, those that were forgotten included
        self._occurred: Counter[Shape] = Counter()

    def replay_graph_or_compute_logits(
        self, shape: Shape, tokens: torch.Tensor, compute_logits: LogitsFunction
    ) -> torch.Tensor:
        """Return the logits of a decoding step.

        Replays the recorded CUDA graph of this shape, or calls `compute_logits` if there is none.

        tokens: the part of the table that holds the tokens. It is changed while a recording is
        checked.
        """
        self.steps += 1
        if shape in self.recordings:
            self.replayed += 1
            recording = self.recordings[shape]
            recording.replay()
            return recording.logits
        logits = compute_logits()
        self._occurred[shape] += 1
        if self.record is not None and self._occurred[shape] == RECORD_AT and shape not in self.left_out:
            self._record_and_check(self.record, shape, tokens, compute_logits, logits)
        return logits

    def free_cuda_graphs(self) -> None:
        self.recordings = {}
        self._occurred.clear()

    @property
    def summary(self) -> str:
        """Summary of CUDA graph use for the log. Empty if recording was never attempted."""
        reasons = Counter(self.left_out.values())
        missing = "; ".join(
            f"{format_count(count, 'shape')} not recorded: {reason}" for reason, count in reasons.items()
        )
        if self._made and self.steps:
            share = (
                f"{format_count(len(self._made), 'shape')}, {100 * self.replayed / self.steps:.0f} % of steps"
            )
            return f"{share}; {missing}" if missing else share
        return f"none: {self.why_not or missing}" if self.why_not or missing else ""

    def _record_and_check(
        self,
        record: Record,
        shape: Shape,
        tokens: torch.Tensor,
        compute_logits: LogitsFunction,
        logits: torch.Tensor,
    ) -> None:
        """Record a CUDA graph for the tensor shape of the last step, and check the graph's logits."""
        try:
            if not self._made:  # it is the model's code that waits or not, whatever the shape
                with ForbidHostSync():  # type: ignore[no-untyped-call]
                    compute_logits()
            recording = record(compute_logits)
            _check_cuda_graph(recording, tokens, compute_logits, logits)
            self.recordings[shape] = recording
            self._made.add(shape)
        except HostSyncError as error:
            self._disable_cuda_graph_recording(to_one_line(error, limit=160))
        except RuntimeError as error:
            error.__traceback__ = None  # it holds the tensors of the step
            if is_out_of_memory_error(error):
                self._disable_cuda_graph_recording("memory is short")
                return
            self.left_out[shape] = to_one_line(error, limit=160)
            log.info(
                "decoding steps of %d sequences and %d positions run without a CUDA graph: %s",
                *shape,
                self.left_out[shape],
            )
            if not self._made and len(self.left_out) == MOST_FAILURES:
                self._disable_cuda_graph_recording(self.left_out[shape])

    def _disable_cuda_graph_recording(self, reason: str) -> None:
        log.info("decoding steps are not recorded: %s", reason)
        self.record, self.why_not = None, reason
        self.free_cuda_graphs()


def _check_cuda_graph(
    recording: Recording, tokens: torch.Tensor, compute_logits: LogitsFunction, expected: torch.Tensor
) -> None:
    """Replay a CUDA graph with different tokens and with the original tokens, and check both results.

    Raises RuntimeError if logits differ.

    Afterwards the KV cache holds the step's own tokens, even after an error.
    """
    own = tokens.clone()
    try:
        tokens.copy_(1 - own % 2)  # 0 or 1, which every vocabulary has, and never the same token
        _replay_and_require_matching_logits(recording, compute_logits())
        tokens.copy_(own)
        _replay_and_require_matching_logits(recording, expected)
    except BaseException:
        tokens.copy_(own)
        compute_logits()
        raise


def _replay_and_require_matching_logits(recording: Recording, expected: torch.Tensor) -> None:
    """Replay a CUDA graph. Raises RuntimeError if its logits differ from the expected logits."""
    with torch.inference_mode():
        recording.logits.fill_(torch.nan)
    recording.replay()
    replayed, expected = recording.logits.float(), expected.float()
    spread = expected.std().clamp(min=1e-6)
    off = float((replayed - expected).abs().mean() / spread)
    if not off <= ALLOWED_OFF:
        raise RuntimeError(f"the CUDA graph's mean logit error is {off:.2g} standard deviations")
    best = expected.amax(dim=-1) - expected.gather(-1, replayed.argmax(dim=-1, keepdim=True))[..., 0]
    if not (loss := float(best.max() / spread)) <= ALLOWED_LOSS:
        raise RuntimeError(
            f"the best token of the CUDA graph is {loss:.2g} standard deviations below "
            "the expected best token"
        )
