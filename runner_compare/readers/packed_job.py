"""Reader of packed jobs (`runner-compare pack`). Packed jobs are checked for damage before they are read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from runner_base import DataError
from runner_base.repeats import REPEATS
from runner_compare.readers import JsonOutline, ToolFile, runner_job
from runner_compare.readers.archive_files import PACKED_JOB_SUFFIX, read_archive

MANIFEST, FORMAT, VERSION = "pack.json", "runner-baseline", 1
SAMPLES, EARLIER = "samples.jsonl", "earlier/"  # the folder has the results of earlier runs


def can_read_file(path: Path, outline: JsonOutline) -> bool:  # noqa: ARG001
    """Return whether a file is a packed job, judged by its name."""
    return path.name.endswith(PACKED_JOB_SUFFIX)


def read_tool_file(path: Path, file_content: bytes, cluster_field: str | None = None) -> ToolFile:  # noqa: ARG001
    """Return the job in a packed file. Raises DataError for a damaged file or an unknown version."""
    try:
        files = read_archive(path, {MANIFEST, runner_job.RESULT, SAMPLES, REPEATS})
    except DataError as error:
        raise DataError(f"{error.reason}. Pack the job again", key=path, code=error.code) from error
    try:
        manifest = json.loads(files[MANIFEST])
        version, hashes = int(manifest["version"]), dict(manifest["sha256"])
        is_known = manifest["format"] == FORMAT
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"the file is not a packed job ({error})", key=path, code="damaged") from error
    if not is_known or version != VERSION:
        raise DataError(
            f"the file has format version {version}, but this runner-compare reads format version {VERSION}. "
            "Pack the job again",
            key=path,
            code="unsupported",
        )
    del files[MANIFEST]
    for name in sorted({runner_job.RESULT, *files, *hashes}):
        if name not in files or hashlib.sha256(files[name]).hexdigest() != hashes.get(name):
            raise DataError(
                f"{name} in the packed job is missing or changed. Pack the job again",
                key=path,
                code="damaged",
            )
    contents = {name: (f"{path}: {name}", content) for name, content in files.items()}
    job_files = runner_job.JobFiles(
        contents.get(SAMPLES),
        contents.get(REPEATS),
        [contents[name] for name in sorted(contents) if name.startswith(EARLIER)],
    )
    return runner_job.read_job_from_file_contents(
        path, *contents[runner_job.RESULT], job_files, cluster_field
    )
