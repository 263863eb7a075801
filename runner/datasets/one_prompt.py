"""Reads task.prompt, which is a literal text, @FILE for the text of a file, or - for stdin. @@ stands
for a literal @.
"""

from __future__ import annotations

from pathlib import Path

from runner.datasets.stdin import STDIN, read_stdin_once
from runner_base import ConfigError, DataError, read_text

AT = "@"


def parse_prompt_file_path(prompt: str | None) -> Path | None:
    """Return the file that task.prompt names with @. None for a literal text or stdin."""
    if prompt is None or not prompt.startswith(AT) or prompt.startswith(2 * AT):
        return None
    return Path(prompt.removeprefix(AT)).expanduser()


def read_prompt_text(prompt: str) -> str:
    """Return the prompt of task.prompt: a literal text, a file's text, or stdin.

    The last line break of a file is removed.
    """
    if prompt == STDIN:
        return _strip_bom_and_newline(_decode_utf8(read_stdin_once()), "stdin")
    path = parse_prompt_file_path(prompt)
    if path is None:
        return prompt.removeprefix(AT) if prompt.startswith(2 * AT) else prompt
    where = f"task.prompt={prompt}"
    if not path.is_file():
        raise ConfigError(
            (
                f"file {path.absolute()} does not exist. For a literal text that begins with {AT}, "
                f"use task.prompt={AT}{prompt}"
            ),
            key=where,
            code="not_found",
        )
    return _strip_bom_and_newline(read_text(path, where), str(path))


def _decode_utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"stdin is not UTF-8 text ({error.reason})", key="task.prompt", value=STDIN, code="damaged"
        ) from error


def _strip_bom_and_newline(text: str, source: str) -> str:
    """Return a text without its byte order mark and final line break. Raises DataError if the text is
    blank.
    """
    whole = text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")
    if not whole.strip():
        raise DataError(f"{source} holds no text", key="task.prompt", code="empty")
    return whole
