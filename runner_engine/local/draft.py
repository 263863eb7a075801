"""What guesses the next tokens beside the engine of a model: another engine, whose model is a draft,
or the head that the model's own files carry (MTP)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from runner_base import ConfigError, machine
from runner_engine.checkpoints.draft import check_tokens, draft_of
from runner_engine.checkpoints.resolve import ResolvedModel
from runner_engine.decode.cache_probe import Incompatible
from runner_engine.decode.compat_probe import probe_fused_forward, probe_heads
from runner_engine.decode.fast_layers import FastLayers
from runner_engine.decode.norms import GpuNorms
from runner_engine.decode.passes import Forward
from runner_engine.kv_cache import kernels_for
from runner_engine.matmul import LayerWeights
from runner_engine.models.loaded import Loaded
from runner_engine.models.own_head import bytes_of_head, load_head
from runner_engine.render.notes import render
from runner_engine.sessions import EngineReport
from runner_engine.settings.speculation import KEY, Guesser, Speculate


def draft_engine(engine: Any, resolved: ResolvedModel) -> Any:
    """Return what guesses beside the engine of a model: another engine, or the model's own head;
    None where nothing of both does."""
    draft = draft_of(resolved)
    if draft is None:
        return None
    return OwnHead(engine, draft) if draft.spec.is_own_head else type(engine)(draft)


def load_draft(how: Speculate, loaded: Loaded, draft: Any) -> dict[str, str]:
    """Load the draft's engine, if there is one, and return the fact of who guesses; the number of
    threads stays the model's."""
    if not how.is_steady:
        return {}
    if draft is not None:
        threads = torch.get_num_threads()
        of_draft = draft.load().metrics
        torch.set_num_threads(threads)
        loaded.metrics["draft_mib"] = of_draft["weight_mib"]
    if draft is not None and how.kind is not Guesser.mtp:
        own, its = (one.tokenizer.get_vocab() for one in (loaded, draft.loaded))
        check_tokens(how, *({number: text for text, number in one.items()} for one in (own, its)))
    return {"speculation": render(how.fact)}


class Whole(Protocol):
    """The engine of the model whose head it is."""

    @property
    def loaded(self) -> Loaded:
        """The loaded model."""

    @property
    def matrices(self) -> Mapping[nn.Module, LayerWeights]:
        """The weights that our own products read, by layer."""


class OwnHead:
    """The head of a model that is loaded."""

    def __init__(self, of: Whole, resolved: ResolvedModel) -> None:
        self.of, self._resolved = of, resolved
        self._loaded: Loaded | None = None
        self._fast_layers: FastLayers | GpuNorms | None = None

    def load(self) -> EngineReport:
        """Load the head unless it is loaded, and describe it."""
        if self._loaded is None:
            whole, started = self.of.loaded, time.perf_counter()
            head = load_head(whole.model, self._resolved)
            own = {"weight_mib": bytes_of_head(head) / machine.MIB, "load_s": time.perf_counter() - started}
            self._loaded = replace(whole, model=head, metrics=whole.metrics | own, facts={}, notes=[])
        return EngineReport(dict(self._loaded.metrics), {}, [])

    @property
    def loaded(self) -> Loaded:
        assert self._loaded is not None, "load() comes first"
        return self._loaded

    def forward(self) -> Forward:
        """Return passes of the head, which keep what its output matrix reads."""
        loaded, body = self.loaded, self.loaded.model.get_decoder()
        try:
            heads = probe_heads(loaded)
        except Incompatible as reason:
            raise ConfigError(
                f"the model's own head cannot guess: {reason}", key=KEY, code="unsupported"
            ) from reason
        forward = Forward(loaded.model, heads)
        if heads.device.type == "cuda":
            self._fast_layers = GpuNorms(body)
        elif heads.device.type == "cpu":
            # the embedding and the output matrix are the model's, and are as fast as there
            fast = self._fast_layers = FastLayers(body, kernels_for(heads))
            matrices = {**self.of.matrices, **fast.matrices}
            forward.fused = probe_fused_forward(loaded, heads, matrices, fast.grouped)
        forward.keep_hidden()
        return forward

    def close(self) -> None:
        """Let go of the head; the model's own layers stay as they are."""
        if self._fast_layers is not None:
            self._fast_layers.restore()
        self._loaded = self._fast_layers = None
