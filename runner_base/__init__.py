"""Shared base of all runner packages: errors, config fields, results, files and console
output.

Each public name is imported at its first use. Importing this package exits on Windows. It
also limits how long OpenMP threads spin before they sleep.
"""

import os
import sys
from typing import TYPE_CHECKING

from runner_base.lazy_imports import create_lazy_getattr

if os.name == "nt":  # locks, signals and mapped files are those of Unix
    print(
        "error: runner does not support Windows. Install WSL2 (wsl --install) and use runner in WSL2",
        file=sys.stderr,
    )
    raise SystemExit(2)

# At every matrix product, torch's CPU threads wait for each other in a spin loop. On a busy
# machine, the thread that they wait for may have lost its core to a spinning one: a step then takes
# 14 times as long as when waiting threads go to sleep after some microseconds. The threads' library
# reads the variable when it is loaded, so it is set here.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from runner_base.bounds import ValueConstraint as ValueConstraint
    from runner_base.bounds import at_least as at_least
    from runner_base.bounds import check_config_values as check_config_values
    from runner_base.bounds import greater_than as greater_than
    from runner_base.bounds import in_range as in_range
    from runner_base.bounds import not_blank as not_blank
    from runner_base.console import escape_control_characters as escape_control_characters
    from runner_base.console import print_message as print_message
    from runner_base.drawing import Picture as Picture
    from runner_base.dtypes import BYTES as BYTES
    from runner_base.dtypes import Dtype as Dtype
    from runner_base.entry import run_command as run_command
    from runner_base.errors import INTERRUPTED as INTERRUPTED
    from runner_base.errors import MEMORY_ERRORS as MEMORY_ERRORS
    from runner_base.errors import ConfigError as ConfigError
    from runner_base.errors import DataError as DataError
    from runner_base.errors import JobAlreadyRunning as JobAlreadyRunning
    from runner_base.errors import JobFailed as JobFailed
    from runner_base.errors import RunnerError as RunnerError
    from runner_base.errors import RunRecordError as RunRecordError
    from runner_base.errors import TrackingError as TrackingError
    from runner_base.errors import check_value as check_value
    from runner_base.errors import convert_write_error as convert_write_error
    from runner_base.errors import format_unknown_choice_message as format_unknown_choice_message
    from runner_base.errors import is_out_of_memory_error as is_out_of_memory_error
    from runner_base.errors import join_first_names as join_first_names
    from runner_base.errors import os_errors_as_data_error as os_errors_as_data_error
    from runner_base.errors import run_with_exit_code as run_with_exit_code
    from runner_base.errors import to_one_line as to_one_line
    from runner_base.fields import HASHED as HASHED
    from runner_base.fields import MISSING as MISSING
    from runner_base.fields import UNLESS_DEFAULT as UNLESS_DEFAULT
    from runner_base.fields import NotInIdentity as NotInIdentity
    from runner_base.fields import Text as Text
    from runner_base.fields import config_field as config_field
    from runner_base.files import is_gguf_file_name as is_gguf_file_name
    from runner_base.files import lock_file as lock_file
    from runner_base.files import replace_text_file_atomically as replace_text_file_atomically
    from runner_base.files import write_text_atomically as write_text_atomically
    from runner_base.heartbeat import report_step as report_step
    from runner_base.heartbeat import suppress_heartbeat as suppress_heartbeat
    from runner_base.machine import MIB as MIB
    from runner_base.machine import release_free_memory as release_free_memory
    from runner_base.model_names import short_model_name as short_model_name
    from runner_base.model_text import Answer as Answer
    from runner_base.model_text import FinishReason as FinishReason
    from runner_base.model_text import Verdict as Verdict
    from runner_base.number_format import NumberFormatter as NumberFormatter
    from runner_base.number_format import (
        count_digits_to_distinguish_limit as count_digits_to_distinguish_limit,
    )
    from runner_base.number_format import fixed_decimals_formatter as fixed_decimals_formatter
    from runner_base.number_format import format_against_limit as format_against_limit
    from runner_base.number_format import format_value_and_limit as format_value_and_limit
    from runner_base.plugins import find_plug_ins as find_plug_ins
    from runner_base.plugins import load_plug_in_object as load_plug_in_object
    from runner_base.progress import Progress as Progress
    from runner_base.progress import ProgressState as ProgressState
    from runner_base.progress import announce as announce
    from runner_base.result import COMPLETIONS as COMPLETIONS
    from runner_base.result import Call as Call
    from runner_base.result import ClusterUnit as ClusterUnit
    from runner_base.result import Likelihood as Likelihood
    from runner_base.result import Record as Record
    from runner_base.result import Result as Result
    from runner_base.result import Sample as Sample
    from runner_base.result import Status as Status
    from runner_base.signed_jsonl import dump_signed_line as dump_signed_line
    from runner_base.signed_jsonl import parse_signed_line as parse_signed_line
    from runner_base.tables import Column as Column
    from runner_base.tables import ColumnUse as ColumnUse
    from runner_base.texts import compute_short_json_hash as compute_short_json_hash
    from runner_base.texts import format_count as format_count
    from runner_base.texts import format_duration as format_duration
    from runner_base.texts import format_truncated_repr as format_truncated_repr
    from runner_base.texts import iter_text_lines as iter_text_lines
    from runner_base.texts import load_json_object as load_json_object
    from runner_base.texts import parse_json as parse_json
    from runner_base.texts import read_text as read_text
    from runner_base.thinking import SplitText as SplitText
    from runner_base.thought_tokens import compute_thinking_metrics as compute_thinking_metrics
    from runner_base.uris import redact_secrets as redact_secrets

PLACES = {
    # errors, each with its exit code
    "RunnerError": "errors",  # the base of every error that is shown as one message and an exit code
    "ConfigError": "errors",  # the user's input is wrong: the key, the value and the choices or the fix
    "DataError": "errors",  # a data file is missing or malformed
    "RunRecordError": "errors",  # files of an earlier run cannot be read
    "TrackingError": "errors",  # MLflow cannot be reached or read
    "JobFailed": "errors",  # the work failed although the input was right
    "JobAlreadyRunning": "errors",  # another process is running the same job
    "INTERRUPTED": "errors",  # the exit code after Ctrl-C
    "check_value": "errors",  # raises ConfigError `key=value: need` unless a condition holds
    "format_unknown_choice_message": "errors",  # "no WHAT 'word'", with the nearest choice and all choices
    "join_first_names": "errors",  # the first few of many names
    "to_one_line": "errors",  # the beginning of a library's message
    "os_errors_as_data_error": "errors",  # a context in which an unreadable file is a DataError
    "convert_write_error": "errors",  # the error for a failed write: a full disk, or a bad folder
    "is_out_of_memory_error": "errors",  # whether memory ran out
    "MEMORY_ERRORS": "errors",  # the classes of errors that may tell of it
    "run_with_exit_code": "errors",  # the exit code of an error
    "run_command": "entry",  # runs a command, and shows its errors as one message
    # keys of the schema
    "config_field": "fields",  # a key's default, how it counts in the job's identity, and what values it takes
    "NotInIdentity": "fields",  # a key that is not in the identity, and why
    "HASHED": "fields",  # the key is a place; the hash of its content is in the identity
    "UNLESS_DEFAULT": "fields",  # the key is in the identity where it has not its default
    "MISSING": "fields",  # a value that the user must give
    "Text": "fields",  # text for a model, in which commas mean nothing
    "ValueConstraint": "bounds",  # what values a key takes
    "at_least": "bounds",  # numbers from this on
    "greater_than": "bounds",  # numbers above this
    "in_range": "bounds",  # numbers between two
    "not_blank": "bounds",  # a text that is not empty
    "check_config_values": "bounds",  # checks each key of a config by what it takes
    "Dtype": "dtypes",  # the number format of weights: auto, float32, bfloat16, float16
    "BYTES": "dtypes",  # bytes of a number, by its format
    # what other packages add
    "find_plug_ins": "plugins",  # the plug-ins of a kind, by name
    "load_plug_in_object": "plugins",  # imports the object of a plug-in
    # results
    "Status": "result",  # how a job ended
    "Result": "result",  # metrics, notes and problems of a job
    "Record": "result",  # a job as it is on disk: its settings, result and files
    "ClusterUnit": "result",  # what the questions of a cluster have in common in task=recall
    "Sample": "result",  # one question with its answers and verdict: a line of samples.jsonl
    "Call": "result",  # one answer of a model that an agent asked
    "Answer": "model_text",  # what a model wrote: thinking, and the text without it
    "FinishReason": "model_text",  # why an answer ended: stop, length, context
    "Verdict": "model_text",  # what was found in an answer, and whether it is right
    "COMPLETIONS": "result",  # the file of completions in a job's folder
    "compute_thinking_metrics": "thought_tokens",  # metrics of how much models thought
    "SplitText": "thinking",  # an answer in two: what a model thought, and what it answered
    "Likelihood": "result",  # how likely a model finds a text
    "dump_signed_line": "signed_jsonl",  # a line of JSON with its checksum
    "parse_signed_line": "signed_jsonl",  # reads such a line, and notices a change
    # texts and files
    "short_model_name": "model_names",  # what to call a model or an adapter by its folder or hub id
    "format_against_limit": "number_format",  # a value that rounding does not put on its limit
    "NumberFormatter": "number_format",  # writes a value, with more digits if asked
    "format_value_and_limit": "number_format",  # a value and its limit with digits that tell them apart
    "count_digits_to_distinguish_limit": "number_format",  # how many digits more tell values from a limit
    "fixed_decimals_formatter": "number_format",  # what writes a value with so many decimals beside a limit
    "format_count": "texts",  # `1 job`, `2,000 jobs`
    "format_duration": "texts",  # seconds as people read them: 7 s, 3:20
    "format_truncated_repr": "texts",  # a value from a file, as an error shows it
    "compute_short_json_hash": "texts",  # a short name of a JSON value
    "load_json_object": "texts",  # reads a JSON object from a file
    "parse_json": "texts",  # reads JSON from a text
    "read_text": "texts",  # reads a file as UTF-8
    "iter_text_lines": "texts",  # reads a file's lines, with their numbers
    "replace_text_file_atomically": "files",  # replaces a file by a text, atomically
    "write_text_atomically": "files",  # the same, where errors name output_dir
    "is_gguf_file_name": "files",  # whether a name is that of a .gguf file
    "lock_file": "files",  # locks a file while a process lives
    "redact_secrets": "uris",  # a text without the passwords in its addresses
    # what people see
    "print_message": "console",  # prints a message on stderr
    "escape_control_characters": "console",  # a text with its control characters escaped
    "Progress": "progress",  # a progress bar
    "ProgressState": "progress",  # the state of a progress bar
    "announce": "progress",  # a line on stderr before a long step
    "report_step": "heartbeat",  # names a step, for the line that each 10 s of silence print
    "suppress_heartbeat": "heartbeat",  # prints no such lines, where the program waits for its user
    "Column": "tables",  # a column of a table
    "ColumnUse": "tables",  # what a column is for: tables show columns in this order
    "Picture": "drawing",  # a picture as SVG
    "MIB": "machine",  # bytes of a MiB
    "release_free_memory": "machine",  # gives freed memory back to the system
}
__all__ = [*PLACES]

__getattr__ = create_lazy_getattr(__name__, PLACES)  # commands that answer at once need few of them
