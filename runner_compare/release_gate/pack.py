"""Packs a finished job into one small file, which other machines can use as the baseline of a gate.

The file is a tar archive, compressed by gzip, with the job's result, its samples without the
answers' texts, and a list of hashes. The same job gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

from runner_base import Answer, ConfigError, Record, Sample, convert_write_error
from runner_base.files import replace_atomically
from runner_compare.readers.archive_files import PACKED_JOB_SUFFIX
from runner_compare.readers.packed_job import FORMAT, MANIFEST, SAMPLES, VERSION
from runner_compare.readers.runner_job import NOT_SETTINGS, RESULT, read_finished_job


def pack_job(folder: Path, target: Path, with_texts: bool = False) -> int:
    """Pack a job's folder and return the number of its questions. Raises ConfigError unless the job
    has finished with verdicts.
    """
    if not target.name.endswith(PACKED_JOB_SUFFIX):
        raise ConfigError(
            f"the name must end with {PACKED_JOB_SUFFIX}", key="-o", value=target, code="bad_value"
        )
    record, samples = read_finished_job(folder)
    lines = [sample if with_texts else _remove_texts(sample) for sample in samples]
    files = {
        RESULT: _remove_paths_and_addresses(record).to_json().encode(),
        SAMPLES: "".join(sample.to_json() + "\n" for sample in lines).encode(),
    }
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "job_id": record.job_id,
        "questions": len(samples),
        "has_texts": with_texts,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    packed = _pack({MANIFEST: json.dumps(manifest, indent=1).encode(), **files})
    try:
        replace_atomically(target, lambda fresh: fresh.write_bytes(packed), make_parents=False)
    except OSError as error:
        raise convert_write_error(target, error, "-o") from error
    return len(samples)


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


def _pack(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 9, mtime=0)
