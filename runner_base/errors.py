"""Errors that a user can cause or fix: each is one clear message on stderr and an exit code,
without a traceback.

RunnerError              exit 2   unless a subclass says otherwise
├── ConfigError          exit 2   a key, value or choice is wrong
│   └── DataError        exit 2   a data file is missing or malformed
├── EvidenceError        exit 2   what an earlier run left on disk cannot be read
├── OutputError          exit 2   the output folder cannot be written
├── TrackingError        exit 2   MLflow cannot be opened or written
└── JobFailed            exit 1   the work itself broke (a crashed child process, a full disk)
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from runner_base import signals
from runner_base.console import say
from runner_base.render.errors import error_message
from runner_base.signals import INTERRUPTED as INTERRUPTED
from runner_base.uris import without_secrets

NOT_GIVEN = ...  # in place of a value: None is one, and a pickled error keeps only a constant
Code = Literal[
    "ambiguous",  # several things fit what is named
    "bad_value",  # of another type or form, or out of its range
    "busy",  # another process holds it
    "changed",  # since it was recorded
    "conflict",  # with another setting
    "damaged",  # the content of a file or an answer is malformed or incomplete
    "empty",  # nothing is there to work on
    "exists",  # and would be written over
    "failed",  # the work itself broke
    "mismatch",  # two things that must agree do not
    "missing",  # something that is needed was not given
    "needs_package",  # a package or a program that is not installed
    "no_effect",  # the setting would change nothing
    "not_found",  # no such file, folder, run, question or model
    "refused",  # by a server, by rights, or for safety
    "too_large",  # for a limit of memory, disk, size or length
    "unknown_choice",  # none of the choices
    "unreachable",  # a server or a network
    "unreadable",  # a file is there and cannot be read
    "unsupported",  # by this model, task, engine, format or machine
]


class RunnerError(Exception):
    """Base of every error that is shown as one message and an exit code.

    key: the config key, the option or the file that is wrong, and value: what it is. code: the kind of mistake, for
    whoever must tell errors apart: no code reads the message.
    """

    exit_code = 2

    def __init__(self, reason: str, *, code: Code, key: object = "", value: object = NOT_GIVEN) -> None:
        super().__init__(reason)
        self.reason, self.key, self.value, self.code = reason, str(key), value, code

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), code=self.code), self.args, self.__dict__

    def __str__(self) -> str:
        value = None if self.value is NOT_GIVEN else str(self.value)
        return error_message(self.key, value, self.reason)

    def __repr__(self) -> str:  # libraries such as Hydra quote it
        return f"{type(self).__name__}({str(self)!r})"


class ConfigError(RunnerError):
    """The user's input is wrong: the message names the full key, the value and the choices or the
    fix."""


class DataError(ConfigError):
    """A data file that the config points to is missing or malformed."""


class EvidenceError(RunnerError):
    """The files of an earlier run cannot be read; nothing was changed."""


class OutputError(RunnerError):
    """The output folder cannot be created or written."""


class TrackingError(RunnerError):
    """MLflow cannot be opened or written; the results on disk are kept."""


class JobHeld(RunnerError):
    """Another process is running the same job right now."""

    exit_code = 1


class JobFailed(RunnerError):
    """The work failed although the input was right."""

    exit_code = 1


E = TypeVar("E", bound=RunnerError)


def convert_error(error: RunnerError, kind: type[E]) -> E:
    """Return an error of another kind with the same key, value, reason and code."""
    return kind(error.reason, key=error.key, value=error.value, code=error.code)


def rename_keys(error: E, names: Mapping[str, str]) -> E:
    """Return the error with the keys that the user gave, in place of those that the code which failed knows."""
    reason, key = error.reason, error.key
    for old, new in names.items():
        reason = reason.replace(f"{old}=", f"{new}=")
        key = new if key == old else key.replace(f"{old}=", f"{new}=")
    return type(error)(reason, key=key, value=error.value, code=error.code)


MEMORY_ERRORS = (RuntimeError, MemoryError, OSError)  # torch raises the first, mmap the last
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "Cannot allocate memory",
    "bad_alloc",
    "could not create a primitive",
    "could not execute a primitive",  # oneDNN, for shapes that it supports
    "could not create a memory",
    "failed to map segment",
    "unable to mmap",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS, when there is no room for its workspace
)


def is_memory_error(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that memory ran out.

    A model's own code, and libraries between it and torch, may replace torch's error by one of
    their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return True
        if isinstance(cause, MEMORY_ERRORS) and any(sign in str(cause) for sign in OUT_OF_MEMORY):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def lost_gpu(error: BaseException) -> str:
    """Return the error, or the cause of it, after which a process can use its GPU no more; empty if
    it is another one.

    A failed assertion on the GPU is such an error: torch reports it again at each later use.
    Nothing is known of torch here, so the error is known by its name.
    """
    cause: BaseException | None = error
    while cause is not None:
        names = {kind.__name__ for kind in type(cause).__mro__}
        if "AcceleratorError" in names and not any(sign in str(cause) for sign in OUT_OF_MEMORY):
            return f"{type(cause).__name__}: {one_line(cause)}"
        cause = cause.__cause__ or cause.__context__
    return ""


@contextmanager
def memory_errors_as_job_failed() -> Iterator[None]:
    """Raise JobFailed with a clear message if memory runs out in this block."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RunnerError) or not is_memory_error(error):
            raise
        raise JobFailed(
            f"memory ran out: {one_line(error)}. Free some and run the same command again, or use less: a smaller "
            "generation.batch_size or generation.max_new_tokens, another quantization",
            code="too_large",
        ) from error


@contextmanager
def exits_as_job_failed() -> Iterator[None]:
    """Raise JobFailed if code of a plug-in or a library calls sys.exit in this block."""
    try:
        yield
    except SystemExit as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        raise JobFailed(
            f"a plug-in or a library called sys.exit({error.code!r}) in {last.filename}, line {last.lineno}. "
            "Fix it, or do without it",
            code="failed",
        ) from error


def one_line(error: object, limit: int = 300) -> str:
    """Return the beginning of a library's error text on one line."""
    return " ".join(str(error).split())[:limit]


def few(names: list[str], limit: int = 3) -> str:
    """List the first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check(ok: bool, key: str, value: object, need: str, code: Code = "bad_value") -> None:
    """Raise ConfigError `key=value: need` unless ok."""
    if not ok:
        raise ConfigError(need, key=key, value=value, code=code)


def check_least(least: int, key: str, value: float | None, otherwise: str = "") -> None:
    """Raise ConfigError unless the value is `least` or more; null passes, for keys that may be
    null."""
    check(value is None or value >= least, key, value, f"must be {least} or more{otherwise}")


def refuse_password(key: str, uri: str) -> None:
    """Raise ConfigError if a store's uri contains a password: the uri is stored with every job and
    shown in errors."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # its text may quote the password, as the uri itself does
        shown = f"{uri.partition('://')[0]}://***"
        need = "this is not a uri; characters such as [ ] @ : / in a name must be percent-encoded"
        raise ConfigError(need, key=key, value=shown, code="bad_value") from None
    if parts.password is not None or "password" in parse_qs(parts.query):
        fix = "set MLFLOW_TRACKING_PASSWORD for a server, PGPASSWORD or ~/.pgpass for PostgreSQL, and leave it out here"
        raise ConfigError(
            f"a password would end up in configs and logs: {fix}",
            key=key,
            value=without_secrets(uri),
            code="refused",
        )


def nearest(word: str, options: list[str]) -> list[str]:
    """Return the option with the most similar spelling, if any; for keys of one group, only the
    last part counts."""
    head = word.rpartition(".")[0] + "."
    if head == "." or not all(option.startswith(head) for option in options):
        return get_close_matches(word, options, n=1)
    return [
        head + end
        for end in get_close_matches(word[len(head) :], [option[len(head) :] for option in options], n=1)
    ]


def unknown(
    what: str, word: str, choices: Iterable[str], meant: Iterable[str] = (), lists_all: bool = True
) -> str:
    """Return "no WHAT 'word'", followed by what may be meant, else by the nearest choice, and by
    all choices unless `lists_all` is false."""
    options = sorted(choices)
    close = list(meant) or nearest(word, options)
    question = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"no {what} {word!r}.{question}" + f" Choices: {', '.join(options)}" * lists_all


def cannot_write(path: Path, error: OSError, key: str = "output_dir") -> OutputError | JobFailed:
    """Turn a failed write into one message: a full disk ends the job, a bad folder is for the user
    to fix."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobFailed(
            f"the disk is full: {path} could not be written. Everything before it is kept; "
            "make room and run the same command again to resume",
            code="too_large",
        )
    return OutputError(
        f"cannot write {path} ({error.strerror}). Give a folder you may write: {key}=...", code="refused"
    )


def check_output_folder(key: str, named: str, is_written: bool = True) -> None:
    """Raise OutputError if there can be no such folder, or if it is to be written and is not
    writable."""
    folder = Path(named).expanduser().absolute()

    def rejected(reason: str) -> OutputError:
        return OutputError(
            f"{reason}. Give a folder you may write: {key}=...", key=key, value=named, code="refused"
        )

    for path in (folder, *folder.parents):
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                raise rejected(f"{path} is a link to {path.readlink()}, which is not there") from None
            continue  # it will be made in the one above it
        except OSError as error:  # a name that is too long, a loop of links, a folder that may not be entered
            raise rejected(f"{path}: {error.strerror}") from error
        if not is_folder:
            raise rejected(f"{path} is a file")
        if is_written and not os.access(
            path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
            raise rejected(f"nothing may be written in {path} ({reason})")
        return


def check_free_space(key: str, folder: Path, needed: int) -> None:
    """Raise OutputError unless the disk of a folder, which need not exist yet, has so many bytes
    free."""
    try:
        parent = next(path for path in (folder, *folder.parents) if path.exists())
        disk = shutil.disk_usage(parent)
    except OSError:  # what is wrong with the folder is said by who opens it
        return
    if disk.total and disk.free < needed:  # a file system that is no disk has 0 of both
        raise OutputError(
            f"the disk is full: {disk.free // 1024:,} KiB are free in {parent}, and at least "
            f"{needed // 1024:,} KiB are needed to begin",
            key=key,
            value=folder,
            code="too_large",
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise DataError where a file cannot be read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})", code="unreadable") from error


def message_of(error: Exception) -> str | None:
    """Return the message to show for an error, or None for a bug, which is shown with its
    traceback."""
    return str(error) if isinstance(error, RunnerError) else None


def exit_code_of(
    name: str, work: Callable[[], int | None], message_of: Callable[[Exception], str | None] = message_of
) -> int:
    """Do the work and return its exit code; where it fails, print `name: message` and return the
    error's code."""
    try:
        return work() or 0
    except Exception as error:
        if signals.is_unanswered():
            raise signals.Interrupted from None
        if (stop := _interrupt_behind(error)) is not None and not isinstance(error, RunnerError):
            raise stop from None
        message = message_of(error)
        if message is None:
            raise
        say(f"{name}: {without_secrets(message)}")
        return error.exit_code if isinstance(error, RunnerError) else ConfigError.exit_code


def _interrupt_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interrupt during which an error came: a library that is interrupted may fail while
    it cleans up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error
