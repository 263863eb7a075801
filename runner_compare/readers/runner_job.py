"""Reader of runner jobs: job folders, sample files and archives.

Only jobs with verdicts or log-likelihoods are read here. All other jobs are compared from their output folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from runner_base import DataError, Record, Sample, Status
from runner_base.gzip_files import GZIP_SUFFIX, read_gzip, unpack_gzip
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
    check_unique_samples,
    read_bytes,
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


def read(path: Path, raw: bytes, cluster: str | None = None) -> ToolFile:
    if path.name == RESULT:
        tool_file = ToolFile([])
        _add_job_run(tool_file, path, str(path), raw, _read_job_samples(path.parent), cluster)
        return tool_file
    if path.name in SAMPLES:
        result = path.with_name(RESULT)
        if not result.is_file():
            raise DataError(
                f"{RESULT} is missing in the same folder. Pass the job's whole folder.",
                key=path,
                code="not_found",
            )
        samples = str(path), _read_unpacked(path)
        tool_file = ToolFile([])
        _add_job_run(tool_file, result, str(result), read_bytes(result), samples, cluster)
        return tool_file
    files = read_archive(path, {RESULT, *SAMPLES})
    results = [name for name in files if PurePosixPath(name).name == RESULT]
    if not results:
        raise DataError(f"the archive has no runner job ({RESULT} with {SAMPLES[0]})", key=path, code="empty")
    tool_file = ToolFile([])
    for name in results:
        job = f"{path}: {name}", files[name], _find_packed_samples(path, name, files)
        _add_job_run(tool_file, path / name, *job, cluster)
    return tool_file


def read_job_content(
    path: Path, source: str, result_json: bytes, samples: tuple[str, bytes], cluster: str | None
) -> ToolFile:
    """Return the job with this result and these samples."""
    tool_file = ToolFile([])
    _add_job_run(tool_file, path, source, result_json, samples, cluster)
    return tool_file


def read_finished_job(folder: Path) -> tuple[Record, list[Sample]]:
    """Return a finished job's record and samples. Raises DataError for a job without verdicts."""
    path = folder / RESULT
    if not path.is_file():
        raise DataError(f"the folder has no {RESULT}", key=folder, code="not_found")
    samples = _read_job_samples(folder)
    tool_file = ToolFile([])
    content = read_bytes(path)
    _add_job_run(tool_file, path, str(path), content, samples, None)
    if not tool_file.runs or samples is None:
        raise DataError(
            f"the job cannot be packed: {'; '.join(tool_file.notes)}", key=folder, code="unsupported"
        )
    return Record.from_json(content.decode()), [*_parse_samples(*samples)]


Samples = tuple[str, bytes] | None  # where a job's samples are, and their lines


def _read_job_samples(folder: Path) -> Samples:
    path = next((folder / name for name in SAMPLES if (folder / name).is_file()), None)
    return None if path is None else (str(path), _read_unpacked(path))


def _read_unpacked(path: Path) -> bytes:
    return read_gzip(path) if path.suffix == GZIP_SUFFIX else read_bytes(path)


def _find_packed_samples(path: Path, result: str, files: dict[str, bytes]) -> Samples:
    for samples in SAMPLES:
        name = str(PurePosixPath(result).with_name(samples))
        found = next((key for key in files if str(PurePosixPath(key)) == name), None)
        if found is not None:
            where = f"{path}: {found}"
            content = files[found]
            return where, unpack_gzip(content, where) if name.endswith(GZIP_SUFFIX) else content
    return None


def _add_job_run(
    tool_file: ToolFile, path: Path, source: str, result_json: bytes, samples: Samples, cluster: str | None
) -> None:
    """Append a job to the file's runs. If the job has no verdicts, append a note instead."""
    if SET_ASIDE in path.parent.name:
        return
    try:
        record = Record.from_json(result_json.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not a readable result ({error})", key=source, code="damaged") from error
    if record.status is not Status.FINISHED and not record.result.metrics.get("errors"):
        tool_file.notes.append(f"left out: {record.job_id} has not finished ({record.status})")
        state = JobState.failed if record.status is Status.FAILED else JobState.interrupted
        name = record.name or record.job_id
        tool_file.unfinished.append(MissingJob(name, record.job_id, state, record.error or "", record.params))
    elif "correct" not in record.result.metrics and LOG_LIKELIHOOD not in record.result.metrics:
        tool_file.without_verdicts.append(f"{record.job_id} ({record.task})")
    elif samples is None:
        raise DataError(f"{SAMPLES[0]} is not beside it", key=source, code="not_found")
    elif "correct" not in record.result.metrics:
        tool_file.runs.append(_read_likelihood_job(path, record, *samples))
    else:
        tool_file.runs.append(_read_verdict_job(path, record, *samples, cluster))


def _read_verdict_job(path: Path, record: Record, source: str, lines: bytes, cluster: str | None) -> JobRun:
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
    has_cluster = cluster is None or record.params.get("task.cluster") == cluster
    samples = [_create_sample(sample, extractor, has_cluster) for sample in counted]
    check_unique_samples(path, samples)
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


def _create_job_run(path: Path, record: Record, metric: str) -> JobRun:
    params = {key: value for key, value in record.params.items() if not key.startswith(NOT_SETTINGS)}
    return JobRun(
        TOOL,
        path,
        record.task,
        record.started_at,
        params | {METRIC: metric},
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
