"""Reads the user's own prompts: one text, a file of texts or JSON lines, or stdin. Errors name the
line.

Used by the tasks `generate` and `sweep`.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import logging
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from runner.config.prompts import Framing, PromptsConfig
from runner.datasets.one_prompt import parse_prompt_file_path, read_prompt_text
from runner.datasets.stdin import STDIN as STDIN
from runner.datasets.stdin import read_stdin_once
from runner_base import (
    Answer,
    ConfigError,
    DataError,
    Sample,
    format_unknown_choice_message,
    iter_text_lines,
    os_errors_as_data_error,
    parse_json,
)
from runner_engine import Message, Prompt

log = logging.getLogger(__name__)

KEYS = ("prompt", "messages", "branches")
ROLES = ("system", "user", "assistant")
NEEDED = (
    'each line is an object with `prompt` (a string) or `messages` ([{"role": "user", "content": "..."}])'
)

Plain = str | tuple[Message, ...]  # a prompt as the user gave it: a text, or a conversation


@dataclass(frozen=True)
class BranchedPrompt:
    """A prompt with branches, which are given texts with which its answers begin."""

    main: Plain
    branches: tuple[str, ...]


GivenPrompt = Plain | BranchedPrompt


def load_user_prompts(task: PromptsConfig) -> list[GivenPrompt]:
    """Return all prompts of the job in their original order."""
    if task.prompt is not None:
        try:
            text = validate_nonempty_utf8_text(read_prompt_text(task.prompt))
        except ValueError as error:
            raise ConfigError(str(error), key="task.prompt", code="bad_value") from error
        return [_add_task_branches(text, task)]
    assert task.prompts is not None
    data, where, as_json = _read_prompts_file_or_stdin(task.prompts)
    prompts: list[GivenPrompt] = []
    for number, line in iter_text_lines(io.BytesIO(data), where):
        try:
            prompt = _parse_json_prompt(line, task.format) if as_json else validate_nonempty_utf8_text(line)
        except ValueError as error:
            raise DataError(str(error), key=f"{where}, line {number}", code="damaged") from error
        prompts.append(_add_task_branches(prompt, task))
    if not prompts:
        raise DataError(f"{where} holds no prompts", key="task.prompts", value=task.prompts, code="empty")
    return prompts


def parse_conversation(text: str) -> tuple[Message, ...]:
    """Parse a conversation from JSON: a list of messages, or an object with `messages`. Raises
    ValueError for other JSON.
    """
    values = parse_json(text)
    return _validate_messages(values.get("messages") if isinstance(values, dict) else values, Framing.chat)


def convert_prompt_to_json(prompt: GivenPrompt) -> dict[str, Any]:
    if isinstance(prompt, BranchedPrompt):
        return convert_prompt_to_json(prompt.main) | {"branches": list(prompt.branches)}
    if isinstance(prompt, str):
        return {"prompt": prompt}
    return {"messages": [message.to_dict() for message in prompt]}


def hash_prompts(prompts: list[GivenPrompt]) -> str:
    """Return the SHA-256 of all prompts in order. Equal prompts from different sources have equal hashes."""
    text = json.dumps([convert_prompt_to_json(prompt) for prompt in prompts], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe_prompts(task: PromptsConfig, prompts_sha256: str) -> dict[str, str]:
    """Describe a prompt file as an MLflow data set. The result is empty for a prompt on the command
    line.
    """
    file = parse_prompt_file_path(task.prompt)
    if task.prompts is None and task.prompt != STDIN and file is None:
        return {}
    source: dict[str, Any]
    if STDIN in (task.prompts, task.prompt):
        name, kind, source = "stdin", "code", {"tags": {"mlflow.source.name": "stdin"}}
    else:
        path = (file or Path(task.prompts or "").expanduser()).absolute()
        name, kind, source = path.name, "local", {"uri": str(path)}
    return {"name": name, "digest": prompts_sha256[:16], "source_type": kind, "source": json.dumps(source)}


def convert_prompt_to_task_format(task: PromptsConfig, prompt: GivenPrompt) -> Prompt:
    """Convert a user's prompt to chat messages or raw text, as task.format requires.

    A conversation keeps its own system message.
    """
    if isinstance(prompt, BranchedPrompt):  # its branches follow the prompt, as beginnings of answers
        return convert_prompt_to_task_format(task, prompt.main)
    if task.format.value == "raw":
        return prompt
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if task.system and turns[0].role != "system":
        return (Message("system", task.system), *turns)
    return turns


def format_completions_as_jsonl(prompts: list[GivenPrompt], samples: dict[int, Sample]) -> str:
    """Return the content of completions.jsonl, with one line per prompt in the order of the prompts."""
    lines = (
        {"index": index, **convert_prompt_to_json(given), **convert_completion_to_json(given, samples[index])}
        for index, given in enumerate(prompts)
    )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def convert_completion_to_json(prompt: GivenPrompt, sample: Sample) -> dict[str, object]:
    error = {} if sample.error is None else {"error": sample.error}
    if not isinstance(prompt, BranchedPrompt):
        return {
            **_answer_to_json(sample.answer),
            "finish_reason": sample.answer.finish_reason.value,
            "prompt_tokens": sample.prompt_tokens,
            "new_tokens": sample.answers[0].num_tokens,
            **({} if sample.by is None else {"by": sample.by}),
            **error,
        }
    answers = [
        {
            **_answer_to_json(branch),
            "finish_reason": branch.finish_reason.value,
            "new_tokens": branch.num_tokens,
        }
        for branch in sample.branches or []
    ]
    return {"prompt_tokens": sample.prompt_tokens, "completions": answers, **error}


def _answer_to_json(answer: Answer) -> dict[str, str]:
    parts = answer.parts
    return {"text": parts.answer} | ({"thinking": parts.thinking} if parts.has_thinking else {})


def _read_prompts_file_or_stdin(prompts: str) -> tuple[bytes, str, bool]:
    if prompts == STDIN:
        data = read_stdin_once()
        return data, "stdin", _starts_with_json_prompt(data)
    path = Path(prompts).expanduser()
    if path.suffix not in (".txt", ".jsonl"):
        raise ConfigError(
            f"give FILE.txt (one prompt per line), FILE.jsonl ({NEEDED}), or - for stdin",
            key="task.prompts",
            value=prompts,
            code="bad_value",
        )
    try:
        return path.read_bytes(), str(path), path.suffix == ".jsonl"
    except FileNotFoundError as error:
        raise DataError(
            f"prompt file does not exist: {path.absolute()}",
            key="task.prompts",
            value=prompts,
            code="not_found",
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror})", key="task.prompts", value=prompts, code="unreadable"
        ) from error


def is_prompt_file(path: Path) -> bool:
    """Return whether a JSON lines file contains prompts, not a data set's questions."""
    with os_errors_as_data_error(path), path.open("rb") as stream:
        return _starts_with_json_prompt(next((line for line in stream if line.strip()), b""))


def _starts_with_json_prompt(data: bytes) -> bool:
    """Return whether the first non-blank line is a JSON object with the key prompt or messages."""
    first = next((line for line in data.removeprefix(codecs.BOM_UTF8).splitlines() if line.strip()), b"")
    try:
        values = parse_json(first.decode())
    except ValueError:
        return False
    return isinstance(values, dict) and ("prompt" in values or "messages" in values)


def _add_task_branches(prompt: GivenPrompt, task: PromptsConfig) -> GivenPrompt:
    if isinstance(prompt, BranchedPrompt) or task.common_branches is None:
        return prompt
    try:
        return BranchedPrompt(prompt, _validate_branches(task.common_branches))
    except ValueError as error:
        raise ConfigError(str(error), key="task.branches", code="bad_value") from error


def _parse_json_prompt(line: str, framing: Framing) -> GivenPrompt:
    """Parse a prompt from one JSON line. Raises ValueError with the reason if the line is invalid."""
    values = parse_json(line)
    if not isinstance(values, dict) or ("prompt" in values) == ("messages" in values):
        both = isinstance(values, dict) and "prompt" in values
        raise ValueError(f"{'both prompt and messages' if both else 'no prompt'}: {NEEDED}")
    others = sorted(values.keys() - set(KEYS))
    for key in others:
        if get_close_matches(key, KEYS, cutoff=0.75):  # a misspelt key would change the request unnoticed
            raise ValueError(format_unknown_choice_message("key", key, KEYS))
    if others:
        _warn_of_ignored_keys(", ".join(others))
    prompt = (
        validate_nonempty_utf8_text(values["prompt"])
        if "prompt" in values
        else _validate_messages(values["messages"], framing)
    )
    return BranchedPrompt(prompt, _validate_branches(values["branches"])) if "branches" in values else prompt


@cache  # a grid reads the same lines for each of its jobs
def _warn_of_ignored_keys(keys: str) -> None:
    log.warning("note: unknown keys of prompt lines are ignored: %s (known keys: %s)", keys, ", ".join(KEYS))


def _validate_branches(branches: Any) -> tuple[str, ...]:
    if not isinstance(branches, list) or not branches:
        raise ValueError(f"branches must be a list of at least one string, not {json.dumps(branches)[:80]}")
    return tuple("" if text == "" else validate_nonempty_utf8_text(text) for text in branches)


def _validate_messages(messages: Any, framing: Framing) -> tuple[Message, ...]:
    if framing is Framing.raw:
        raise ValueError("messages need task.format=chat, because a raw prompt is one string")
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"messages must be a list with at least one message: {NEEDED}")
    return tuple(validate_message(message) for message in messages)


def validate_message(message: Any) -> Message:
    """Return a chat message after validation. Raises ValueError with the reason if it is invalid."""
    if not isinstance(message, dict) or message.keys() - {"reasoning_content"} != {"role", "content"}:
        raise ValueError(f"a message needs exactly the keys role and content, not {_truncate_json(message)}")
    if message["role"] not in ROLES:
        raise ValueError(f"role {message['role']!r} is not one of {', '.join(ROLES)}")
    if (thinking := message.get("reasoning_content")) is None:
        return Message(message["role"], validate_nonempty_utf8_text(message["content"]))
    if message["role"] != "assistant":
        raise ValueError(
            f"only a message of role assistant may have reasoning_content, not {message['role']}"
        )
    # of an answer that was cut off before it
    content = "" if message["content"] == "" else validate_nonempty_utf8_text(message["content"])
    return Message("assistant", content, validate_nonempty_utf8_text(thinking))


def validate_nonempty_utf8_text(value: Any) -> str:
    """Return a text after validation. Raises ValueError with the reason if it is invalid."""
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"expected a string, found {('an empty string' if value == '' else _truncate_json(value))}"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason})") from error
    return value


def _truncate_json(value: Any) -> str:
    return json.dumps(value, default=repr)[:80]
