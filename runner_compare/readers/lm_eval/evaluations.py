"""lm-evaluation-harness' evaluations as runs: one for each task, metric and filter, whichever
backend answered.

A metric that is 0 or 1 for each document is compared like a verdict, a log-likelihood like one of
ours, and any other number by the mean of its differences. A metric without a number for each
document (a class to be counted over all documents) is left out, with a note.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from runner_base import ConfigError, DataError, few, say, unknown
from runner_compare.model.answer_votes import Chance
from runner_compare.model.data import CLUSTER, TEXT_END, Answers, Question, Run, Table, Texts
from runner_compare.reader import Reader
from runner_compare.readers.lm_eval.files import Results, find, read_documents
from runner_compare.readers.lm_eval.keys import FOLDER_KEY, params_of
from runner_compare.readers.lm_eval.means import aggregation_of, recomputed
from runner_compare.readers.lm_eval.series import OF_BYTES, Series, figures_of
from runner_compare.readers.tool_run import METRIC, ToolRun, check_mean

ROWS = ("task.name", METRIC, "task.filter")  # what tells the runs of one evaluation apart
# Settings that make it another run, although no config key of ours holds them
SETTINGS = ("limit", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


def load(places: list[str], cluster: str | None = None, metric: str = "") -> tuple[list[Run], FilesReader]:
    """Return the newest run of each evaluation below these folders, and a reader of their samples.

    `cluster` is the field of a document that names its family, `metric` the only metric that is
    wanted.
    """
    found = [(path, results) for path in dict.fromkeys(places) for results in find(path)]
    read = [(path, series) for path, results in found for series in _series(results, cluster)]
    if metric:
        names = sorted({series.metric for _, series in read})
        if metric not in names:
            raise ConfigError(
                unknown("metric in these folders", metric, names),
                key="--metric",
                value=metric,
                code="unknown_choice",
            )
        read = [(path, series) for path, series in read if series.metric == metric]
    left_out = {series.name for _, series in read if not series.can_be_compared}
    if left_out:
        say(f"note: left out, no number for each document: {few(sorted(left_out), 6)}")
    read = [(path, series) for path, series in read if series.name not in left_out]
    numbers = {(series.task, series.metric) for _, series in read if series.is_of_numbers_only}
    for _, series in read:
        series.is_beside_numbers = (series.task, series.metric) in numbers
    roots = _outermost_groups([results for _, results in found])
    reader = FilesReader()
    runs = []
    for path in dict.fromkeys(places):
        for series, params, folder in _newest(
            path, [series for found_at, series in read if found_at == path]
        ):
            run = _run(series, params, folder, roots.get(series.task, series.task))
            run.params |= {} if cluster is None else {CLUSTER: cluster}
            reader.read[run.run_id] = series
            runs.append(run)
    if not runs:
        raise DataError(
            "no metric in it can be compared", key="--lm-eval", value=" ".join(places), code="empty"
        )
    return runs, reader


def default_comparison(places: list[str], runs: list[Run]) -> tuple[dict[str, str], list[str]]:
    """Return the default baseline and rows of a table: the first folder against all others."""
    folders = {run.params[FOLDER_KEY] for run in runs}
    # a folder with several kinds of runs is no baseline
    if len(folders) < 2 or places[0] not in folders:
        return {}, []
    row_keys = [key for key in ROWS if key == METRIC or len({run.params[key] for run in runs}) > 1]
    return {FOLDER_KEY: places[0]}, [FOLDER_KEY, *row_keys]


def refuse_other_documents(tables: Iterable[Table], reader: FilesReader) -> None:
    """Raise DataError, with file and line, if a row and its baseline were evaluated on different
    documents."""
    for row in (row for table in tables for row in table.rows):
        if row.note and row.baseline and not row.run.parts and not row.baseline.run.parts:
            series, base_series = (reader.series_of(side.run) for side in (row, row.baseline))
            _check_documents(series, base_series)
            _check_documents(base_series, series)


def _check_documents(series: Series, other: Series) -> None:
    fix = "only the same documents can be paired: give both the same --limit and data, or compare with --unpaired"
    for document in series.documents.values():
        counterpart = other.documents.get(document.doc_id)
        key, what = f"{series.path}, line {document.line}", f"document {document.doc_id}"
        if counterpart is None:
            raise DataError(f"{what} is not in {other.path}; {fix}", key=key, code="mismatch")
        if document.key != counterpart.key:
            part = "document" if document.doc_hash != counterpart.doc_hash else "gold answer"
            raise DataError(
                f"{what} has another {part} than in {other.path}, line {counterpart.line}; {fix}",
                key=key,
                code="mismatch",
            )


class FilesReader(Reader):
    """Gives access to what was read from other tools' files, which are all local."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, Series | ToolRun] = {}  # by run id

    def of_one(self, run: Run) -> Answers:
        """Return which questions were answered correctly."""
        return self.read[run.run_id].answers()

    def numbers(self, run: Run) -> Answers:
        chance = Chance.named(run.number or "")
        if chance is None:
            return self.read[run.run_id].number_answers()
        return {
            question: outcome._replace(
                number=chance.of(
                    *(outcome.right if outcome.right[1] else (int(outcome.solved), 1)), outcome.votes
                )
            )
            for question, outcome in self.of_one(run).items()
        }

    def texts(self, run: Run) -> Texts:
        """Return the log-likelihood of each text."""
        return self.series_of(run).texts()

    def series_of(self, run: Run) -> Series:
        """Return a run of lm-eval, which alone has likelihoods and documents."""
        series = self.read[run.run_id]
        assert isinstance(series, Series)
        return series

    def words(self, run: Run, wanted: set[Question], most: int = TEXT_END) -> dict[Question, dict[str, str]]:
        """Return a run's answers to some questions, with the end of each question."""
        return dict(
            pair for part in run.parts or [run] for pair in self.read[part.run_id].words(wanted, most)
        )


def _series(results: Results, cluster: str | None) -> Iterator[Series]:
    """Yield the metrics of a results file; a log-likelihood that is written as several metrics
    comes once."""
    for task in results.tasks:
        metrics = results.metrics(task)
        documents = read_documents(results, task, cluster)
        for name, of_filter in metrics.items():
            by_bytes = [metric for metric in OF_BYTES if metric in of_filter]
            for metric, value in of_filter.items():
                scored = {
                    key: document for key, document in documents[name].items() if metric in document.values
                }
                series = Series(results, task, metric, name, scored)
                _check_mean(series, value)
                if metric not in by_bytes[1:]:
                    yield series


def _check_mean(series: Series, logged: Any) -> None:
    """Raise DataError if a figure that is a mean over the documents is not the one in the results
    file."""
    values = [document.values[series.metric] for document in series.documents.values()]
    mean = recomputed(aggregation_of(series.results, series.task, series.metric), values)
    if mean is not None:
        figure = f"{series.path}: {series.metric} of filter {series.filter}"
        check_mean(figure, mean, "lines", series.results.path.name, logged)


def _outermost_groups(every: list[Results]) -> dict[str, str]:
    """Return each task's outermost group, whose tasks share one table."""
    parents: dict[str, str] = {}
    for results in every:
        for group, members in (results.content.get("group_subtasks") or {}).items():
            for member in members:
                parents.setdefault(member, group)

    def root(name: str) -> str:
        seen = {name}
        while name in parents and parents[name] not in seen:
            name = parents[name]
            seen.add(name)
        return name

    return {name: root(name) for name in parents}


def _newest(path: str, every: list[Series]) -> Iterator[tuple[Series, dict[str, str], str]]:
    """Yield the newest of equal runs with its name: its folder, or its file if the folder has
    several kinds of runs."""
    newest: dict[tuple[str, str], tuple[Series, dict[str, str]]] = {}
    for series in every:  # the newest first
        params, config = params_of(series.results, series.task), series.results.content["config"]
        settings = json.dumps([params, [config.get(key) for key in SETTINGS]], default=str)
        newest.setdefault((series.name, settings), (series, params))
    names = sorted(name for name, _ in newest)
    has_several = any(name == other for name, other in pairwise(names))
    for series, params in newest.values():
        yield series, params, str(series.results.path) if has_several else path


def _run(series: Series, params: dict[str, str], folder: str, table: str) -> Run:
    content = series.results.content
    row_params = dict(zip(ROWS, (series.task, series.metric, series.filter), strict=True))
    versions = ["lm_eval_version", "transformers_version"]
    facts = {key: str(content[key]) for key in versions if key in content}
    better = series.results.better(series.task, series.metric)
    facts["better"] = str(better.value)
    if series.is_of_texts:
        task = f"{table}:likelihood"
    else:
        task = table if series.is_of_verdicts else f"{table}:{series.metric}"
    return Run(
        run_id=f"{folder}#{series.results.path}#{series.name}",
        job_id=f"{folder.rstrip('/')}:{series.task}:{series.metric},{series.filter}",
        task=task,
        task_version=str(series.results.of("versions", series.task)),
        folder=str(series.results.path.parent),
        params={**params, **row_params, FOLDER_KEY: folder},
        metrics=figures_of(series),
        facts=facts,
        number=None if series.is_of_texts or series.is_of_verdicts else series.metric,
    )
