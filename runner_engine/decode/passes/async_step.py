"""Asynchronous decoding: the GPU starts the next step before the host has read the sampled tokens.

The tokens go into the next step's table on the device, and the host reads a copy while
that step runs. For a sequence that ends with its token, the step's logits are ignored,
and its keys and values lie behind the sequence's last position. Tokens are sampled from
logits before another step runs, because recorded steps share their memory. RUNNER_AHEAD=0
turns this off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from runner_base import MEMORY_ERRORS, is_out_of_memory_error
from runner_engine.attention import PrefixUse
from runner_engine.decode.passes.forward import Forward
from runner_engine.decode.sequences import TokenSequence
from runner_engine.devices.gpu import copy_to_device
from runner_engine.kv_cache import KvStore, SlotStore
from runner_engine.memory import release_memory_after_failure

SWITCH = "RUNNER_AHEAD"


class AsyncStep:
    """Starts the next decoding step on the GPU before the host has read the sampled tokens.

    After an early start, sequences may leave the batch, but none may enter.
    """

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.invalidate_sequences()
        self.discard()

    def invalidate_sequences(self) -> None:
        self._uses: list[PrefixUse] | None = None  # the prefixes of the rows

    def discard(self) -> None:
        """Discard the step that was started early. Its tokens are processed again in a later step."""
        self._logits: torch.Tensor | None = None
        self._line_of: dict[TokenSequence, int] = {}

    @property
    def has_begun(self) -> bool:
        return self._logits is not None

    def get_step_logits(
        self,
        kv_store: KvStore,
        sequences: Sequence[TokenSequence],
        prefilling_sequences: Sequence[TokenSequence],
    ) -> torch.Tensor:
        """Return the logits [n, V] of the step that was started early. Without such a step, run one now.

        prefilling_sequences: sequences in the following slots whose prompts are incomplete.
        """
        begun = self.take_early_decode_step_logits(sequences)
        if begun is not None:
            return begun
        if self._uses is None:
            self._uses = self.forward.list_shared_prefixes(sequences)
        return self.forward.step(kv_store, sequences, self._uses, prefilling_sequences)

    def take_early_decode_step_logits(self, sequences: Sequence[TokenSequence]) -> torch.Tensor | None:
        """Return the logits [n, V] of the step that was started early.

        Returns None if no step was started.
        """
        if self._logits is None or not sequences:
            self.discard()
            return None
        logits, lines = self._logits, [self._line_of[row] for row in sequences]
        self.discard()
        self.forward.check_token_ids([row.tokens[-1] for row in sequences])
        if lines == list(range(len(lines))):
            return logits[: len(lines)]
        return logits[copy_to_device(torch.tensor(lines), logits.device)]

    def copy_sampled_tokens_to_host(
        self,
        sampled_tokens: torch.Tensor,
        kv_store: KvStore,
        sequences: Sequence[TokenSequence],
        prefilling_sequences: Sequence[TokenSequence],
    ) -> list[int]:
        """Copy the sampled tokens to the host. The next step starts before the copy is complete.

        prefilling_sequences: sequences in the following slots whose prompts are incomplete.
        """
        on_host = sampled_tokens.to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if sampled_tokens.is_cuda else None  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record(torch.cuda.current_stream(sampled_tokens.device))
        if isinstance(kv_store, SlotStore) and self._can_start_early(kv_store, sequences):
            self._start_next_decode_step_early(sampled_tokens, kv_store, sequences, prefilling_sequences)
        if copied is not None:
            copied.synchronize()
        tokens: list[int] = on_host.tolist()
        return tokens

    def _can_start_early(self, slots: SlotStore, sequences: Sequence[TokenSequence]) -> bool:
        has_room = slots.has_capacity([row.kv.places + 1 for row in sequences])
        return (
            has_room
            and os.environ.get(SWITCH) != "0"
            and any(len(row.tokens) + 1 < row.limit for row in sequences)
        )

    def _start_next_decode_step_early(
        self,
        sampled_tokens: torch.Tensor,
        slots: SlotStore,
        sequences: Sequence[TokenSequence],
        prefilling_sequences: Sequence[TokenSequence],
    ) -> None:
        """Start the next decoding step early, unless free memory is low."""
        try:
            self._logits = self.forward.run_step_with_device_tokens(
                slots, sequences, prefilling_sequences, sampled_tokens
            )
        except MEMORY_ERRORS as error:
            if not is_out_of_memory_error(error):
                raise
            release_memory_after_failure(error, sampled_tokens.device)
        if self._logits is None:
            return
        self._line_of = {row: line for line, row in enumerate(sequences)}
        for slot, row in enumerate(sequences):
            slots.set_num_filled(slot, row.kv.places + 1)  # so that a row that moves takes it along
