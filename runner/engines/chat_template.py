"""Chat templates: what a model's own template makes of a conversation, within limits of time, memory and output.

A template is a program that came with a checkpoint, so a process of its own renders it (template_child.py), which
starts with the first conversation and serves all models of this process. The text is the one of transformers'
`apply_chat_template`. Any thread may ask, and several render at once.
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

from runner.core import child
from runner.core.errors import ConfigError, check
from runner.core.machine import MIB
from runner.engines import template_child
from runner.engines.base import NoChatTemplate
from runner.engines.template_child import DEPTH, LENGTH, MEMORY, REFUSED, SIZE, TEXT

FILE = "chat_template.jinja"
MOST_AT_ONCE = 4  # processes: one template that takes long does not keep the others waiting
WITHOUT = "use task.prompt=text (gsm8k), task.format=raw (generate, sweep) or /v1/completions (serve)"
MARK = "CONTINUE_FINAL_MESSAGE_TAG "  # behind a message that is to be continued, while it is rendered


@dataclass(frozen=True)
class RenderLimits:
    """What the rendering of one conversation may take; a template of a real model takes less than a thousandth."""

    cpu_s: float = 2.0  # of the processor's time, so that a busy machine changes nothing
    wall_s: float = 60.0
    memory_mib: int = 1024
    characters: int = 8 * 1024 * 1024  # of the text


class ChatTemplate:
    """The chat template of a tokenizer, by the name of its model."""

    def __init__(
        self, tokenizer: Any, model_name: str, values: Mapping[str, Any], limits: RenderLimits | None = None
    ) -> None:
        self.tokenizer, self.values, self.limits = tokenizer, values, limits or RenderLimits()
        file = Path(str(tokenizer.name_or_path)) / FILE
        self.name = f"the chat template of model.name={model_name}" + (f" ({FILE})" if file.is_file() else "")
        self.model_name = model_name

    def render(self, turns: Sequence[Mapping[str, str]], continues: bool = False) -> str:
        """Return the text of a conversation: with the beginning of an answer, or with its last message left open.

        ConfigError where the template refuses the conversation, or asks for more than it may have.
        """
        if not self.tokenizer.chat_template:
            raise NoChatTemplate(
                f"model.name={self.model_name} has no chat template, so it cannot be asked as a chat: {WITHOUT}"
            )
        if not turns:
            raise ConfigError("a conversation needs at least one message")
        if type(self.tokenizer).apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
            return self._by_own_code(turns, continues)
        messages = [dict(turn) for turn in turns]
        if continues:
            messages[-1]["content"] += MARK
        try:
            template = self.tokenizer.get_chat_template()
        except ValueError as error:  # several templates, none of them the default
            raise ConfigError(f"{self.name}: {error}") from error
        values = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": not continues,
            **self.tokenizer.special_tokens_map,
            **self.values,
        }
        how, text = _renderers.ask((template, _plain(values), self.limits.characters), self.limits)
        if how == REFUSED:
            roles = ", ".join(turn["role"] for turn in turns)
            raise ConfigError(f"{self.name} refuses {roles}: {text}")
        if how != TEXT:
            raise ConfigError(f"{self.name} {self._reached(how, text)}: mend it, or {WITHOUT}")
        return _without_mark(text, turns[-1]["content"], self.name) if continues else text

    def _by_own_code(self, turns: Sequence[Mapping[str, str]], continues: bool) -> str:
        """Ask a tokenizer that brings code of its own for it, which the user trusts: no limit holds there."""
        continued = {"continue_final_message": True} if continues else {}
        text: str = self.tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            tokenize=False,
            add_generation_prompt=not continues,
            **continued,
            **self.values,
        )
        return text

    def _reached(self, how: bytes, why: str) -> str:
        """Say which limit it has reached."""
        limits = self.limits
        return {
            TOO_LONG: f"has not ended within {limits.cpu_s:g} s of processor time",
            MEMORY: f"asks for more memory than the {limits.memory_mib:,} MiB that it may take",
            DEPTH: "asks for more calls inside each other than Python has",
            SIZE: f"makes a text of more than {limits.characters:,} characters",
            DIED: f"has ended the process that renders it, which {why}",
        }[how]


TOO_LONG, DIED = b"l", b"x"  # the kernel has ended the process: at its limit of time, or for another reason


class _Renderer:
    """One process that renders."""

    def __init__(self, limits: RenderLimits) -> None:
        numbers = (limits.cpu_s, limits.memory_mib * MIB, limits.characters)
        self.process = child.start(
            "-S", "-B", "-X", "utf8", template_child.__file__, *map(str, numbers),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def ask(self, asked: bytes, wall_s: float) -> tuple[bytes, str]:
        """Have something rendered; how that ended, and the text or the reason."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        deadline = time.monotonic() + wall_s
        try:
            self.process.stdin.write(LENGTH.pack(len(asked)) + asked)
            self.process.stdin.flush()
            (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
            said = self._read(length, deadline)
        except (BrokenPipeError, EOFError):
            code = self.process.wait()
            return (TOO_LONG, "") if code == -signal.SIGPROF else (DIED, child.describe_exit(code))
        except TimeoutError:
            return TOO_LONG, ""
        return said[:1], said[1:].decode("utf-8", "surrogatepass")

    def _read(self, count: int, deadline: float) -> bytes:
        """Return so many bytes; EOFError where the process has ended, TimeoutError where it goes on too long."""
        assert self.process.stdout is not None
        descriptor, chunks = self.process.stdout.fileno(), bytearray()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while len(chunks) < count:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(descriptor, count - len(chunks))
            if not chunk:
                raise EOFError
            chunks += chunk
        return bytes(chunks)

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self.process.wait()


class _Renderers:
    """The processes of this process that render, by the limits that they have taken on themselves."""

    def __init__(self) -> None:
        self._idle: list[tuple[RenderLimits, _Renderer]] = []
        self._room = threading.BoundedSemaphore(MOST_AT_ONCE)

    def ask(self, asked: tuple[str, Any, int], limits: RenderLimits) -> tuple[bytes, str]:
        """Have one of them render."""
        with self._room:
            renderer = self._take(limits)
            is_well = False
            try:
                how, text = renderer.ask(dumps(asked[:2]), limits.wall_s)
                is_well = how in (TEXT, REFUSED)
            finally:  # who has reached a limit, or was interrupted, is not asked again
                if is_well:
                    self._idle.append((limits, renderer))
                else:
                    renderer.end()
        return how, text

    def _take(self, limits: RenderLimits) -> _Renderer:
        with suppress(IndexError):
            while True:
                of, renderer = self._idle.pop()
                if of == limits and renderer.process.poll() is None:
                    return renderer
                renderer.end()
        return _Renderer(limits)

    def end(self) -> None:
        """End those that wait for work."""
        with suppress(IndexError):
            while True:
                self._idle.pop()[1].end()


_renderers = _Renderers()


def _forget() -> None:
    """In a copy of this process: leave the other processes to the one that has started them."""
    _renderers.__init__()  # type: ignore[misc]


atexit.register(_renderers.end)
os.register_at_fork(after_in_child=_forget)


def _plain(value: Any) -> Any:
    """Return what a template may see of a value: numbers, texts, lists and dictionaries."""
    if value is None or isinstance(value, (bool, int, float, str)):
        kinds = (bool, int, float, str)
        return value if value is None else next(kind(value) for kind in kinds if isinstance(value, kind))
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(one) for one in value)
    return f"<{type(value).__name__}>"


def _without_mark(text: str, last: str, name: str) -> str:
    """Cut off what stands behind a message that is to be continued."""
    if last.strip() not in text or MARK.strip() not in text:
        raise ConfigError(f"{name} leaves out the last message, or a part of it, so it cannot be continued")
    at = text.rindex(MARK.strip())
    return text[:at] if text[at:].startswith(MARK) else text[:at].rstrip()


def template_values(given: Mapping[str, Any], tokenizer: Any, name: str) -> Mapping[str, Any]:
    """Return what the user gives the chat template; a name that it does not read would change nothing, silently."""
    for key in given:
        read = re.search(rf"\b{key}\b", str(tokenizer.chat_template or ""))
        need = f"the chat template of {name} does not read it"
        check(bool(read), f"model.chat_template_kwargs.{key}", given[key], need)
    return given
