"""Readers of other tools' result files. Each reader converts one tool's files to runs.

Each reader is a module of this folder for one tool, which it does not import; `tools.py`
lists it. It has `can_read_file(path, outline)`, whether a file is the tool's, and `read_tool_file(path,
file_content, cluster_field)`, which returns the runs in it.
"""

from runner_compare.metrics import BetterDirection
from runner_compare.readers.files import (
    MIB,
    format_run_time,
    iter_lines_checking_count,
    modification_time,
    read_bytes,
    read_parquet,
    validate_file_name,
)
from runner_compare.readers.json_schemas import (
    ANYTHING,
    LIST,
    NULL,
    OBJECT,
    Count,
    JsonOutline,
    Measured,
    Parser,
    convert_checked,
)
from runner_compare.readers.several_answers import count_votes, merge_repeated_answers
from runner_compare.readers.tool_run import (
    LONGEST_TEXT,
    METRIC,
    SampleTexts,
    ToolFile,
    ToolRun,
    ToolSample,
    check_reported_mean,
    flatten_params,
    get_sample_cluster,
    require_unique_sample_ids,
    to_finite_number,
    to_param_text,
)

__all__ = [  # noqa: RUF022 - by what they are for
    # what a reader returns
    "ToolFile",  # the runs of a file, what was left out of it, and notes
    "ToolRun",  # one evaluation by one metric with its samples, or a measurement of speed with its repeats
    "ToolSample",  # how one sample was answered
    "SampleTexts",  # what is shown of a sample, where its texts are read again
    "METRIC",  # the setting that names what samples were scored by
    "LONGEST_TEXT",  # how many characters of an answer are kept: its end
    "BetterDirection",  # the direction of a run's numbers
    "flatten_params",  # an object's values as settings of a group
    "to_param_text",  # a value as the text of a setting
    "get_sample_cluster",  # the family of questions that --cluster names
    "merge_repeated_answers",  # each sample once, of several answers to it
    "count_votes",  # how several answers to a sample vote
    # what a file holds, as classes of msgspec
    "JsonOutline",  # the names of the fields of a file, from which it is recognised
    "Parser",  # reads JSON of one shape; a DataError names file and key
    "convert_checked",  # the same for what was read from another kind of file
    "Count",  # the type of a whole number from 0 on
    "Measured",  # the type of a number above 0
    "ANYTHING",  # the parser of any JSON
    "OBJECT",  # the parser of an object whose fields stay text
    "LIST",  # the parser of a list whose elements stay text
    "NULL",  # the text of a field that is empty
    # files, which somebody else has written
    "read_bytes",  # a file's content, up to a limit
    "iter_lines_checking_count",  # a file's lines, each with its number for messages
    "read_parquet",  # the rows of a parquet file
    "validate_file_name",  # what another file calls a file
    "modification_time",  # when a file was changed, where a tool writes no time
    "format_run_time",  # a time as runs have it
    "MIB",  # bytes
    # what cannot be right is a DataError
    "require_unique_sample_ids",  # no sample stands there twice, and there is one
    "check_reported_mean",  # a mean is the one that was written
    "to_finite_number",  # a value as a number; None if it is none
]
