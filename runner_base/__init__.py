"""What the other packages stand on. These names are its door; each is imported at its first use.

Importing it refuses Windows, and says how torch's threads wait for each other.
"""

import os
import sys
from typing import TYPE_CHECKING

from runner_base.first_use import at_first_use

if os.name == "nt":  # locks, signals and mapped files are those of Unix
    print(
        "error: runner does not run on Windows itself. Install WSL2 (wsl --install) and run it there",
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
    from runner_base.beside_limits import Writer as Writer
    from runner_base.beside_limits import beside_limit as beside_limit
    from runner_base.beside_limits import decimals as decimals
    from runner_base.beside_limits import more_digits as more_digits
    from runner_base.beside_limits import told_apart as told_apart
    from runner_base.bounds import Takes as Takes
    from runner_base.bounds import above as above
    from runner_base.bounds import check_keys as check_keys
    from runner_base.bounds import filled as filled
    from runner_base.bounds import least as least
    from runner_base.bounds import within as within
    from runner_base.console import plain as plain
    from runner_base.console import say as say
    from runner_base.drawing import Picture as Picture
    from runner_base.dtypes import BYTES as BYTES
    from runner_base.dtypes import Dtype as Dtype
    from runner_base.entry import run_entry as run_entry
    from runner_base.errors import INTERRUPTED as INTERRUPTED
    from runner_base.errors import MEMORY_ERRORS as MEMORY_ERRORS
    from runner_base.errors import ConfigError as ConfigError
    from runner_base.errors import DataError as DataError
    from runner_base.errors import EvidenceError as EvidenceError
    from runner_base.errors import JobFailed as JobFailed
    from runner_base.errors import JobHeld as JobHeld
    from runner_base.errors import RunnerError as RunnerError
    from runner_base.errors import TrackingError as TrackingError
    from runner_base.errors import cannot_write as cannot_write
    from runner_base.errors import check as check
    from runner_base.errors import exit_code_of as exit_code_of
    from runner_base.errors import few as few
    from runner_base.errors import is_memory_error as is_memory_error
    from runner_base.errors import one_line as one_line
    from runner_base.errors import reading as reading
    from runner_base.errors import unknown as unknown
    from runner_base.fields import HASHED as HASHED
    from runner_base.fields import MISSING as MISSING
    from runner_base.fields import UNLESS_DEFAULT as UNLESS_DEFAULT
    from runner_base.fields import Inert as Inert
    from runner_base.fields import Text as Text
    from runner_base.fields import setting as setting
    from runner_base.files import hold as hold
    from runner_base.files import names_gguf_file as names_gguf_file
    from runner_base.files import replace_text as replace_text
    from runner_base.files import write_atomically as write_atomically
    from runner_base.heartbeat import doing as doing
    from runner_base.heartbeat import silent as silent
    from runner_base.machine import MIB as MIB
    from runner_base.machine import trim as trim
    from runner_base.model_text import Answer as Answer
    from runner_base.model_text import FinishReason as FinishReason
    from runner_base.model_text import Verdict as Verdict
    from runner_base.place_names import short_name as short_name
    from runner_base.plugins import load_object as load_object
    from runner_base.plugins import plug_ins as plug_ins
    from runner_base.progress import Progress as Progress
    from runner_base.progress import ProgressState as ProgressState
    from runner_base.progress import tell as tell
    from runner_base.result import COMPLETIONS as COMPLETIONS
    from runner_base.result import Call as Call
    from runner_base.result import ClusterUnit as ClusterUnit
    from runner_base.result import Likelihood as Likelihood
    from runner_base.result import Record as Record
    from runner_base.result import Result as Result
    from runner_base.result import Sample as Sample
    from runner_base.result import Status as Status
    from runner_base.sealed_lines import sealed as sealed
    from runner_base.sealed_lines import unsealed as unsealed
    from runner_base.tables import Column as Column
    from runner_base.tables import Use as Use
    from runner_base.texts import clock as clock
    from runner_base.texts import counted as counted
    from runner_base.texts import load_json as load_json
    from runner_base.texts import parse_json as parse_json
    from runner_base.texts import read_lines as read_lines
    from runner_base.texts import read_text as read_text
    from runner_base.texts import short as short
    from runner_base.texts import short_hash as short_hash
    from runner_base.thinking import Parts as Parts
    from runner_base.thought_tokens import thinking_totals as thinking_totals
    from runner_base.uris import without_secrets as without_secrets

PLACES = {
    # errors, each with its exit code
    "RunnerError": "errors",  # the base of every error that is shown as one message and an exit code
    "ConfigError": "errors",  # the user's input is wrong: the key, the value and the choices or the fix
    "DataError": "errors",  # a data file is missing or malformed
    "EvidenceError": "errors",  # files of an earlier run cannot be read
    "TrackingError": "errors",  # MLflow cannot be reached or read
    "JobFailed": "errors",  # the work failed although the input was right
    "JobHeld": "errors",  # another process is running the same job
    "INTERRUPTED": "errors",  # the exit code after Ctrl-C
    "check": "errors",  # raises ConfigError `key=value: need` unless a condition holds
    "unknown": "errors",  # "no WHAT 'word'", with the nearest choice and all choices
    "few": "errors",  # the first few of many names
    "one_line": "errors",  # the beginning of a library's message
    "reading": "errors",  # a context in which an unreadable file is a DataError
    "cannot_write": "errors",  # the error for a failed write: a full disk, or a bad folder
    "is_memory_error": "errors",  # whether memory ran out
    "MEMORY_ERRORS": "errors",  # the classes of errors that may tell of it
    "exit_code_of": "errors",  # the exit code of an error
    "run_entry": "entry",  # runs a command, and shows its errors as one message
    # keys of the schema
    "setting": "fields",  # a key's default, how it counts in the job's identity, and what values it takes
    "Inert": "fields",  # a key that is not in the identity, and why
    "HASHED": "fields",  # the key is a place; the hash of its content is in the identity
    "UNLESS_DEFAULT": "fields",  # the key is in the identity where it has not its default
    "MISSING": "fields",  # a value that the user must give
    "Text": "fields",  # text for a model, in which commas mean nothing
    "Takes": "bounds",  # what values a key takes
    "least": "bounds",  # numbers from this on
    "above": "bounds",  # numbers above this
    "within": "bounds",  # numbers between two
    "filled": "bounds",  # a text that is not empty
    "check_keys": "bounds",  # checks each key of a config by what it takes
    "Dtype": "dtypes",  # the number format of weights: auto, float32, bfloat16, float16
    "BYTES": "dtypes",  # bytes of a number, by its format
    # what other packages add
    "plug_ins": "plugins",  # the plug-ins of a kind, by name
    "load_object": "plugins",  # imports the object of a plug-in
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
    "thinking_totals": "thought_tokens",  # metrics of how much models thought
    "Parts": "thinking",  # an answer in two: what a model thought, and what it answered
    "Likelihood": "result",  # how likely a model finds a text
    "sealed": "sealed_lines",  # a line of JSON with its checksum
    "unsealed": "sealed_lines",  # reads such a line, and notices a change
    # texts and files
    "short_name": "place_names",  # what to call a model or an adapter by its folder or hub id
    "beside_limit": "beside_limits",  # a value that rounding does not put on its limit
    "Writer": "beside_limits",  # writes a value, with more digits if asked
    "told_apart": "beside_limits",  # a value and its limit with digits that tell them apart
    "more_digits": "beside_limits",  # how many digits more tell values from a limit
    "decimals": "beside_limits",  # what writes a value with so many decimals beside a limit
    "counted": "texts",  # `1 job`, `2,000 jobs`
    "clock": "texts",  # seconds as people read them: 7 s, 3:20
    "short": "texts",  # a value from a file, as an error shows it
    "short_hash": "texts",  # a short name of a JSON value
    "load_json": "texts",  # reads a JSON object from a file
    "parse_json": "texts",  # reads JSON from a text
    "read_text": "texts",  # reads a file as UTF-8
    "read_lines": "texts",  # reads a file's lines, with their numbers
    "replace_text": "files",  # replaces a file by a text, atomically
    "write_atomically": "files",  # the same, where errors name output_dir
    "names_gguf_file": "files",  # whether a name is that of a .gguf file
    "hold": "files",  # locks a file while a process lives
    "without_secrets": "uris",  # a text without the passwords in its addresses
    # what people see
    "say": "console",  # prints a message on stderr
    "plain": "console",  # a text with its control characters escaped
    "Progress": "progress",  # a progress bar
    "ProgressState": "progress",  # the state of a progress bar
    "tell": "progress",  # a line on stderr before a long step
    "doing": "heartbeat",  # names a step, for the line that each 10 s of silence print
    "silent": "heartbeat",  # prints no such lines, where the program waits for its user
    "Column": "tables",  # a column of a table
    "Use": "tables",  # what a column is for: tables show columns in this order
    "Picture": "drawing",  # a picture as SVG
    "MIB": "machine",  # bytes of a MiB
    "trim": "machine",  # gives freed memory back to the system
}
__all__ = [*PLACES]

__getattr__ = at_first_use(__name__, PLACES)  # commands that answer at once need few of them
