"""The local engine, which runs a transformers model on this machine with continuous or static batching.

README.md in this folder lists the possible routes of a request, and the order in which
they are tried.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import nn

from runner_base import MIB, ConfigError, FinishReason, machine, report_step
from runner_base.notes import Note, note, text_note
from runner_base.processor import parse_disabled_cpu_features
from runner_engine.attention import device_attention, shared_attention
from runner_engine.checkpoints.mixture import compute_checkpoint_expert_mixture_size
from runner_engine.checkpoints.prompt_cache_size import resolve_prompt_cache_setting_mib
from runner_engine.checkpoints.published_settings import build_published_settings_notes
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.decode import branches
from runner_engine.decode.cache_probe import IncompatibleModel
from runner_engine.decode.compat_probe import (
    build_and_verify_fused_forward,
    get_max_length_with_fixed_rope,
    get_sliding_window_length,
    infer_and_test_kv_cache_spec,
)
from runner_engine.decode.drafting import create_speculator
from runner_engine.decode.fast_layers import FastLayers, choose_matmul_backends, describe_backends
from runner_engine.decode.fused_forward import FusedForward
from runner_engine.decode.norms import GpuNorms
from runner_engine.decode.passes import Forward
from runner_engine.decode.request_encoder import (
    RequestEncoder,
    create_request_encoder,
    find_stop_token_ids,
    get_non_default_generation_settings,
)
from runner_engine.decode.scheduler import Scheduler
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.static_batches import BY_GENERATE, STATIC_ROWS, BatchingMode, StaticBatches
from runner_engine.decode.static_probe import find_batching_mode
from runner_engine.decode.tokens import Speculator, Stopping
from runner_engine.devices import gpu
from runner_engine.devices.mapped_files import release_library_pages
from runner_engine.experts import ExpertUsageCounter
from runner_engine.kv_cache import (
    ConversationCache,
    KvCacheSpec,
    PromptCache,
    get_attention_kernels_if_supported,
)
from runner_engine.local.base_model_cache import BaseModelCache
from runner_engine.local.capabilities import list_supported_capabilities
from runner_engine.local.draft import create_draft_engine, load_configured_draft
from runner_engine.local.machine_rates import count_flop_and_bytes_per_token
from runner_engine.local.trial_cache import TrialCache
from runner_engine.matmul import BackendChoice, LayerWeights, read_forced_matmul_backend
from runner_engine.memory import PeakMemory, free_mib, record_cuda_peak, reset_cuda_peaks
from runner_engine.models.adapter_lifecycle import apply_adapter, detach_adapter
from runner_engine.models.base_loading import LoadedModel, load_base_model
from runner_engine.plan.load_plan import PACKED_SHARE, plan_model_load
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import (
    Capability,
    EngineReport,
    EngineStats,
    Event,
    ModelArithmetic,
    Request,
    RequestId,
    Session,
)
from runner_engine.settings.generation import reject_scheduler_only_settings
from runner_engine.settings.speculation import KEY


class LocalEngine:
    """Runs a local model with the configured quantization, adapters and rope."""

    def __init__(
        self, resolved: ResolvedModel, bases: BaseModelCache | None = None, packed_share: float = PACKED_SHARE
    ) -> None:
        self.spec, self.capabilities, self._resolved = (
            resolved.spec,
            list_supported_capabilities(resolved.spec),
            resolved,
        )
        # a mistake is said before the model is loaded
        (
            read_forced_matmul_backend(),
            shared_attention.requested_backend(),
            device_attention.read_attention_backend_from_environment(),
            parse_disabled_cpu_features(),
        )
        self._packed_share = packed_share
        self._products: dict[torch.dtype, BackendChoice] | None = None
        self._shared_attention: BackendChoice | None = None
        self.stats = EngineStats()
        self._clear_prompt_caches()
        self.draft = create_draft_engine(self, resolved)  # whose guesses are checked
        self.speculation = self._create_speculator()
        self._owns_bases = bases is None
        self._bases = bases or BaseModelCache()
        self._loaded: LoadedModel | None = None
        self._heads: KvCacheSpec | None = None
        self._rejection: Note | None = None  # why the scheduler cannot serve the model, once known
        self._batching: BatchingMode | None = None
        self._fast_layers: FastLayers | GpuNorms | None = None
        self._expert_use = ExpertUsageCounter()
        self.fused: FusedForward | None = None  # on a CPU, where C knows the model's parts

    @report_step("testing the model's fastest passes")
    def load(self) -> EngineReport:
        self._loaded = loaded = self._loaded or self._load()
        heads = self.find_kv_spec(loaded)
        if heads is not None and not self._has_prompt_limit:
            self._limit_prompt_caches(heads)
        decoding = str(self.get_batching_mode(loaded)) if heads is None else "continuous batching"
        if heads is not None and heads.by_sdpa:
            decoding += ", attention by SDPA" + (" to pages" if heads.uses_pages else "")
        elif (
            heads is not None
            and heads.device.type == "cpu"
            and get_attention_kernels_if_supported(heads) is None
        ):
            decoding += ", by torch alone"
        generation, own = self.spec.generation, get_non_default_generation_settings(loaded.model)
        facts = {"decoding": decoding, "sampling": generation.describe_sampling(own)}
        facts |= load_configured_draft(generation.speculation, loaded, self.draft)
        if heads is not None:
            facts |= (
                {"kv_cache": render_engine_note(heads.kv_cache.description)} if heads.is_quantized else {}
            )
            ways = describe_backends(
                loaded.model, heads, self.get_matmul_backends(loaded, heads), self._shared_attention
            )
            facts |= {name: render_engine_note(way) for name, way in ways.items()}
        notes, tokenizer = loaded.notes + generation.build_ignored_settings_notes(own), loaded.tokenizer
        notes += build_published_settings_notes(generation, self._resolved.files.published_settings)
        if self.spec.cpu_note and loaded.device.type == "cpu":
            notes.append(text_note(self.spec.cpu_note))
        notes += [heads.note] if heads and heads.note else []
        return EngineReport(
            dict(loaded.metrics),
            loaded.facts | facts,
            notes,
            bos_token=tokenizer.bos_token_id,
            has_chat_template=bool(tokenizer.chat_template),
        )

    @property
    def loaded(self) -> LoadedModel:
        assert self._loaded is not None, "load() or open() comes first"
        return self._loaded

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Apply the chat template to a request. Returns the prompt and its token ids.

        The prompt is a text, or token ids if the request gives them.
        """
        return self.encoder.encode_prompt(request)

    def decode(self, ids: Sequence[int]) -> str:
        return self.encoder.decode(ids)

    def open(self, batch_size: int | None = None) -> LocalSession:
        """Open a session for requests.

        Only one thread at a time may step the sessions of an engine.
        """
        self.load()
        if not self.stats.peak_pass_tokens:
            reset_cuda_peaks(self.loaded)
        return LocalSession(self, self.loaded, batch_size)

    def arithmetic(self) -> ModelArithmetic | None:
        return count_flop_and_bytes_per_token(
            self.loaded,
            self.spec.generation.kv_cache_config,
            compute_checkpoint_expert_mixture_size(self._resolved.files),
        )

    def close(self) -> None:
        """Remove the adapter, and free the base model unless it stays cached for the next job."""
        self._expert_use.remove_counters()
        if self._fast_layers is not None:
            self._fast_layers.restore()
            self.stats.packed_mib = 0.0
        self._clear_prompt_caches()
        self.speculation = self._create_speculator()
        if self._loaded is not None and not (
            detach_adapter(self._loaded, self.spec) and not self._owns_bases
        ):
            self._bases.clear()
        self._loaded = self._heads = self._rejection = self._batching = None
        self._fast_layers = self.fused = self._products = self._shared_attention = None
        vars(self).pop("encoder", None), vars(self).pop("_trials", None)
        if self.draft is not None:
            self.draft.close()
        gpu.free_cached_gpu_memory()

    # --------------------------------------------------------------------------------- what its
    # sessions need

    @cached_property
    def encoder(self) -> RequestEncoder:
        """Converts requests to token sequences. All sessions of the engine share one encoder."""
        return create_request_encoder(self.loaded, self.spec)

    @cached_property
    def _trials(self) -> TrialCache:
        return TrialCache(self._resolved, self.loaded)

    def find_kv_spec(self, loaded: LoadedModel) -> KvCacheSpec | None:
        """Return the KV cache spec for continuous batching.

        Returns None and records a note if the scheduler does not support the model.
        """
        if self._heads is None and self._rejection is None:
            plan = plan_model_load(self._resolved)
            try:
                if not plan.uses_scheduler:
                    raise IncompatibleModel(note("attention_requested", attention=plan.attention.value))
                found = self._trials.load_kv_spec() or self._trials.store_kv_spec(
                    infer_and_test_kv_cache_spec(loaded)
                )
                heads = replace(found, kv_cache=self.spec.generation.kv_cache_config)
                self._shared_attention = shared_attention.choose_shared_attention_backend(
                    heads, get_attention_kernels_if_supported(heads)
                )
                tile_rows = 0 if self._shared_attention is None else self._shared_attention.tile_rows
                self._heads = replace(heads, attention_tile_rows=tile_rows)
                self._trials.ways = describe_backends(
                    loaded.model, heads, self.get_matmul_backends(loaded, heads), self._shared_attention
                )
            except IncompatibleModel as incompatible:
                self._rejection = incompatible.reason
        if self._rejection is not None:
            self.check_static_batching_allowed(self._rejection)
            self.add_static_batching_note(self.get_batching_mode(loaded), self._rejection)
        return self._heads

    def get_batching_mode(self, loaded: LoadedModel) -> BatchingMode:
        """Return the static batching mode of the model. Raises ConfigError if no mode works."""
        if self._batching is None:
            self._batching = find_batching_mode(loaded, f"model.name={self.spec.model.name}")
        return self._batching

    def get_matmul_backends(
        self, loaded: LoadedModel, kv_spec: KvCacheSpec
    ) -> dict[torch.dtype, BackendChoice]:
        """Return the chosen matmul backend for each weight dtype. Empty on a GPU."""
        if self._products is None:
            is_here = kv_spec.device.type == "cpu"
            self._products = (
                choose_matmul_backends(
                    loaded.model, get_attention_kernels_if_supported(kv_spec), self._packed_share
                )
                if is_here
                else {}
            )
        return self._products

    def install_layer_replacements(self, loaded: LoadedModel, kv_spec: KvCacheSpec) -> None:
        """Replace the model's layers by faster ones that compute the same. Has no effect if called again."""
        if self._fast_layers is None and kv_spec.device.type == "cuda":
            self._fast_layers = GpuNorms(loaded.model)
        elif self._fast_layers is None and kv_spec.device.type == "cpu":
            release_library_pages()  # before the weights are in memory twice
            fast = FastLayers(
                loaded.model,
                get_attention_kernels_if_supported(kv_spec),
                self.get_matmul_backends(loaded, kv_spec),
            )
            self._fast_layers, quantized = fast, fast.quantized
            self.stats.notes += fast.notes
            if self._shared_attention is not None and self._shared_attention.note:
                self.stats.notes.append(self._shared_attention.note)
            self.stats.packed_mib = fast.packed_mib
            if quantized.replaced_layers and not quantized.left:
                loaded.metrics["unpacked_mib"] = quantized.workspace_mib
            machine.release_free_memory()  # what trials and packing have freed
            self.fused = build_and_verify_fused_forward(
                loaded, kv_spec, fast.packed_weights, fast.expert_layers, self._trials.is_fused_verified()
            )
            self._expert_use = ExpertUsageCounter(
                loaded.model, partial(setattr, self.stats, "expert_use"), self.fused
            )
            self._trials.store_fused_result(self.fused is not None)
            self.stats.rows_are_independent = self.fused is not None and self.fused.is_by_row
            is_whole = self.fused is not None and not self.fused.has_separate_mlps
            is_plain = not is_whole and not (quantized.replaced_layers or quantized.left)
            # kernels read a token as they decode it, but families of state spaces may limit the
            # steps of prompts alone
            is_read_alike = get_attention_kernels_if_supported(kv_spec) is not None and not kv_spec.states
            self.stats.can_continue = is_read_alike and (is_plain or self.stats.rows_are_independent)

    def _load(self) -> LoadedModel:
        base, reused = self._bases.get_or_load_base_model(
            self.spec.base_key, lambda: load_base_model(self._resolved)
        )
        try:
            loaded = apply_adapter(base, self._resolved)
        except BaseException:
            self._bases.clear()  # it may have half an adapter
            raise
        loaded.metrics["base_loads"] = 0 if reused else 1
        self.stats.load_s += loaded.metrics["load_s"]
        return loaded

    def check_static_batching_allowed(self, reason: Note) -> None:
        """Raise ConfigError if the config needs continuous batching.

        reason: why continuous batching cannot serve these sequences.
        """
        reject_scheduler_only_settings(self.spec.generation, render_engine_note(reason))
        self.spec.lora.reject_scheduler_only_settings(render_engine_note(reason))

    def _create_speculator(self) -> Speculator:
        draft = None if self.draft is None else self.draft.create_forward
        return create_speculator(self.spec.generation.speculation, self.stats, draft)

    def _clear_prompt_caches(self) -> None:
        self.conversations, self.prompts = ConversationCache(), PromptCache()
        self._has_prompt_limit = False

    def _limit_prompt_caches(self, kv_spec: KvCacheSpec) -> None:
        """Set the memory limit of earlier prompts and conversations, which holds until the engine closes."""
        setting, free = self.spec.generation.prompt_cache_mib, free_mib(kv_spec.device)
        limit = resolve_prompt_cache_setting_mib(setting, free, kv_spec.device.type) * MIB
        self.prompts.max_nbytes = self.conversations.max_nbytes = limit
        self.stats.max_kept_bytes = int(limit)
        self._has_prompt_limit = True

    @property
    def packed_weights(self) -> Mapping[nn.Module, LayerWeights]:
        return self._fast_layers.packed_weights if isinstance(self._fast_layers, FastLayers) else {}

    def create_forward(self) -> Forward:
        heads = self.find_kv_spec(self.loaded)
        if heads is None:
            assert self._rejection is not None
            reason = f"the draft model cannot propose draft tokens: {render_engine_note(self._rejection)}"
            raise ConfigError(reason, key=KEY, code="unsupported")
        self.install_layer_replacements(self.loaded, heads)
        forward = Forward(self.loaded.model, heads)
        forward.fused = self.fused
        return forward

    def add_static_batching_note(self, mode: BatchingMode, reason: Note) -> None:
        """Add a note that says why sequences are decoded in static batches. Equal notes are added once."""
        slow = note("slow_decoding", batching=str(mode), reason=reason, also=mode.why)
        if slow not in self.stats.notes:
            self.stats.notes.append(slow)


class LocalSession(Session):
    """Session of the local engine, which assigns sequences to the scheduler or to static batches.

    Requests with branches run one by one.
    """

    def __init__(self, engine: LocalEngine, loaded: LoadedModel, batch_size: int | None) -> None:
        super().__init__(engine.capabilities)
        self.engine, self.loaded, self.encoder = engine, loaded, engine.encoder
        self.stopping = Stopping(
            loaded.tokenizer, find_stop_token_ids(loaded.model, loaded.tokenizer), self.encoder.tags
        )
        self.size = batch_size or engine.spec.generation.batch_size
        # checked here and not for each request: during a pass, the model's attention has another
        # name
        self.branches_rejection = (
            branches.find_branch_support_error(loaded.model)
            if Capability.branches in engine.capabilities
            else None
        )
        self.branches: deque[list[TokenSequence]] = deque()
        self.mentioned: list[list[int]] = []  # prompts that the next rows share beginnings with
        self.scheduler: Scheduler | None = None
        self.static: dict[BatchingMode, StaticBatches] = {}

    @property
    def _decoders(self) -> list[Scheduler | StaticBatches]:
        return [*([] if self.scheduler is None else [self.scheduler]), *self.static.values()]

    def announce_prompts(self, requests: Sequence[Request]) -> None:
        self.mentioned += [
            ids for request in requests for ids in [self.encoder.encode_prompt(request)[1]] * request.n
        ]

    def _admit(self, request: Request) -> list[TokenSequence]:
        if request.branches and self.branches_rejection is not None:
            raise self.branches_rejection
        return self.encoder.create_sequences(request, lambda: not self.is_cancelled(request.id))

    def _run_step(self, submitted: list[list[TokenSequence]], cancelled: set[RequestId]) -> list[Event]:
        events: list[Event] = []
        rows: list[TokenSequence] = []
        for some in submitted:
            if some[0].request.branches:
                self.branches.append(some)
            elif some[0].error is not None:
                events += [row.to_completion(FinishReason.error, 0.0) for row in some]
            else:
                for row in some:
                    self.stopping.truncate_resumed_tokens(row)
                    reason = self.stopping.find_finish_reason(row) if row.tokens else None
                    if reason is None:
                        rows.append(row)
                    else:  # an answer that was begun, and whose last token had come
                        events.append(self.stopping.build_completion(row, reason, 0.0))
                        self.mentioned.append(row.prompt)
        if rows:
            self._assign_sequences_to_batching_mode(rows)
        if cancelled:
            ended = [rows for rows in self.branches if rows[0].request.id in cancelled]
            events += [
                branches.build_completion_without_decoding(rows, FinishReason.cancelled) for rows in ended
            ]
            self.branches = deque(rows for rows in self.branches if rows[0].request.id not in cancelled)
            for decoder in self._decoders:
                events += decoder.cancel_requests(cancelled)
        if self.branches:
            events.append(
                branches.decode_request_branches(
                    self.loaded, self.branches.popleft(), self.engine.stats, self.stopping
                )
            )
        for decoder in self._decoders:
            if decoder.is_busy:
                events += decoder.step()
        if not any(decoder.is_busy for decoder in self._decoders):
            record_cuda_peak(self.engine.stats, self.loaded)
        return events

    def _assign_sequences_to_batching_mode(self, sequences: list[TokenSequence]) -> None:
        """Assign each sequence to the scheduler, or to static batches if the scheduler does not
        support it.
        """
        engine, loaded, longest = self.engine, self.loaded, max(row.max_kv_tokens for row in sequences)
        heads, stable_length = engine.find_kv_spec(loaded), get_max_length_with_fixed_rope(loaded)
        window = math.inf if heads is not None and heads.windows else get_sliding_window_length(loaded)
        if longest > stable_length:
            why = note("rope_changes", after=stable_length, requested=longest)
            engine.check_static_batching_allowed(why)
            engine.add_static_batching_note(BY_GENERATE, why)
            self._get_static_batches(BY_GENERATE).add_sequences(
                [row for row in sequences if row.max_kv_tokens > stable_length]
            )
            sequences = [row for row in sequences if row.max_kv_tokens <= stable_length]
        if heads is None:
            if sequences:
                self._get_static_batches(engine.get_batching_mode(loaded)).add_sequences(sequences)
            return
        if too_long := [row for row in sequences if row.max_kv_tokens > window]:
            longest = max(row.max_kv_tokens for row in too_long)
            why = note("attention_slides", over=window, requested=longest)
            engine.check_static_batching_allowed(why)
            engine.add_static_batching_note(engine.get_batching_mode(loaded), why)
            self._get_static_batches(engine.get_batching_mode(loaded)).add_sequences(too_long)
        if fitting := [row for row in sequences if row.max_kv_tokens <= window]:
            if self.scheduler is None:
                self.engine.install_layer_replacements(self.loaded, heads)
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
            self.scheduler.add_sequences(fitting, self.mentioned)
            self.mentioned = []

    def _get_static_batches(self, mode: BatchingMode) -> StaticBatches:
        if mode not in self.static:
            stats, size = self.engine.stats, self.size or STATIC_ROWS
            self.static[mode] = StaticBatches(self.loaded, size, stats, self.stopping, mode)
        return self.static[mode]

    def _drop_requests(self) -> None:
        self.branches.clear()
        for decoder in self._decoders:
            decoder.close()
        record_cuda_peak(self.engine.stats, self.loaded)
