"""Convert evaluations of lm-evaluation-harness to runs, one per task, metric and filter.

A metric that is 0 or 1 for each document is compared like a verdict, a log-likelihood like
the runner's, and any other number by the mean of its differences. A metric without a number
for each document (a class to be counted over all documents) is excluded, with a note.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from runner_base import ConfigError, DataError, format_unknown_choice_message, join_first_names, print_message
from runner_compare.model.data import CLUSTER, TEXT_END, Answers, Question, Run, Table, Texts
from runner_compare.model.repeated_answers import RepeatedAnswerMetric
from runner_compare.reader import Reader
from runner_compare.readers.lm_eval.config_keys import FOLDER_KEY, convert_lm_eval_settings_to_params
from runner_compare.readers.lm_eval.files import Results, find_lm_eval_results, read_documents
from runner_compare.readers.lm_eval.means import find_metric_aggregation, recompute_metric
from runner_compare.readers.lm_eval.series import OF_BYTES, Series, compute_series_metrics
from runner_compare.readers.tool_run import METRIC, ToolRun, check_reported_mean

ROWS = ("task.name", METRIC, "task.filter")  # what tells the runs of one evaluation apart
# Settings that make it another run, although no config key of ours holds them
SETTINGS = ("limit", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


def load_evaluations(
    paths: list[str], cluster: str | None = None, metric: str = ""
) -> tuple[list[Run], FilesReader]:
    """Load the newest run of each lm-eval evaluation in these folders. Also returns a reader of the samples.

    `cluster` is the document field that names its cluster, `metric` the only metric to load.
    """
    found = [(path, results) for path in dict.fromkeys(paths) for results in find_lm_eval_results(path)]
    read = [(path, series) for path, results in found for series in _iter_series(results, cluster)]
    if metric:
        names = sorted({series.metric for _, series in read})
        if metric not in names:
            raise ConfigError(
                format_unknown_choice_message("metric in these folders", metric, names),
                key="--metric",
                value=metric,
                code="unknown_choice",
            )
        read = [(path, series) for path, series in read if series.metric == metric]
    left_out = {series.name for _, series in read if not series.can_be_compared}
    if left_out:
        print_message(
            f"note: metrics without numbers per document are omitted: {join_first_names(sorted(left_out), 6)}"
        )
    read = [(path, series) for path, series in read if series.name not in left_out]
    numbers = {(series.task, series.metric) for _, series in read if series.has_only_numbers}
    for _, series in read:
        series.is_beside_numbers = (series.task, series.metric) in numbers
    roots = _map_tasks_to_outermost_groups([results for _, results in found])
    reader = FilesReader()
    runs = []
    for path in dict.fromkeys(paths):
        for series, params, folder in _iterate_newest_metric_series(
            path, [series for found_at, series in read if found_at == path]
        ):
            run = _create_run(series, params, folder, roots.get(series.task, series.task))
            run.params |= {} if cluster is None else {CLUSTER: cluster}
            reader.read[run.run_id] = series
            runs.append(run)
    if not runs:
        raise DataError(
            "the results contain no comparable metric", key="--lm-eval", value=" ".join(paths), code="empty"
        )
    return runs, reader


def choose_baseline_and_row_keys(paths: list[str], runs: list[Run]) -> tuple[dict[str, str], list[str]]:
    """Choose the first folder as the baseline. Also returns the config keys that distinguish the table
    rows.
    """
    folders = {run.params[FOLDER_KEY] for run in runs}
    # a folder with several kinds of runs is no baseline
    if len(folders) < 2 or paths[0] not in folders:
        return {}, []
    row_keys = [key for key in ROWS if key == METRIC or len({run.params[key] for run in runs}) > 1]
    return {FOLDER_KEY: paths[0]}, [FOLDER_KEY, *row_keys]


def check_same_documents(tables: Iterable[Table], reader: FilesReader) -> None:
    """Raise DataError if a run did not evaluate the same documents as its baseline."""
    for row in (row for table in tables for row in table.rows):
        if row.note and row.baseline and not row.run.parts and not row.baseline.run.parts:
            series, base_series = (reader.get_metric_series(side.run) for side in (row, row.baseline))
            _check_documents(series, base_series)
            _check_documents(base_series, series)


def _check_documents(series: Series, other_series: Series) -> None:
    fix = "use the same --limit and data in both runs, or compare with --unpaired"
    for document in series.documents.values():
        counterpart = other_series.documents.get(document.doc_id)
        key, what = f"{series.samples_path}, line {document.line}", f"document {document.doc_id}"
        if counterpart is None:
            raise DataError(f"{what} is not in {other_series.samples_path}; {fix}", key=key, code="mismatch")
        if document.pairing_key != counterpart.pairing_key:
            part = "document" if document.doc_hash != counterpart.doc_hash else "gold answer"
            raise DataError(
                f"{what} has a different {part} in {other_series.samples_path}, "
                f"line {counterpart.line}; {fix}",
                key=key,
                code="mismatch",
            )


class FilesReader(Reader):
    """Reader of runs loaded from local files of other tools."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, Series | ToolRun] = {}  # by run id

    def load_run_answers(self, run: Run) -> Answers:
        return self.read[run.run_id].load_answers()

    def load_metric_values(self, run: Run) -> Answers:
        chance = RepeatedAnswerMetric.from_name(run.number or "")
        if chance is None:
            return self.read[run.run_id].load_metric_values()
        return {
            question: outcome._replace(
                number=chance.estimate_metric_for_question(
                    *(outcome.right if outcome.right[1] else (int(outcome.solved), 1)), outcome.votes
                )
            )
            for question, outcome in self.load_run_answers(run).items()
        }

    def load_text_scores(self, run: Run) -> Texts:
        """Return the log-likelihood of each document."""
        return self.read[run.run_id].load_text_scores()

    def get_metric_series(self, run: Run) -> Series:
        """Return the lm-eval metric series of a run, which only lm-eval runs have."""
        series = self.read[run.run_id]
        assert isinstance(series, Series)
        return series

    def load_answer_texts(
        self, run: Run, questions: set[Question], max_chars: int = TEXT_END
    ) -> dict[Question, dict[str, str]]:
        return dict(
            pair
            for part in run.parts or [run]
            for pair in self.read[part.run_id].load_answer_texts(questions, max_chars)
        )


def _iter_series(results: Results, cluster_field: str | None) -> Iterator[Series]:
    """Yield one series for each metric of a results file.

    Several metrics of the same log-likelihood yield one series.
    """
    for task in results.tasks:
        metrics = results.get_metrics_by_filter(task)
        documents = read_documents(results, task, cluster_field)
        for name, of_filter in metrics.items():
            by_bytes = [metric for metric in OF_BYTES if metric in of_filter]
            for metric, value in of_filter.items():
                scored = {
                    key: document for key, document in documents[name].items() if metric in document.values
                }
                series = Series(results, task, metric, name, scored)
                _check_reported_mean(series, value)
                if metric not in by_bytes[1:]:
                    yield series


def _check_reported_mean(series: Series, reported: Any) -> None:
    """Raise DataError if the mean of a metric over the documents differs from the value in the results
    file.
    """
    values = [document.values[series.metric] for document in series.documents.values()]
    mean = recompute_metric(find_metric_aggregation(series.results, series.task, series.metric), values)
    if mean is not None:
        figure = f"{series.samples_path}: {series.metric} of filter {series.filter}"
        check_reported_mean(figure, mean, "lines", series.results.path.name, reported)


def _map_tasks_to_outermost_groups(all_results: list[Results]) -> dict[str, str]:
    """Map each task to its outermost lm-eval group, whose tasks share one table."""
    parents: dict[str, str] = {}
    for results in all_results:
        for group, members in (results.content.get("group_subtasks") or {}).items():
            for member in members:
                parents.setdefault(member, group)

    def find_outermost_task_group(name: str) -> str:
        seen = {name}
        while name in parents and parents[name] not in seen:
            name = parents[name]
            seen.add(name)
        return name

    return {name: find_outermost_task_group(name) for name in parents}


def _iterate_newest_metric_series(
    path: str, all_series: list[Series]
) -> Iterator[tuple[Series, dict[str, str], str]]:
    """Yield the newest series of each configuration, with its params and a name.

    The name is the path of the folder or of the results file.
    """
    newest: dict[tuple[str, str], tuple[Series, dict[str, str]]] = {}
    for series in all_series:  # the newest first
        params, config = (
            convert_lm_eval_settings_to_params(series.results, series.task),
            series.results.content["config"],
        )
        settings = json.dumps([params, [config.get(key) for key in SETTINGS]], default=str)
        newest.setdefault((series.name, settings), (series, params))
    names = sorted(name for name, _ in newest)
    has_several = any(name == other for name, other in pairwise(names))
    for series, params in newest.values():
        yield series, params, str(series.results.path) if has_several else path


def _create_run(series: Series, params: dict[str, str], folder: str, table_name: str) -> Run:
    content = series.results.content
    row_params = dict(zip(ROWS, (series.task, series.metric, series.filter), strict=True))
    versions = ["lm_eval_version", "transformers_version"]
    facts = {key: str(content[key]) for key in versions if key in content}
    better = series.results.get_metric_direction(series.task, series.metric)
    facts["better"] = str(better.value)
    if series.is_log_likelihood:
        task = f"{table_name}:likelihood"
    else:
        task = table_name if series.has_verdict_per_document else f"{table_name}:{series.metric}"
    return Run(
        run_id=f"{folder}#{series.results.path}#{series.name}",
        job_id=f"{folder.rstrip('/')}:{series.task}:{series.metric},{series.filter}",
        task=task,
        task_version=str(series.results.find_task_entry_in_results("versions", series.task)),
        folder=str(series.results.path.parent),
        params={**params, **row_params, FOLDER_KEY: folder},
        metrics=compute_series_metrics(series),
        facts=facts,
        number=None if series.is_log_likelihood or series.has_verdict_per_document else series.metric,
    )
