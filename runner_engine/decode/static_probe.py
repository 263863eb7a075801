"""Finds the fastest static batching mode whose logits match transformers' `generate`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from runner_base import ConfigError, is_out_of_memory_error, to_one_line
from runner_base.notes import Note, note, text_note
from runner_engine.decode.compat_probe import get_logits_tolerance
from runner_engine.decode.generate_batches import generate_with_callbacks
from runner_engine.decode.sequences import TokenSequence
from runner_engine.decode.static_batches import BY_GENERATE, Batch, BatchingMode
from runner_engine.decode.tokens import Stopping
from runner_engine.matmul import disable_activation_rounding
from runner_engine.models.base_loading import LoadedModel
from runner_engine.models.tokenization import encode_text
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
    """A static batch that records the logits of each sequence."""

    logits: dict[TokenSequence, list[torch.Tensor]]

    def sample_tokens(self, logits: torch.Tensor) -> torch.Tensor:
        for at, row in self.alive.items():
            self.logits.setdefault(row, []).append(logits[at].float())
        return super().sample_tokens(logits)


def find_batching_mode(loaded: LoadedModel, model_argument: str) -> BatchingMode:
    """Return the fastest static batching mode whose logits match transformers' `generate`.

    The mode contains the reason against faster modes.

    Raises ConfigError if generate fails too. model_argument: how the user named the model.
    """
    with disable_activation_rounding(loaded.model):
        return _find_fastest_batching_mode(loaded, model_argument)


def _find_fastest_batching_mode(loaded: LoadedModel, model_argument: str) -> BatchingMode:
    ids = encode_text(loaded.tokenizer, TEXT, add_special_tokens=False, model_name=model_argument) * sum(
        LENGTHS
    )
    prompts = [ids[sum(LENGTHS[:at]) :][:length] for at, length in enumerate(LENGTHS)]
    try:
        outputs = [
            generate_with_callbacks(loaded, [prompt], count)
            for prompt, count in zip(prompts, NEW_TOKENS, strict=True)
        ]
    except Exception as error:
        if is_out_of_memory_error(error):
            raise
        raise ConfigError(
            f"{type(loaded.model).__name__} cannot generate text: transformers' generate fails with "
            f"{type(error).__name__}: {to_one_line(error, limit=200)}",
            key=model_argument,
            code="unsupported",
        ) from error
    expected = [[step[0].float() for step in output.logits] for output in outputs]
    problem = _find_padding_problem(loaded) or _find_batching_problem(
        loaded, prompts, expected, equal_length=False
    )
    if not problem:
        return BatchingMode()
    why = note("wrong_with_padding", problem=problem)
    if not _find_batching_problem(loaded, prompts, expected, equal_length=True):
        return BatchingMode(equal_length=True, why=why)
    together = generate_with_callbacks(loaded, prompts[1:], min(NEW_TOKENS)).logits
    pairs = [([step[at].float() for step in together], wanted) for at, wanted in enumerate(expected[1:])]
    is_same = all(
        _compute_max_logit_error(ours, theirs[: len(ours)]) <= get_logits_tolerance(loaded)
        for ours, theirs in pairs
    )
    return replace(BY_GENERATE, alone=not is_same, why=why)


def _find_padding_problem(loaded: LoadedModel) -> Note | None:
    """Return a note if padding may change the logits of sequences longer than the test prompts.

    Returns None if padding is safe.
    """
    settings = loaded.model.config.get_text_config()
    if getattr(settings, "attn_temperature_tuning", None):
        return note("padding_counted")
    others = set(getattr(settings, "layer_types", None) or ()) - IGNORES_PADDING
    return note("padding_seen", layers=", ".join(sorted(others))) if others else None


def _find_batching_problem(
    loaded: LoadedModel, prompts: list[list[int]], expected: list[list[torch.Tensor]], equal_length: bool
) -> Note | None:
    """Return a note if static batches of these prompts give wrong logits.

    Returns None if the logits match transformers' generate.
    """
    rows = [
        TokenSequence(Request(number, (), ignore_eos=True), prompt, "", count)
        for number, (prompt, count) in enumerate(zip(prompts, NEW_TOKENS, strict=True))
    ]
    batches = [rows[:1], rows[1:]] if equal_length else [rows]
    logits: dict[TokenSequence, list[torch.Tensor]] = {}
    try:
        for some in batches:
            batch = _RecordingBatch(loaded, some, EngineStats(), Stopping(loaded.tokenizer), equal_length)
            batch.logits = logits
            events: list[Event] = []
            while batch.alive:
                batch.step(events)
                if not any(_is_cache_layer_filled(layer) for layer in batch.cache.layers):
                    return note("cache_not_filled")
    except Exception as error:
        if is_out_of_memory_error(error):
            raise
        return text_note(f"{type(error).__name__}: {to_one_line(error, limit=160)}")
    off = max(
        _compute_max_logit_error(logits[row], wanted) for row, wanted in zip(rows, expected, strict=True)
    )
    return None if off <= get_logits_tolerance(loaded) else note("logits_off", off=off)


def _is_cache_layer_filled(layer: Any) -> bool:
    states = (
        getattr(layer, name, {}) for name in ("is_conv_states_initialized", "is_recurrent_states_initialized")
    )
    return bool(getattr(layer, "is_initialized", False)) or any(any(of_kind.values()) for of_kind in states)


def _compute_max_logit_error(logits: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Return the largest logit error, relative to the standard deviation of the logits.

    Tokens after the first difference are ignored.
    """
    worst = 0.0
    for one, other in zip(logits, expected, strict=True):
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
