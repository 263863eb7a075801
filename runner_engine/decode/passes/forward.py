"""Forward passes of the scheduler: flat lists of tokens, and their layout for attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from runner_base import ConfigError
from runner_engine.attention import PassLayout, PrefixUse, Span, in_call_order, running
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.passes.device_step import MOST_PREFIXES, DeviceStep, StepRows
from runner_engine.decode.rows import Row
from runner_engine.kv_cache import Heads, OwnKv, Prefix, SharedKv, Slots, kernels_for, put_state
from runner_engine.models.lora import several
from runner_engine.models.vocabulary import rows_of
from runner_engine.recurrent import mixers_of

SHORT_SPAN = 192  # tokens; with kernels, a shorter prompt is attended to token by token, as in decoding


@dataclass
class TokenSpan:
    """Neighbouring tokens of a row; logits are wanted before each target, or after the last token
    of the prompt."""

    row: Row
    slot: int
    ids: list[int]
    before: int = 0  # own places filled by earlier pieces
    # tokens that follow its last tokens: to be scored, or guessed
    targets: list[int] = field(default_factory=list)
    is_last: bool = True  # whether the row has no more pending tokens

    @property
    def wanted(self) -> int:
        """After how many of its tokens logits are wanted."""
        return len(self.targets) or int(self.is_last)

    @property
    def whole(self) -> int:
        """The tokens of what it is a piece of: by these its attention is chosen, so its size
        changes no bits."""
        row = self.row
        own = len(row.prompt) - row.kv.shared + (0 if row.given is None else len(row.given) - 1)
        return own if self.before < own else len(self.ids)


class Before:
    """Stands in for a KV cache in models that count the tokens before a pass (Llama 4); each token
    has a count."""

    def __init__(self, positions: list[int], device: torch.device) -> None:
        self.counts = torch.tensor(positions, device=device) - torch.arange(len(positions), device=device)

    def get_seq_length(self, layer_idx: int = 0) -> torch.Tensor:  # the names of transformers' cache
        """Return what is added to a token's place in the pass to get its position."""
        return self.counts

    def update(self, key: torch.Tensor, value: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Store nothing: attention does that."""
        return key, value


class HiddenReader(Protocol):
    """Is told what the head reads of every token, as soon as it is computed: [tokens, width]."""

    def note_prefix(self, prefix: Prefix, first: int, hidden: torch.Tensor) -> None:
        """Take what was computed of a prefix, from its token `first` on."""

    def note_row(self, row: Row, place: int, hidden: torch.Tensor) -> None:
        """Take what was computed of a row, from its own place `place` on."""


class Forward:
    """Sends tokens through a model: a prefix, prompts of rows that enter, one token of each row, or
    guessed tokens."""

    def __init__(self, model: Any, heads: Heads) -> None:
        self.model, self.heads, self.kernels = model, heads, kernels_for(heads)
        self.short_span = SHORT_SPAN if self.kernels else 1
        self.counts_before = bool(getattr(model.config.get_text_config(), "attn_temperature_tuning", None))
        self.rows = rows_of(model)
        self.mixers = mixers_of(model) if heads.states else {}
        self.adapters = several.of_model(model)
        goes_apart = self.counts_before or self.mixers or heads.first_plain or self.adapters
        in_steps = heads.by_sdpa and not goes_apart
        self.device_step = DeviceStep(model, heads) if in_steps else None
        self.fused: FusedForward | None = None  # runs a pass in a single call where possible
        self.keeps_hidden = False
        self.hidden: torch.Tensor | None = None  # of the last pass: what the head reads of all
        self.hidden_reader: HiddenReader | None = None
        self.most_tokens = self.most_logits = 0  # the largest pass so far: its tokens, and its rows of logits

    def keep_hidden(self, reader: HiddenReader | None = None) -> None:
        """Keep what the head reads of every token of a pass; recorded steps would not hand it out."""
        self.keeps_hidden, self.hidden_reader, self.device_step = True, reader, None

    @property
    def most_prefixes(self) -> int | None:
        """How many prefixes a step can read for all of its rows; None: any number."""
        return None if self.device_step is None else MOST_PREFIXES

    @property
    def recorded(self) -> str:
        """How many steps were recorded ones, or why none was; empty where steps are not
        recorded."""
        return "" if self.device_step is None else self.device_step.graphs.summary

    def forget_recorded(self) -> None:
        """Free recorded steps and their memory."""
        if self.device_step is not None:
            self.device_step.forget()

    def read_prefix(self, prefix: Prefix, most: int) -> int:
        """Compute keys and values of at most `most` next tokens of a prefix; return how many."""
        before, into = prefix.read, prefix.partial
        if into is None:
            into = SharedKv.empty(self.heads, len(prefix.tokens), self.kernels, prefix.parent is None)
            put_state(into.store, 0, prefix.parent)
        ids = prefix.tokens[before : before + most]
        count, first = len(ids), prefix.start + before
        zeros, places = self._ints([0] * count), self._ints(range(before, before + count))
        uses = self._uses([prefix.path[:-1]], [0] * count)
        spans = [Span(0, count, before=before)]
        layout = PassLayout(self.heads, self.kernels, into.store, zeros, places, zeros, uses, spans)
        with self._states(into.store, [0], [first], [count]), self._with([prefix.adapter], [count]):
            self._forward(layout, ids, list(range(first, first + count)), [count - 1])
        if self.hidden_reader is not None and self.hidden is not None:
            self.hidden_reader.note_prefix(prefix, before, self.hidden)
        prefix.partial, prefix.read = into, before + count
        into.store.fill(0, prefix.read)  # whatever continues it begins at its end
        prefix.freed = into.store.freed(0)
        if prefix.read == len(prefix.tokens):
            prefix.kv, prefix.partial = into, None
        return count

    def read_prompts(self, own: OwnKv, pieces: Sequence[TokenSpan], is_decoded: bool = False) -> torch.Tensor:
        """Read pieces of prompts, each into its row's slot; return the wanted logits [n, V], in
        order.

        is_decoded: they are tokens of answers, or guesses at these.
        """
        ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        seen: list[int] = []
        of_row: list[int] = []
        kept: list[int] = []
        spans = []
        for number, piece in enumerate(pieces):
            first, count, before = len(ids), len(piece.ids), piece.before
            is_long = piece.whole >= self.short_span
            if is_long:
                spans.append(Span(first, first + count, piece.slot, before))
            ids += piece.ids
            start = piece.row.kv.shared + before
            positions += range(start, start + count)
            slots += [piece.slot] * count
            places += range(before, before + count)
            seen += [0] * count if is_long else range(before + 1, before + count + 1)
            of_row += [number] * count
            kept += range(len(ids) - piece.wanted, len(ids))
        uses = self._uses([piece.row.kv.path for piece in pieces], of_row)
        kinds = (self._ints(slots), self._ints(places), self._ints(seen))
        layout = PassLayout(self.heads, self.kernels, own, *kinds, uses, spans)
        read = [piece for piece in pieces if piece.ids]
        starts = [piece.row.kv.shared + piece.before for piece in read]
        counts = [len(piece.ids) for piece in read]
        adapters = self._with([piece.row.kv.adapter for piece in read], counts)
        into = self._states(own, [piece.slot for piece in read], starts, counts, is_decoded)
        with into, adapters:
            logits = self._forward(layout, ids, positions, kept or [len(ids) - 1])
        self._tell_rows([(piece.row, piece.before, len(piece.ids)) for piece in pieces])
        return logits[: len(kept)]

    def uses_of(self, rows: Sequence[Row]) -> list[PrefixUse]:
        """Return the prefixes of rows for passes with one token each; valid until the rows
        change."""
        if self.device_step is not None and self.device_step.fits(rows):
            return []  # it finds them itself
        return self._uses([row.kv.path for row in rows], range(len(rows)))

    def step(
        self, own: OwnKv, rows: Sequence[Row], uses: list[PrefixUse], reading: Sequence[Row] = ()
    ) -> torch.Tensor:
        """Send the last token of each row, in the slots 0 … n-1; return the logits [n, V].

        reading: the rows in the slots behind them, whose prompts are not complete.
        """
        ids = [row.tokens[-1] for row in rows]
        positions = [len(row.prompt) + len(row.tokens) - 1 for row in rows]
        if self.device_step is not None and self.device_step.fits(rows):
            assert isinstance(own, Slots)
            return self._forward(StepRows(own, rows, reading), ids, positions, None)
        places = [row.kv.places for row in rows]
        kinds = (
            self._ints(range(len(rows))),
            self._ints(places),
            self._ints([place + 1 for place in places]),
        )
        layout = PassLayout(self.heads, self.kernels, own, *kinds, uses, is_step=True)
        each = [1] * len(rows)
        adapters = self._with([row.kv.adapter for row in rows], each)
        with self._states(own, range(len(rows)), positions, each, is_decoded=True), adapters:
            logits = self._forward(layout, ids, positions, None)
        self._tell_rows([(row, row.kv.places, 1) for row in rows])
        return logits

    def step_of_picked(
        self, own: Slots, rows: Sequence[Row], reading: Sequence[Row], picked: torch.Tensor
    ) -> torch.Tensor | None:
        """As `step`, with tokens that the host has not read; None where it would have to.

        A token without an embedding is another one here; `check_tokens` tells of it when the host
        has read it.
        """
        if self.device_step is None or not self.device_step.fits(rows):
            return None
        positions = [len(row.prompt) + len(row.tokens) for row in rows]
        step = StepRows(own, rows, reading, picked.clamp(0, self.rows - 1))
        return self._forward(step, [0] * len(rows), positions, None)

    def check_tokens(self, ids: Sequence[int]) -> None:
        """Raise ConfigError if the model has no embedding for one of the tokens of a pass."""
        if (largest := max(ids)) >= self.rows:  # prompts were checked, so it is of an answer
            raise ConfigError(
                f"the model answered with token {largest}, and its embedding ends at {self.rows - 1}: its head is "
                "larger than its embedding, so head and embedding are of different checkpoints or tokenizers",
                code="mismatch",
            )

    def _tell_rows(self, pieces: Sequence[tuple[Row, int, int]]) -> None:
        """Tell of the last pass, which has read so many tokens of each row from a place on."""
        if self.hidden_reader is None or self.hidden is None:
            return
        parts = torch.split(self.hidden, [count for _, _, count in pieces])
        for (row, place, _), hidden in zip(pieces, parts, strict=True):
            self.hidden_reader.note_row(row, place, hidden)

    def _uses(self, paths: Sequence[list[Prefix]], of_path: Sequence[int]) -> list[PrefixUse]:
        """Return each prefix of these paths once; of_path: the number of each token's path."""
        uses = []
        for prefix in dict.fromkeys(prefix for path in paths for prefix in path):
            is_on_path = [prefix in path for path in paths]
            seen_by = [at for at, number in enumerate(of_path) if is_on_path[number]]
            row_of = [-1] * len(of_path)
            for number, at in enumerate(seen_by):
                row_of[at] = number
            chosen = None if len(seen_by) == len(of_path) else torch.tensor(seen_by, device=self.heads.device)
            uses.append(PrefixUse(prefix.kv, chosen, self._ints(row_of), len(seen_by), prefix.start))
        return uses

    def _states(
        self,
        own: OwnKv,
        slots: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        is_decoded: bool = False,
    ) -> AbstractContextManager[None]:
        """Let layers that carry a state read the pass into those of `own`, so many tokens into each
        slot."""
        if own.states is None:
            return nullcontext()
        return own.states.reading(slots, starts, counts, is_decoded)

    def _with(self, adapters: Sequence[str | None], counts: Sequence[int]) -> AbstractContextManager[None]:
        """Let so many tokens of the pass after each other be computed with each of these
        adapters."""
        if self.adapters is None:
            return nullcontext()
        of_tokens = [name for name, count in zip(adapters, counts, strict=True) for _ in range(count)]
        return self.adapters.reading(of_tokens)

    def _ints(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.heads.device)

    def _forward(
        self, layout: PassLayout | StepRows, ids: list[int], positions: list[int], keep: list[int] | None
    ) -> torch.Tensor:
        """Return the logits [n, V] after the tokens in `keep`, or after all tokens."""
        self.check_tokens(ids)
        self.most_tokens = max(self.most_tokens, len(ids))
        self.most_logits = max(self.most_logits, len(ids if keep is None else keep))
        if isinstance(layout, StepRows):
            assert self.device_step is not None
            return self.device_step(layout, ids, positions)
        if self.fused is not None and self.fused.fits(positions):
            if self.keeps_hidden:
                self.hidden = self.fused.hidden_of(len(ids))
            return self.fused(layout, ids, positions, keep, self.hidden)
        device, layout.positions = self.heads.device, positions
        before = {"past_key_values": Before(positions, device)} if self.counts_before else {}
        attend, states = (in_call_order(layout.attend) if self.mixers else layout.attend, layout.own.states)
        in_layers = nullcontext() if states is None else states.standing_in(self.mixers)
        with torch.inference_mode(), running(self.model, attend), in_layers, self._listening():
            output = self.model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=0 if keep is None else torch.tensor(keep, device=device),
                **before,
            )
        logits: torch.Tensor = output.logits[0]
        if keep is not None and len(logits) != len(keep):
            logits = logits[keep]  # a model that does not know the key hands it on, and gives all
        return logits

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Keep what a model's own operations hand to the head, if it is wanted."""

        def note(_module: nn.Module, _given: Any, output: Any) -> None:
            self.hidden = output.last_hidden_state[0]

        if not self.keeps_hidden:
            yield
            return
        hook = self.model.get_decoder().register_forward_hook(note)
        try:
            yield
        finally:
            hook.remove()
