"""Which batching gives a model's own answers: found out by a trial next to transformers' generate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from runner.core.errors import ConfigError, is_memory_error, one_line
from runner.engines.base import Event, Request
from runner.engines.local.by_generate import generate
from runner.engines.local.compat_probe import allowed_off
from runner.engines.local.static_batches import BY_GENERATE, Batch, Batching
from runner.engines.rows import Row, Stopping
from runner.engines.stats import EngineStats
from runner.models.load import Loaded
from runner.models.tokenizing import ids_of

TEXT = "Ann has 3 pens, Bob has 12; how many are left?"  # words: token ids by chance could stand for pictures
LENGTHS = (7, 4, 4)  # of the trial's prompts: in a batch of all, two are padded; two are of one length
# kinds of layers that are known to leave out padding, also in rows longer than the trial's
MINDS_PADDING = {
    "full_attention",
    "sliding_attention",
    "linear_attention",
    "conv",
    "hybrid",
    "hybrid_sliding",
    "mlp",
    "moe",
}
NEW_TOKENS = (2, 2, 4)  # of each: the last row, which is padded, goes on when the others' cache is dropped


class _Watched(Batch):
    """A batch that remembers the logits of its rows."""

    heard: dict[Row, list[torch.Tensor]]

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """Remember, and pick."""
        for at, row in self.alive.items():
            self.heard.setdefault(row, []).append(logits[at].float())
        return super().pick(logits)


def probe_batching(loaded: Loaded, named: str) -> Batching:
    """Return the quickest batching that gives generate's answers, with the reason why no quicker one does.

    ConfigError if generate fails, too; named is how the user named the model.
    """
    ids = ids_of(loaded.tokenizer, TEXT, special=False, named=named) * sum(LENGTHS)
    prompts = [ids[sum(LENGTHS[:at]) :][:length] for at, length in enumerate(LENGTHS)]
    try:
        outputs = [generate(loaded, [prompt], count) for prompt, count in zip(prompts, NEW_TOKENS, strict=True)]
    except Exception as error:
        if is_memory_error(error):
            raise
        raise ConfigError(
            f"{named}: {type(loaded.model).__name__} cannot go on from a text: transformers' own generate fails with "
            f"{type(error).__name__}: {one_line(error, limit=200)}"
        ) from error
    expected = [[step[0].float() for step in output.logits] for output in outputs]
    problem = _problem_with_padding(loaded) or _problem(loaded, prompts, expected, equal_length=False)
    if not problem:
        return Batching()
    why = f"with padding, {problem}"
    if not _problem(loaded, prompts, expected, equal_length=True):
        return Batching(equal_length=True, why=why)
    together = generate(loaded, prompts[1:], min(NEW_TOKENS)).logits
    pairs = [([step[at].float() for step in together], wanted) for at, wanted in enumerate(expected[1:])]
    is_same = all(_off(ours, theirs[: len(ours)]) <= allowed_off(loaded) for ours, theirs in pairs)
    return replace(BY_GENERATE, alone=not is_same, why=why)


def _problem_with_padding(loaded: Loaded) -> str:
    """Say what long rows would suffer from padding, which a short trial cannot show; empty = nothing."""
    settings = loaded.model.config.get_text_config()
    if getattr(settings, "attn_temperature_tuning", None):
        return "its attention would count it"
    others = set(getattr(settings, "layer_types", None) or ()) - MINDS_PADDING
    return f"its layers of {', '.join(sorted(others))} may see it" if others else ""


def _problem(loaded: Loaded, prompts: list[list[int]], expected: list[list[torch.Tensor]], equal_length: bool) -> str:
    """Say what is wrong with batches of these prompts; empty = the answers are generate's."""
    rows = [
        Row(Request(number, (), ignore_eos=True), prompt, "", count)
        for number, (prompt, count) in enumerate(zip(prompts, NEW_TOKENS, strict=True))
    ]
    lots = [rows[:1], rows[1:]] if equal_length else [rows]
    heard: dict[Row, list[torch.Tensor]] = {}
    try:
        for lot in lots:
            batch = _Watched(loaded, lot, EngineStats(), Stopping(loaded.tokenizer), equal_length)
            batch.heard = heard
            events: list[Event] = []
            while batch.alive:
                batch.step(events)
                if not any(_is_filled(layer) for layer in batch.cache.layers):
                    return "it does not fill the cache that it is given"
    except Exception as error:
        if is_memory_error(error):
            raise
        return f"{type(error).__name__}: {one_line(error, limit=160)}"
    off = max(_off(heard[row], wanted) for row, wanted in zip(rows, expected, strict=True))
    return "" if off <= allowed_off(loaded) else f"its logits would be off by {off:.2g} of their spread"


def _is_filled(layer: Any) -> bool:
    """Whether a layer of a cache holds anything: keys and values, or states of another kind."""
    states = (getattr(layer, name, {}) for name in ("is_conv_states_initialized", "is_recurrent_states_initialized"))
    return bool(getattr(layer, "is_initialized", False)) or any(any(of_kind.values()) for of_kind in states)


def _off(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Return how far logits lie apart, in their spread, as long as both have gone on with the same tokens."""
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if bool(one.isnan().any()) is bool(other.isnan().any()) is True:
            break  # a damaged model: its rows end here, in each of the ways, and say so
        spread = other.std().clamp(min=1e-6)
        off = float((one - other).abs().mean() / spread)
        best = int(one.argmax())
        behind = float((other.max() - other[best]) / spread)  # 0 where both would say the same
        worst = max(worst, off, behind)
        if best != int(other.argmax()):
            break
    return worst if worst == worst else float("inf")
