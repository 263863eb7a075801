"""Renders conversations with a model's chat template.

Rendering has limits on time, memory and output.

A template is a program that comes with a checkpoint, so another process renders it
(template_child.py). The process starts with the first conversation and serves all models.
The text equals that of transformers' `apply_chat_template`. Thread-safe: several threads
render at once.
"""

from __future__ import annotations

import atexit
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from marshal import dumps
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from runner_base import MIB, ConfigError, check_value, child_process
from runner_engine.checkpoints.chat_templates import (
    ALTERNATIVES,
    check_template_supports_tools,
    format_missing_template_error,
)
from runner_engine.sessions import template_child
from runner_engine.sessions.base import NoChatTemplate
from runner_engine.sessions.template_child import DEPTH, LENGTH, MEMORY, REFUSED, SIZE, TEXT

TEMPLATE_FILE = "chat_template.jinja"
MAX_AT_ONCE = 4  # processes, so that one slow template does not delay the others
IDLE_S = 60.0  # a process that has had nothing to render for so long is ended
MARK = "CONTINUE_FINAL_MESSAGE_TAG "  # appended to a message that is to be continued, while it is rendered


@dataclass(frozen=True)
class RenderLimits:
    """Limits on time, memory and output for rendering one conversation.

    Real templates need less than a thousandth of them.
    """

    cpu_s: float = 2.0  # CPU time, so that a busy machine makes no difference
    wall_s: float = 60.0
    memory_mib: int = 1024
    characters: int = 8 * 1024 * 1024  # of the text


class ChatTemplate:
    """The chat template of a model's tokenizer."""

    def __init__(
        self, tokenizer: Any, model_name: str, values: Mapping[str, Any], limits: RenderLimits | None = None
    ) -> None:
        self.tokenizer, self.values, self.limits = tokenizer, values, limits or RenderLimits()
        file = Path(str(tokenizer.name_or_path)) / TEMPLATE_FILE
        self.name = f"the chat template of model.name={model_name}" + (
            f" ({TEMPLATE_FILE})" if file.is_file() else ""
        )
        self.model_name = model_name

    def render(
        self,
        turns: Sequence[Mapping[str, Any]],
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Render a conversation to text.

        The text ends with the start of an answer, or with an unfinished last message.

        tools: functions that the template offers in its own format. A template without such a
        format is rejected.

        Raises ConfigError if the template rejects the conversation or reaches a limit.
        """
        if not self.tokenizer.chat_template:
            raise NoChatTemplate(format_missing_template_error(self.model_name), code="unsupported")
        if not turns:
            raise ConfigError("a conversation needs at least one message", code="empty")
        if type(self.tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
            return self._render_with_tokenizer_code(turns, continue_final_message, tools)
        messages = [dict(turn) for turn in turns]
        if continue_final_message:
            messages[-1]["content"] += MARK
        try:
            template = self.tokenizer.get_chat_template(tools=tools)
        except ValueError as error:  # several templates, none of them the default
            raise ConfigError(str(error), key=self.name, code="ambiguous") from error
        if tools is not None:
            check_template_supports_tools(template, self.model_name)
        values = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": not continue_final_message,
            **self.tokenizer.special_tokens_map,
            **self.values,
        }
        outcome, text = _renderers.render_conversation(template, _convert_to_json_value(values), self.limits)
        if outcome == REFUSED:
            roles = ", ".join(turn["role"] for turn in turns)
            raise ConfigError(f"{self.name} refuses {roles}: {text}", code="refused")
        if outcome != TEXT:
            raise ConfigError(
                f"{self.name} {self._describe_exceeded_render_limit(outcome, text)}. Fix it, or {ALTERNATIVES}",
                code="failed" if outcome == DIED else "too_large",
            )
        return (
            _truncate_after_last_message(text, turns[-1]["content"], self.name)
            if continue_final_message
            else text
        )

    def _render_with_tokenizer_code(
        self,
        turns: Sequence[Mapping[str, Any]],
        continue_final_message: bool,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> str:
        """Render a conversation with the tokenizer's own Python code.

        The user trusts this code, so there are no limits.
        """
        continued: dict[str, Any] = {"continue_final_message": True} if continue_final_message else {}
        if tools is not None:
            continued["tools"] = tools
        text: str = self.tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=not continue_final_message,
            **continued,
            **self.values,
        )
        return text

    def _describe_exceeded_render_limit(self, outcome: bytes, reason: str) -> str:
        """Describe the rendering limit that the chat template has exceeded."""
        limits = self.limits
        return {
            TOO_LONG: f"did not finish within {limits.cpu_s:g} s of CPU time",
            MEMORY: f"needs more than {limits.memory_mib:,} MiB of memory",
            DEPTH: "exceeds Python's recursion limit",
            SIZE: f"renders more than {limits.characters:,} characters",
            DIED: f"crashed the rendering process, which {reason}",
        }[outcome]


TOO_LONG, DIED = b"l", b"x"  # outcomes: the process ended at its time limit, or for another reason


class _RenderProcess:
    """A child process that renders conversations."""

    def __init__(self, limits: RenderLimits) -> None:
        numbers = (limits.cpu_s, limits.memory_mib * MIB, limits.characters)
        self.process = child_process.start_python_child_process(
            "-S",
            "-B",
            "-X",
            "utf8",
            template_child.__file__,
            *map(str, numbers),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            should_inherit_secrets=False,
        )

    def render_conversation(self, conversation: bytes, wall_s: float) -> tuple[bytes, str]:
        """Render a conversation in the child process.

        Returns the outcome, and the text or an error message.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        deadline = time.monotonic() + wall_s
        try:
            self.process.stdin.write(LENGTH.pack(len(conversation)) + conversation)
            self.process.stdin.flush()
            (length,) = LENGTH.unpack(self._read_bytes(LENGTH.size, deadline))
            answer = self._read_bytes(length, deadline)
        except (BrokenPipeError, EOFError):
            code = self.process.wait()
            return (
                (TOO_LONG, "") if code == -signal.SIGPROF else (DIED, child_process.describe_exit_code(code))
            )
        except TimeoutError:
            return TOO_LONG, ""
        return answer[:1], answer[1:].decode("utf-8", "surrogatepass")

    def _read_bytes(self, nbytes: int, deadline: float) -> bytes:
        """Read `nbytes` bytes from the child process.

        Raises EOFError if the process has ended, and TimeoutError after the deadline.
        """
        assert self.process.stdout is not None
        descriptor, chunks = self.process.stdout.fileno(), bytearray()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while len(chunks) < nbytes:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(descriptor, nbytes - len(chunks))
            if not chunk:
                raise EOFError
            chunks += chunk
        return bytes(chunks)

    def kill_process(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self.process.wait()


class _RenderPool:
    """Pool of processes that render chat templates.

    Each process has fixed limits.
    """

    def __init__(self) -> None:
        # the one that was idle longest comes first; the float: since when
        self._idle: list[tuple[RenderLimits, _RenderProcess, float]] = []
        self._room = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._timer: threading.Timer | None = None

    def render_conversation(self, template: str, values: Any, limits: RenderLimits) -> tuple[bytes, str]:
        """Render a conversation in one of the pool's processes.

        Returns the outcome, and the text or an error message.
        """
        with self._room:
            renderer = self._take_or_start_process(limits)
            is_usable = False
            try:
                outcome, text = renderer.render_conversation(dumps((template, values)), limits.wall_s)
                is_usable = outcome in (TEXT, REFUSED)
            finally:  # a process that reached a limit or was interrupted is not used again
                if is_usable:
                    self._idle.append((limits, renderer, time.monotonic()))
                    self._schedule_idle_server_stop()
                else:
                    renderer.kill_process()
        return outcome, text

    def _take_or_start_process(self, limits: RenderLimits) -> _RenderProcess:
        with suppress(IndexError):
            while True:
                own_limits, renderer, _ = self._idle.pop()
                if own_limits == limits and renderer.process.poll() is None:
                    return renderer
                renderer.kill_process()
        return _RenderProcess(limits)

    def _schedule_idle_server_stop(self) -> None:
        """Start a timer that later ends idle rendering processes."""
        if self._timer is None:
            self._timer = threading.Timer(IDLE_S, self._kill_idle_processes)
            self._timer.daemon = True
            self._timer.start()

    def _kill_idle_processes(self) -> None:
        """End the rendering processes that were idle for IDLE_S seconds."""
        self._timer = None
        with suppress(IndexError):
            while time.monotonic() - self._idle[0][2] >= IDLE_S:
                self._idle.pop(0)[1].kill_process()
        if self._idle:
            self._schedule_idle_server_stop()

    def end_idle_processes(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with suppress(IndexError):
            while True:
                self._idle.pop()[1].kill_process()


_renderers = _RenderPool()


def _reset_after_fork() -> None:
    """Empty the pool in a forked child process.

    The rendering processes belong to the parent process.
    """
    _renderers.__init__()  # type: ignore[misc]


atexit.register(_renderers.end_idle_processes)
os.register_at_fork(after_in_child=_reset_after_fork)


def _convert_to_json_value(value: Any) -> Any:
    """Convert a value to plain numbers, strings, lists and dictionaries for the child process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        kinds = (bool, int, float, str)
        return value if value is None else next(kind(value) for kind in kinds if isinstance(value, kind))
    if isinstance(value, Mapping):
        return {_convert_to_json_value(key): _convert_to_json_value(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_convert_to_json_value(one) for one in value)
    return f"<{type(value).__name__}>"


def _truncate_after_last_message(text: str, last_message: str, template_name: str) -> str:
    """Remove the text that a chat template appends after the last message.

    The model can then continue the last message.
    """
    if last_message.strip() not in text or MARK.strip() not in text:
        raise ConfigError(
            f"{template_name} omits all or part of the last message, so the message cannot be continued",
            code="unsupported",
        )
    at = text.rindex(MARK.strip())
    return text[:at] if text[at:].startswith(MARK) else text[:at].rstrip()


def check_template_values(values: Mapping[str, Any], tokenizer: Any, model_name: str) -> Mapping[str, Any]:
    """Return the template variables that the user has set.

    Raises ConfigError for a name that the template does not use.
    """
    for key in values:
        is_read = re.search(rf"\b{key}\b", str(tokenizer.chat_template or "")) is not None
        need = f"the chat template of {model_name} does not use this variable"
        check_value(is_read, f"model.chat_template_kwargs.{key}", values[key], need, "no_effect")
    return values
