"""Texts that a chat prints in addition to the model's answers."""

from __future__ import annotations

from collections.abc import Sequence

from runner_base import FinishReason, format_count
from runner_engine import Completion, EngineStats

BEGINNING = "/help lists the commands; quit or Ctrl-D ends the chat"
HOW_TO_END = "to end the chat, press Ctrl-C again or Ctrl-D, or type quit"
NO_TURN = "no turn has ended yet"


def describe_chat_commands(settings: Sequence[str]) -> dict[str, str]:
    return {
        "/reset": "start a new conversation with the same system message",
        "/system": "TEXT: set the system message for the next turns",
        "/set": f"generation.KEY=VALUE: set one of {', '.join(settings)}. /set alone prints the values",
        "/stats": "show tokens and time of the last turn and of all turns",
        "/save": "FILE: save the conversation as JSON",
        "/load": "FILE: continue a saved conversation",
        "/help": "show this list. quit or Ctrl-D ends the chat, Ctrl-C an answer, \\ continues a line",
    }


def format_truncated_answer_line(completion: Completion) -> str:
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
        f"this turn: {completion.prompt_tokens} prompt tokens (unknown how many cached) · "
        f"{completion.answer.num_tokens} new tokens in {completion.seconds:.2f} s, the first after "
        f"{completion.first_token_s:.2f} s"
    )


def format_local_turn_stats(
    completion: Completion, turn_stats: EngineStats, total_stats: EngineStats, num_turns: int
) -> str:
    cached_tokens = completion.prompt_tokens - turn_stats.prefill_tokens
    right = (
        f" · {turn_stats.accepted_tokens} of {turn_stats.draft_tokens} draft tokens accepted"
        if turn_stats.draft_tokens
        else ""
    )
    return (
        f"this turn: {completion.prompt_tokens} prompt tokens: {cached_tokens} "
        f"cached, {turn_stats.prefill_tokens} computed "
        f"in {turn_stats.prefill_s:.2f} s\n"
        f"           {completion.answer.num_tokens} new tokens: the first after {completion.first_token_s:.2f} s, then "
        f"{_format_decode_speed(turn_stats)}{right}\n"
        f"all turns: {total_stats.prefill_tokens} prompt tokens computed "
        f"at {total_stats.prefill_tok_per_s:,.0f} tokens/s · "
        f"{total_stats.decode_tokens + num_turns} new tokens at {_format_decode_speed(total_stats)}"
    )


def conversation_saved_message(num_messages: int, path: object) -> str:
    return f"saved {format_count(num_messages, 'message')} to {path}"


def conversation_loaded_message(num_messages: int) -> str:
    return f"{format_count(num_messages, 'message')} loaded. The next turn continues the loaded conversation"


def _format_decode_speed(stats: EngineStats) -> str:
    """Format the decode speed. There is none if every answer ended with its first token."""
    speed = f"{stats.decode_tok_per_s:,.0f} tokens/s"
    return speed if stats.decode_tokens else "no speed: nothing was decoded"
