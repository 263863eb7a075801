"""Finds other tools' result files in the given paths, detects the tool, and converts the results to runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

from runner_base import (
    ConfigError,
    DataError,
    escape_control_characters,
    format_unknown_choice_message,
    join_first_names,
    print_message,
)
from runner_compare.metrics import BetterDirection
from runner_compare.model.data import CLUSTER, Run
from runner_compare.model.key_rules import KeyRules
from runner_compare.model.missing_jobs import JobState, MissingJob
from runner_compare.model.question_metrics import compute_mean_metric
from runner_compare.model.repeated_answers import compute_repeated_answer_metrics
from runner_compare.readers.archive_files import PACKED_JOB_SUFFIX
from runner_compare.readers.files import read_bytes
from runner_compare.readers.json_schemas import NULL, JsonOutline
from runner_compare.readers.lm_eval import evaluations
from runner_compare.readers.lm_eval import files as lm_eval_files
from runner_compare.readers.lm_eval.config_keys import FOLDER_KEY
from runner_compare.readers.tool_run import METRIC, ToolFile, ToolRun
from runner_compare.readers.tools import ENDINGS, ToolReader, format_supported_tools, load_readers
from runner_compare.statistics.accuracy_intervals import compute_accuracy_metrics

OPTION = "--results"
NOTHING = JsonOutline({}, [])
BLANK_BYTES = 4096  # a file of as many spaces is looked at no further
KEYS_OF_METRICS = (METRIC, "task.filter", "task.name")  # they tell apart the runs of one evaluation


class ResultsReader(evaluations.FilesReader):
    """Reader of other tools' results. A sample has the same index in all runs that contain the sample."""

    def __init__(self, cluster: str | None = None) -> None:
        super().__init__()
        self.cluster = cluster
        self.unfinished: list[MissingJob] = []  # jobs in the files that have no result
        # of samples, by task, id, question and gold answer
        self.indices: dict[tuple[str, str, str, str], int] = {}

    def register_tool_run(self, run_id: str, run: ToolRun) -> None:
        """Register a run and index its samples.

        The same sample of a task gets the same index in all runs.
        """
        self.read[run_id] = run
        for sample in run.samples:
            index = self.indices.setdefault(
                (run.task, sample.sample_id, sample.question, sample.gold), len(self.indices)
            )
            sample.key = index, f"{sample.sample_id}: {sample.question}", sample.gold

    def iter_repeated_measurements(self, run: Run) -> Iterator[dict[str, list[float]]]:
        """Yield a dictionary that maps each measure to its repeated values.

        Measures with fewer repeats than the others are omitted.
        """
        tool_run = self.read.get(run.run_id)
        if isinstance(tool_run, ToolRun) and tool_run.repeats:
            most = max(map(len, tool_run.repeats.values()))
            yield {measure: values for measure, values in tool_run.repeats.items() if len(values) == most}


def load_results(
    paths: list[str], cluster: str | None = None, metric: str = "", may_be_damaged: Collection[str] = ()
) -> tuple[list[Run], ResultsReader]:
    """Load the runs in these paths. Also returns a reader of their samples and repeats.

    `cluster` is the sample field that names its cluster, `metric` the only metric to load. A damaged
    file below a path in `may_be_damaged` is a job without a result, and no error.
    """
    paths = list(dict.fromkeys(paths))
    reader = ResultsReader(cluster)
    runs: list[Run] = []
    found: list[ToolRun] = []
    left_out: list[str] = []
    notes: dict[str, None] = {}
    without_verdicts: list[str] = []
    of_lm_eval: list[str] = []
    for given in paths:
        files, has_lm_eval = find_result_files(given)
        of_lm_eval += [given] * has_lm_eval
        for path, tool in files:
            try:
                tool_file = _read_runs(path, tool, cluster)
            except DataError as error:
                if given not in may_be_damaged:
                    raise
                name = escape_control_characters(str(path.parent if path.parent != Path(given) else path))
                reader.unfinished.append(MissingJob(name, "", JobState.unreadable, error.reason))
                continue
            found += [replace(run, found_at=given) for run in tool_file.runs]
            left_out += tool_file.left_out
            reader.unfinished += tool_file.unfinished
            notes |= dict.fromkeys(tool_file.notes)
            without_verdicts += tool_file.without_verdicts
    if without_verdicts and not may_be_damaged:
        jobs = join_first_names(sorted(set(without_verdicts)), 6)
        notes[
            f"these jobs are omitted, because they have neither verdicts nor repeats: {jobs}. "
            "Compare them with --output-dir"
        ] = None
    for note in notes:
        print_message(f"note: {note}")
    if of_lm_eval:
        runs, of_documents = evaluations.load_evaluations(of_lm_eval, cluster)
    if left_out:
        print_message(
            "note: omitted metrics that have neither per-sample values nor speeds: "
            f"{join_first_names(sorted(set(left_out)), 6)}"
        )
    if cluster is not None:
        check_cluster_field(found, cluster)
    runs += _iter_newest_evaluations([run for run in found if run.samples], reader)
    runs += _iter_newest_likelihoods([run for run in found if run.load_text_scores()], reader)
    runs += _iter_newest_measurements([run for run in found if run.repeats], reader)
    reader.read |= of_documents.read if of_lm_eval else {}
    if not runs and not reader.unfinished:
        raise DataError("nothing in it can be compared", key=OPTION, value=" ".join(paths), code="empty")
    if metric:
        metrics = sorted({run.params[METRIC] for run in runs if METRIC in run.params})
        if metric not in metrics:
            raise ConfigError(
                format_unknown_choice_message("metric in these files", metric, metrics),
                key="--metric",
                value=metric,
                code="unknown_choice",
            )
        runs = [run for run in runs if run.params.get(METRIC) == metric]
    return runs, reader


def check_cluster_field(runs: Iterable[ToolRun], cluster_field: str) -> None:
    """Raise ConfigError if a sample lacks the field that defines clusters."""
    for run in runs:
        if run.repeats and run.job_id:
            continue  # a folder may also have such jobs
        if run.repeats:
            raise ConfigError(
                f"{run.path}: speed measurements have no clusters of questions. Omit this file or --cluster",
                key="--cluster",
                value=cluster_field,
                code="unsupported",
            )
        without = next((sample for sample in run.samples if sample.cluster is None), None)
        if without is not None:
            fields = ", ".join(without.fields) or "no fields"
            raise DataError(
                f"{run.path}, sample {without.sample_id}: it has no such text or whole number ({fields}). A field is a "
                "key of a sample's metadata (inspect_ai), of a document's `specific` (lighteval) or of `doc` "
                "(lm-evaluation-harness), which the task that made the file has to write",
                key="--cluster",
                value=cluster_field,
                code="missing",
            )


def _read_runs(path: Path, tool: ToolReader, cluster_field: str | None) -> ToolFile:
    file_content = read_bytes(path) if path.suffix == ".json" else b""
    try:
        return tool.read_tool_file(path, file_content, cluster_field)
    except RecursionError as error:
        raise DataError("nested too deeply", key=path, code="too_large") from error


def find_result_files(path_argument: str) -> tuple[list[tuple[Path, ToolReader]], bool]:
    """Find the result files at a path, with their readers.

    Also returns whether there are lm-eval results.
    """
    path = Path(path_argument).expanduser()
    if path.is_dir():
        candidates = sorted(
            file for file in path.rglob("*") if file.name.endswith((*ENDINGS, PACKED_JOB_SUFFIX))
        )
    elif path.exists() and not path.is_file():
        raise ConfigError(
            "the path is neither a file nor a folder", key=OPTION, value=path_argument, code="unreadable"
        )
    elif not path.exists():
        raise ConfigError(
            "there is no such file or folder", key=OPTION, value=path_argument, code="not_found"
        )
    else:
        candidates = [path]
    files, has_lm_eval = [], False
    skipped: list[str] = []
    for file in candidates:
        if file.suffix == ".json" and path.is_dir() and (reason := _explain_empty_file(file)):
            skipped.append(f"{file} ({reason})")
            continue
        outline = JsonOutline.from_bytes(read_bytes(file), str(file)) if file.suffix == ".json" else NOTHING
        tool = next((tool for tool in load_readers() if tool.can_read_file(file, outline)), None)
        if tool is not None:
            files.append((file, tool))
        elif is_lm_eval_file(file, outline):
            has_lm_eval = True
    if skipped:
        print_message(f"note: skipped empty files: {join_first_names(skipped, 6)}")
    if not files and not has_lm_eval:
        raise ConfigError(
            f"the path has no results of a supported tool ({format_supported_tools()})",
            key=OPTION,
            value=path_argument,
            code="empty",
        )
    return files, has_lm_eval


def _explain_empty_file(file: Path) -> str:
    """Return the reason why a result file has no content, or "" if the file has content."""
    if file.is_symlink() and not file.exists():
        return "a broken symbolic link"
    is_blank = file.is_file() and file.stat().st_size < BLANK_BYTES and not file.read_bytes().strip()
    return "empty" if is_blank else ""


def is_lm_eval_file(path: Path, outline: JsonOutline) -> bool:
    is_named_so = bool(lm_eval_files.TIME.search(path.name))
    return is_named_so and all(
        bytes(outline.parts.get(key, NULL)).startswith(b"{") for key in lm_eval_files.NEEDED
    )


def _iter_newest_evaluations(tool_runs: list[ToolRun], reader: ResultsReader) -> Iterator[Run]:
    """Yield the newest evaluation of each configuration at each path.

    If one file has numbers for a metric of a task, all files' scores are compared as numbers
    there.
    """
    newest = _select_newest_runs(tool_runs)
    directions: dict[tuple[str, str], set[BetterDirection]] = {}
    for run_of_tool in tool_runs:
        if run_of_tool.better is not None:
            directions.setdefault((run_of_tool.task, run_of_tool.metric), set()).add(run_of_tool.better)
    counts = Counter((run_of_tool.found_at, run_of_tool.task, run_of_tool.metric) for run_of_tool in newest)
    several = {given for (given, _, _), count in counts.items() if count > 1}
    for run_of_tool in newest:
        better = directions.get((run_of_tool.task, run_of_tool.metric))
        run = _create_evaluation_run(
            run_of_tool,
            str(run_of_tool.path) if run_of_tool.found_at in several else run_of_tool.found_at,
            reader,
        )
        run.params |= {} if reader.cluster is None else {CLUSTER: reader.cluster}
        if better is None:
            yield run
        else:
            yield _create_metric_run(
                run, run_of_tool, next(iter(better)) if len(better) == 1 else BetterDirection.neither
            )


def _select_newest_runs(tool_runs: Iterable[ToolRun]) -> list[ToolRun]:
    """Return the newest run of each configuration at each path, the newest of all first."""
    newest: dict[object, ToolRun] = {}
    for tool_run in sorted(tool_runs, key=lambda each: (each.time, str(each.path)), reverse=True):
        settings = tool_run.found_at, tool_run.task, tuple(sorted(tool_run.params.items()))
        newest.setdefault(settings, tool_run)
    return [*newest.values()]


def _iter_newest_likelihoods(tool_runs: list[ToolRun], reader: ResultsReader) -> Iterator[Run]:
    """Yield the newest log-likelihood job of each configuration at each path."""
    newest = _select_newest_runs(tool_runs)
    counts = Counter((tool_run.found_at, tool_run.task) for tool_run in newest)
    for tool_run in newest:
        has_several = counts[tool_run.found_at, tool_run.task] > 1
        name = str(tool_run.path) if has_several else tool_run.found_at
        run_id = f"{tool_run.path}#{tool_run.task}"
        reader.register_tool_run(run_id, tool_run)
        job_id = escape_control_characters(f"{name.rstrip('/')}:{tool_run.task}")
        run = _create_run(tool_run, run_id, job_id, {FOLDER_KEY: name}, tool_run.figures)
        yield replace(run, facts=tool_run.facts)


def _create_evaluation_run(run: ToolRun, name: str, reader: ResultsReader) -> Run:
    job_id = escape_control_characters(f"{name.rstrip('/')}:{run.task}:{run.metric}")
    run_id = f"{run.path}#{run.task}#{run.metric}#{name}"
    reader.register_tool_run(run_id, run)
    families, counts = (
        [sample.cluster for sample in run.samples],
        [sample.right[1] or 1 for sample in run.samples],
    )
    figures = {
        "correct": float(sum(sample.solved for sample in run.samples)),
        **compute_accuracy_metrics([sample.accuracy for sample in run.samples], families, counts),
        **compute_repeated_answer_metrics([(sample.right, sample.votes) for sample in run.samples]),
        **run.figures,
    }
    errors = sum(sample.has_error for sample in run.samples)
    return replace(
        _create_run(run, run_id, job_id, {FOLDER_KEY: name}, figures), facts=run.facts, errors=errors
    )


def _create_run(
    tool_run: ToolRun, run_id: str, job_id: str, extra_params: dict[str, str], metrics: dict[str, float]
) -> Run:
    """Create a run in which control characters of all texts are escaped."""
    own_params = {
        escape_control_characters(key): escape_control_characters(value)
        for key, value in tool_run.params.items()
    }
    folder = str(tool_run.path.parent)
    return Run(
        run_id,
        job_id,
        escape_control_characters(tool_run.task),
        tool_run.task_version,
        folder,
        own_params | extra_params,
        metrics,
        tool=tool_run.tool,
    )


def _create_metric_run(run: Run, tool_run: ToolRun, better: BetterDirection) -> Run:
    """Create a run that is compared by a metric per sample. The run appears in a separate table."""
    metric = tool_run.metric
    return replace(
        run,
        task=escape_control_characters(f"{tool_run.task}:{metric}"),
        number=metric,
        metrics=compute_mean_metric(metric, (sample.number for sample in tool_run.samples)),
        facts=run.facts | {"better": str(better.value)},
    )


def _iter_newest_measurements(tool_runs: list[ToolRun], reader: ResultsReader) -> Iterator[Run]:
    """Yield the newest measurement of each configuration. Older measurements become its `earlier` runs.

    Individually named files of other tools are grouped by their settings. Folders and jobs stay separate.
    """
    groups: dict[object, list[ToolRun]] = {}
    for run in tool_runs:
        folder = run.found_at if run.job_id or Path(run.found_at).expanduser().is_dir() else ""
        settings = run.job_id or tuple(sorted(run.params.items()))
        groups.setdefault((folder, run.task, settings), []).append(run)
    counts = Counter((members[0].found_at, members[0].task) for members in groups.values())
    for members in groups.values():
        first = members[0]
        has_several = counts[first.found_at, first.task] > 1
        job_id = escape_control_characters(
            f"{first.found_at.rstrip('/')}:{first.task}{f' {len(reader.read)}' if has_several else ''}"
        )
        newest_first = sorted(members, key=lambda member: (member.time, str(member.path)), reverse=True)
        if first.job_id:  # an output folder also has the copies that MLflow stores
            newest_first = [*{member.time or str(member.path): member for member in newest_first}.values()]
        runs = [_create_measurement_run(run, first.found_at, job_id, reader) for run in newest_first]
        runs[0].earlier = runs[1:]
        yield runs[0]


def _create_measurement_run(run: ToolRun, path_argument: str, job_id: str, reader: ResultsReader) -> Run:
    run_id = f"{run.path}#{len(reader.read)}"
    reader.register_tool_run(run_id, run)
    metrics = {measure: median(values) for measure, values in run.repeats.items()}
    cells = Counter(measure.partition("/")[0] for measure in metrics)
    figures = {
        key: value for measure, value in metrics.items() if cells[key := measure.partition("/")[0]] == 1
    }
    repeats = str(max(map(len, run.repeats.values())))
    params, facts = (
        {FOLDER_KEY: path_argument, "task.repeats": repeats},
        {key: escape_control_characters(fact) for key, fact in run.facts.items()},
    )
    return replace(
        _create_run(run, run_id, job_id, params, run.figures | figures | metrics),
        facts=facts,
        has_fresh_processes=run.has_fresh_processes,
    )


def choose_baseline_and_row_keys(paths: list[str], runs: list[Run]) -> tuple[dict[str, str], list[str]]:
    """Choose the first path as the baseline. Also returns the config keys that distinguish the table rows.

    The keys are the differing settings. If all settings are equal, the paths distinguish rows.
    """
    first = [run for run in runs if run.params[FOLDER_KEY] == paths[0]]
    if not first or len(first) == len(runs):
        return {}, []
    differing = KeyRules().find_differing_keys([run.params for run in runs])
    row_keys = [key for key in differing if key in KEYS_OF_METRICS]
    settings = [key for key in differing if key not in KEYS_OF_METRICS]
    values = {key: {run.params[key] for run in first if key in run.params} for key in settings}
    names = {tuple(run.params.get(key) for key in differing) for run in runs}
    is_set = all(key in run.params for run in first for key in settings)
    if (
        settings
        and is_set
        and len(names) == len(runs)
        and all(len(of_key) == 1 for of_key in values.values())
    ):
        return {key: of_key.pop() for key, of_key in values.items()}, [*settings, *row_keys]
    return {FOLDER_KEY: paths[0]}, [FOLDER_KEY, *row_keys]
