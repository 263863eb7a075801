"""The local engine: a transformers model on this machine, decoded by the scheduler, or else in
static batches.

README.md beside this file lists the routes that a request may take, and in which order they are
tried.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import nn

from runner_base import ConfigError, FinishReason, doing
from runner_base.notes import Note, given, note
from runner_base.processor import left_out
from runner_engine.attention import device_attention, shared_attention
from runner_engine.checkpoints.mixture import mixture_in
from runner_engine.checkpoints.published_settings import notes_on_publisher
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.decode import branches
from runner_engine.decode.cache_probe import Incompatible
from runner_engine.decode.compat_probe import (
    probe_fused_forward,
    probe_heads,
    rope_stable_length,
    sliding_window,
)
from runner_engine.decode.drafting import guesses_of
from runner_engine.decode.fast_layers import FastLayers, choices_for, ways_of
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.norms import GpuNorms
from runner_engine.decode.passes import Forward
from runner_engine.decode.request_encoder import (
    RequestEncoder,
    own_generation,
    request_encoder_for,
    stop_tokens,
)
from runner_engine.decode.rows import Row
from runner_engine.decode.scheduler import Scheduler
from runner_engine.decode.static_batches import BY_GENERATE, STATIC_ROWS, Batching, StaticBatches
from runner_engine.decode.static_probe import probe_batching
from runner_engine.decode.tokens import Guesses, Stopping
from runner_engine.devices import gpu
from runner_engine.experts import ExpertUse
from runner_engine.kv_cache import ConversationCache, Heads, PromptCache, kernels_for
from runner_engine.local.base_cache import BaseCache
from runner_engine.local.capabilities import capabilities_of
from runner_engine.local.draft import draft_engine, load_draft
from runner_engine.local.kept_trials import KeptTrials
from runner_engine.local.rates import arithmetic_of
from runner_engine.matmul import Choice, LayerWeights, requested
from runner_engine.memory import PeakMemory, note_cuda, restart_cuda
from runner_engine.models.adapting import adapt, release
from runner_engine.models.load import Loaded, load_base
from runner_engine.plan.load_plan import PACKED_SHARE, plan_load
from runner_engine.render.notes import render
from runner_engine.sessions import (
    Arithmetic,
    Capability,
    EngineReport,
    EngineStats,
    Event,
    Request,
    RequestId,
    Session,
)
from runner_engine.settings.generation import require_no_scheduler
from runner_engine.settings.speculation import KEY


class LocalEngine:
    """Runs the model that the groups model, quantization, lora and rope describe."""

    def __init__(
        self, resolved: ResolvedModel, bases: BaseCache | None = None, packed_share: float = PACKED_SHARE
    ) -> None:
        self.spec, self.capabilities, self._resolved = (
            resolved.spec,
            capabilities_of(resolved.spec),
            resolved,
        )
        # a mistake is said before the model is loaded
        requested(), shared_attention.requested(), device_attention.requested(), left_out()
        self._packed_share = packed_share
        self._products: dict[torch.dtype, Choice] | None = None
        self._shared_attention: Choice | None = None
        self.stats = EngineStats()
        self.conversations, self.prompts = ConversationCache(), PromptCache()
        self.draft = draft_engine(self, resolved)  # whose guesses are checked
        self.speculation = self._speculation()
        self._owns_bases = bases is None
        self._bases = bases or BaseCache()
        self._loaded: Loaded | None = None
        self._heads: Heads | None = None
        self._rejection: Note | None = None  # why the scheduler cannot serve the model, once known
        self._batching: Batching | None = None
        self._fast_layers: FastLayers | GpuNorms | None = None
        self._expert_use = ExpertUse()
        self.fused: FusedForward | None = None  # on a CPU, where C knows the model's parts

    @doing("testing the model's fastest passes")
    def load(self) -> EngineReport:
        """Load the model unless it is loaded, and describe it."""
        self._loaded = loaded = self._loaded or self._load()
        heads = self.heads(loaded)
        decoding = str(self.batching(loaded)) if heads is None else "in a stream"
        if heads is not None and heads.by_sdpa:
            decoding += ", attention by SDPA" + (" to pages" if heads.in_pages else "")
        elif heads is not None and heads.device.type == "cpu" and kernels_for(heads) is None:
            decoding += ", by torch alone"
        generation, own = self.spec.generation, own_generation(loaded.model)
        facts = {"decoding": decoding, "sampling": generation.describe(own)}
        facts |= load_draft(generation.speculation, loaded, self.draft)
        if heads is not None:
            facts |= {"kv_cache": render(heads.kv_cache.fact)} if heads.in_bytes else {}
            ways = ways_of(loaded.model, heads, self.products(loaded, heads), self._shared_attention)
            facts |= {name: render(way) for name, way in ways.items()}
        notes, tokenizer = loaded.notes + generation.ignored_settings_notes(own), loaded.tokenizer
        notes += notes_on_publisher(generation, self._resolved.files.published)
        if self.spec.cpu_note and loaded.device.type == "cpu":
            notes.append(given(self.spec.cpu_note))
        notes += [heads.note] if heads and heads.note else []
        return EngineReport(
            dict(loaded.metrics),
            loaded.facts | facts,
            notes,
            bos_token=tokenizer.bos_token_id,
            has_chat_template=bool(tokenizer.chat_template),
        )

    @property
    def loaded(self) -> Loaded:
        """The loaded model."""
        assert self._loaded is not None, "load() or open() comes first"
        return self._loaded

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        return self.encoder.encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids as part of a longer text, with special tokens."""
        return self.encoder.decode(ids)

    def open(self, batch_size: int | None = None) -> LocalSession:
        """Open a session for requests; one thread at a time may step the sessions of an engine."""
        self.load()
        if not self.stats.peak_pass_tokens:
            restart_cuda(self.loaded)
        return LocalSession(self, self.loaded, batch_size)

    def arithmetic(self) -> Arithmetic | None:
        """Return the loaded model in numbers."""
        return arithmetic_of(self.loaded, self.spec.generation.stored_kv, mixture_in(self._resolved.files))

    def close(self) -> None:
        """Remove the adapter; free the base model, unless the next job reuses it."""
        self._expert_use.restore()
        if self._fast_layers is not None:
            self._fast_layers.restore()
            self.stats.packed_mib = 0.0
        self.conversations, self.prompts = ConversationCache(), PromptCache()
        self.speculation = self._speculation()
        if self._loaded is not None and not (release(self._loaded, self.spec) and not self._owns_bases):
            self._bases.clear()
        self._loaded = self._heads = self._rejection = self._batching = None
        self._fast_layers = self.fused = self._products = self._shared_attention = None
        vars(self).pop("encoder", None), vars(self).pop("_trials", None)
        if self.draft is not None:
            self.draft.close()
        gpu.free_unused()

    # --------------------------------------------------------------------------------- what its
    # sessions need

    @cached_property
    def encoder(self) -> RequestEncoder:
        """Turns requests into rows; all sessions share it and its tokenizer."""
        return request_encoder_for(self.loaded, self.spec)

    @cached_property
    def _trials(self) -> KeptTrials:
        return KeptTrials(self._resolved, self.loaded)

    def heads(self, loaded: Loaded) -> Heads | None:
        """Return the heads that the scheduler needs; None, with a note, where it cannot serve the
        model."""
        if self._heads is None and self._rejection is None:
            plan = plan_load(self._resolved)
            try:
                if not plan.is_streamed:
                    raise Incompatible(note("attention_requested", attention=plan.attention.value))
                found = self._trials.heads() or self._trials.keep_heads(probe_heads(loaded))
                heads = replace(found, kv_cache=self.spec.generation.stored_kv)
                self._shared_attention = shared_attention.choose(heads, kernels_for(heads))
                tile_rows = 0 if self._shared_attention is None else self._shared_attention.tile_rows
                self._heads = replace(heads, attention_tile_rows=tile_rows)
                self._trials.ways = ways_of(
                    loaded.model, heads, self.products(loaded, heads), self._shared_attention
                )
            except Incompatible as incompatible:
                self._rejection = incompatible.reason
        if self._rejection is not None:
            self.require_no_scheduler(self._rejection)
            self.note_batching(self.batching(loaded), self._rejection)
        return self._heads

    def batching(self, loaded: Loaded) -> Batching:
        """Return the batching of rows that the scheduler cannot serve; ConfigError if no batching
        works."""
        if self._batching is None:
            self._batching = probe_batching(loaded, f"model.name={self.spec.model.name}")
        return self._batching

    def products(self, loaded: Loaded, heads: Heads) -> dict[torch.dtype, Choice]:
        """Return the way of products with weights of each dtype; nothing on a GPU."""
        if self._products is None:
            is_here = heads.device.type == "cpu"
            self._products = (
                choices_for(loaded.model, kernels_for(heads), self._packed_share) if is_here else {}
            )
        return self._products

    def install_fast_kernels(self, loaded: Loaded, heads: Heads) -> None:
        """Replace layers' functions by faster ones, once."""
        if self._fast_layers is None and heads.device.type == "cuda":
            self._fast_layers = GpuNorms(loaded.model)
        elif self._fast_layers is None and heads.device.type == "cpu":
            fast = FastLayers(loaded.model, kernels_for(heads), self.products(loaded, heads))
            self._fast_layers, quantized = fast, fast.quantized
            self.stats.notes += fast.notes
            if self._shared_attention is not None and self._shared_attention.note:
                self.stats.notes.append(self._shared_attention.note)
            self.stats.packed_mib = fast.packed_mib
            if quantized.exchanged and not quantized.left:
                loaded.metrics["unpacked_mib"] = quantized.workspace_mib
            self.fused = probe_fused_forward(
                loaded, heads, fast.matrices, fast.grouped, self._trials.is_fused_right()
            )
            self._expert_use = ExpertUse(loaded.model, partial(setattr, self.stats, "expert_use"), self.fused)
            self._trials.keep_fused(self.fused is not None)
            self.stats.rows_are_independent = self.fused is not None and self.fused.is_by_row
            is_whole = self.fused is not None and not self.fused.has_mlps_apart
            is_plain = not is_whole and not (quantized.exchanged or quantized.left)
            # kernels read a token as they decode it, but families of state spaces may limit the
            # steps of prompts alone
            is_read_alike = kernels_for(heads) is not None and not heads.states
            self.stats.can_continue = is_read_alike and (is_plain or self.stats.rows_are_independent)

    def _load(self) -> Loaded:
        base, reused = self._bases.get(self.spec.base_key, lambda: load_base(self._resolved))
        try:
            loaded = adapt(base, self._resolved)
        except BaseException:
            self._bases.clear()  # it may have half an adapter
            raise
        loaded.metrics["base_loads"] = 0 if reused else 1
        self.stats.load_s += loaded.metrics["load_s"]
        return loaded

    def require_no_scheduler(self, why: Note) -> None:
        """Raise ConfigError if rows cannot be decoded by the scheduler, and keys and values were to
        have fewer bits."""
        require_no_scheduler(self.spec.generation, render(why))
        self.spec.lora.require_no_scheduler(render(why))

    def _speculation(self) -> Guesses:
        draft = None if self.draft is None else self.draft.forward
        return guesses_of(self.spec.generation.speculation, self.stats, draft)

    @property
    def matrices(self) -> Mapping[nn.Module, LayerWeights]:
        """The weights that our own products read, by layer."""
        return self._fast_layers.matrices if isinstance(self._fast_layers, FastLayers) else {}

    def forward(self) -> Forward:
        """Return passes of the loaded model, without rows: for who guesses by them."""
        heads = self.heads(self.loaded)
        if heads is None:
            assert self._rejection is not None
            reason = f"the draft cannot guess: {render(self._rejection)}"
            raise ConfigError(reason, key=KEY, code="unsupported")
        self.install_fast_kernels(self.loaded, heads)
        forward = Forward(self.loaded.model, heads)
        forward.fused = self.fused
        return forward

    def note_batching(self, batching: Batching, reason: Note) -> None:
        """Note once that rows are decoded in static batches, and why."""
        slow = note("slow_decoding", batching=str(batching), reason=reason, also=batching.why)
        if slow not in self.stats.notes:
            self.stats.notes.append(slow)


class LocalSession(Session):
    """Sends rows to the scheduler, or to static batches where needed; requests with branches run
    one by one."""

    def __init__(self, engine: LocalEngine, loaded: Loaded, batch_size: int | None) -> None:
        super().__init__(engine.capabilities)
        self.engine, self.loaded, self.encoder = engine, loaded, engine.encoder
        self.stopping = Stopping(
            loaded.tokenizer, stop_tokens(loaded.model, loaded.tokenizer), self.encoder.tags
        )
        self.size = batch_size or engine.spec.generation.batch_size
        # checked here and not for each request: during a pass, the model's attention has another
        # name
        self.branches_rejection = (
            branches.rejection_reason(loaded.model) if Capability.branches in engine.capabilities else None
        )
        self.branches: deque[list[Row]] = deque()
        self.mentioned: list[list[int]] = []  # prompts that the next rows share beginnings with
        self.scheduler: Scheduler | None = None
        self.static: dict[Batching, StaticBatches] = {}

    @property
    def _decoders(self) -> list[Scheduler | StaticBatches]:
        return [*([] if self.scheduler is None else [self.scheduler]), *self.static.values()]

    def mention(self, requests: Sequence[Request]) -> None:
        """Let the prompts of requests that are answered already count where new ones look for
        shared beginnings."""
        self.mentioned += [
            ids for request in requests for ids in [self.encoder.encode(request)[1]] * request.n
        ]

    def _admit(self, request: Request) -> list[Row]:
        if request.branches and self.branches_rejection is not None:
            raise self.branches_rejection
        return self.encoder.rows(request, lambda: not self.is_cancelled(request.id))

    def _advance(self, arrived: list[list[Row]], cancelled: set[RequestId]) -> list[Event]:
        events: list[Event] = []
        rows: list[Row] = []
        for some in arrived:
            if some[0].request.branches:
                self.branches.append(some)
            elif some[0].error is not None:
                events += [row.completion(FinishReason.error, 0.0) for row in some]
            else:
                for row in some:
                    self.stopping.drop_impossible(row)
                    reason = self.stopping.finish_reason(row) if row.tokens else None
                    if reason is None:
                        rows.append(row)
                    else:  # an answer that was begun, and whose last token had come
                        events.append(self.stopping.completion(row, reason, 0.0))
                        self.mentioned.append(row.prompt)
        if rows:
            self._route(rows)
        if cancelled:
            ended = [rows for rows in self.branches if rows[0].request.id in cancelled]
            events += [branches.unanswered(rows, FinishReason.cancelled) for rows in ended]
            self.branches = deque(rows for rows in self.branches if rows[0].request.id not in cancelled)
            for decoder in self._decoders:
                events += decoder.cancel(cancelled)
        if self.branches:
            events.append(
                branches.complete(self.loaded, self.branches.popleft(), self.engine.stats, self.stopping)
            )
        for decoder in self._decoders:
            if decoder.is_busy:
                events += decoder.step()
        if not any(decoder.is_busy for decoder in self._decoders):
            note_cuda(self.engine.stats, self.loaded)
        return events

    def _route(self, rows: list[Row]) -> None:
        """Send rows to the scheduler where it serves the model, and rows that are too long for it
        to static batches."""
        engine, loaded, longest = self.engine, self.loaded, max(row.need for row in rows)
        heads, stable_length = engine.heads(loaded), rope_stable_length(loaded)
        window = math.inf if heads is not None and heads.windows else sliding_window(loaded)
        if longest > stable_length:
            why = note("rope_changes", after=stable_length, requested=longest)
            engine.require_no_scheduler(why)
            engine.note_batching(BY_GENERATE, why)
            self._batches(BY_GENERATE).add([row for row in rows if row.need > stable_length])
            rows = [row for row in rows if row.need <= stable_length]
        if heads is None:
            if rows:
                self._batches(engine.batching(loaded)).add(rows)
            return
        if too_long := [row for row in rows if row.need > window]:
            longest = max(row.need for row in too_long)
            why = note("attention_slides", over=window, requested=longest)
            engine.require_no_scheduler(why)
            engine.note_batching(engine.batching(loaded), why)
            self._batches(engine.batching(loaded)).add(too_long)
        if fitting := [row for row in rows if row.need <= window]:
            if self.scheduler is None:
                self.engine.install_fast_kernels(self.loaded, heads)
                shared = self.engine.conversations, self.engine.prompts, self.engine.speculation
                vocab_size = int(self.loaded.metrics["vocab_size"])
                peaks = PeakMemory(self.engine.stats, self.loaded)
                self.scheduler = Scheduler(
                    self.loaded.model,
                    heads,
                    vocab_size,
                    self.engine.stats,
                    peaks,
                    self.stopping,
                    self.size,
                    *shared,
                )
                self.scheduler.decoder.forward.fused = self.engine.fused
            self.scheduler.add(fitting, self.mentioned)
            self.mentioned = []

    def _batches(self, batching: Batching) -> StaticBatches:
        """Return the static batches of this kind."""
        if batching not in self.static:
            stats, size = self.engine.stats, self.size or STATIC_ROWS
            self.static[batching] = StaticBatches(self.loaded, size, stats, self.stopping, batching)
        return self.static[batching]

    def _drop(self) -> None:
        self.branches.clear()
        for decoder in self._decoders:
            decoder.close()
        note_cuda(self.engine.stats, self.loaded)
