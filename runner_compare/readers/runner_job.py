"""Reader of runner jobs: job folders, sample files and archives.

Only jobs with verdicts, log-likelihoods or repeated measurements are read here. All other jobs are compared
from their output folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from statistics import median

from runner_base import DataError, Record, Sample, Status
from runner_base.gzip_files import GZIP_SUFFIX, read_gzip, unpack_gzip
from runner_base.repeats import FRESH_PROCESSES, REPEATS, REPEATS_FACT, parse_metric_values_of_repeats
from runner_compare.metrics import LOG_LIKELIHOOD
from runner_compare.model.data import Answers
from runner_compare.model.missing_jobs import JobState, MissingJob
from runner_compare.model.outcomes import QuestionOutcome, Texts, TextScore
from runner_compare.readers import (
    LONGEST_TEXT,
    METRIC,
    JsonOutline,
    ToolFile,
    ToolRun,
    ToolSample,
    read_bytes,
    require_unique_sample_ids,
)
from runner_compare.readers.archive_files import ARCHIVE_SUFFIXES, read_archive
from runner_compare.statistics.likelihoods import sum_likelihoods_by_document
from runner_compare.statistics.ratios import ratio_of_sums

TOOL = "runner"
RESULT, SAMPLES = "result.json", ("samples.jsonl", "samples.jsonl.gz")
SET_ASIDE = ".old-"  # in the name of a folder that a later run of the job has replaced
NOT_SETTINGS = ("tracking.", "output_dir")  # they differ between hosts
EXTRACTOR = "task.extractor"
TOLERANCE = 1e-9  # nats per token

Content = tuple[str, bytes]  # names the file in errors, and its bytes


@dataclass(frozen=True)
class JobFiles:
    """Files of a job next to its result."""

    samples: Content | None = None
    repeats: Content | None = None
    earlier_results: Sequence[Content] = ()  # of runs of the same job, only in a packed job


@dataclass(frozen=True)
class FinishedJob:
    """Record of a finished job, with its samples or its repeated measurements."""

    record: Record
    samples: Sequence[Sample] = ()
    repeats: dict[str, list[float]] = field(default_factory=dict)


@dataclass(slots=True)
class JobSample(ToolSample):
    """Sample of a runner job, with the outcome that the comparison uses."""

    outcome: QuestionOutcome = field(default_factory=lambda: QuestionOutcome(False, None))


@dataclass
class JobRun(ToolRun):
    job_samples: list[JobSample] = field(default_factory=list)
    text_scores: Texts = field(default_factory=dict)  # of task=likelihood, by document

    def load_text_scores(self) -> Texts:
        return self.text_scores

    def load_answers(self) -> Answers:
        """Return the outcome of each question, with cut-off answers marked."""
        return {sample.key: sample.outcome for sample in self.job_samples}


def can_read_file(path: Path, outline: JsonOutline) -> bool:
    """Whether a file is a job's result.json, its samples, or an archive of jobs."""
    if path.name == RESULT:
        return outline.has_fields("job_id", "status", "task", "params", "result")
    return path.name in SAMPLES or path.name.lower().endswith(ARCHIVE_SUFFIXES)


def read_tool_file(path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:
    if path.name == RESULT:
        tool_file = ToolFile([])
        _add_job_run(tool_file, path, str(path), file_content, _read_job_files(path.parent), cluster_field)
        return tool_file
    if path.name in SAMPLES:
        result = path.with_name(RESULT)
        if not result.is_file():
            raise DataError(
                f"{RESULT} is missing in the same folder. Pass the job's whole folder.",
                key=path,
                code="not_found",
            )
        files_of_job = JobFiles((str(path), _read_unpacked(path)))
        tool_file = ToolFile([])
        _add_job_run(tool_file, result, str(result), read_bytes(result), files_of_job, cluster_field)
        return tool_file
    files = read_archive(path, {RESULT, REPEATS, *SAMPLES})
    results = [name for name in files if PurePosixPath(name).name == RESULT]
    if not results:
        raise DataError(f"the archive has no runner job ({RESULT} with {SAMPLES[0]})", key=path, code="empty")
    tool_file = ToolFile([])
    for name in results:
        job_files = JobFiles(
            _find_archived_file(path, name, files, SAMPLES),
            _find_archived_file(path, name, files, (REPEATS,)),
        )
        _add_job_run(tool_file, path / name, f"{path}: {name}", files[name], job_files, cluster_field)
    return tool_file


def read_job_from_file_contents(
    path: Path, source: str, result_json: bytes, files: JobFiles, cluster: str | None
) -> ToolFile:
    """Return the job with this result and these files."""
    tool_file = ToolFile([])
    _add_job_run(tool_file, path, source, result_json, files, cluster)
    return tool_file


def read_finished_job(folder: Path) -> FinishedJob:
    """Read a job's folder. Raises DataError unless the job has finished with verdicts, log-likelihoods or
    repeated measurements.
    """
    path = folder / RESULT
    if not path.is_file():
        raise DataError(f"the folder has no {RESULT}", key=folder, code="not_found")
    files = _read_job_files(folder)
    tool_file = ToolFile([])
    content = read_bytes(path)
    _add_job_run(tool_file, path, str(path), content, files, None)
    if not tool_file.runs or (files.samples is None and not tool_file.runs[0].repeats):
        why = "; ".join(tool_file.notes) or "it has neither verdicts nor repeated measurements"
        raise DataError(f"the job cannot be packed: {why}", key=folder, code="unsupported")
    record = Record.from_json(content.decode())
    if files.samples is None:
        return FinishedJob(record, repeats=tool_file.runs[0].repeats)
    return FinishedJob(record, [*_parse_samples(*files.samples)])


def _read_job_files(folder: Path) -> JobFiles:
    return JobFiles(_read_first_file(folder, SAMPLES), _read_first_file(folder, (REPEATS,)))


def _read_first_file(folder: Path, names: Sequence[str]) -> Content | None:
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    return None if path is None else (str(path), _read_unpacked(path))


def _read_unpacked(path: Path) -> bytes:
    return read_gzip(path) if path.suffix == GZIP_SUFFIX else read_bytes(path)


def _find_archived_file(
    path: Path, result: str, files: dict[str, bytes], names: Sequence[str]
) -> Content | None:
    """Return the first of these files that the archive has next to a job's result."""
    for each in names:
        name = str(PurePosixPath(result).with_name(each))
        found = next((key for key in files if str(PurePosixPath(key)) == name), None)
        if found is not None:
            where = f"{path}: {found}"
            content = files[found]
            return where, unpack_gzip(content, where) if name.endswith(GZIP_SUFFIX) else content
    return None


def _add_job_run(
    tool_file: ToolFile,
    path: Path,
    source: str,
    result_json: bytes,
    files: JobFiles,
    cluster_field: str | None,
) -> None:
    """Append a job to the file's runs. If the job has nothing to compare, append a note instead."""
    if SET_ASIDE in path.parent.name:
        return
    record = _parse_record(source, result_json)
    metrics = record.result.metrics
    if record.status is not Status.FINISHED and not record.result.metrics.get("errors"):
        tool_file.notes.append(f"left out: {record.job_id} has not finished ({record.status})")
        state = JobState.failed if record.status is Status.FAILED else JobState.interrupted
        name = record.name or record.job_id
        tool_file.unfinished.append(MissingJob(name, record.job_id, state, record.error or "", record.params))
    elif "correct" not in metrics and LOG_LIKELIHOOD not in metrics and files.repeats is not None:
        tool_file.runs += _read_measurement_runs(path, record, files.repeats, files.earlier_results)
    elif "correct" not in metrics and LOG_LIKELIHOOD not in metrics:
        tool_file.without_verdicts.append(f"{record.job_id} ({record.task})")
    elif files.samples is None:
        raise DataError(f"{SAMPLES[0]} is not beside it", key=source, code="not_found")
    elif "correct" not in metrics:
        tool_file.runs.append(_read_likelihood_job(path, record, *files.samples))
    else:
        tool_file.runs.append(_read_job_with_verdicts(path, record, *files.samples, cluster_field))


def _parse_record(source: str, result_json: bytes) -> Record:
    try:
        return Record.from_json(result_json.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a readable result ({error})", key=source, code="damaged") from error


def _read_job_with_verdicts(
    path: Path, record: Record, source: str, lines: bytes, cluster_field: str | None
) -> JobRun:
    """Create a run from a job's record and samples.

    Raises DataError if the samples contradict the recorded accuracy.
    """
    metrics = record.result.metrics
    stopped_after = int(metrics["questions_asked"]) if metrics.get("questions_left") else None
    scored = sorted(
        (sample for sample in _parse_samples(source, lines) if sample.answer.verdict is not None),
        key=lambda sample: sample.index,
    )
    counted = [sample for sample in scored[:stopped_after] if not sample.left_out]
    recorded = int(metrics["correct"]), int(metrics["n"])
    found = sum(sample.solved for sample in counted), len(counted)
    if found != recorded:
        raise DataError(
            f"the samples have {found[0]} correct answers of {found[1]}, "
            f"but {RESULT} records {recorded[0]} of {recorded[1]}. Restore the original files",
            key=source,
            code="mismatch",
        )
    extractor = record.params.get(EXTRACTOR, "")
    has_cluster = cluster_field is None or record.params.get("task.cluster") == cluster_field
    samples = [_create_sample(sample, extractor, has_cluster) for sample in counted]
    require_unique_sample_ids(path, samples)
    run = _create_job_run(path, record, "verdict")
    run.samples, run.job_samples = [*samples], samples
    return run


def _read_likelihood_job(path: Path, record: Record, source: str, lines: bytes) -> JobRun:
    """Create a run from a task=likelihood job's record and samples.

    Raises DataError if the samples contradict the recorded mean.
    """
    run = _create_job_run(path, record, "likelihood")
    scores = ((sample.index, TextScore.from_sample(sample)) for sample in _parse_samples(source, lines))
    run.text_scores = {index: score for index, score in scores if score is not None}
    likelihoods = sum_likelihoods_by_document([score.likelihood for score in run.text_scores.values()])
    recorded = run.figures[LOG_LIKELIHOOD]
    mean = ratio_of_sums([part.nats for part in likelihoods], [part.tokens for part in likelihoods])
    if not math.isclose(mean, recorded, abs_tol=TOLERANCE):
        raise DataError(
            f"the samples have a mean log-likelihood of {mean:.9f} nats per token, but {RESULT} records "
            f"{recorded:.9f}. Restore the original files",
            key=source,
            code="mismatch",
        )
    return run


def _read_measurement_runs(
    path: Path, record: Record, repeats: Content, earlier_results: Sequence[Content]
) -> Iterator[JobRun]:
    """Yield the newest run of a measuring job, then the earlier runs with one value per measure.

    Raises DataError if the repeats contradict the recorded medians.
    """
    source, lines = repeats
    try:
        measures = parse_metric_values_of_repeats(lines.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not readable repeats ({error})", key=source, code="damaged") from error
    for measure, values in measures.items():
        recorded = record.result.metrics.get(measure)
        if recorded is not None and not math.isclose(median(values), recorded):
            raise DataError(
                f"the repeats of {measure} have a median of {median(values):.6g}, but {RESULT} records "
                f"{recorded:.6g}. Restore the original files",
                key=source,
                code="mismatch",
            )
    yield _create_measurement_run(path, record, measures)
    for number, (name, result_json) in enumerate(earlier_results):
        earlier = _parse_record(name, result_json)
        metrics = earlier.result.metrics
        medians = {measure: [metrics[measure]] for measure in measures if measure in metrics}
        yield _create_measurement_run(path / f"{number:02}", earlier, medians)


def _create_measurement_run(path: Path, record: Record, measures: dict[str, list[float]]) -> JobRun:
    return replace(
        _create_job_run(path, record),
        repeats=measures,
        has_fresh_processes=record.result.facts.get(REPEATS_FACT) == FRESH_PROCESSES,
        job_id=record.job_id,
    )


def _create_job_run(path: Path, record: Record, metric: str = "") -> JobRun:
    params = {key: value for key, value in record.params.items() if not key.startswith(NOT_SETTINGS)}
    return JobRun(
        TOOL,
        path,
        record.task,
        record.started_at,
        params | ({METRIC: metric} if metric else {}),
        str(record.task_version),
        facts=record.result.facts,
        figures={key: float(value) for key, value in record.result.metrics.items()},
    )


def _create_sample(sample: Sample, extractor: str, has_cluster: bool) -> JobSample:
    outcome = QuestionOutcome.from_sample(sample)
    if not has_cluster:
        outcome = outcome._replace(cluster=None)
    extracted = sample.answer.extracted or {}
    return JobSample(
        str(sample.index),
        sample.question or "",
        sample.gold or "",
        sample.solved,
        extracted.get(extractor, next(iter(extracted.values()), None)),
        sample.answer.parts.answer[-LONGEST_TEXT:],
        sample.failed,
        outcome.right,
        cluster=outcome.cluster,
        outcome=outcome,
    )


def _parse_samples(source: str, content: bytes) -> Iterator[Sample]:
    """Yield the last sample of each index.

    Raises DataError if a sample without an error occurs twice with different content.
    """
    samples: dict[int, Sample] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            sample = Sample.from_json(line.decode())
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"not a sample ({error})", key=f"{source}, line {number}", code="damaged"
            ) from error
        earlier = samples.get(sample.index)
        if earlier is not None and not earlier.failed and earlier != sample:
            raise DataError(
                f"sample {sample.index} is duplicated", key=f"{source}, line {number}", code="damaged"
            )
        samples[sample.index] = sample
    yield from samples.values()
