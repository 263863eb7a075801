"""What other tools have written, read as runs. These names are what the reader of a tool needs.

A reader is a module of this folder for one tool, which it does not import; `tools.py` lists it. It
has `recognises(path, outline)`, whether a file is the tool's, and `read(path, raw, cluster)`, which
returns the runs in it.
"""

from runner_compare.metrics import Better
from runner_compare.readers.files import MIB, changed, file_name, in_words, lines_of, read_bytes, read_parquet
from runner_compare.readers.several_answers import joined, votes_of
from runner_compare.readers.shapes import (
    ANYTHING,
    LIST,
    NULL,
    OBJECT,
    Count,
    Measured,
    Outline,
    Parser,
    checked,
)
from runner_compare.readers.tool_run import (
    LONGEST_TEXT,
    METRIC,
    SampleTexts,
    ToolFile,
    ToolRun,
    ToolSample,
    as_number,
    check_mean,
    check_samples_differ,
    family_of,
    params_of,
    text_of,
)

__all__ = [  # noqa: RUF022 - by what they are for
    # what a reader returns
    "ToolFile",  # the runs of a file, what was left out of it, and notes
    "ToolRun",  # one evaluation by one metric with its samples, or a measurement of speed with its repeats
    "ToolSample",  # how one sample was answered
    "SampleTexts",  # what is shown of a sample, where its texts are read again
    "METRIC",  # the setting that names what samples were scored by
    "LONGEST_TEXT",  # how many characters of an answer are kept: its end
    "Better",  # the direction of a run's numbers
    "params_of",  # an object's values as settings of a group
    "text_of",  # a value as the text of a setting
    "family_of",  # the family of questions that --cluster names
    "joined",  # each sample once, of several answers to it
    "votes_of",  # how several answers to a sample vote
    # what a file holds, as classes of msgspec
    "Outline",  # the names of the fields of a file, from which it is recognised
    "Parser",  # reads JSON of one shape; a DataError names file and key
    "checked",  # the same for what was read from another kind of file
    "Count",  # the type of a whole number from 0 on
    "Measured",  # the type of a number above 0
    "ANYTHING",  # the parser of any JSON
    "OBJECT",  # the parser of an object whose fields stay text
    "LIST",  # the parser of a list whose elements stay text
    "NULL",  # the text of a field that is empty
    # files, which somebody else has written
    "read_bytes",  # a file's content, up to a limit
    "lines_of",  # a file's lines, each with its number for messages
    "read_parquet",  # the rows of a parquet file
    "file_name",  # what another file calls a file
    "changed",  # when a file was changed, where a tool writes no time
    "in_words",  # a time as runs have it
    "MIB",  # bytes
    # what cannot be right is a DataError
    "check_samples_differ",  # no sample stands there twice, and there is one
    "check_mean",  # a mean is the one that was written
    "as_number",  # a value as a number; None if it is none
]
