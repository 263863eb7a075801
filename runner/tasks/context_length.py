"""Checks that prompts fit the model's context length, and notes when RoPE scaling is not needed.

Not a task. A RoPE scaling is for texts that are longer than the model was trained on; on
shorter ones it changes the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from runner.config.resolved import ResolvedJob
from runner.datasets.scored_texts import ScoredItem, TextContext
from runner.engines.kinds import get_model_kind
from runner.render.notes import render_notes
from runner.tasks.collecting.collected_answers import count_tokens_of_longest_text
from runner_base import ConfigError, Sample, announce
from runner_base.notes import Note, note
from runner_engine import Request

READ_BEYOND = "rope.beyond_trained=true"
TEMPLATE_TOKENS = 512  # more than a chat template adds to a question


def exceed_context_hint(resolved: ResolvedJob) -> str:
    """Return a hint for error messages that names the override for exceeding the trained context length."""
    return (
        ""
        if get_model_kind(resolved.config.model).positions(resolved).made_for is None
        else f", or {READ_BEYOND}"
    )


def check_context_length(resolved: ResolvedJob, config_key: str, longest_tokens: int) -> None:
    """Raise ConfigError if the longest text exceeds the model's context length. The message suggests a
    RoPE scaling.
    """
    room = get_model_kind(resolved.config.model).positions(resolved).room
    if longest_tokens <= room:
        return
    further = exceed_context_hint(resolved)  # nothing of an engine that takes no scaling
    factor = f"rope=linear rope.factor={longest_tokens / room:.3g}"
    fix = f", or a RoPE scaling for longer contexts, such as {factor}{further}" if further else ""
    raise ConfigError(
        (
            f"with rope={resolved.config.rope.name} the model's limit is {room:,.0f} tokens. "
            f"Use a smaller value{fix}"
        ),
        key=config_key,
        value=longest_tokens,
        code="too_large",
    )


def build_needless_rope_scaling_notes(resolved: ResolvedJob, longest_tokens: int) -> list[Note]:
    """Return a note if RoPE is scaled but no text exceeds the context length of the model's training."""
    rope = resolved.config.rope
    if getattr(rope, "factor", 1) == 1:
        return []
    own = get_model_kind(resolved.config.model).positions(resolved).own
    # of some scalings
    trained: int | None = getattr(rope, "original_max_position_embeddings", None)
    own = trained or own  # the user knows better than the model's config
    if own is None or longest_tokens > own:
        return []
    is_harmless = rope.keeps_short_texts
    return [note("needless_scaling", rope=rope.name, positions=own, is_harmless=is_harmless)]


def build_rope_notes_for_samples(resolved: ResolvedJob, samples: Iterable[Sample]) -> list[Note]:
    longest = max(map(count_tokens_of_longest_text, samples), default=0)
    return build_needless_rope_scaling_notes(resolved, longest) + build_long_context_notes(resolved, longest)


def build_long_context_notes(resolved: ResolvedJob, longest_tokens: int) -> list[Note]:
    rope, limit = resolved.config.rope, get_model_kind(resolved.config.model).positions(resolved).made_for
    if not rope.beyond_trained or limit is None or math.isinf(limit):
        return []
    if longest_tokens <= limit:
        return [note("none_beyond", key=READ_BEYOND, positions=limit)]
    made = "scaled" if rope.is_scaling else "trained"
    return [note("beyond", rope=rope.name, made=made, positions=limit, longest=longest_tokens)]


def build_rope_notes_for_requests(resolved: ResolvedJob, requests: Sequence[Request]) -> list[Note]:
    """Return a note if the requests do not need RoPE scaling.

    Counts bytes, because no tokenizer is loaded yet.
    """
    if not resolved.config.rope.is_scaling:
        return []
    longest = max((_count_prompt_bytes(request) for request in requests), default=0)
    return build_needless_rope_scaling_notes(
        resolved, longest + TEMPLATE_TOKENS + resolved.config.generation.max_total_new_tokens
    )


def build_document_rope_scaling_notes(
    resolved: ResolvedJob, items: Sequence[ScoredItem], window: int
) -> list[Note]:
    if not resolved.config.rope.is_scaling:
        return []
    longest = 0
    for given_text in items:
        whole = max(len(text.encode()) for text in given_text.texts)
        is_cut = given_text.form is TextContext.text
        longest = max(
            longest,
            min(whole, window) if is_cut else whole + len(given_text.question.encode()) + TEMPLATE_TOKENS,
        )
    return build_needless_rope_scaling_notes(resolved, longest)


def print_notes_early(notes: Sequence[Note]) -> None:
    """Print notes on stderr before the model is loaded, so that the user can stop the job early."""
    for text in render_notes(notes):
        announce(f"note: {text}")


def _count_prompt_bytes(request: Request) -> int:
    prompt = request.prompt
    if isinstance(prompt, str):
        return len(prompt.encode())
    return sum(1 if isinstance(message, int) else len(message.content.encode()) for message in prompt)
