"""Which batching gives a model's own answers: a trial is compared with transformers' generate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from runner_base import ConfigError, is_memory_error, one_line
from runner_base.notes import Note, given, note
from runner_engine.decode.by_generate import generate
from runner_engine.decode.compat_probe import allowed_off
from runner_engine.decode.rows import Row
from runner_engine.decode.static_batches import BY_GENERATE, Batch, Batching
from runner_engine.decode.tokens import Stopping
from runner_engine.matmul import unrounded_rows
from runner_engine.models.load import Loaded
from runner_engine.models.tokenizing import ids_of
from runner_engine.sessions import EngineStats, Event, Request

TEXT = "Ann has 3 pens, Bob has 12; how many are left?"  # words: random token ids could stand for pictures
# of the trial's prompts: in a batch of all, two are padded; two are of one length
LENGTHS = (7, 4, 4)
# kinds of layers that are known to ignore padding, also in rows longer than the trial's
IGNORES_PADDING = {
    "full_attention",
    "sliding_attention",
    "linear_attention",
    "conv",
    "hybrid",
    "hybrid_sliding",
    "mlp",
    "moe",
}
# of each: the last row, which is padded, continues after the others' cache is dropped
NEW_TOKENS = (2, 2, 4)


class _RecordingBatch(Batch):
    """A batch that records the logits of its rows."""

    logits: dict[Row, list[torch.Tensor]]

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        for at, row in self.alive.items():
            self.logits.setdefault(row, []).append(logits[at].float())
        return super().pick(logits)


def probe_batching(loaded: Loaded, named: str) -> Batching:
    """Return the fastest batching that gives generate's answers, with the reason against faster
    ones.

    ConfigError if generate fails, too; named is how the user named the model.
    """
    with unrounded_rows(loaded.model):
        return _probed(loaded, named)


def _probed(loaded: Loaded, named: str) -> Batching:
    ids = ids_of(loaded.tokenizer, TEXT, special=False, named=named) * sum(LENGTHS)
    prompts = [ids[sum(LENGTHS[:at]) :][:length] for at, length in enumerate(LENGTHS)]
    try:
        outputs = [
            generate(loaded, [prompt], count) for prompt, count in zip(prompts, NEW_TOKENS, strict=True)
        ]
    except Exception as error:
        if is_memory_error(error):
            raise
        raise ConfigError(
            f"{type(loaded.model).__name__} cannot go on from a text: transformers' own generate fails with "
            f"{type(error).__name__}: {one_line(error, limit=200)}",
            key=named,
            code="unsupported",
        ) from error
    expected = [[step[0].float() for step in output.logits] for output in outputs]
    problem = _problem_with_padding(loaded) or _problem(loaded, prompts, expected, equal_length=False)
    if not problem:
        return Batching()
    why = note("wrong_with_padding", problem=problem)
    if not _problem(loaded, prompts, expected, equal_length=True):
        return Batching(equal_length=True, why=why)
    together = generate(loaded, prompts[1:], min(NEW_TOKENS)).logits
    pairs = [([step[at].float() for step in together], wanted) for at, wanted in enumerate(expected[1:])]
    is_same = all(_distance(ours, theirs[: len(ours)]) <= allowed_off(loaded) for ours, theirs in pairs)
    return replace(BY_GENERATE, alone=not is_same, why=why)


def _problem_with_padding(loaded: Loaded) -> Note | None:
    """Return how padding could harm long rows, which a short trial cannot show; None = not at
    all."""
    settings = loaded.model.config.get_text_config()
    if getattr(settings, "attn_temperature_tuning", None):
        return note("padding_counted")
    others = set(getattr(settings, "layer_types", None) or ()) - IGNORES_PADDING
    return note("padding_seen", layers=", ".join(sorted(others))) if others else None


def _problem(
    loaded: Loaded, prompts: list[list[int]], expected: list[list[torch.Tensor]], equal_length: bool
) -> Note | None:
    """Return what is wrong with batches of these prompts; None if the answers are generate's."""
    rows = [
        Row(Request(number, (), ignore_eos=True), prompt, "", count)
        for number, (prompt, count) in enumerate(zip(prompts, NEW_TOKENS, strict=True))
    ]
    batches = [rows[:1], rows[1:]] if equal_length else [rows]
    logits: dict[Row, list[torch.Tensor]] = {}
    try:
        for some in batches:
            batch = _RecordingBatch(loaded, some, EngineStats(), Stopping(loaded.tokenizer), equal_length)
            batch.logits = logits
            events: list[Event] = []
            while batch.alive:
                batch.step(events)
                if not any(_is_filled(layer) for layer in batch.cache.layers):
                    return note("cache_not_filled")
    except Exception as error:
        if is_memory_error(error):
            raise
        return given(f"{type(error).__name__}: {one_line(error, limit=160)}")
    off = max(_distance(logits[row], wanted) for row, wanted in zip(rows, expected, strict=True))
    return None if off <= allowed_off(loaded) else note("logits_off", off=off)


def _is_filled(layer: Any) -> bool:
    """Whether a layer of a cache holds anything: keys and values, or other states."""
    states = (
        getattr(layer, name, {}) for name in ("is_conv_states_initialized", "is_recurrent_states_initialized")
    )
    return bool(getattr(layer, "is_initialized", False)) or any(any(of_kind.values()) for of_kind in states)


def _distance(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Return how far logits are apart, relative to their spread, up to the first token that
    differs."""
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if bool(one.isnan().any()) is bool(other.isnan().any()) is True:
            break  # a damaged model: its rows end here with an error, however they are decoded
        spread = other.std().clamp(min=1e-6)
        off = float((one - other).abs().mean() / spread)
        best = int(one.argmax())
        behind = float((other.max() - other[best]) / spread)  # 0 where both choose the same token
        worst = max(worst, off, behind)
        if best != int(other.argmax()):
            break
    return worst if worst == worst else float("inf")
