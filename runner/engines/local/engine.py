"""The local engine: a transformers model on this machine, decoded by the scheduler, or plainly where it must be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from runner.checkpoints.resolve import Resolved, resolve
from runner.config.model import Attention
from runner.config.root import RunnerConfig
from runner.engines.admit import Admission
from runner.engines.base import EngineReport, EngineStats, Request
from runner.engines.local import capabilities
from runner.engines.local.base_cache import BaseCache
from runner.engines.local.compat_probe import Incompatible, probe_heads
from runner.engines.local.conversation_cache import ConversationCache
from runner.engines.local.fast_layers import FastLayers
from runner.engines.local.kernels import native
from runner.engines.local.kv_cache import Heads
from runner.engines.local.session import LocalSession
from runner.engines.stopping import Stopping, stop_tokens
from runner.models.load import Loaded, adapt, load_base, release


class LocalEngine:
    """Runs the model that the groups model, quantization, lora and rope describe."""

    def __init__(self, config: RunnerConfig, bases: BaseCache | None = None, resolved: Resolved | None = None) -> None:
        self.config, self.capabilities = config, capabilities(config)
        self._resolved = resolved or resolve(config)
        self.stats = EngineStats()
        self.conversations = ConversationCache()
        self._owns_bases = bases is None
        self._bases = bases or BaseCache()
        self._loaded: Loaded | None = None
        self._admission: Admission | None = None
        self._stopping: Stopping | None = None
        self._heads: Heads | None = None
        self._fast_layers: FastLayers | None = None

    def load(self) -> EngineReport:
        """Load the model if that has not happened, and report what is there."""
        loaded = self._model()
        facts = loaded.facts | {"decoding": self._decoding(loaded)}
        return EngineReport(dict(loaded.metrics), facts, list(loaded.notes))

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        return self.admission().encode(request)

    def open(self, batch_size: int | None = None) -> LocalSession:
        """Open a session for requests; one thread at a time may step the sessions of an engine."""
        return LocalSession(self, self._model(), batch_size)

    def close(self) -> None:
        """Take the adapter off; let go of the base, unless it was kept for the next job."""
        if self._fast_layers is not None:
            self._fast_layers.restore()
        self.conversations.clear()
        if self._loaded is not None and not (release(self._loaded, self.config) and not self._owns_bases):
            self._bases.clear()
        self._loaded = self._admission = self._stopping = self._heads = self._fast_layers = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # --------------------------------------------------------------------------------- what its sessions need

    def admission(self) -> Admission:
        """Return what turns requests into rows."""
        if self._admission is None:
            loaded = self._model()
            room = loaded.metrics["max_positions"]
            window = getattr(loaded.model.config.get_text_config(), "sliding_window", None)  # branches cannot slide
            self._admission = Admission(self.config, loaded.tokenizer, self.config.model.name, room, window)
        return self._admission

    def stopping(self) -> Stopping:
        """Return what knows how rows end."""
        loaded = self._model()
        self._stopping = self._stopping or Stopping(loaded.tokenizer)
        self._stopping.stops = stop_tokens(loaded.model, loaded.tokenizer)
        return self._stopping

    def heads(self, loaded: Loaded) -> Heads | None:
        """Return the heads that the scheduler needs; None when decoding must be plain, which a note says."""
        wanted = self._resolved.model.attention
        if wanted is not Attention.auto:
            self.note_plain(f"model.attention={wanted.value} is asked for")
            return None
        try:
            self._heads = self._heads or probe_heads(loaded)
        except Incompatible as reason:
            self.note_plain(str(reason))
        return self._heads

    def quicken(self, loaded: Loaded, heads: Heads) -> None:
        """Exchange layers for quicker ones, on a CPU and once."""
        if self._fast_layers is None and heads.device.type == "cpu":
            self._fast_layers = FastLayers(loaded.model, native.for_heads(heads))
            self.stats.notes += self._fast_layers.notes

    def note_plain(self, reason: str) -> None:
        """Note once that decoding goes batch by batch, and why."""
        note = f"decoding goes batch by batch, which is slower: {reason}"
        if note not in self.stats.notes:
            self.stats.notes.append(note)

    def _decoding(self, loaded: Loaded) -> str:
        """Say in a few words how this model is decoded."""
        heads = self.heads(loaded)
        if heads is None:
            return "batch by batch"
        return "in a stream" if native.for_heads(heads) or heads.device.type != "cpu" else "in a stream, by torch alone"

    def _model(self) -> Loaded:
        if self._loaded is None:
            base, reused = self._bases.get(self.config, partial(load_base, resolved=self._resolved))
            try:
                self._loaded = adapt(base, self.config, self._resolved)
            except BaseException:
                self._bases.clear()  # half an adapter may be on it
                raise
            self._loaded.metrics["base_loads"] = 0 if reused else 1
            self.stats.load_s += self._loaded.metrics["load_s"]
        return self._loaded
