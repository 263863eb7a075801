"""The local engine: a transformers model on this machine, decoded in a stream, or plainly where it must be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from runner.checkpoints.resolve import Resolved, resolve
from runner.config.model import Attention
from runner.config.root import RunnerConfig
from runner.engines.admit import Admission
from runner.engines.base import EngineReport, EngineStats, Event, Request
from runner.engines.local import batch, branches, capabilities
from runner.engines.local.base_cache import Shelf
from runner.engines.local.compat_probe import Unfit, check_length, heads_of
from runner.engines.local.conversation_cache import Kept
from runner.engines.local.fast_layers import Exchange
from runner.engines.local.kernels import native
from runner.engines.local.kv_cache import Heads
from runner.engines.local.scheduler import Stream
from runner.engines.session import ListSession
from runner.engines.stopping import Stopping, stop_tokens
from runner.models.load import Loaded, adapt, load_base, release

PLAIN_BATCH = 16  # where the batch is ours to choose


class LocalEngine:
    """Runs the model that the groups model, quantization, lora and rope describe."""

    def __init__(self, config: RunnerConfig, shelf: Shelf | None = None, resolved: Resolved | None = None) -> None:
        self.config, self.capabilities = config, capabilities(config)
        self._resolved = resolved or resolve(config)
        self.stats = EngineStats()
        self._own_shelf = shelf is None
        self._shelf = shelf or Shelf()
        self._loaded: Loaded | None = None
        self._stopping: Stopping | None = None
        self._admission: Admission | None = None
        self._heads: Heads | None = None
        self._exchange: Exchange | None = None
        self._kept = Kept()

    def load(self) -> EngineReport:
        """Load the model if that has not happened, and report what is there."""
        loaded = self._model()
        facts = loaded.facts | {"decoding": self._decoding(loaded)}
        return EngineReport(dict(loaded.metrics), facts, list(loaded.notes))

    def close(self) -> None:
        """Take the adapter off; let go of the base, unless it was put on a shelf for the next job."""
        if self._exchange is not None:
            self._exchange.restore()
        self._kept.clear()
        if self._loaded is not None and not (release(self._loaded, self.config) and not self._own_shelf):
            self._shelf.clear()
        self._loaded = self._heads = self._stopping = self._admission = self._exchange = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def encode(self, request: Request) -> tuple[str | Sequence[int], list[int]]:
        """Return the prompt as the model sees it (text, or ids as given) and its token ids."""
        return self._admit().encode(request)

    def open(self, batch_size: int | None = None) -> ListSession:
        """Open a session for requests."""
        return ListSession(self.capabilities, lambda requests: self._run(requests, batch_size))

    def _run(self, requests: Sequence[Request], batch_size: int | None) -> Iterator[list[Event]]:
        loaded = self._model()
        stopping = self._stopping = self._stopping or Stopping(loaded.tokenizer)
        stopping.stops = stop_tokens(loaded.model, loaded.tokenizer)
        rows = []
        for request in requests:
            admitted = self._admit().rows(request)
            if request.branches:
                yield [branches.complete(loaded, admitted, self.stats, stopping)]
                continue
            for row in admitted:
                if row.error:
                    yield [stopping.refusal(row)]
                else:
                    rows.append(row)
        if not rows:
            return
        size = batch_size or self.config.generation.batch_size
        heads = self._stream_for(loaded, max(len(row.prompt) + row.limit for row in rows))
        if heads is None:
            yield from batch.decode(loaded, rows, size or PLAIN_BATCH, self.stats, stopping)
        else:
            if self._exchange is None and heads.device.type == "cpu":
                self._exchange = Exchange(loaded.model, native.for_heads(heads))
                self.stats.notes += self._exchange.notes
            generation, seed = self.config.generation, self.config.seed
            yield from Stream(loaded, heads, generation, seed, self.stats, stopping, size, self._kept).run(rows)

    def _stream_for(self, loaded: Loaded, longest: int) -> Heads | None:
        """Return the heads that a stream needs; None when decoding must be plain, which a note says."""
        wanted = self._resolved.model.attention
        if wanted is not Attention.auto:
            self._note_plain(f"model.attention={wanted.value} is asked for")
            return None
        try:
            check_length(loaded, longest)
            self._heads = self._heads or heads_of(loaded)
        except Unfit as reason:
            self._note_plain(str(reason))
            return None
        return self._heads

    def _decoding(self, loaded: Loaded) -> str:
        """Say in a few words how this model is decoded."""
        heads = self._stream_for(loaded, 1)
        if heads is None:
            return "batch by batch"
        return "in a stream" if native.for_heads(heads) or heads.device.type != "cpu" else "in a stream, by torch alone"

    def _note_plain(self, reason: str) -> None:
        note = f"decoding goes batch by batch, which is slower: {reason}"
        if note not in self.stats.notes:
            self.stats.notes.append(note)

    def _model(self) -> Loaded:
        if self._loaded is None:
            base, reused = self._shelf.get(self.config, partial(load_base, resolved=self._resolved))
            try:
                self._loaded = adapt(base, self.config, self._resolved)
            except BaseException:
                self._shelf.clear()  # half an adapter may be on it
                raise
            self._loaded.metrics["base_loads"] = 0 if reused else 1
            self.stats.load_s += self._loaded.metrics["load_s"]
        return self._loaded

    def _admit(self) -> Admission:
        loaded = self._model()
        if self._admission is None:
            window = getattr(loaded.model.config.get_text_config(), "sliding_window", None)
            room = loaded.metrics["max_positions"]
            self._admission = Admission(self.config, loaded.tokenizer, self.config.model.name, room, window)
        return self._admission
