"""Packs a finished job into one small file, which other machines can use as the baseline of a gate.

The file is a tar archive, compressed by gzip, with the job's result, its samples without the
answers' texts, and a list of hashes. A job that measures speed or memory has no samples. The file then
contains the repeated measurements, and the medians of the job's earlier runs. The same job gives the same
bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner_base import Answer, ConfigError, Record, Result, Sample, convert_write_error
from runner_base.files import replace_atomically
from runner_base.repeats import REPEATS, format_repeated_measurements_as_jsonl
from runner_compare.model.data import Run
from runner_compare.model.repeated_runs import select_repeats_without_contention
from runner_compare.readers.archive_files import PACKED_JOB_SUFFIX
from runner_compare.readers.packed_job import EARLIER, FORMAT, MANIFEST, SAMPLES, VERSION
from runner_compare.readers.runner_job import NOT_SETTINGS, RESULT, FinishedJob, read_finished_job
from runner_compare.ways.repeats import select_compared_measures


@dataclass(frozen=True)
class PackedCounts:
    """Numbers of questions, runs and repeats in a packed job. A job with questions has no repeats."""

    questions: int
    runs: int
    repeats: int  # of the newest run


def pack_job(
    folder: Path, target: Path, with_texts: bool = False, recorded_run: Run | None = None
) -> PackedCounts:
    """Pack a job's folder. Earlier runs of a measuring job come from its recorded run.

    Raises DataError unless the job has finished with verdicts, log-likelihoods or repeats.
    """
    if not target.name.endswith(PACKED_JOB_SUFFIX):
        raise ConfigError(
            f"the name must end with {PACKED_JOB_SUFFIX}", key="-o", value=target, code="bad_value"
        )
    job = read_finished_job(folder)
    files = (
        _build_result_and_repeat_files(job, recorded_run)
        if job.repeats
        else _build_sample_files(job, with_texts)
    )
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "job_id": job.record.job_id,
        "questions": len(job.samples),
        "has_texts": with_texts,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    packed = _pack_files_into_tarball({MANIFEST: json.dumps(manifest, indent=1).encode(), **files})
    try:
        replace_atomically(target, lambda fresh: fresh.write_bytes(packed), make_parents=False)
    except OSError as error:
        raise convert_write_error(target, error, "-o") from error
    num_earlier = sum(name.startswith(EARLIER) for name in files)
    return PackedCounts(len(job.samples), 1 + num_earlier, max(map(len, job.repeats.values()), default=0))


def _build_sample_files(job: FinishedJob, with_texts: bool) -> dict[str, bytes]:
    lines = [sample if with_texts else _remove_texts(sample) for sample in job.samples]
    return {
        RESULT: _remove_paths_and_addresses(job.record).to_json().encode(),
        SAMPLES: "".join(sample.to_json() + "\n" for sample in lines).encode(),
    }


def _build_result_and_repeat_files(job: FinishedJob, recorded_run: Run | None) -> dict[str, bytes]:
    record = _remove_paths_and_addresses(job.record)
    result = Result(record.result.metrics, facts=record.result.facts)
    files = {
        RESULT: replace(record, result=result).to_json().encode(),
        REPEATS: format_repeated_measurements_as_jsonl(select_compared_measures(job.repeats)).encode(),
    }
    for number, run in enumerate(_list_earlier_runs(recorded_run)[::-1]):
        result = Result(run.metrics, facts=run.facts)
        earlier = replace(record, result=result, task_version=int(run.task_version), started_at="")
        files[f"{EARLIER}{number:02}/{RESULT}"] = earlier.to_json().encode()
    return files


def _list_earlier_runs(run: Run | None) -> Sequence[Run]:
    """Return the earlier runs that count as repeats of a run, newest first."""
    return [] if run is None else [each for each in select_repeats_without_contention(run) if each is not run]


def _remove_texts(sample: Sample) -> Sample:
    """Return a sample without generated text. Token ids are kept if the sample contains likelihoods."""
    keeps_tokens = sample.likelihood is not None

    def strip(answer: Answer) -> Answer:
        return replace(
            answer,
            text="",
            thinking=None if answer.thinking is None else "",
            token_ids=answer.token_ids if keeps_tokens else [],
            new_tokens=len(answer.token_ids) if answer.new_tokens is None else answer.new_tokens,
            extracted=None,
        )

    def strip_all(answers: list[Answer] | None) -> list[Answer] | None:
        return None if answers is None else [strip(answer) for answer in answers]

    return replace(
        sample,
        answer=strip(sample.answer),
        branches=strip_all(sample.branches),
        choices=strip_all(sample.choices),
        calls=None if sample.calls is None else [],
    )


def _remove_paths_and_addresses(record: Record) -> Record:
    """Return a run record without the paths and addresses of the machine that ran the job."""
    params = {key: value for key, value in record.params.items() if not key.startswith(NOT_SETTINGS)}
    return replace(record, output_dir="", mlflow_run_id=None, mlflow_uri=None, params=params)


def _pack_files_into_tarball(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 9, mtime=0)
