"""Shared by the tasks that send texts: whether a scaling of RoPE can help with any of them.

Not a task. A scaling is for texts that are longer than the model was trained on; on shorter ones it
changes the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from runner.config.resolved import ResolvedJob
from runner.datasets.given import Form, Given
from runner.engines.kinds import kind_of
from runner_base import ConfigError, Sample, tell
from runner_engine import Request

READ_BEYOND = "rope.beyond_trained=true"
TEMPLATE_TOKENS = 512  # more than a chat template adds to a question


def beyond_words(resolved: ResolvedJob) -> str:
    """Return how texts can be longer than the model has room for, as the end of a message that
    refuses them."""
    return (
        "" if kind_of(resolved.config.model).positions(resolved).made_for is None else f", or {READ_BEYOND}"
    )


def check_longest(resolved: ResolvedJob, key: str, longest: int) -> None:
    """Reject a length that the model has no positions for, and name what reaches further."""
    room = kind_of(resolved.config.model).positions(resolved).room
    if longest <= room:
        return
    further = beyond_words(resolved)  # nothing of an engine that takes no scaling
    scaling = (
        f", or a scaling of RoPE that reaches further, such as rope=linear rope.factor={longest / room:.3g}"
    )
    raise ConfigError(
        f"with rope={resolved.config.rope.name} the model has room for {room:,.0f} tokens: "
        f"give no more{scaling + further if further else ''}",
        key=key,
        value=longest,
        code="too_large",
    )


def needless_scaling(resolved: ResolvedJob, longest: int) -> list[str]:
    """Return a note if a scaling is chosen and no text, the longest of which has at most so many
    tokens, needs it."""
    rope = resolved.config.rope
    if getattr(rope, "factor", 1) == 1:
        return []
    own = kind_of(resolved.config.model).positions(resolved).own
    # of some scalings
    trained: int | None = getattr(rope, "original_max_position_embeddings", None)
    own = trained or own  # the user knows better than the model's config
    if own is None or longest > own:
        return []
    effect = "changes nothing" if rope.keeps_short_texts else "can only hurt"
    return [f"rope={rope.name}: no text exceeds {own:,} positions, the model's own: scaling {effect} here"]


def needless_scaling_of(resolved: ResolvedJob, samples: Iterable[Sample]) -> list[str]:
    """Return the notes about texts that the model has read and written."""
    lengths = (sample.prompt_tokens + max(answer.tokens for answer in sample.answers) for sample in samples)
    longest = max(lengths, default=0)
    return needless_scaling(resolved, longest) + beyond_notes(resolved, longest)


def beyond_notes(resolved: ResolvedJob, longest: int) -> list[str]:
    """Return a note on what a job that may read beyond its room has read; nothing about other
    jobs."""
    rope, limit = resolved.config.rope, kind_of(resolved.config.model).positions(resolved).made_for
    if not rope.beyond_trained or limit is None or math.isinf(limit):
        return []
    if longest <= limit:
        return [f"{READ_BEYOND}: no text exceeds {limit:,.0f} positions, so it changes nothing"]
    made = "scaled" if rope.is_scaling else "trained"
    return [
        f"rope={rope.name}, beyond its {made} {limit:,.0f} positions: the longest text has {longest:,} tokens"
    ]


def of_questions(resolved: ResolvedJob, requests: Sequence[Request]) -> list[str]:
    """Return the note about questions before anything is loaded: a text has no more tokens than
    bytes."""
    if not resolved.config.rope.is_scaling:
        return []
    longest = max((_bytes(request) for request in requests), default=0)
    return needless_scaling(resolved, longest + TEMPLATE_TOKENS + resolved.config.generation.most_new_tokens)


def of_given(resolved: ResolvedJob, given: Sequence[Given], window: int) -> list[str]:
    """Return the note about given texts before anything is loaded: no window is longer than
    task.window."""
    if not resolved.config.rope.is_scaling:
        return []
    longest = 0
    for given_text in given:
        whole = max(len(text.encode()) for text in given_text.texts)
        is_cut = given_text.form is Form.text
        longest = max(
            longest,
            min(whole, window) if is_cut else whole + len(given_text.question.encode()) + TEMPLATE_TOKENS,
        )
    return needless_scaling(resolved, longest)


def say_before_the_load(notes: Sequence[str]) -> None:
    """Print notes on stderr, so that the job can be ended before it has taken time."""
    for note in notes:
        tell(f"note: {note}")


def _bytes(request: Request) -> int:
    prompt = request.prompt
    if isinstance(prompt, str):
        return len(prompt.encode())
    return sum(1 if isinstance(message, int) else len(message.content.encode()) for message in prompt)
