"""`runner.compare(...)`: Python API of runner-compare, with results that notebooks display."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from runner_base import (
    ConfigError,
    JobFailed,
    Record,
    environment,
    escape_control_characters,
    format_count,
    format_unknown_choice_message,
)
from runner_compare.command import build_comparison
from runner_compare.features.gates.section import Requirement, collect_requirements
from runner_compare.features.missing_jobs.section import ComparisonMissingJobs
from runner_compare.model.comparison import Comparison
from runner_compare.model.data import NotPaired, Table
from runner_compare.model.missing_jobs import JobState, MissingJob
from runner_compare.options import create_parser
from runner_compare.render.conclusion import conclusion_text
from runner_compare.render.html import escape_html, write_html_table
from runner_compare.render.output import FORMATS, build_flat_comparison_records
from runner_compare.render.parts import build_comparison_report_parts
from runner_compare.render.pictures import create_table_pictures

# where the command writes
OF_THE_COMMAND = ("help", "format", "save", "log", "publish", "benchmark", "explain")
LONGEST_REPR = 200
PICTURES = 2  # of a table: the page of --save has them all
WIDTH = "640px"
# statuses of the rows of runner.grid
WITH_RESULT = ("finished", "done before")
STATES = {
    "failed": JobState.failed,
    "killed": JobState.interrupted,
    "stopped": JobState.interrupted,
    "impossible": JobState.impossible,
}


@dataclass(repr=False)
class ComparedRuns:
    """Result of `runner.compare`, with tables and sentences. Notebooks also display plots."""

    comparison: Comparison

    @property
    def tables(self) -> list[Table]:
        """The comparison's tables, one per task."""
        return self.comparison.tables

    @property
    def conclusions(self) -> list[str]:
        """One conclusion per task. Tasks without a baseline have no conclusion."""
        return [text for table in self.tables if (text := conclusion_text(table.candidate_rows))]

    @property
    def sentences(self) -> list[str]:
        return [
            sentence
            for part in build_comparison_report_parts(self.comparison)
            for sentence, _ in part.sentences
        ]

    @property
    def missing_jobs(self) -> list[MissingJob]:
        """Jobs of the compared grid that have no result, with their states."""
        return self.comparison.get_section_data(ComparisonMissingJobs).jobs

    @property
    def requirements(self) -> list[Requirement]:
        """Results of `require=`: one per row and term, and one per job without a result."""
        return collect_requirements(self.comparison)

    @property
    def passed(self) -> bool | None:
        """Whether every requirement is met, or None without `require=`."""
        found = self.requirements
        return all(requirement.met for requirement in found) if found else None

    def to_df(self) -> Any:
        """Return a pandas.DataFrame with one line per row and the columns of `--format csv`."""
        import pandas as pd  # type: ignore[import-untyped]

        return pd.DataFrame(build_flat_comparison_records(self.comparison))

    def to_text(self, form: str = "table") -> str:
        """Return the output as text. `form` is table, markdown, json or csv."""
        if form not in FORMATS:
            raise ConfigError(
                format_unknown_choice_message("form", form, [*FORMATS]),
                key=f"to_text({form!r})",
                code="unknown_choice",
            )
        out = io.StringIO()
        FORMATS[form](self.comparison, out)
        return out.getvalue()

    def __repr__(self) -> str:
        tasks = ", ".join(f"{format_count(len(table.rows), 'run')} of {table.task}" for table in self.tables)
        text = escape_control_characters(
            " ".join(f"<comparison of {tasks}: {'; '.join(self.conclusions)}".rstrip(": ").split())
        )
        return f"{text if len(text) <= LONGEST_REPR else text[: LONGEST_REPR - 1] + '…'}>"

    def _repr_html_(self) -> str:
        out = io.StringIO()
        for part in build_comparison_report_parts(self.comparison):
            out.write(f"<h4>{escape_html(part.title)}</h4>\n")
            if part.conclusion:
                out.write(f"<p><b>{escape_html(part.conclusion)}</b></p>\n")
            for image in _iter_images(part.table) if part.table else ():
                out.write(image)
            for grid in part.grids:
                rows = max((len(column.cells) for column in grid.columns), default=0)
                out.write(f"<p>{escape_html(grid.title)}</p>\n" if grid.title else "")
                write_html_table(grid.columns, grid.classes or [""] * rows, out)
            out.write(
                "<ul>\n"
                + "".join(f"<li>{escape_html(text)}</li>\n" for text, _ in part.sentences)
                + "</ul>\n"
            )
        return out.getvalue()


def _iter_images(table: Table) -> Iterable[str]:
    """Yield the first plots of a table as HTML images."""
    for picture in create_table_pictures(table)[:PICTURES]:
        image = base64.b64encode(picture.to_png()).decode()
        title = escape_html(picture.title)
        yield f'<p><img alt="{title}" style="max-width:{WIDTH}" src="data:image/png;base64,{image}"><br>{title}</p>\n'


class Compare(Protocol):
    """Type of `runner.compare`, which is callable like a function and has the function `main` of
    the command.
    """

    def __call__(self, *runs: object, **options: Any) -> ComparedRuns: ...

    def main(self, arguments: list[str]) -> int: ...


def compare(*runs: object, **options: Any) -> ComparedRuns:
    """Compare recorded runs. Keyword arguments are the options of `runner-compare`.

    Example: baseline="quantization=none". `runs` are job ids, records, or the rows of a grid;
    without any, the newest comparable ones are compared.
    """
    environment.load_dotenv()
    given_runs = RunArguments()
    given_runs.add(runs)
    chosen, folder = list(dict.fromkeys(given_runs.ids)), given_runs.output_dir()
    given: dict[str, Any] = {"output_dir": folder} if folder else {}
    given |= ({"runs": chosen} if chosen else {}) | options
    if (chosen or given_runs.missing) and "runs" in options:
        raise ConfigError(
            "runs are passed twice. Pass them either as arguments or with runs=", key="runs=", code="conflict"
        )
    if given_runs.missing and not chosen:
        states = "; ".join(job.message for job in given_runs.missing)
        raise ConfigError(f"no job of the comparison has a result: {states}", key="compare", code="empty")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            compared = build_comparison(_parse_keyword_options(given), Path(scratch), given_runs.missing)
    except NotPaired as reason:
        raise JobFailed(str(reason), code="changed") from reason
    return ComparedRuns(compared.comparison)


@dataclass
class RunArguments:
    """Runs that the user passed to `compare(...)`, including jobs without a result."""

    ids: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    missing: list[MissingJob] = field(default_factory=list)

    def add(self, runs: Iterable[object], keys: Sequence[str] = ()) -> None:
        """Add runs, given as ids, records, grid rows, or lists of these.

        `keys` are the config keys in which a grid's rows differ.
        """
        for run in runs:
            if isinstance(run, str):
                self.ids.append(run)
            elif isinstance(run, Mapping):
                self._add_job_from_grid_row(run, keys)
            elif isinstance(run, Record):
                self.ids.append(run.job_id)
                self.folders.append(str(Path(run.output_dir).parents[1]))
            elif isinstance(run, Iterable):
                folder = str(getattr(run, "output_dir", ""))  # the rows of a grid have it
                self.folders += [folder] * bool(folder)
                self.add(run, getattr(run, "keys", ()))
            else:
                raise ConfigError(
                    "the argument must be a job id, a record of runner.evaluate or a row of runner.grid",
                    key=f"compare({run!r})",
                    code="bad_value",
                )

    def _add_job_from_grid_row(self, row: Mapping[str, Any], keys: Sequence[str]) -> None:
        job_id, status = row.get("job_id") or "", row.get("status")
        if status in (None, *WITH_RESULT):
            self.ids += [job_id] if job_id else []
            return
        name = " ".join(f"{key}={row[key]}" for key in keys if key in row) or job_id or "a job"
        state = STATES.get(str(status), JobState.not_started)
        self.missing.append(MissingJob(name, job_id, state, str(row.get("error") or "")))

    def output_dir(self) -> str:
        """Return the output folder that all records share. Raises ConfigError if there are several."""
        folders = sorted({*self.folders})
        if len(folders) > 1:
            raise ConfigError(
                f"records come from several folders: {', '.join(folders)}. Pass records of only one folder",
                code="ambiguous",
            )
        return next(iter(folders), "")


def _parse_keyword_options(options: Mapping[str, Any]) -> Any:
    """Convert keyword arguments to command-line options. Raises ConfigError for a wrong name or
    value.
    """
    command = create_parser()
    known = {action.dest for action in command._actions} - {*OF_THE_COMMAND}
    arguments: list[str] = []
    for key, value in options.items():
        if key not in known:
            argument = f"compare({key}=...)"
            if key in OF_THE_COMMAND:
                raise ConfigError(
                    "this option exists only on the command line. Use to_df() or to_text()",
                    key=argument,
                    code="unsupported",
                )
            raise ConfigError(
                format_unknown_choice_message("option", key, sorted(known)),
                key=argument,
                code="unknown_choice",
            )
        option = f"--{key.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is None or value is False:
            continue
        elif isinstance(value, str) or not isinstance(value, Iterable):
            arguments += [option, str(value)]
        elif key == "where":  # which is repeated
            arguments += [word for text in value for word in (option, str(text))]
        else:
            arguments += [option, *map(str, value)]

    def raise_config_error(message: str) -> NoReturn:
        raise ConfigError(message, key="compare", code="bad_value")

    command.error = raise_config_error  # type: ignore[method-assign]
    return command.parse_args(arguments)
