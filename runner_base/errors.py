"""Errors that a user can cause or fix. Each prints one message without a traceback.

RunnerError              exit 2   unless a subclass says otherwise
├── ConfigError          exit 2   a key, value or choice is wrong
│   └── DataError        exit 2   a data file is missing or malformed
├── RunRecordError       exit 2   the files of an earlier run cannot be read
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
from runner_base.console import print_message
from runner_base.render.errors import format_error
from runner_base.signals import INTERRUPTED as INTERRUPTED
from runner_base.uris import redact_secrets

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
    """Base class of all errors that are shown to the user as one message and an exit code.

    key: the config key, option or file that is wrong; value: its value. code: the kind of
    mistake, so that no program has to parse the message.
    """

    exit_code = 2

    def __init__(self, reason: str, *, code: Code, key: object = "", value: object = NOT_GIVEN) -> None:
        super().__init__(reason)
        self.reason, self.key, self.value, self.code = reason, str(key), value, code

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), code=self.code), self.args, self.__dict__

    def __str__(self) -> str:
        value = None if self.value is NOT_GIVEN else str(self.value)
        return format_error(self.key, value, self.reason)

    def __repr__(self) -> str:  # libraries such as Hydra quote it
        return f"{type(self).__name__}({str(self)!r})"


class ConfigError(RunnerError):
    """The user's input is wrong. The message names the key, its value and the fix."""


class DataError(ConfigError):
    """A data file named in the config is missing or malformed."""


class RunRecordError(RunnerError):
    """An earlier run's files cannot be read. Nothing was changed."""


class OutputError(RunnerError):
    """The output folder cannot be created or written."""


class TrackingError(RunnerError):
    """MLflow cannot be opened or written. Results on disk are unaffected."""


class JobAlreadyRunning(RunnerError):
    """Another process is running the same job."""

    exit_code = 1


class JobFailed(RunnerError):
    """The job failed although its configuration was valid."""

    exit_code = 1


E = TypeVar("E", bound=RunnerError)


def convert_error(error: RunnerError, error_class: type[E]) -> E:
    """Return a copy of an error with another class."""
    return error_class(error.reason, key=error.key, value=error.value, code=error.code)


def rename_config_keys_in_error(error: E, new_names: Mapping[str, str]) -> E:
    """Return a copy of an error in which `new_names` replace internal config key names."""
    reason, key = error.reason, error.key
    for old, new in new_names.items():
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


def is_out_of_memory_error(error: BaseException) -> bool:
    """Return whether an error or one of its causes reports that memory ran out.

    All causes are checked, since model code and libraries may replace torch's error by their
    own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM):
            return True
        if isinstance(cause, MEMORY_ERRORS) and any(sign in str(cause) for sign in OUT_OF_MEMORY):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def get_fatal_gpu_error_message(error: BaseException) -> str:
    """Return the message of an error after which CUDA is unusable in this process; otherwise an
    empty text.

    An example is a failed assertion on the GPU: torch reports it again at each later use. The
    error is recognized by its class name, since torch is not imported here.
    """
    cause: BaseException | None = error
    while cause is not None:
        names = {kind.__name__ for kind in type(cause).__mro__}
        if "AcceleratorError" in names and not any(sign in str(cause) for sign in OUT_OF_MEMORY):
            return f"{type(cause).__name__}: {to_one_line(cause)}"
        cause = cause.__cause__ or cause.__context__
    return ""


@contextmanager
def memory_errors_as_job_failed() -> Iterator[None]:
    """Convert out-of-memory errors to JobFailed, with a message that suggests a fix."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RunnerError) or not is_out_of_memory_error(error):
            raise
        raise JobFailed(
            f"memory ran out: {to_one_line(error)}. Free memory and run this command again, or reduce "
            "generation.batch_size or generation.max_new_tokens, or use another quantization",
            code="too_large",
        ) from error


@contextmanager
def exits_as_job_failed() -> Iterator[None]:
    """Raise JobFailed if plug-in or library code calls sys.exit."""
    try:
        yield
    except SystemExit as error:
        *_, last = traceback.extract_tb(error.__traceback__)
        raise JobFailed(
            f"a plug-in or a library called sys.exit({error.code!r}) in {last.filename}, line {last.lineno}. "
            "Fix that code or uninstall the plug-in",
            code="failed",
        ) from error


def to_one_line(error: object, limit: int = 300) -> str:
    """Collapse an error's text to one line and truncate it."""
    return " ".join(str(error).split())[:limit]


def join_first_names(names: list[str], limit: int = 3) -> str:
    """List the first names, followed by `and N more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check_value(is_valid: bool, key: str, value: object, requirement: str, code: Code = "bad_value") -> None:
    """Raise ConfigError with the message `key=value: requirement` unless the value is valid."""
    if not is_valid:
        raise ConfigError(requirement, key=key, value=value, code=code)


def check_min_value(min_value: int, key: str, value: float | None, hint: str = "") -> None:
    """Raise ConfigError if the value is below `min_value`. The value None is accepted."""
    check_value(value is None or value >= min_value, key, value, f"must be {min_value} or more{hint}")


def reject_password_in_uri(key: str, uri: str) -> None:
    """Raise ConfigError if a URI contains a password, because URIs are printed and stored with every job."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # its text may quote the password, as the uri itself does
        shown = f"{uri.partition('://')[0]}://***"
        need = "the URI is invalid. Percent-encode characters such as [ ] @ : / in names"
        raise ConfigError(need, key=key, value=shown, code="bad_value") from None
    if parts.password is not None or "password" in parse_qs(parts.query):
        fix = "Use MLFLOW_TRACKING_PASSWORD for a server, or PGPASSWORD or ~/.pgpass for PostgreSQL"
        raise ConfigError(
            f"the URI contains a password, which would appear in configs and logs. Remove it. {fix}",
            key=key,
            value=redact_secrets(uri),
            code="refused",
        )


def find_closest_names(name: str, options: list[str]) -> list[str]:
    """Return the options that are spelled most similarly to a name, or [] if none is similar.

    If all options share the name's group prefix, only their last part is compared.
    """
    if all(option.startswith("--") for option in (name, *options)):
        # the dashes would count as similar letters
        return ["--" + end for end in find_closest_names(name[2:], [option[2:] for option in options])]
    head = name.rpartition(".")[0] + "."
    if head == "." or not all(option.startswith(head) for option in options):
        return get_close_matches(name, options, n=1)
    return [
        head + end
        for end in get_close_matches(name[len(head) :], [option[len(head) :] for option in options], n=1)
    ]


def format_unknown_choice_message(
    kind: str, name: str, choices: Iterable[str], suggestions: Iterable[str] = (), show_choices: bool = True
) -> str:
    """Format a message about an unknown choice, with suggestions and the list of choices.

    Without suggestions, the choice with the most similar spelling is suggested. An empty kind fits
    an error that names the key.
    """
    options = sorted(choices)
    close = list(suggestions) or find_closest_names(name, options)
    question = f" Did you mean {' or '.join(close)}?" if close else ""
    problem = f"no {kind} {name!r}" if kind else "unknown choice"
    return f"{problem}.{question}" + f" Choices: {', '.join(options)}" * show_choices


def convert_write_error(path: Path, error: OSError, key: str = "output_dir") -> OutputError | JobFailed:
    """Convert a write error to JobFailed if the disk is full, otherwise to OutputError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobFailed(
            f"the disk is full: {path} could not be written. Earlier results are saved. "
            "Free disk space and run the same command again to resume",
            code="too_large",
        )
    return OutputError(
        f"cannot write {path} ({error.strerror}). Give a folder you may write: {key}=...", code="refused"
    )


def check_output_folder(key: str, folder_name: str, needs_write: bool = True) -> None:
    """Raise OutputError if the folder cannot be created or, with `needs_write`, cannot be written."""
    folder = Path(folder_name).expanduser().absolute()

    def output_error(reason: str) -> OutputError:
        return OutputError(
            f"{reason}. Choose a writable folder: {key}=...", key=key, value=folder_name, code="refused"
        )

    for path in (folder, *folder.parents):
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                raise output_error(f"{path} is a link to {path.readlink()}, which does not exist") from None
            continue  # it will be made in the one above it
        except OSError as error:  # a name that is too long, a loop of links, a folder that may not be entered
            raise output_error(f"{path}: {error.strerror}") from error
        if not is_folder:
            raise output_error(f"{path} is a file")
        if needs_write and not os.access(
            path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
            reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
            raise output_error(f"{path} is not writable ({reason})")
        return


def check_free_space(key: str, folder: Path, needed_bytes: int) -> None:
    """Raise OutputError if the disk has fewer free bytes than needed.

    The folder need not exist. Nothing is raised if it cannot be examined.
    """
    try:
        parent = next(path for path in (folder, *folder.parents) if path.exists())
        disk = shutil.disk_usage(parent)
    except OSError:  # what is wrong with the folder is said by who opens it
        return
    if disk.total and disk.free < needed_bytes:  # a file system that is no disk has 0 of both
        raise OutputError(
            f"the disk is full: {disk.free // 1024:,} KiB are free in {parent}, but at least "
            f"{needed_bytes // 1024:,} KiB are required",
            key=key,
            value=folder,
            code="too_large",
        )


@contextmanager
def os_errors_as_data_error(path: Path) -> Iterator[None]:
    """Convert file errors in this block to DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})", code="unreadable") from error


# packages that the comparison needs for some outputs and inputs only, and the extra that installs each
OPTIONAL_PACKAGES = {"matplotlib": "pictures", "pandas": "pandas", "pyarrow": "parquet"}


def get_error_message_for_user(error: Exception) -> str | None:
    """Return the message that the user sees. None for an unexpected error, which needs a
    traceback.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in OPTIONAL_PACKAGES:
        extra = OPTIONAL_PACKAGES[error.name]
        return f"no package {error.name}: pip install 'runner-compare[{extra}]'"
    return str(error) if isinstance(error, RunnerError) else None


def run_with_exit_code(
    program: str,
    command: Callable[[], int | None],
    format_message: Callable[[Exception], str | None] = get_error_message_for_user,
) -> int:
    """Run `command` and return its exit code. On failure, print `program: message`."""
    try:
        return command() or 0
    except Exception as error:
        if signals.has_unhandled_interrupt():
            raise signals.Interrupted from None
        if (stop := _find_interrupt_cause(error)) is not None and not isinstance(error, RunnerError):
            raise stop from None
        message = format_message(error)
        if message is None:
            raise
        print_message(f"{program}: {redact_secrets(message)}")
        return error.exit_code if isinstance(error, RunnerError) else ConfigError.exit_code


def _find_interrupt_cause(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the KeyboardInterrupt that caused an error, or None.

    An interrupted library may fail while it cleans up.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error
