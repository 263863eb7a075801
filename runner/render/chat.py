"""Texts that a chat prints in addition to the model's answers."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import FinishReason, format_count
from runner_engine import Completion, EngineStats

BEGINNING = "/help lists the commands; quit or Ctrl-D ends the chat"
HOW_TO_END = "press Ctrl-C again, or type quit or Ctrl-D, to end the chat"
NO_TURN = "no turn has ended yet"


def describe_chat_commands(settings: Sequence[str]) -> dict[str, str]:
    """Return the description of each chat command."""
    return {
        "/reset": "start a new conversation with the same system message",
        "/system": "TEXT: use this system message from now on",
        "/set": f"generation.KEY=VALUE: change one of {', '.join(settings)}; without a value: show them",
        "/stats": "show tokens and time of the last turn and of all turns",
        "/save": "FILE: save the conversation as JSON",
        "/load": "FILE: continue a saved conversation",
        "/help": "show this list; quit or Ctrl-D ends the chat, Ctrl-C stops an answer, \\ continues a line",
    }


def truncated_answer_line(completion: Completion) -> str:
    answer = completion.answer
    is_full = answer.finish_reason is FinishReason.context
    fix = (
        "the model's context is full: /reset starts a new conversation"
        if is_full
        else "raise the limit with /set generation.max_new_tokens=N"
    )
    what = " while thinking" if answer.parts.is_open else ""
    return f"[cut off{what} after {format_count(answer.num_tokens, 'token')}: {fix}]"


def format_server_turn_stats(completion: Completion) -> str:
    """Return a turn's token counts and times as text, for a model on a server."""
    return (
        f"this turn: {completion.prompt_tokens} prompt tokens (cached: unknown) · {completion.answer.num_tokens} new "
        f"tokens in {completion.seconds:.2f} s, the first after {completion.first_token_s:.2f} s"
    )


def format_local_turn_stats(
    completion: Completion, spent: EngineStats, total: EngineStats, turns: int
) -> str:
    """Return token counts and times as text, for the last turn and for all turns together."""
    cached_tokens = completion.prompt_tokens - spent.prefill_tokens
    right = (
        f" · {spent.accepted_tokens} of {spent.draft_tokens} draft tokens accepted"
        if spent.draft_tokens
        else ""
    )
    return (
        f"this turn: {completion.prompt_tokens} prompt tokens: {cached_tokens} cached, {spent.prefill_tokens} computed "
        f"in {spent.prefill_s:.2f} s\n"
        f"           {completion.answer.num_tokens} new tokens: the first after {completion.first_token_s:.2f} s, then "
        f"{_decode_speed_text(spent)}{right}\n"
        f"all turns: {total.prefill_tokens} prompt tokens computed at {total.prefill_tok_per_s:,.0f} tokens/s · "
        f"{total.decode_tokens + turns} new tokens at {_decode_speed_text(total)}"
    )


def conversation_saved_message(num_messages: int, path: object) -> str:
    return f"saved {format_count(num_messages, 'message')} to {path}"


def conversation_loaded_message(num_messages: int) -> str:
    return f"read {format_count(num_messages, 'message')}: the next turn goes on from there"


def _decode_speed_text(stats: EngineStats) -> str:
    """Return the decode speed as text, or a text that nothing was decoded, because every answer ended
    with its first token.
    """
    speed = f"{stats.decode_tok_per_s:,.0f} tokens/s"
    return speed if stats.decode_tokens else "no speed: nothing was decoded"
