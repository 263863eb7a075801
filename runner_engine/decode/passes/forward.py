"""Forward passes of the scheduler over flat token lists, with the position of each token in the KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from runner_base import ConfigError
from runner_engine.attention import (
    PassLayout,
    PrefixUse,
    Span,
    use_attention_function,
    wrap_with_layer_counter,
)
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.passes.device_step import MOST_PREFIXES, DeviceDecodeStep, StepInputs
from runner_engine.decode.sequences import TokenSequence
from runner_engine.kv_cache import (
    KvCacheSpec,
    KvStore,
    Prefix,
    SharedKv,
    SlotStore,
    copy_prefix_recurrent_state,
    get_attention_kernels_if_supported,
)
from runner_engine.models.lora import multi_adapter
from runner_engine.models.vocabulary import count_token_ids_with_embedding
from runner_engine.recurrent import create_recurrent_layer_mixers

SHORT_SPAN = 192  # tokens; with kernels, a shorter prompt is attended to token by token, as in decoding


@dataclass
class TokenSpan:
    """Adjacent tokens of a sequence in one forward pass.

    Logits are computed for each scored target, or after the prompt.
    """

    row: TokenSequence
    slot: int
    ids: list[int]
    before: int = 0  # own places filled by earlier pieces
    # tokens that follow its last tokens: to be scored, or guessed
    targets: list[int] = field(default_factory=list)
    is_last: bool = True  # whether the row has no more pending tokens

    @property
    def num_logits(self) -> int:
        """Number of positions at the end of the span for which logits are computed."""
        return len(self.targets) or int(self.is_last)

    @property
    def num_prompt_or_answer_tokens(self) -> int:
        """Number of tokens in the prompt or answer that contains the span.

        Attention backends are chosen by this count, so that the chunk size does not change
        results.
        """
        row = self.row
        own = len(row.prompt) - row.kv.num_shared_tokens + (0 if row.given is None else len(row.given) - 1)
        return own if self.before < own else len(self.ids)


class PositionOffsetCache:
    """Replaces the KV cache object in models that read token positions from the cache (Llama 4).

    Each token has a separate offset.
    """

    def __init__(self, positions: list[int], device: torch.device) -> None:
        self.counts = torch.tensor(positions, device=device) - torch.arange(len(positions), device=device)

    def get_seq_length(self, layer_idx: int = 0) -> torch.Tensor:  # the names of transformers' cache
        """Return the position of each token minus its index in the forward pass."""
        return self.counts

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values unchanged, because the attention function writes them to the KV cache."""
        return key, value


class HiddenStateReader(Protocol):
    """Receives the last hidden states [tokens, width], which are the input of the lm_head."""

    def receive_prefix(self, prefix: Prefix, first_position: int, hidden_states: torch.Tensor) -> None:
        """Receive the hidden states of a shared prefix, starting at token `first_position`."""

    def receive_sequence(self, sequence: TokenSequence, position: int, hidden_states: torch.Tensor) -> None:
        """Receive the hidden states of a sequence. `position` does not count the shared prefixes."""


class Forward:
    """Runs the model on shared prefixes, prompts, draft tokens, or one token per sequence."""

    def __init__(self, model: Any, kv_spec: KvCacheSpec) -> None:
        self.model, self.heads, self.kernels = model, kv_spec, get_attention_kernels_if_supported(kv_spec)
        self.short_span = SHORT_SPAN if self.kernels else 1
        self.counts_before = bool(getattr(model.config.get_text_config(), "attn_temperature_tuning", None))
        self.rows = count_token_ids_with_embedding(model)
        self.mixers = create_recurrent_layer_mixers(model) if kv_spec.states else {}
        self.adapters = multi_adapter.find_per_token_adapter_selector(model)
        goes_apart = self.counts_before or self.mixers or kv_spec.num_unquantized_first or self.adapters
        in_steps = kv_spec.by_sdpa and not goes_apart
        self.device_step = DeviceDecodeStep(model, kv_spec) if in_steps else None
        self.fused: FusedForward | None = None  # runs a pass in a single call where possible
        self.keeps_hidden = False
        self.hidden: torch.Tensor | None = None  # of the last pass: what the head reads of all
        self.hidden_reader: HiddenStateReader | None = None
        self.most_tokens = self.most_logits = 0  # the largest pass so far: its tokens, and its rows of logits

    def enable_hidden_states(self, reader: HiddenStateReader | None = None) -> None:
        """Keep the hidden states of every forward pass.

        Disables CUDA graphs, which do not return hidden states.
        """
        self.keeps_hidden, self.hidden_reader, self.device_step = True, reader, None

    @property
    def max_prefixes(self) -> int | None:
        return None if self.device_step is None else MOST_PREFIXES

    @property
    def recording_summary(self) -> str:
        """Summary of CUDA graph use for the log. Empty without CUDA graphs."""
        return "" if self.device_step is None else self.device_step.graphs.summary

    def free_cuda_graphs(self) -> None:
        if self.device_step is not None:
            self.device_step.free_cuda_graphs()

    def prefill_prefix(self, prefix: Prefix, max_tokens: int) -> int:
        """Compute keys and values for at most max_tokens more tokens of a shared prefix.

        Returns the number of tokens.
        """
        before, into = prefix.read, prefix.partial
        if into is None:
            into = SharedKv.allocate(self.heads, len(prefix.tokens), self.kernels, prefix.parent is None)
            copy_prefix_recurrent_state(into.store, 0, prefix.parent)
        ids = prefix.tokens[before : before + max_tokens]
        count, first = len(ids), prefix.start + before
        zeros, places = (
            self._create_int_tensor([0] * count),
            self._create_int_tensor(range(before, before + count)),
        )
        uses = self._group_tokens_by_shared_prefix([prefix.path[:-1]], [0] * count)
        spans = [Span(0, count, before=before)]
        layout = PassLayout(self.heads, self.kernels, into.store, zeros, places, zeros, uses, spans)
        with (
            self._select_recurrent_states(into.store, [0], [first], [count]),
            self._select_adapters([prefix.adapter], [count]),
        ):
            self._run_model(layout, ids, list(range(first, first + count)), [count - 1])
        if self.hidden_reader is not None and self.hidden is not None:
            self.hidden_reader.receive_prefix(prefix, before, self.hidden)
        prefix.partial, prefix.read = into, before + count
        into.store.set_num_filled(0, prefix.read)  # whatever continues it begins at its end
        prefix.freed = into.store.count_freed_tokens(0)
        if prefix.read == len(prefix.tokens):
            prefix.kv, prefix.partial = into, None
        return count

    def run_token_spans(
        self, kv_store: KvStore, token_spans: Sequence[TokenSpan], is_decoding: bool = False
    ) -> torch.Tensor:
        """Run the model on token spans. Each span is in the slot of its sequence.

        Returns the requested logits [n, V] in the order of the spans.

        is_decoding: the spans are answer tokens or draft tokens, not prompts.
        """
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        seen: list[int] = []
        of_row: list[int] = []
        kept: list[int] = []
        spans = []
        for number, piece in enumerate(token_spans):
            first, count, before = len(ids), len(piece.ids), piece.before
            is_long = piece.num_prompt_or_answer_tokens >= self.short_span
            if is_long:
                spans.append(Span(first, first + count, piece.slot, before))
            ids += piece.ids
            start = piece.row.kv.num_shared_tokens + before
            positions += range(start, start + count)
            slots += [piece.slot] * count
            places += range(before, before + count)
            seen += [0] * count if is_long else range(before + 1, before + count + 1)
            of_row += [number] * count
            kept += range(len(ids) - piece.num_logits, len(ids))
        uses = self._group_tokens_by_shared_prefix([piece.row.kv.path for piece in token_spans], of_row)
        kinds = (
            self._create_int_tensor(slots),
            self._create_int_tensor(places),
            self._create_int_tensor(seen),
        )
        layout = PassLayout(self.heads, self.kernels, kv_store, *kinds, uses, spans)
        read = [piece for piece in token_spans if piece.ids]
        starts = [piece.row.kv.num_shared_tokens + piece.before for piece in read]
        counts = [len(piece.ids) for piece in read]
        adapters = self._select_adapters([piece.row.kv.adapter for piece in read], counts)
        into = self._select_recurrent_states(
            kv_store, [piece.slot for piece in read], starts, counts, is_decoding
        )
        with into, adapters:
            logits = self._run_model(layout, ids, positions, kept or [len(ids) - 1])
        self._send_hidden_states_to_drafter(
            [(piece.row, piece.before, len(piece.ids)) for piece in token_spans]
        )
        return logits[: len(kept)]

    def list_shared_prefixes(self, sequences: Sequence[TokenSequence]) -> list[PrefixUse]:
        """Return the shared prefixes of sequences that are decoding, with one token per sequence.

        Valid until the batch changes.
        """
        if self.device_step is not None and self.device_step.can_run(sequences):
            return []  # it finds them itself
        return self._group_tokens_by_shared_prefix([row.kv.path for row in sequences], range(len(sequences)))

    def step(
        self,
        kv_store: KvStore,
        sequences: Sequence[TokenSequence],
        prefix_uses: list[PrefixUse],
        prefilling_sequences: Sequence[TokenSequence] = (),
    ) -> torch.Tensor:
        """Run the model on the last token of each sequence, in slots 0 … n-1.

        Returns the logits [n, V].

        prefilling_sequences: sequences in the following slots whose prompts are incomplete.
        """
        ids = [row.tokens[-1] for row in sequences]
        positions = [len(row.prompt) + len(row.tokens) - 1 for row in sequences]
        if self.device_step is not None and self.device_step.can_run(sequences):
            assert isinstance(kv_store, SlotStore)
            return self._run_model(
                StepInputs(kv_store, sequences, prefilling_sequences), ids, positions, None
            )
        places = [row.kv.places for row in sequences]
        kinds = (
            self._create_int_tensor(range(len(sequences))),
            self._create_int_tensor(places),
            self._create_int_tensor([place + 1 for place in places]),
        )
        layout = PassLayout(self.heads, self.kernels, kv_store, *kinds, prefix_uses, is_step=True)
        each = [1] * len(sequences)
        adapters = self._select_adapters([row.kv.adapter for row in sequences], each)
        with (
            self._select_recurrent_states(kv_store, range(len(sequences)), positions, each, is_decoding=True),
            adapters,
        ):
            logits = self._run_model(layout, ids, positions, None)
        self._send_hidden_states_to_drafter([(row, row.kv.places, 1) for row in sequences])
        return logits

    def run_step_with_device_tokens(
        self,
        slots: SlotStore,
        sequences: Sequence[TokenSequence],
        prefilling_sequences: Sequence[TokenSequence],
        sampled_tokens: torch.Tensor,
    ) -> torch.Tensor | None:
        """Run a decoding step on sampled tokens that the host has not read yet.

        Returns None if the host would have to read the tokens.

        A token without an embedding is replaced here. `check_token_ids` raises the error once the host
        has read the token.
        """
        if self.device_step is None or not self.device_step.can_run(sequences):
            return None
        positions = [len(row.prompt) + len(row.tokens) for row in sequences]
        step = StepInputs(slots, sequences, prefilling_sequences, sampled_tokens.clamp(0, self.rows - 1))
        return self._run_model(step, [0] * len(sequences), positions, None)

    def check_token_ids(self, token_ids: Sequence[int]) -> None:
        """Raise ConfigError if a token id has no embedding in the model."""
        if (largest := max(token_ids)) >= self.rows:  # prompts were checked, so it is of an answer
            raise ConfigError(
                f"the model answered with token {largest}, and its embedding ends at {self.rows - 1}: its head is "
                "larger than its embedding, so head and embedding are of different checkpoints or tokenizers",
                code="mismatch",
            )

    def _send_hidden_states_to_drafter(self, spans: Sequence[tuple[TokenSequence, int, int]]) -> None:
        """Pass the hidden states of the last forward pass to the hidden-state reader, if there is one.

        Each span is (sequence, first position, count).
        """
        if self.hidden_reader is None or self.hidden is None:
            return
        parts = torch.split(self.hidden, [count for _, _, count in spans])
        for (row, place, _), hidden in zip(spans, parts, strict=True):
            self.hidden_reader.receive_sequence(row, place, hidden)

    def _group_tokens_by_shared_prefix(
        self, prefix_paths: Sequence[list[Prefix]], path_indices: Sequence[int]
    ) -> list[PrefixUse]:
        """Return each shared prefix once, together with the tokens that attend to the prefix.

        path_indices: the index of each token's path.
        """
        uses = []
        for prefix in dict.fromkeys(prefix for path in prefix_paths for prefix in path):
            is_on_path = [prefix in path for path in prefix_paths]
            seen_by = [at for at, number in enumerate(path_indices) if is_on_path[number]]
            row_of = [-1] * len(path_indices)
            for number, at in enumerate(seen_by):
                row_of[at] = number
            chosen = (
                None if len(seen_by) == len(path_indices) else torch.tensor(seen_by, device=self.heads.device)
            )
            uses.append(
                PrefixUse(prefix.kv, chosen, self._create_int_tensor(row_of), len(seen_by), prefix.start)
            )
        return uses

    def _select_recurrent_states(
        self,
        kv_store: KvStore,
        slots: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        is_decoding: bool = False,
    ) -> AbstractContextManager[None]:
        """Context manager in which recurrent layers read and update the states of the given slots."""
        if kv_store.states is None:
            return nullcontext()
        return kv_store.states.track_states_in_forward_pass(slots, starts, counts, is_decoding)

    def _select_adapters(
        self, adapter_names: Sequence[str | None], counts: Sequence[int]
    ) -> AbstractContextManager[None]:
        """Context manager that applies one adapter to each group of consecutive tokens.

        Adapter i applies to counts[i] tokens.
        """
        if self.adapters is None:
            return nullcontext()
        of_tokens = [name for name, count in zip(adapter_names, counts, strict=True) for _ in range(count)]
        return self.adapters.assign_adapters_to_tokens(of_tokens)

    def _create_int_tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.heads.device)

    def _run_model(
        self,
        layout: PassLayout | StepInputs,
        token_ids: list[int],
        positions: list[int],
        logit_indices: list[int] | None,
    ) -> torch.Tensor:
        """Run the model. Returns the logits [n, V] at `logit_indices`, or of all tokens if it is None."""
        self.check_token_ids(token_ids)
        self.most_tokens = max(self.most_tokens, len(token_ids))
        self.most_logits = max(self.most_logits, len(token_ids if logit_indices is None else logit_indices))
        if isinstance(layout, StepInputs):
            assert self.device_step is not None
            return self.device_step(layout, token_ids, positions)
        if self.fused is not None and self.fused.supports_tokens(token_ids, positions):
            if self.keeps_hidden:
                self.hidden = self.fused.allocate_hidden_states(len(token_ids))
            return self.fused(layout, token_ids, positions, logit_indices, self.hidden)
        device, layout.positions = self.heads.device, positions
        before = {"past_key_values": PositionOffsetCache(positions, device)} if self.counts_before else {}
        attend, states = (
            wrap_with_layer_counter(layout.attend) if self.mixers else layout.attend,
            layout.own.states,
        )
        in_layers = nullcontext() if states is None else states.replace_recurrent_layers(self.mixers)
        with (
            torch.inference_mode(),
            use_attention_function(self.model, attend),
            in_layers,
            self._capture_hidden_states(),
        ):
            output = self.model(
                input_ids=torch.tensor([token_ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=0 if logit_indices is None else torch.tensor(logit_indices, device=device),
                **before,
            )
        logits: torch.Tensor = output.logits[0]
        if logit_indices is not None and len(logits) != len(logit_indices):
            logits = logits[logit_indices]  # a model that does not know the key hands it on, and gives all
        return logits

    @contextmanager
    def _capture_hidden_states(self) -> Iterator[None]:
        def store_hidden_states(_module: nn.Module, _given: Any, output: Any) -> None:
            self.hidden = output.last_hidden_state[0]

        if not self.keeps_hidden:
            yield
            return
        hook = self.model.get_decoder().register_forward_hook(store_hidden_states)
        try:
            yield
        finally:
            hook.remove()
