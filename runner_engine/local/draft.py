"""Creates the drafter of speculative decoding: a second engine, or the model's own MTP head."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from runner_base import ConfigError, machine
from runner_engine.checkpoints.draft import check_same_tokens, resolve_draft_model
from runner_engine.checkpoints.resolved_model import ResolvedModel
from runner_engine.decode.cache_probe import IncompatibleModel
from runner_engine.decode.compat_probe import build_and_verify_fused_forward, infer_and_test_kv_cache_spec
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.decode.norms import GpuNorms
from runner_engine.decode.passes import Forward
from runner_engine.kv_cache import get_attention_kernels_if_supported
from runner_engine.matmul import LayerWeights
from runner_engine.models.loaded_model import LoadedModel
from runner_engine.models.mtp_head import count_mtp_head_nbytes, load_mtp_head
from runner_engine.render.notes import render_engine_note
from runner_engine.sessions import EngineReport
from runner_engine.settings.speculation import KEY, DrafterKind, SpeculationConfig


def create_draft_engine(engine: Any, resolved: ResolvedModel) -> Any:
    """Create the draft engine or MTP head for an engine. Returns None if neither is configured."""
    draft = resolve_draft_model(resolved)
    if draft is None:
        return None
    return MtpHead(engine, draft) if draft.spec.is_mtp_head else type(engine)(draft)


def load_configured_draft(
    config: SpeculationConfig, loaded: LoadedModel, draft_engine: Any
) -> dict[str, str]:
    """Load the draft model or MTP head, if configured. Returns facts for the report.

    The main model's thread count stays.
    """
    if not config.drafts_every_step:
        return {}
    if draft_engine is not None:
        threads = torch.get_num_threads()
        of_draft = draft_engine.load().metrics
        torch.set_num_threads(threads)
        loaded.metrics["draft_mib"] = of_draft["weight_mib"]
    if draft_engine is not None and config.kind is not DrafterKind.mtp:
        own, its = (one.tokenizer.get_vocab() for one in (loaded, draft_engine.loaded))
        check_same_tokens(config, *({number: text for text, number in one.items()} for one in (own, its)))
    return {"speculation": render_engine_note(config.description)}


class TargetEngine(Protocol):
    """The attributes of the target engine that its MTP head uses."""

    @property
    def loaded(self) -> LoadedModel:
        """The loaded target model."""

    @property
    def packed_weights(self) -> Mapping[nn.Module, LayerWeights]:
        """Weights that the C kernels read, by layer of the model."""


class MtpHead:
    """The multi-token prediction (MTP) head of a loaded model, which proposes draft tokens."""

    def __init__(self, target: TargetEngine, resolved: ResolvedModel) -> None:
        self.of, self._resolved = target, resolved
        self._loaded: LoadedModel | None = None
        self._fast_layers: FastLayers | GpuNorms | None = None

    def load(self) -> EngineReport:
        if self._loaded is None:
            whole, started = self.of.loaded, time.perf_counter()
            head = load_mtp_head(whole.model, self._resolved)
            own = {
                "weight_mib": count_mtp_head_nbytes(head) / machine.MIB,
                "load_s": time.perf_counter() - started,
            }
            self._loaded = replace(whole, model=head, metrics=whole.metrics | own, facts={}, notes=[])
        return EngineReport(dict(self._loaded.metrics), {}, [])

    @property
    def loaded(self) -> LoadedModel:
        assert self._loaded is not None, "load() comes first"
        return self._loaded

    def create_forward(self) -> Forward:
        """Return a function that runs the multi-token-prediction (MTP) head.

        It also keeps the hidden states before the lm_head.
        """
        loaded, body = self.loaded, self.loaded.model.get_decoder()
        try:
            heads = infer_and_test_kv_cache_spec(loaded)
        except IncompatibleModel as reason:
            raise ConfigError(
                f"the model's MTP head cannot propose draft tokens: {reason}", key=KEY, code="unsupported"
            ) from reason
        forward = Forward(loaded.model, heads)
        if heads.device.type == "cuda":
            self._fast_layers = GpuNorms(body)
        elif heads.device.type == "cpu":
            # the embedding and the output matrix are the model's, and are as fast as there
            fast = self._fast_layers = FastLayers(body, get_attention_kernels_if_supported(heads))
            matrices = {**self.of.packed_weights, **fast.packed_weights}
            forward.fused = build_and_verify_fused_forward(loaded, heads, matrices, fast.expert_layers)
        forward.enable_hidden_states()
        return forward

    def close(self) -> None:
        """Free the MTP head. The layers of the target model stay unchanged."""
        if self._fast_layers is not None:
            self._fast_layers.restore()
        self._loaded = self._fast_layers = None
