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
from runner.render.notes import render_notes
from runner_base import ConfigError, Sample, tell
from runner_base.notes import Note, note
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
    factor = f"rope=linear rope.factor={longest / room:.3g}"
    fix = f", or a scaling of RoPE that reaches further, such as {factor}{further}" if further else ""
    raise ConfigError(
        f"with rope={resolved.config.rope.name} the model has room for {room:,.0f} tokens: give no more{fix}",
        key=key,
        value=longest,
        code="too_large",
    )


def needless_scaling(resolved: ResolvedJob, longest: int) -> list[Note]:
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
    is_harmless = rope.keeps_short_texts
    return [note("needless_scaling", rope=rope.name, positions=own, is_harmless=is_harmless)]


def needless_scaling_of(resolved: ResolvedJob, samples: Iterable[Sample]) -> list[Note]:
    """Return the notes about texts that the model has read and written."""
    lengths = (sample.prompt_tokens + max(answer.tokens for answer in sample.answers) for sample in samples)
    longest = max(lengths, default=0)
    return needless_scaling(resolved, longest) + beyond_notes(resolved, longest)


def beyond_notes(resolved: ResolvedJob, longest: int) -> list[Note]:
    """Return a note on what a job that may read beyond its room has read; nothing about other
    jobs."""
    rope, limit = resolved.config.rope, kind_of(resolved.config.model).positions(resolved).made_for
    if not rope.beyond_trained or limit is None or math.isinf(limit):
        return []
    if longest <= limit:
        return [note("none_beyond", key=READ_BEYOND, positions=limit)]
    made = "scaled" if rope.is_scaling else "trained"
    return [note("beyond", rope=rope.name, made=made, positions=limit, longest=longest)]


def of_questions(resolved: ResolvedJob, requests: Sequence[Request]) -> list[Note]:
    """Return the note about questions before anything is loaded: a text has no more tokens than
    bytes."""
    if not resolved.config.rope.is_scaling:
        return []
    longest = max((_bytes(request) for request in requests), default=0)
    return needless_scaling(resolved, longest + TEMPLATE_TOKENS + resolved.config.generation.most_new_tokens)


def of_given(resolved: ResolvedJob, given: Sequence[Given], window: int) -> list[Note]:
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


def say_before_the_load(notes: Sequence[Note]) -> None:
    """Print notes on stderr, so that the job can be ended before it has taken time."""
    for text in render_notes(notes):
        tell(f"note: {text}")


def _bytes(request: Request) -> int:
    prompt = request.prompt
    if isinstance(prompt, str):
        return len(prompt.encode())
    return sum(1 if isinstance(message, int) else len(message.content.encode()) for message in prompt)
